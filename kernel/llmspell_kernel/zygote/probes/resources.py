"""Probes of bounds: each takes more than its target says, and tells where it ended."""

import ctypes
import mmap
import os
import threading
from collections.abc import Callable
from typing import Final

from llmspell_kernel.zygote.probes.outcome import StoppedError, call, reason

_MIB: Final = 1024 * 1024
_READ: Final = mmap.PROT_READ


def use_memory(most_bytes: str) -> str:
    """Hold more memory than so many bytes, every page of it touched."""
    held: list[bytes] = []
    step = 4 * _MIB
    try:
        while len(held) * step <= int(most_bytes):
            held.append(os.urandom(1) * step)
    except MemoryError:
        count = len(held)
        held.clear()
        if not count:
            raise
        raise StoppedError(f"after {count * step} bytes: no more memory is given") from None
    return f"{len(held) * step} bytes were held"


def use_uncounted_memory(most_bytes: str) -> str:
    """Hold more memory than so many bytes, shared or made read-only: neither is data, as RLIMIT_DATA counts it."""
    held: list[mmap.mmap] = []
    step, kind = 4 * _MIB, mmap.MAP_SHARED
    try:
        while len(held) * step <= int(most_bytes):
            try:
                area = mmap.mmap(-1, step, flags=kind | mmap.MAP_ANONYMOUS)
            except PermissionError:
                if kind == mmap.MAP_PRIVATE:
                    raise
                kind = mmap.MAP_PRIVATE
                continue
            area.write(b"\1" * step)
            if kind == mmap.MAP_PRIVATE:
                call("mprotect", ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(area))), step, _READ)
            held.append(area)
    except OSError as fault:
        if not held:
            raise
        raise StoppedError(f"after {len(held) * step} bytes: {reason(fault)}") from None
    return f"{len(held) * step} bytes were held"


def make_threads(most: str) -> str:
    """Have more threads than so many beside the first."""
    over = threading.Event()
    threads: list[threading.Thread] = []
    try:
        while len(threads) <= int(most):
            thread = threading.Thread(target=over.wait, daemon=True)
            thread.start()
            threads.append(thread)
    except RuntimeError as fault:
        if not threads:
            raise
        raise StoppedError(f"after {len(threads)} threads: {fault}") from None
    finally:
        over.set()
    return f"{len(threads)} threads ran"


def make_processes(most: str) -> str:
    """Have more processes than so many beside the first."""
    reader, writer = os.pipe()
    made = 0
    try:
        while made <= int(most):
            if os.fork() == 0:
                os.close(writer)
                os.read(reader, 1)
                os._exit(0)
            made += 1
    except OSError as fault:
        if not made:
            raise
        raise StoppedError(f"after {made} processes: {reason(fault)}") from None
    finally:
        os.close(writer)
        for _ in range(made):
            os.wait()
        os.close(reader)
    return f"{made} processes ran"


PROBES: Final[dict[str, Callable[[str], str]]] = {
    probe.__name__: probe for probe in (use_memory, use_uncounted_memory, make_threads, make_processes)
}
