"""A tenant's limits as what holds a kernel to them, and who that is."""

import os

from llmspell_fleet.model.kernel import KernelSpec
from llmspell_fleet.model.tenant import Limits
from llmspell_fleet.model.views import LimitView
from llmspell_kernel.limits import KernelLimits
from llmspell_kernel.zygote.protocol import Confinement

DESCRIPTORS_PER_CLIENT = 5
OWN_DESCRIPTORS = 64
"""What a kernel needs for itself, beside the files of its limit and its clients' connections."""


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


def confinement(spec: KernelSpec) -> Confinement:
    """What its process is held to by the system."""
    limits = spec.limits
    return Confinement(
        level="none" if spec.isolation_level == "none" else "process",
        memory_bytes=limits.memory_bytes,
        files=limits.files and limits.files + DESCRIPTORS_PER_CLIENT * limits.max_clients + OWN_DESCRIPTORS,
        processes=limits.processes,
        file_bytes=limits.storage_bytes,
    )


def limit_views(spec: KernelSpec) -> dict[str, LimitView]:
    """Each limit with who enforces it; None where it is set and nobody does."""
    return {
        name: LimitView(value=value, enforced_by=_enforced_by(name, spec) if value else None)
        for name, value in _values(spec.limits)
    }


def unenforced(spec: KernelSpec) -> list[str]:
    """The limits that are set and that nobody enforces here."""
    return [name for name, value in _values(spec.limits) if value and _enforced_by(name, spec) is None]


def _values(limits: Limits) -> list[tuple[str, float]]:
    return [(name, getattr(limits, name)) for name in limits.__struct_fields__]


def _enforced_by(name: str, spec: KernelSpec) -> str | None:
    has_rlimits = spec.isolation_level != "none"
    match name:
        case "memory_bytes":
            return "lua+rlimit" if has_rlimits else "lua"
        case "execution_timeout_s" | "output_bytes" | "max_clients" | "max_message_bytes":
            return "kernel"
        case "files" | "storage_bytes":
            return "rlimit" if has_rlimits else None
        case "processes":
            # The system does not hold root to it.
            return "rlimit" if has_rlimits and os.geteuid() != 0 else None
        case "max_executions" | "executions_per_s":
            return "controller"
    return None
