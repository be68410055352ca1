"""What a kernel's process gives up, and gets in exchange for its parent's, before it makes a thread or a socket.

The order is DESIGN's: session, limits, then the rest. `app` adds umask, core size and no_new_privs for every kernel.
"""

import os
import resource
import signal

from llmspell_kernel.zygote.protocol import Confinement
from llmspell_kernel.zygote.syscalls import PR_SET_DUMPABLE, prctl

KEPT_ENVIRONMENT = ("LANG", "LC_ALL", "LC_CTYPE", "TZ")
"""What a kernel is told of its supervisor's environment, besides its directories. Scripts see none of it."""

_LARGEST_DESCRIPTOR = 2**31 - 1
"""Closing up to here is one system call (close_range(2))."""

HEADROOM_BYTES = 192 * 1024 * 1024
"""Beyond Lua's heap: the stacks of its threads, messages on their way, what showing a value takes."""


def kernel_environment(environ: "os._Environ[str] | dict[str, str]") -> dict[str, str]:
    """The environment of zygotes and kernels: by name, nothing else (no LD_…, PYTHON…, LUA_…)."""
    return {
        name: value
        for name, value in environ.items()
        if name in KEPT_ENVIRONMENT or name in ("LLMSPELL_RUNTIME_DIR", "LLMSPELL_STATE_DIR")
    }


def confine(confinement: Confinement, *, output: str, keep: tuple[int, ...]) -> None:
    """Make this process a kernel's. `keep` are the descriptors that stay open besides the standard three."""
    for number in (signal.SIGCHLD, signal.SIGPIPE, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL if number != signal.SIGPIPE else signal.SIG_IGN)
    if os.getsid(0) != os.getpid():
        os.setsid()
    _set_stdio(output)
    close_all_but(keep)
    os.chdir("/")
    for group in confinement.cgroups:
        _join(group)
    if confinement.level != "strict":
        # As any process: its parent cannot be looked into, and that is inherited.
        prctl(PR_SET_DUMPABLE, 1, 0, 0, 0)
    if confinement.level == "none":
        return
    _limit(resource.RLIMIT_NOFILE, confinement.files)
    if confinement.namespaces == "none":
        # Else all that it writes is in a file system of that size.
        _limit(resource.RLIMIT_FSIZE, confinement.file_bytes)
    if confinement.memory_bytes:
        _limit(resource.RLIMIT_DATA, _data_bytes() + confinement.memory_bytes + HEADROOM_BYTES)


def bound_processes(confinement: Confinement) -> None:
    """From now on this process makes no others, and no threads, while its user has `processes` of both.

    The system counts the whole user's (RLIMIT_NPROC), other kernels' too: set before a kernel has all of its threads,
    the bound would keep it from starting. Set afterwards it keeps from it nothing that it needs.
    """
    if confinement.level != "none":
        _limit(resource.RLIMIT_NPROC, confinement.processes)


def keep_others_out() -> None:
    """From now on only root may trace this process, or read its memory, descriptors and environment."""
    prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)


def _set_stdio(output: str) -> None:
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    # Read-write: a FIFO whose reader is gone then neither ends nor refuses us, and the supervisor may come back.
    # Non-blocking: when nobody reads, lines are dropped, and the script goes on.
    target = os.open(output, os.O_RDWR | os.O_NONBLOCK | os.O_NOFOLLOW) if output else null
    os.dup2(target, 1)
    os.dup2(target, 2)


def close_all_but(keep: tuple[int, ...]) -> None:
    """Close every descriptor but these and the standard three."""
    start = 3
    for descriptor in sorted(keep):
        os.closerange(start, descriptor)
        start = descriptor + 1
    os.closerange(start, _LARGEST_DESCRIPTOR)


def _join(cgroup: str) -> None:
    """Move this process, which has one thread, into a control group.

    By its thread where version 1 lets us: the system then need not wait for a grace period, 5 to 15 ms.
    """
    flags = os.O_WRONLY | os.O_CLOEXEC
    try:
        descriptor = os.open(os.path.join(cgroup, "tasks"), flags)
    except FileNotFoundError:
        descriptor = os.open(os.path.join(cgroup, "cgroup.procs"), flags)
    try:
        os.write(descriptor, b"0")
    finally:
        os.close(descriptor)


def _limit(which: int, value: int) -> None:
    if not value:
        return
    _soft, hard = resource.getrlimit(which)
    bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(which, (bound, bound))


def _data_bytes() -> int:
    """What RLIMIT_DATA counts now, and the stack (proc_pid_statm(5))."""
    with open("/proc/self/statm", "rb") as statm:
        return int(statm.read().split()[5]) * resource.getpagesize()
