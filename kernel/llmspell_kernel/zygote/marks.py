"""How zygotes and kernels can be told from other processes, whatever became of whoever started them.

The command line names the fleet's runtime directory, and a fork has its parent's; the process's name (the 15 bytes of
proc_pid_comm(5), as `ps` and `top` show them) names the kernel. What a kernel forks has another name of its kernel's;
what becomes another program has a variable in its environment instead, unless it was made without.
"""

import ctypes
import os
import re
from functools import partial
from typing import Final

ZYGOTE_NAME: Final = b"llmspell-zygote"
SPARE_NAME: Final = b"llmspell-spare"
OPTION: Final = "--fleet"

_LEFT_BY: Final = "LLMSPELL_KERNEL_PROCESS"

_KERNEL_NAME: Final = re.compile(rb"k-([0-9a-f]{12})")
_DESCENDANT: Final = b"d-"
_PR_SET_NAME: Final = 15

_prctl = ctypes.CDLL(None).prctl
"""Looked up at import: see `app`."""


def kernel_name(kernel_id: str) -> bytes:
    """What the process of a kernel is called."""
    return b"k-" + kernel_id.replace("-", "")[:12].encode()


def descendant_name(kernel_id: str) -> bytes:
    """What a process is called that a kernel's has forked."""
    return _DESCENDANT + kernel_name(kernel_id)[2:]


def is_descendants(name: bytes) -> bool:
    """Whether a process of that name was forked by a kernel."""
    return name.startswith(_DESCENDANT)


def kernel_of(name: bytes) -> str | None:
    """The first 12 digits of the id of the kernel that is called so; None = that is no kernel's name."""
    found = _KERNEL_NAME.fullmatch(name)
    return found[1].decode() if found is not None else None


def fleet_mark(runtime: str) -> bytes:
    """How the command lines end (proc_pid_cmdline(5)) of what a fleet in this runtime directory has started."""
    return b"\0%b\0%b\0" % (OPTION.encode(), os.fsencode(runtime))


def mark_descendants(kernel_id: str) -> None:
    """Let what this process, which is a kernel's, forks and starts be known as its own."""
    os.environ[_LEFT_BY] = _own_mark(kernel_id, os.getpid())
    os.register_at_fork(after_in_child=partial(name_process, descendant_name(kernel_id)))


def was_started_by(environ: bytes, kernel_id: str, pid: int) -> bool:
    """Whether a program with this environment (proc_pid_environ(5)) was started by that process of that kernel."""
    return f"{_LEFT_BY}={_own_mark(kernel_id, pid)}".encode() in environ.split(b"\0")


def _own_mark(kernel_id: str, pid: int) -> str:
    return f"{kernel_id}/{pid}"


def name_process(name: bytes) -> None:
    """Give this process a name."""
    _prctl(_PR_SET_NAME, name, 0, 0, 0)
