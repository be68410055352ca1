"""The processes that earlier controllers' spawners have started and that still live, asked of the system.

A kernel's process says whose it is from its first moment (`llmspell_kernel.zygote.marks`), before there is any file of
it: whoever looks finds also those that were forked when a controller was killed before it could record them.
"""

import os
from collections.abc import Callable

import msgspec

from llmspell_kernel.pidfile import process_start_time
from llmspell_kernel.zygote.marks import fleet_mark, is_descendants, kernel_of


class Remnant(msgspec.Struct, frozen=True):
    """A living process that a spawner for some runtime directory has made."""

    pid: int
    start_time: int
    """In clock ticks since boot."""
    kernel: str | None
    """The first 12 digits of its kernel's id; None = a zygote, or it has not said so yet."""


def find_remnants(runtime: str, is_ours: Callable[[int], bool] = lambda _uid: False) -> list[Remnant]:
    """All of them, by pid. Reads /proc: about 20 µs for each process of the machine.

    `is_ours` says which users are our tenants'. Other users' processes, and programs that they run as us, may call
    themselves what they like.
    """
    mark, own = fleet_mark(runtime), os.geteuid()
    found = []
    for name in sorted(filter(str.isdecimal, os.listdir("/proc")), key=int):
        try:
            if not _read(f"/proc/{name}/cmdline").endswith(mark):
                continue
            if not all(uid == own or is_ours(uid) for uid in _users(name)):
                continue
            comm = _read(f"/proc/{name}/comm").rstrip(b"\n")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue  # it has ended, or is none of ours
        if is_descendants(comm):
            continue  # it ends with its kernel
        start_time = process_start_time(int(name))
        if start_time is not None:
            found.append(Remnant(int(name), start_time, kernel_of(comm)))
    return found


def _users(name: str) -> list[int]:
    """The real and the effective user of a process; also of one that hides its files (PR_SET_DUMPABLE)."""
    for line in _read(f"/proc/{name}/status").splitlines():
        if line.startswith(b"Uid:"):
            return [int(uid) for uid in line.split()[1:3]]
    raise ProcessLookupError(name)


def _read(path: str) -> bytes:
    with open(path, "rb", buffering=0) as stream:
        return stream.read(65536)
