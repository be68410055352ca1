"""Probes of other processes. The target is a pid."""

import contextlib
import ctypes
import fcntl
import os
import resource
import signal
import time
from collections.abc import Callable
from typing import Final

from llmspell_kernel.zygote.probes.outcome import call, reason, system_call

_NOBODYS: Final = 2**22 + 1
"""A pid that no process can have (pid_max is at most 2**22)."""
_PTRACE_ATTACH: Final = 16
_PTRACE_DETACH: Final = 17
_PRIO_PROCESS: Final = 0
_FUTEX_LOCK_PI: Final = 6


def _read(pid: str, name: str) -> str:
    with open(f"/proc/{pid}/{name}", "rb", buffering=0) as file:
        return f"{len(file.read(4096) or b'')} bytes of /proc/{pid}/{name}"


def read_environ(pid: str) -> str:
    """Read its environment."""
    return _read(pid, "environ")


def read_maps(pid: str) -> str:
    """Read where its memory lies."""
    return _read(pid, "maps")


def read_cmdline(pid: str) -> str:
    """Read how it was started."""
    return _read(pid, "cmdline")


def read_status(pid: str) -> str:
    """Read what it is and uses."""
    return _read(pid, "status")


def read_memory(pid: str) -> str:
    """Open its memory."""
    os.close(os.open(f"/proc/{pid}/mem", os.O_RDONLY))
    return f"the memory of {pid} was opened"


def list_descriptors(pid: str) -> str:
    """List what it has open."""
    return f"{len(os.listdir(f'/proc/{pid}/fd'))} descriptors of {pid}"


def see_process(pid: str) -> str:
    """Learn whether there is a process of that number, by whatever tells it from one that cannot be."""
    ways: dict[str, Callable[[int], object]] = {
        "stat": lambda number: os.stat(f"/proc/{number}"),
        "kill": lambda number: os.kill(number, 0),
        "getpgid": os.getpgid,
        "getsid": os.getsid,
        "getpriority": lambda number: os.getpriority(_PRIO_PROCESS, number),
        "sched_getscheduler": os.sched_getscheduler,
        "sched_getaffinity": os.sched_getaffinity,
        "sched_getparam": os.sched_getparam,
        "clock": lambda number: time.clock_gettime((~number << 3) | 2),
        "pidfd": lambda number: os.close(os.pidfd_open(number)),
        "prlimit": lambda number: resource.prlimit(number, resource.RLIMIT_NOFILE),
        "futex": _ask_for_its_lock,
    }
    told = [name for name, way in ways.items() if _answer(way, int(pid)) != _answer(way, _NOBODYS)]
    if not told:
        raise PermissionError(f"nothing of {len(ways)} ways tells it from a process that cannot be")
    return f"told by {', '.join(told)}"


def _ask_for_its_lock(number: int) -> None:
    """Say that a lock is held by that process, and ask for it until a time that is over: the system looks for it."""
    word = ctypes.c_uint32(number)
    long_ago = (ctypes.c_long * 2)(0, 0)
    system_call("futex", ctypes.byref(word), _FUTEX_LOCK_PI, 0, long_ago, None, 0)  # type: ignore[arg-type]


def _answer(way: Callable[[int], object], pid: int) -> str:
    try:
        way(pid)
    except OSError as fault:
        return reason(fault)
    return "an answer"


def send_signal(pid: str) -> str:
    """Ask whether a signal could be sent to it."""
    os.kill(int(pid), 0)
    return f"{pid} could be signalled"


def send_signal_by_descriptor(pid: str) -> str:
    """Have the system send it SIGURG, which it ignores, when a descriptor becomes readable."""
    reader, writer = os.pipe()
    try:
        fcntl.fcntl(reader, fcntl.F_SETOWN, int(pid))
        return f"signals go to {pid}"
    finally:
        os.close(reader)
        os.close(writer)


def attach(pid: str) -> str:
    """Stop it and look into it."""
    ptrace = ctypes.CDLL(None, use_errno=True).ptrace
    if ptrace(_PTRACE_ATTACH, int(pid), None, None) < 0:
        raise OSError(ctypes.get_errno(), "")
    with contextlib.suppress(ChildProcessError):
        os.waitpid(int(pid), 0)
    ptrace(_PTRACE_DETACH, int(pid), None, None)
    return f"{pid} was traced"


def read_across(pid: str) -> str:
    """Read its memory by process_vm_readv(2), at an address that is there in every fork of one parent."""
    here = ctypes.create_string_buffer(8)
    local = (ctypes.c_size_t * 2)(ctypes.addressof(here), 8)
    remote = (ctypes.c_size_t * 2)(id(_NOBODYS), 8)
    call("process_vm_readv", int(pid), local, ctypes.c_ulong(1), remote, ctypes.c_ulong(1), ctypes.c_ulong(0))  # type: ignore[arg-type]
    return f"the memory of {pid} was read"


def change_limits(pid: str) -> str:
    """Ask for and set one of its limits, to what it is."""
    bounds = resource.prlimit(int(pid), resource.RLIMIT_CORE)
    resource.prlimit(int(pid), resource.RLIMIT_CORE, bounds)
    return f"a limit of {pid} was set"


def change_priority(pid: str) -> str:
    """Set its priority to what it is."""
    os.setpriority(_PRIO_PROCESS, int(pid), os.getpriority(_PRIO_PROCESS, int(pid)))
    return f"the priority of {pid} was set"


def take_descriptor(pid: str) -> str:
    """Take its standard input."""
    pidfd = system_call("pidfd_open", int(pid), 0)
    os.close(system_call("pidfd_getfd", pidfd, 0, 0))
    return f"a descriptor of {pid} was taken"


def kill_everybody(_target: str) -> str:
    """Ask whether a signal to every process there is would reach one."""
    os.kill(-1, signal.SIGCONT)
    return "everybody could be signalled"


PROBES: Final[dict[str, Callable[[str], str]]] = {
    probe.__name__: probe
    for probe in (
        *(read_environ, read_maps, read_cmdline, read_status, read_memory, list_descriptors, see_process),
        *(send_signal, send_signal_by_descriptor, attach, read_across),
        *(change_limits, change_priority, take_descriptor, kill_everybody),
    )
}
