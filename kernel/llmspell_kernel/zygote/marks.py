"""How zygotes and kernels can be told from other processes, whatever became of whoever started them.

The command line names the fleet's runtime directory, and a fork has its parent's; the process's name (the 15 bytes of
proc_pid_comm(5), as `ps` and `top` show them) names the kernel.
"""

import ctypes
import os
import re
from typing import Final

ZYGOTE_NAME: Final = b"llmspell-zygote"
SPARE_NAME: Final = b"llmspell-spare"
OPTION: Final = "--fleet"

_KERNEL_NAME: Final = re.compile(rb"k-([0-9a-f]{12})")
_PR_SET_NAME: Final = 15

_prctl = ctypes.CDLL(None).prctl
"""Looked up at import: see `app`."""


def kernel_name(kernel_id: str) -> bytes:
    """What the process of a kernel is called."""
    return b"k-" + kernel_id.replace("-", "")[:12].encode()


def kernel_of(name: bytes) -> str | None:
    """The first 12 digits of the id of the kernel that is called so; None = that is no kernel's name."""
    found = _KERNEL_NAME.fullmatch(name)
    return found[1].decode() if found is not None else None


def fleet_mark(runtime: str) -> bytes:
    """How the command lines end (proc_pid_cmdline(5)) of what a fleet in this runtime directory has started."""
    return b"\0%b\0%b\0" % (OPTION.encode(), os.fsencode(runtime))


def name_process(name: bytes) -> None:
    """Give this process a name."""
    _prctl(_PR_SET_NAME, name, 0, 0, 0)
