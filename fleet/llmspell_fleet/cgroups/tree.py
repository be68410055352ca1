"""The fleet's own part of each cgroup hierarchy: ``llmspell-<fleet>/t-<tenant>/k-<kernel>``.

Below the cgroup that the controller itself was started in, so that what bounds the fleet as a whole goes on bounding
it. The fleet's name is made of its runtime directory: two fleets never share a directory. Where the directories are is
written down in the state directory, for a controller that comes after one that was killed.

Version 2 lets a cgroup have either processes or children that are bounded: the controller, when it is alone in its
cgroup (a service's, as with Delegate=yes), goes to a leaf of its own below it.
"""

import contextlib
import os
from collections.abc import Callable, Collection, Iterator
from functools import partial
from hashlib import sha256
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
    mounted,
)
from llmspell_fleet.cgroups.kernel import KernelCgroups, cgroups_of, is_kernel_folder, kernel_folder
from llmspell_kernel.safe_files import write_private

OWN_LEAF: Final = "llmspell-controller"
"""Where a controller goes that was alone in its cgroup; a systemd unit may put it there (DelegateSubgroup=)."""

_DELEGATE: Final = (
    "start the fleet as a service with Delegate=yes, or with `systemd-run --user --scope -p Delegate=yes llmspell …`"
)


class Part(msgspec.Struct, frozen=True):
    """The fleet's directory in one hierarchy."""

    version: Version
    resources: frozenset[Resource]
    """What can be bounded in it."""
    directory: str


class FleetCgroups:
    """What the fleet may use of the machine's cgroups. Nothing here waits for long; nothing is cached."""

    def __init__(
        self, runtime: str, record: str, *, hierarchies: list[Hierarchy] | None = None, own: str | None = None
    ) -> None:
        """Make what can be made, and name it in the file `record`. What cannot is in `missing`, with the reason.

        `hierarchies` and `own`, the text of /proc/self/cgroup, are the system's unless they are given.
        """
        self._record = record
        self._hierarchies = mounted() if hierarchies is None else hierarchies
        self._name = fleet_folder(runtime)
        self.parts: dict[Resource, Part] = {}
        self.missing: dict[Resource, str] = dict.fromkeys(RESOURCES, "no cgroup hierarchy here has it")
        for hierarchy, directory in directories(self._hierarchies, membership("self") if own is None else own):
            self._take(hierarchy, directory)
        present = {part.directory for part in self.parts.values()}
        self._former = [directory for directory in _recorded(record, runtime) if directory not in present]
        self._write_record()

    @property
    def resources(self) -> frozenset[Resource]:
        """What can be bounded."""
        return frozenset(self.parts)

    # --- what there is

    def _take(self, hierarchy: Hierarchy, own: str) -> None:
        base = os.path.dirname(own) if os.path.basename(own) == OWN_LEAF else own
        offered = [resource for resource in RESOURCES if _offers(hierarchy, base, resource)]
        wanted = [resource for resource in offered if resource not in self.parts]
        if not wanted:
            return
        try:
            if hierarchy.version == 2:
                _enable(base, wanted)
            directory = os.path.join(base, self._name)
            with contextlib.suppress(FileExistsError):
                os.mkdir(directory)
            if hierarchy.version == 2:
                _enable(directory, wanted)
        except OSError as fault:
            for resource in wanted:
                self.missing[resource] = _reason(fault, base)
            return
        part = Part(hierarchy.version, frozenset(wanted), directory)
        for resource in wanted:
            self.parts[resource] = part
            self.missing.pop(resource)

    def _write_record(self) -> None:
        lines = sorted({part.directory for part in self.parts.values()} | set(self._former))
        if lines:
            write_private(self._record, "\n".join(lines).encode() + b"\n", what="list of cgroups")

    # --- kernels

    def make(self, tenant: str, kernel: str, needs: Collection[Resource]) -> KernelCgroups | None:
        """The directories of a kernel that is bounded in `needs`, as far as they can be had; None = none of them.

        OSError: what was there at the start is not any more.
        """
        parts = [part for part in dict.fromkeys(map(self.parts.get, needs)) if part]
        bounds: dict[Resource, tuple[Version, str]] = {}
        paths = []
        for part in parts:
            folder = self._tenant_folder(part, tenant)
            directory = os.path.join(folder, kernel_folder(kernel))
            _make_below(directory, partial(self._make_tenant, part, folder))
            paths.append(directory)
            bounds.update((resource, (part.version, directory)) for resource in needs if resource in part.resources)
        return KernelCgroups(bounds, tuple(paths)) if paths else None

    def find(self, pid: int, kernel: str) -> KernelCgroups | None:
        """The cgroups that a kernel's process is in, whoever made them."""
        return cgroups_of(pid, kernel, self._hierarchies)

    # --- tenants

    def bound_tenant(self, tenant: str, *, memory_bytes: int, cpu_percent: float) -> None:
        """Let all kernels of a tenant together use so much; 0 = no bound. OSError: it uses more, or it cannot be."""
        totals: tuple[tuple[Resource, float], ...] = (("memory", memory_bytes), ("cpu", cpu_percent))
        for resource, most in totals:
            part = self.parts.get(resource)
            if part is None:
                continue
            folder = self._tenant_folder(part, tenant)
            if not most and not os.path.isdir(folder):
                continue
            self._make_tenant(part, folder)
            if resource == "memory":
                group.bound_memory(folder, part.version, int(most))
            else:
                group.bound_cpu(folder, part.version, most)

    def tenant_memory(self, tenant: str) -> int:
        """How many bytes its kernels hold together; 0 where nobody counts them."""
        part = self.parts.get("memory")
        folder = self._tenant_folder(part, tenant) if part is not None else ""
        return group.memory_used(folder, part.version) if part is not None and os.path.isdir(folder) else 0

    def forget_tenant(self, tenant: str) -> None:
        """Remove its directories; its kernels' are gone."""
        for part in set(self.parts.values()):
            group.remove(self._tenant_folder(part, tenant))

    def _tenant_folder(self, part: Part, tenant: str) -> str:
        # Not the bare name: a tenant may be called "tasks".
        return os.path.join(part.directory, f"t-{tenant}")

    def _make_tenant(self, part: Part, folder: str) -> None:
        with contextlib.suppress(FileExistsError):
            os.mkdir(folder)
        if part.version == 2:
            _enable(folder, sorted(part.resources))

    # --- what others have left, and the end

    def sweep(self, kept: Collection[str]) -> int:
        """Kill what is left in directories of kernels but `kept`, and remove them; returns how many were removed."""
        keep = {kernel_folder(kernel) for kernel in kept}
        removed = 0
        directories = {part.directory for part in self.parts.values()} | set(self._former)
        for directory in directories:
            for folder in _kernel_folders(directory):
                if os.path.basename(folder) not in keep:
                    removed += _clear(folder)
            if directory in self._former and not any(_kernel_folders(directory)) and group.remove(directory):
                self._former.remove(directory)
        self._write_record()
        return removed

    def close(self) -> None:
        """Remove everything, as far as nobody lives in it."""
        left = [part.directory for part in set(self.parts.values()) if not group.remove(part.directory)]
        if not left and not self._former:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._record)


