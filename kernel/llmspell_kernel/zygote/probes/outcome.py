"""How probes tell that they were held."""

import ctypes
import errno
import os
from typing import Final

_libc = ctypes.CDLL(None, use_errno=True)


class StoppedError(Exception):
    """It went on for a while, and a bound ended it."""


def reason(fault: Exception) -> str:
    """A refusal in a line."""
    if isinstance(fault, OSError) and fault.errno is not None:
        return f"{errno.errorcode.get(fault.errno, fault.errno)}: {os.strerror(fault.errno)}"
    return f"{type(fault).__name__}: {fault}".removesuffix(": ")


def call(name: str, *arguments: int | bytes | ctypes.c_void_p | None) -> int:
    """A function of the C library by its name; OSError when it fails."""
    result: int = getattr(_libc, name)(*arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


SYSCALLS: Final = {
    "x86_64": {
        "memfd_create": 319,
        "keyctl": 250,
        "userfaultfd": 323,
        "bpf": 321,
        "perf_event_open": 298,
        "futex": 202,
    },
    "aarch64": {
        "memfd_create": 279,
        "keyctl": 219,
        "userfaultfd": 282,
        "bpf": 280,
        "perf_event_open": 241,
        "futex": 98,
    },
}
SHARED: Final = {"io_uring_setup": 425, "pidfd_open": 434, "pidfd_getfd": 438}
"""The same on every architecture."""


def system_call(name: str, *arguments: int | bytes | None) -> int:
    """A system call for which the C library may have no function; OSError when it fails."""
    number = SHARED.get(name) or SYSCALLS[os.uname().machine][name]
    return call("syscall", ctypes.c_long(number), *arguments)  # type: ignore[arg-type]
