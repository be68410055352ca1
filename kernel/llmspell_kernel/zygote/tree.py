"""What a kernel's process leaves behind: no descendant outlives it, whatever session it made for itself.

Linux gives the orphans of a process to its nearest ancestor that asked for them (PR_SET_CHILD_SUBREAPER). Every kernel
asks, so that whatever was started in it stays below it while it lives, double forks included; and so does whoever
starts kernels, so that all of it is his child in the moment that the kernel ends. There he finds and kills it.
"""

import contextlib
import ctypes
import os
import signal
from collections.abc import Collection

_PR_SET_CHILD_SUBREAPER = 36
_PR_GET_CHILD_SUBREAPER = 37
_PARENT = 4 - 3
"""Field of proc_pid_stat(5), counted from the state, which follows the command's name."""

_prctl = ctypes.CDLL(None).prctl
"""Looked up at import: doing so in a child copies pages of its parent."""


def become_reaper() -> None:
    """From now on, descendants whose parent ends are this process's children."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def is_reaper() -> bool:
    """Whether this process has become one."""
    answer = ctypes.c_int()
    _prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(answer), 0, 0, 0)
    return bool(answer.value)


def kill_orphans(own: Collection[int]) -> list[int]:
    """SIGKILL to every child of this process that is not its `own`; returns them. They are still to be reaped.

    Their own children come to this process when they end: whoever reaps calls again.
    """
    orphans = [pid for pid in children() if pid not in own]
    for pid in orphans:
        # Our child, not reaped: the number is its own.
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return orphans


def children() -> list[int]:
    """The children of this process, ended ones that were not reaped included."""
    found: list[int] = []
    try:
        for thread in os.listdir("/proc/self/task"):
            with open(f"/proc/self/task/{thread}/children", "rb") as stream:
                found += map(int, stream.read().split())
    except OSError:
        return _children_among_all()  # a system without CONFIG_PROC_CHILDREN, or a thread that ended meanwhile
    return found


def _children_among_all() -> list[int]:
    own = os.getpid()
    return [pid for pid in map(int, filter(str.isdecimal, os.listdir("/proc"))) if _parent_of(pid) == own]


def _parent_of(pid: int) -> int | None:
    try:
        with open(f"/proc/{pid}/stat", "rb") as stream:
            content = stream.read()
    except OSError:
        return None
    return int(content[content.rindex(b")") + 2 :].split()[_PARENT])
