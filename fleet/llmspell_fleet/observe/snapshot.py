"""What the controller hands over at each sampling sweep: the state that gauges show."""

from collections.abc import Mapping, Sequence

import msgspec

from llmspell_fleet.model.ids import KernelId, TenantId
from llmspell_fleet.model.kernel import Phase
from llmspell_fleet.observe.usage import OwnUsage, ProcessUsage


class KernelSample(msgspec.Struct, frozen=True, kw_only=True):
    """One kernel."""

    id: KernelId
    tenant: TenantId
    phase: Phase
    """As it is shown: BUSY, too (`policy.lifecycle.shown`)."""
    incarnation: int = 0
    uptime_s: float = 0.0
    """Of its process; 0 without one."""
    usage: ProcessUsage | None = None
    """None = it has no process, or was not looked at yet."""


class TenantSample(msgspec.Struct, frozen=True, kw_only=True):
    """One tenant's work."""

    id: TenantId
    running: int = 0
    """Executions that run in a kernel."""
    waiting: int = 0
    """Executions that wait for a kernel, or in one."""
    leases: int = 0


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """The fleet at one moment."""

    at: float
    """Monotonic time."""
    kernels: Sequence[KernelSample]
    """All of them, oldest first: when there are too many, the first are shown one by one."""
    tenants: Sequence[TenantSample]
    warm: Mapping[Phase, int] = {}
    """Kernels of no tenant yet, which are among `kernels`."""
    warm_wanted: int = 0
    capacity: int
    """How many kernels the fleet may hold, by its settings and by what the system gives."""
    zmq_connections: int
    http_connections: int
    is_zygote_up: bool
    is_store_up: bool
    """Whether its last write succeeded."""
    store_queue_length: int
    """Writes that wait for the store's thread."""
    own: OwnUsage
