"""The cgroups of one kernel: one directory in each hierarchy that holds it to something."""

import os
import re
from collections.abc import Mapping
from typing import Final

import msgspec

from llmspell_fleet.cgroups import group
from llmspell_fleet.cgroups.hierarchy import (
    RESOURCES,
    Hierarchy,
    Resource,
    Version,
    directories,
    membership,
)

_KERNEL: Final = re.compile(r"k-[0-9a-f]{12}", re.ASCII)


def kernel_folder(kernel: str) -> str:
    """The name of its directory: as short as that of its sockets."""
    return f"k-{kernel.replace('-', '')[:12]}"


class MemoryState(msgspec.Struct, frozen=True):
    """What the system counted for a kernel's memory."""

    bound: int
    peak: int | None
    kills: int


class KernelCgroups(msgspec.Struct, frozen=True):
    """Where a kernel's process and all its descendants are. Every method may raise OSError."""

    bounds: Mapping[Resource, tuple[Version, str]]
    """The directory that bounds each resource."""
    paths: tuple[str, ...]
    """All directories, each once; the first is asked who is in it, and killed by."""

    @property
    def tenant(self) -> str:
        """In whose directory they are."""
        return os.path.basename(os.path.dirname(self.paths[0])).removeprefix("t-")

    def bound_memory(self, most: int) -> None:
        """Let it hold so many bytes; 0 = no bound."""
        version, directory = self.bounds["memory"]
        group.bound_memory(directory, version, most)

    def memory_bound(self) -> int:
        """How many bytes it may hold; 0 = no bound."""
        version, directory = self.bounds["memory"]
        return group.memory_bound(directory, version)

    def memory_used(self) -> int:
        """How many bytes it holds."""
        version, directory = self.bounds["memory"]
        return group.memory_used(directory, version)

    def memory_state(self) -> MemoryState:
        """Its bound, its peak, and how many of its processes were killed for want of memory."""
        version, directory = self.bounds["memory"]
        return MemoryState(
            group.memory_bound(directory, version),
            group.memory_peak(directory, version),
            group.memory_kills(directory, version),
        )

    def bound_cpu(self, percent: float) -> None:
        """Let it use so much of one processor; 0 = no bound."""
        version, directory = self.bounds["cpu"]
        group.bound_cpu(directory, version, percent)

    def bound_processes(self, most: int) -> None:
        """Let it have so many processes and threads; 0 = no bound."""
        group.bound_processes(self.bounds["pids"][1], most)

    def processes(self) -> list[int]:
        """Who is in it now."""
        return group.processes(self.paths[0])

    def kill(self) -> bool:
        """SIGKILL to all of them; whether there were any."""
        killed = [group.kill_cgroup(path) for path in self.paths]
        return any(killed)

    def remove(self) -> bool:
        """Remove the directories; whether they are gone."""
        removed = [group.remove(path) for path in self.paths]
        return all(removed)

    def move(self, pid: int, directory: str) -> None:
        """Bring a process that runs into one more of the directories."""
        group.write(directory, "cgroup.procs", str(pid))


def cgroups_of(pid: int, kernel: str, hierarchies: list[Hierarchy]) -> KernelCgroups | None:
    """The cgroups that process `pid` is in, as far as they were made for this kernel; None = it has none."""
    bounds: dict[Resource, tuple[Version, str]] = {}
    paths: list[str] = []
    for hierarchy, directory in directories(hierarchies, membership(pid)):
        if os.path.basename(directory) != kernel_folder(kernel):
            continue
        # Version 2 first: it kills in one step.
        paths.insert(0 if hierarchy.version == 2 else len(paths), directory)
        for resource in RESOURCES:
            if _has(hierarchy, directory, resource):
                bounds[resource] = (hierarchy.version, directory)
    return KernelCgroups(bounds, tuple(paths)) if paths else None


def _has(hierarchy: Hierarchy, directory: str, resource: Resource) -> bool:
    if hierarchy.version == 1:
        return resource in hierarchy.controllers
    return os.path.exists(os.path.join(directory, f"{resource}.max"))


def is_kernel_folder(name: str) -> bool:
    """Whether a directory's name is one that `kernel_folder` makes."""
    return _KERNEL.fullmatch(name) is not None
