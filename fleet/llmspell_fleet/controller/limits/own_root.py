"""The size of a running kernel's own root (`llmspell_kernel.zygote.namespaces`), changed from outside.

By the system's newer calls for mounts, which reach it by the process's /proc/PID/root: entering its namespace instead
would take a process of ours without threads. They take CAP_SYS_ADMIN, which the fleet's user has over roots that were
made without a user namespace.
"""

import ctypes
import os
from typing import Final

from llmspell_kernel.zygote.namespaces import DEFAULT_BYTES
from llmspell_kernel.zygote.syscalls import check, syscall

_FSCONFIG: Final = 431
_FSPICK: Final = 433
"""The same on every architecture (Linux 5.2)."""
_AT_FDCWD: Final = -100
_FSPICK_CLOEXEC: Final = 1
_SET_STRING: Final = 1
_RECONFIGURE: Final = 7


def resize(pid: int, size_bytes: int) -> None:
    """Let the process's root hold so many bytes, 0 = what it has without a bound asked for.

    OSError: the system does not let us, or it holds more by now.
    """
    size = str(size_bytes or DEFAULT_BYTES).encode()
    try:
        context = check(_call(_FSPICK, _AT_FDCWD, f"/proc/{pid}/root".encode(), _FSPICK_CLOEXEC), "fspick")
        try:
            check(_call(_FSCONFIG, context, _SET_STRING, b"size", size, 0), "fsconfig")
            check(_call(_FSCONFIG, context, _RECONFIGURE, None, None, 0), "fsconfig")
        finally:
            os.close(context)
    except OSError as fault:
        raise OSError(fault.errno, f"its own root keeps its size ({fault.strerror})") from None


def _call(number: int, *arguments: int | bytes | None) -> int:
    wide = (ctypes.c_long(value) if isinstance(value, int) else value for value in arguments)
    result: int = syscall(ctypes.c_long(number), *wide)
    return result
