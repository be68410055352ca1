"""A tenant's limits as what holds a kernel to them, and who that is."""

import os
from collections.abc import Collection, Mapping
from typing import Final, Literal

import msgspec

from llmspell_fleet.cgroups.hierarchy import Resource
from llmspell_fleet.model.kernel import KernelSpec
from llmspell_fleet.model.tenant import IsolationLevel, Limits
from llmspell_fleet.model.views import LimitView
from llmspell_kernel.limits import KernelLimits, output_room
from llmspell_kernel.zygote.protocol import Confinement

DESCRIPTORS_PER_CLIENT: Final = 5
OWN_DESCRIPTORS: Final = 64
"""What a kernel needs for itself, beside the files of its limit and its clients' connections."""

OWN_TASKS: Final = 8
"""Its own process and threads, beside those of its limit, where it alone is counted."""

OF_TENANT: Final = frozenset(
    (
        *("max_executions", "executions_per_s", "max_kernels"),
        *("total_memory_bytes", "total_cpu_percent", "total_storage_bytes"),
    )
)
"""Limits of a tenant as a whole; the others are each kernel's."""

INSIDE: Final = frozenset(("execution_timeout_s", "output_bytes", "max_clients", "max_message_bytes"))
"""Limits that the kernel holds its scripts and clients to, by itself."""


OF_MEMORY: Final = frozenset(("memory_bytes", "output_bytes"))
"""Limits that the bound of a process's memory follows from."""

StorageLayer = Literal["rlimit", "tmpfs", "landlock"]
"""rlimit: the largest file; tmpfs: all files together, in a root of its own; landlock: there is none to write to."""


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """What one incarnation of a kernel is held to, and by what."""

    limits: Limits
    """As they hold now, which need not be what they should be."""
    isolation_level: IsolationLevel
    cgroups: frozenset[Resource] = frozenset()
    """What its cgroups bound."""
    storage: StorageLayer = "rlimit"
    """What bounds the files that it may write, at levels that bound them."""
    memory_need: int = 0
    """What its process's bound of memory stands for (`memory_need`), beside what any process needs."""
    late: Mapping[str, str] = {}
    """Why a limit that was changed does not hold yet."""


def kernel_limits(spec: KernelSpec) -> KernelLimits:
    """What the kernel itself holds its scripts and clients to."""
    limits = spec.limits
    return KernelLimits(
        memory_bytes=limits.memory_bytes,
        execution_timeout_s=limits.execution_timeout_s,
        output_bytes=limits.output_bytes,
        max_clients=limits.max_clients + 1,  # the controller is one
        max_message_size=limits.max_message_bytes,
        idle_timeout_s=0.0,  # the fleet culls (`policy.cull`): it knows of leases, and asks the kernel for the rest
    )


def confinement(spec: KernelSpec, by_cgroup: Collection[Resource] = (), cgroups: tuple[str, ...] = ()) -> Confinement:
    """What its process is held to by the system; what its cgroups bound needs no rlimit."""
    limits = spec.limits
    return Confinement(
        level="none" if spec.isolation_level == "none" else "process",
        memory_bytes=0 if "memory" in by_cgroup else memory_need(limits),
        files=descriptors(limits),
        processes=0 if "pids" in by_cgroup else limits.processes,
        file_bytes=limits.storage_bytes,
        cgroups=cgroups,
    )


def memory_need(limits: Limits) -> int:
    """What scripts may hold, and what is held of their output; 0 = no bound."""
    return limits.memory_bytes and limits.memory_bytes + output_room(limits.memory_bytes, limits.output_bytes)


def descriptors(limits: Limits) -> int:
    """RLIMIT_NOFILE; 0 = as it is."""
    return limits.files and limits.files + DESCRIPTORS_PER_CLIENT * limits.max_clients + OWN_DESCRIPTORS


def needed_cgroups(spec: KernelSpec) -> frozenset[Resource]:
    """What of a kernel cgroups should bound, where there are such."""
    limits = spec.limits
    if spec.isolation_level == "none":
        return frozenset()
    needs: dict[Resource, object] = {
        "memory": limits.memory_bytes or limits.total_memory_bytes,
        "cpu": limits.cpu_percent or limits.total_cpu_percent,
        "pids": limits.processes,
    }
    return frozenset(resource for resource, is_needed in needs.items() if is_needed)


def limit_views(limits: Limits, hold: Hold) -> dict[str, LimitView]:
    """Each limit with who enforces it, None where it is set and nobody does; `limits` are what they should be."""
    views = {}
    for name, value in _values(hold.limits):
        wanted = getattr(limits, name)
        views[name] = LimitView(
            value=value,
            enforced_by=_enforced_by(name, hold) if value else None,
            pending=wanted if wanted != value else msgspec.UNSET,
            detail=hold.late.get(name, "holds from the next incarnation on") if wanted != value else msgspec.UNSET,
        )
    return views


def unenforced(hold: Hold) -> list[str]:
    """The limits that are set and that nobody enforces here."""
    return [name for name, value in _values(hold.limits) if value and _enforced_by(name, hold) is None]


def _values(limits: Limits) -> list[tuple[str, float]]:
    return [(name, getattr(limits, name)) for name in limits.__struct_fields__]


def _enforced_by(name: str, hold: Hold) -> str | None:
    resource = _BY_CGROUP.get(name)
    if resource is not None and resource in hold.cgroups:
        return "lua+cgroup" if name == "memory_bytes" else "cgroup"
    has_rlimits = hold.isolation_level != "none"
    match name:
        case "memory_bytes":
            return "lua+rlimit" if has_rlimits else "lua"
        case "processes":
            # The system does not hold root to it; at `strict` a kernel is somebody else.
            return "rlimit" if has_rlimits and (os.geteuid() != 0 or hold.isolation_level == "strict") else None
        case "files":
            return "rlimit" if has_rlimits else None
        case "storage_bytes":
            return hold.storage if has_rlimits else None
        case "cpu_percent" | "total_cpu_percent":
            return None
        case "total_storage_bytes":
            # An rlimit of `storage_bytes`, which it is the sum of, bounds one file, and not their number.
            return "controller" if hold.storage != "rlimit" else None
    return "kernel" if name in INSIDE else "controller"


_BY_CGROUP: Final[dict[str, Resource]] = {
    "memory_bytes": "memory",
    "total_memory_bytes": "memory",
    "cpu_percent": "cpu",
    "total_cpu_percent": "cpu",
    "processes": "pids",
}
