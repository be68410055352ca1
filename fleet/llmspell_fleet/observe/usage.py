"""What processes use, read from /proc (Linux).

One file per process tells memory, CPU time and threads. Opening it anew at each sweep takes 8 µs a process, reading a
descriptor that stays open takes 4; the difference is 0.2 % of a core for 1,000 kernels looked at every two seconds,
and it would cost a descriptor each, of which a fleet runs out first.
"""

import asyncio
import os
import resource
import time
from collections.abc import Mapping

import msgspec

from llmspell_fleet.model.ids import KernelId

SLICE = 100
"""Processes that are looked at before the event loop has its turn: about a millisecond."""

PSS_EVERY = 30
"""Sweeps between two looks at a process's proportional memory, which takes 0.4 ms: the kernel walks its pages."""

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class ProcessUsage(msgspec.Struct, frozen=True, kw_only=True):
    """What one process used when it was looked at."""

    memory_bytes: int
    """Resident. Pages that forks of one zygote share are counted in each."""
    cpu_s: float
    """User and system, since its start."""
    threads: int
    files: int | None
    """Open descriptors. None = not allowed: at `strict`, without root."""
    pss_bytes: int | None = None
    """Proportional: shared pages are divided among those who share them. None = not looked at yet, or not allowed."""


class OwnUsage(msgspec.Struct, frozen=True, kw_only=True):
    """What the process that asks uses itself."""

    memory_bytes: int
    cpu_s: float
    files: int
    max_files: int
    """RLIMIT_NOFILE."""


def own_usage() -> OwnUsage:
    """What this process uses now."""
    return OwnUsage(
        memory_bytes=int(_read("/proc/self/statm").split()[1]) * _PAGE_BYTES,
        cpu_s=time.process_time(),
        files=_open_files("self"),
        max_files=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
    )


def usage_of(pid: int) -> ProcessUsage | None:
    """What process `pid` uses now; None when it is gone, a zombie included, or cannot be looked at."""
    try:
        stat = _read(f"/proc/{pid}/stat")
        # After the command's name, which may hold anything, even a parenthesis: state is the third field of proc(5).
        fields = stat[stat.rindex(b")") + 2 :].split(b" ", 22)
        if fields[0] in b"ZX":
            return None
        return ProcessUsage(
            memory_bytes=int(fields[21]) * _PAGE_BYTES,
            cpu_s=(int(fields[11]) + int(fields[12])) / _TICKS_PER_S,
            threads=int(fields[17]),
            files=_open_files_of(pid),
        )
    except OSError:
        return None


def pss_of(pid: int) -> int | None:
    """The proportional memory of process `pid` in bytes; None when it is gone or cannot be looked into."""
    try:
        rollup = _read(f"/proc/{pid}/smaps_rollup")
    except OSError:
        return None
    for line in rollup.splitlines():
        if line.startswith(b"Pss:"):
            return int(line.split()[1]) * 1024
    return None  # it ended after the open: the file is empty


class UsageSampler:
    """Looks at many processes again and again; remembers only what is looked at rarely."""

    def __init__(self) -> None:
        self._sweeps = 0
        self._pss: dict[KernelId, tuple[int, int]] = {}

    def sample(self, pids: Mapping[KernelId, int]) -> dict[KernelId, ProcessUsage]:
        """What each of them uses now, without proportional memory; those that are gone are left out."""
        return {kernel: usage for kernel, pid in pids.items() if (usage := usage_of(pid)) is not None}

    async def sweep(self, pids: Mapping[KernelId, int]) -> dict[KernelId, ProcessUsage]:
        """The same in slices, so that the event loop is never held for long, and with proportional memory as last seen.

        `pids` is copied at the call.
        """
        items = list(pids.items())
        found: dict[KernelId, ProcessUsage] = {}
        for begin in range(0, len(items), SLICE):
            found |= self.sample(dict(items[begin : begin + SLICE]))
            await asyncio.sleep(0)
        self._sweeps += 1
        for kernel, pid in items[self._sweeps % PSS_EVERY :: PSS_EVERY]:
            if (pss_bytes := pss_of(pid)) is not None:
                self._pss[kernel] = (pid, pss_bytes)
            await asyncio.sleep(0)
        self._pss = {kernel: seen for kernel, pid in items if (seen := self._pss.get(kernel)) and seen[0] == pid}
        return {
            kernel: msgspec.structs.replace(usage, pss_bytes=self._pss[kernel][1]) if kernel in self._pss else usage
            for kernel, usage in found.items()
        }


def _read(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.read(descriptor, 4096)
    finally:
        os.close(descriptor)


def _open_files_of(pid: int) -> int | None:
    try:
        return _open_files(pid)
    except PermissionError:
        return None


def _open_files(pid: int | str) -> int:
    # Linux ≥ 6.2 counts them in the directory's size: 2 µs, however many. Before, that is 0, and they are listed.
    folder = f"/proc/{pid}/fd"
    return os.stat(folder).st_size or len(os.listdir(folder))
