"""`require`: Lua modules from allow-listed directories, and from nowhere else."""

import os
import re
import stat
from typing import Final

MAX_MODULE_BYTES: Final = 8 * 1024 * 1024
_NAME: Final = re.compile(rb"[A-Za-z0-9_-]{1,64}(\.[A-Za-z0-9_-]{1,64}){0,15}")


def find_module(name: bytes, directories: tuple[str, ...]) -> tuple[object, ...]:
    """`(True, source, path)`; or `(False, why)` with what was looked for, in words for the script's author.

    A name is dotted words, so that no path can be written with it; links are not followed, on the way or at the end.
    """
    if not _NAME.fullmatch(name):
        return False, b"expected a name like 'shapes' or 'lib.shapes'"
    if not directories:
        return False, b"this kernel has no module directories (configure [runtime] module_paths)"
    parts = name.decode("ascii").split(".")
    for directory in directories:
        for tail in ([*parts[:-1], f"{parts[-1]}.lua"], [*parts, "init.lua"]):
            try:
                source = _read_beneath(directory, tail)
            except OSError:
                continue
            if len(source) > MAX_MODULE_BYTES:
                return False, f"expected at most {MAX_MODULE_BYTES} bytes, found more".encode()
            return True, source, "/".join(tail).encode()
    return False, f"no {'/'.join(parts)}.lua or {'/'.join(parts)}/init.lua in the module directories".encode()


def _read_beneath(directory: str, tail: list[str]) -> bytes:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for part in tail[:-1]:
            inner = os.open(part, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=descriptor)
            os.close(descriptor)
            descriptor = inner
        # O_NONBLOCK: opening a FIFO must not hang the kernel.
        file = os.open(tail[-1], os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=descriptor)
    finally:
        os.close(descriptor)
    try:
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise FileNotFoundError
        with open(file, "rb", closefd=False) as stream:
            return stream.read(MAX_MODULE_BYTES + 1)
    finally:
        os.close(file)