def fleet_folder(runtime: str) -> str:
    """The name of a fleet's directory."""
    return f"llmspell-{sha256(os.path.realpath(runtime).encode()).hexdigest()[:12]}"


def remove_recorded(record: str, runtime: str) -> None:
    """Remove the directories of a fleet of which no process is left, and the file that names them."""
    for directory in _recorded(record, runtime):
        for folder in _kernel_folders(directory):
            _clear(folder)
        group.remove(directory)
    with contextlib.suppress(FileNotFoundError):
        os.unlink(record)


def _recorded(record: str, runtime: str) -> list[str]:
    """The directories that the file names: only such as bear this fleet's name."""
    try:
        with open(record, encoding="utf-8") as stream:
            lines = stream.read().splitlines()
    except (FileNotFoundError, UnicodeDecodeError):
        return []
    return [line for line in lines if os.path.basename(line) == fleet_folder(runtime) and os.path.isabs(line)]


def _kernel_folders(directory: str) -> Iterator[str]:
    with contextlib.suppress(OSError):
        for tenant in sorted(os.listdir(directory)):
            folder = os.path.join(directory, tenant)
            if tenant.startswith("t-") and os.path.isdir(folder):
                yield from (os.path.join(folder, name) for name in sorted(os.listdir(folder)) if is_kernel_folder(name))


def _clear(folder: str) -> bool:
    with contextlib.suppress(OSError):
        group.kill_cgroup(folder)
    return group.remove(folder)


def _offers(hierarchy: Hierarchy, base: str, resource: Resource) -> bool:
    if hierarchy.version == 1:
        return resource in hierarchy.controllers
    try:
        return resource in group.read(base, "cgroup.controllers").split()
    except OSError:
        return False


def _enable(directory: str, resources: Collection[Resource]) -> None:
    """Let the children of a directory of version 2 be bounded. OSError says what is in the way."""
    enabled = group.read(directory, "cgroup.subtree_control").split()
    lacking = [resource for resource in resources if resource not in enabled]
    if not lacking:
        return
    # Only the system's root may have both processes and children that are bounded.
    if os.path.exists(os.path.join(directory, "cgroup.events")):
        _make_room(directory)
    group.write(directory, "cgroup.subtree_control", " ".join(f"+{resource}" for resource in lacking))


def _make_room(directory: str) -> None:
    """Go to a leaf below `directory`, when nobody else is in it."""
    there = group.processes(directory)
    if not there:
        return
    if there != [os.getpid()]:
        raise OSError(f"its cgroup has other processes in it: {_DELEGATE}")
    leaf = os.path.join(directory, OWN_LEAF)
    with contextlib.suppress(FileExistsError):
        os.mkdir(leaf)
    group.write(leaf, "cgroup.procs", str(os.getpid()))


def _make_below(directory: str, make_parent: Callable[[], None]) -> None:
    try:
        os.mkdir(directory)
    except FileExistsError:
        return
    except FileNotFoundError:
        make_parent()
        with contextlib.suppress(FileExistsError):
            os.mkdir(directory)


def _reason(fault: OSError, base: str) -> str:
    if fault.strerror is None:
        return str(fault)
    return f"{base} cannot be used ({fault.strerror}): run as root, or {_DELEGATE}"
