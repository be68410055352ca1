"""The level `strict`: what the process gives up once it holds what it needs. Nothing is skipped when it fails.

The order matters: namespaces while it has its parent's rights, then the user, then what keeps others out of its
memory, and last the filters that cannot be taken off. They bind the calling thread and those that it makes: there is
no other thread yet.
"""

import os
import resource
import time
from typing import Final

from llmspell_kernel.errors import RefusedError
from llmspell_kernel.zygote import landlock, namespaces, seccomp
from llmspell_kernel.zygote.protocol import Confinement
from llmspell_kernel.zygote.syscalls import PR_SET_DUMPABLE, check, prctl

_PR_SET_NO_NEW_PRIVS: Final = 38

_SIGNALS_WAITING: Final = 256
_STACK_BYTES: Final = 8 * 1024 * 1024
_NOTHING: Final = (
    *(resource.RLIMIT_CORE, resource.RLIMIT_MSGQUEUE, resource.RLIMIT_MEMLOCK, resource.RLIMIT_RTPRIO),
    resource.RLIMIT_NICE,
)


def _become(uid: int, gid: int) -> None:
    try:
        os.setgroups([])
        os.setresgid(gid, gid, gid)
        os.setresuid(uid, uid, uid)
    except OSError as fault:
        raise OSError(fault.errno, f"becoming user {uid}: {fault.strerror}") from None


def lock_down(confinement: Confinement) -> None:
    """Make this process one that can do no more than answer on what it has open. RefusedError names what failed."""
    try:
        _lock_down(confinement)
    except OSError as fault:
        raise RefusedError(
            f"isolation level strict could not be set up: {fault.strerror}. `llmspell fleet doctor` says what it takes"
        ) from fault


def _lock_down(confinement: Confinement) -> None:
    # Read while it can be: glibc looks for the file of the local time again at each use, unless it was named.
    os.environ.setdefault("TZ", ":/etc/localtime")
    time.tzset()
    for limit in _NOTHING:
        resource.setrlimit(limit, (0, 0))
    # A stack grows, and RLIMIT_DATA does not count it.
    soft, _hard = resource.getrlimit(resource.RLIMIT_STACK)
    stack = _STACK_BYTES if soft == resource.RLIM_INFINITY else min(soft, _STACK_BYTES)
    resource.setrlimit(resource.RLIMIT_STACK, (stack, stack))
    resource.setrlimit(resource.RLIMIT_SIGPENDING, (_SIGNALS_WAITING, _SIGNALS_WAITING))
    uid = os.getuid() if confinement.uid is None else confinement.uid
    gid = os.getgid() if confinement.uid is None else confinement.uid
    has_root = confinement.namespaces != "none"
    if has_root:
        size = confinement.file_bytes or namespaces.DEFAULT_BYTES
        namespaces.enter_own_root(confinement.namespaces, size_bytes=size, uid=uid, gid=gid)
    if confinement.uid is not None:
        _become(uid, gid)
    namespaces.drop_capabilities()
    os.umask(0o077)
    os.chdir("/")
    # After the change of user, which sets it too. Nobody of the same user can trace it or read its /proc now.
    check(prctl(PR_SET_DUMPABLE, 0, 0, 0, 0), "prctl (dumpable)")
    check(prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "prctl (no_new_privs)")
    landlock.restrict("/" if has_root else None)
    seccomp.load(seccomp.for_process(seccomp.PROGRAM, os.getpid()))
