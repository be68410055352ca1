"""The processes that earlier controllers' spawners have started and that still live, asked of the system.

A kernel's process says whose it is from its first moment (`llmspell_kernel.zygote.marks`), before there is any file of
it: whoever looks finds also those that were forked when a controller was killed before it could record them.
"""

import os

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


def find_remnants(runtime: str) -> list[Remnant]:
    """All of them, by pid. Reads /proc: about 20 µs for each process of the machine."""
    mark, own = fleet_mark(runtime), os.geteuid()
    found = []
    for name in sorted(filter(str.isdecimal, os.listdir("/proc")), key=int):
        try:
            if not _read(f"/proc/{name}/cmdline").endswith(mark):
                continue
            # Others' processes may say what they like.
            if own not in {0, os.stat(f"/proc/{name}").st_uid} and own != _user(name):
                continue
            comm = _read(f"/proc/{name}/comm").rstrip(b"\n")
        except OSError:
            continue  # it has ended
        if is_descendants(comm):
            continue  # it ends with its kernel
        start_time = process_start_time(int(name))
        if start_time is not None:
            found.append(Remnant(int(name), start_time, kernel_of(comm)))
    return found


def _user(name: str) -> int:
    """Whose process it is, also if it hides its files (PR_SET_DUMPABLE): root has those then."""
    for line in _read(f"/proc/{name}/status").splitlines():
        if line.startswith(b"Uid:"):
            return int(line.split()[2])
    return 0


def _read(path: str) -> bytes:
    with open(path, "rb", buffering=0) as stream:
        return stream.read(65536)
