"""A tenant: who a pool of kernels belongs to, and what it may use."""

from typing import Annotated, Final, Literal, get_args

import msgspec

from llmspell_fleet.model.ids import NAME, TenantId
from llmspell_fleet.model.labels import Labels
from llmspell_fleet.model.pool import Autoscale, WarmUse

KIB = 1024
MIB = 1024 * KIB

Strategy = Literal["round_robin", "least_loaded", "sticky"]
RestartRule = Literal["always", "on-failure", "never"]
IsolationLevel = Literal["none", "process", "strict"]
LEVELS: Final[tuple[IsolationLevel, ...]] = get_args(IsolationLevel)
"""The weakest first."""

Fraction = Annotated[float, msgspec.Meta(ge=0, le=1)]
Count = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
Bytes = Annotated[int, msgspec.Meta(ge=0, le=2**50)]
Seconds = Annotated[float, msgspec.Meta(ge=0, le=100 * 365 * 86_400)]

DEFAULT_TENANT = TenantId("default")


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What each kernel of a tenant, or the tenant as a whole, may use. 0 = no bound, wherever it may be 0."""

    memory_bytes: Annotated[int, msgspec.Meta(ge=0, le=2**50)] = 512 * MIB
    """Lua's heap, each kernel."""

    cpu_percent: Annotated[float, msgspec.Meta(ge=0, le=100_000)] = 0.0
    """Of one core, each kernel."""

    execution_timeout_s: Seconds = 300.0
    """One execution. Requests may ask for less."""

    output_bytes: Bytes = 64 * MIB
    """What one execution writes to its streams."""

    max_clients: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 128
    """Clients connected to one kernel at once."""

    max_message_bytes: Annotated[int, msgspec.Meta(ge=KIB, le=2**31)] = 64 * MIB
    """The largest message that a kernel takes."""

    processes: Count = 0
    """Processes and threads of each kernel besides its own. By rlimit (no cgroup) it makes none while its user has so
    many, its own included."""

    files: Annotated[int, msgspec.Meta(ge=0, le=1_048_576)] = 256
    """Open descriptors of each kernel. 0 = what the system gives."""

    storage_bytes: Bytes = 0
    """The largest file that a kernel may write; at `strict`, all that it may write."""

    max_executions: Annotated[int, msgspec.Meta(ge=1, le=1_000_000)] = 1000
    """Executions of the whole tenant that run or wait at one time."""

    executions_per_s: Annotated[float, msgspec.Meta(ge=0, le=1e9)] = 0.0
    """Executions that the whole tenant may begin in a second, with a burst of as many."""

    max_kernels: Count = 0
    """Kernels of the whole tenant, at any time."""

    total_memory_bytes: Bytes = 0
    """What all its kernels' processes may hold together, where cgroups count it; else the sum of their limits."""

    total_cpu_percent: Annotated[float, msgspec.Meta(ge=0, le=100_000)] = 0.0
    """Of one core, all its kernels together; counted likewise."""

    total_storage_bytes: Bytes = 0
    """The sum of its kernels' `storage_bytes`."""


class TenantSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a tenant should have: the desired state."""

    id: Annotated[TenantId, msgspec.Meta(pattern=NAME)]
    replicas: Count = 1
    strategy: Strategy = "least_loaded"
    limits: Limits = Limits()
    isolation_level: IsolationLevel = "process"
    idle_timeout_s: Seconds = 0.0
    """How long an unused kernel stays before it is culled; 0 = for ever."""
    cull_busy: bool = False
    """Whether one that runs something is unused since that began."""
    cull_connected: bool = False
    """Whether one is culled although clients are connected to it, or have it lent."""
    restart: RestartRule = "always"
    """Which ends of their own are followed by another incarnation: all, crashes, none."""
    max_age_s: Seconds = 0.0
    """The age at which a kernel's process is drained and replaced; 0 = any."""
    max_age_variance: Fraction = 0.1
    """Up to this share of `max_age_s` is taken off at random."""
    labels: Labels = {}
    """Its kernels have them too."""
    warm: WarmUse = "prefer"
    """Whether new kernels are warm ones."""
    warm_size: Count = 0
    """How many warm kernels are kept for this tenant's spec, besides those of the fleet's own pool."""
    autoscale: Autoscale | None = None
    """None = `replicas` is what somebody asked for; else the fleet chooses it within these bounds."""
