"""What clients are answered over HTTP: the bodies, to the letter of the interface."""

from typing import Any, Generic, Literal, TypeVar

import msgspec

from llmspell_fleet.model.ids import KernelId, TenantId
from llmspell_fleet.model.isolation import Strength
from llmspell_fleet.model.kernel import Death
from llmspell_fleet.model.pool import Autoscale, WarmUse
from llmspell_fleet.model.tenant import IsolationLevel, Limits, RestartRule, Strategy

T = TypeVar("T")


class Page(msgspec.Struct, Generic[T], frozen=True, kw_only=True, omit_defaults=True):
    """A list."""

    items: list[T]
    next: str | None = None


class LimitView(msgspec.Struct, frozen=True, kw_only=True):
    """One limit and who holds a kernel to it."""

    value: float | int
    """What its present incarnation is held to."""
    enforced_by: str | None
    """"lua", "kernel", "controller", "rlimit", "cgroup", or several joined by "+"; None = nobody."""
    pending: float | int | msgspec.UnsetType = msgspec.UNSET
    """What it should be, when it was changed and does not hold yet."""
    detail: str | msgspec.UnsetType = msgspec.UNSET
    """Why not yet."""


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What a kernel used when it was last looked at."""

    memory_bytes: int | None = None
    """Resident."""
    cpu_s: float | None = None
    threads: int | None = None
    files: int | None = None
    executions: int = 0
    running: int = 0
    """Executions that run or wait in it."""
    leases: int = 0


class KernelView(msgspec.Struct, frozen=True, kw_only=True):
    """A kernel as the API shows it."""

    id: KernelId
    name: str
    tenant: TenantId
    phase: str
    pid: int | None
    incarnation: int
    started_at: str | None
    uptime_s: float | None
    restarts: int
    usage: Usage
    limits: dict[str, LimitView]
    isolation_level: IsolationLevel = "process"
    """What it holds here is in `/health`."""
    last_death: Death | None
    labels: dict[str, str] = {}
    """Its tenant's and its own."""


class UpgradeView(msgspec.Struct, frozen=True, kw_only=True):
    """A controller whose code was replaced."""

    from_version: str
    to_version: str
    adopted: int
    """Kernels that ran on, and are this controller's now."""
    kernels: int
    """Kernels that there should be."""
    pid: int
    """Of the controller: as before."""


class RollView(msgspec.Struct, frozen=True, kw_only=True):
    """A rolling restart: the one under way, or the last one of this controller."""

    status: Literal["rolling", "done", "failed"]
    reason: str
    """Why it failed."""
    total: int
    """Kernels to be restarted."""
    done: int
    max_unavailable: int
    max_surge: int
    started_at: str
    finished_at: str | None = None


class TenantView(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant as the API shows it."""

    id: TenantId
    replicas: int
    ready: int
    strategy: Strategy
    limits: Limits
    isolation_level: IsolationLevel
    idle_timeout_s: float
    cull_busy: bool = False
    cull_connected: bool = False
    warm: WarmUse = "prefer"
    warm_size: int = 0
    restart: RestartRule = "always"
    max_age_s: float = 0.0
    max_age_variance: float = 0.1
    autoscale: Autoscale | None = None
    created_at: str
    kernels: list[KernelView]
    labels: dict[str, str] = {}
    roll: RollView | None = None


class TenantCreated(TenantView, frozen=True, kw_only=True):
    """A new tenant, and its token, this once."""

    token: str


class TokenView(msgspec.Struct, frozen=True, kw_only=True):
    """A tenant's new token, this once."""

    tenant: TenantId
    token: str


class ErrorView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why a script failed."""

    name: str
    message: str
    traceback: list[str]
    code: str | None = None


class ExecuteView(msgspec.Struct, frozen=True, kw_only=True):
    """What an execution came to: what the controller knows of it, and what the kernel said (`router.said`)."""

    kernel_id: KernelId
    session: str
    session_reset: bool | msgspec.UnsetType = msgspec.UNSET
    timeout_clipped: bool | msgspec.UnsetType = msgspec.UNSET
    """True when `timeout_s` was cut to the tenant's limit."""
    timeout_s: float | msgspec.UnsetType = msgspec.UNSET
    """What it was cut to."""
    status: Literal["ok", "error", "interrupted", "timeout"]
    execution_count: int | None
    stdout: str
    stderr: str
    result: str | None
    data: dict[str, Any] | None
    error: ErrorView | None
    duration_s: float
    displays: list[dict[str, Any]] | msgspec.UnsetType = msgspec.UNSET
    """The MIME bundles that the script displayed, when it did."""


class Executed(msgspec.Struct, frozen=True):
    """The answer to an execution: an HTTP status and a JSON body, which may have been recorded long ago."""

    status: int
    body: bytes
    is_replayed: bool = False
    """The outcome of an earlier request with the same Idempotency-Key."""


class ExecutionView(msgspec.Struct, frozen=True, kw_only=True):
    """An execution that is fetched later."""

    id: str
    status: Literal["pending", "done", "failed"]
    created_at: str
    finished_at: str | None = None
    http_status: int | None = None
    """What a request that waited would have been answered."""
    outcome: msgspec.Raw | None = None
    """Its body: an `ExecuteView`, or a problem document."""


class LeaseInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A kernel lent to a ZeroMQ client."""

    id: str
    expires_at: str


class ConnectionView(msgspec.Struct, frozen=True, kw_only=True):
    """Where to find a leased kernel."""

    kernel_id: KernelId
    session: str
    lease: LeaseInfo
    connection: dict[str, Any]
    """Jupyter's connection file, as an object."""


class LogLine(msgspec.Struct, frozen=True, kw_only=True):
    """One line that a kernel wrote to its standard output or error."""

    seq: int
    at: str
    text: str
    incarnation: int = 0


class CheckView(msgspec.Struct, frozen=True, kw_only=True):
    """One check of the fleet's health."""

    status: Literal["healthy", "degraded", "unhealthy"]
    detail: str = ""


class ProcessView(msgspec.Struct, frozen=True, kw_only=True):
    """A process of the fleet itself."""

    pid: int | None
    uptime_s: float
    memory_bytes: int | None = None


class HealthView(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /health`."""

    status: Literal["healthy", "degraded", "unhealthy"]
    name: str
    checks: dict[str, CheckView]
    controller: ProcessView
    zygote: ProcessView
    counts: dict[str, int]
    """Kernels by phase in upper case, `tenants`, `capacity`."""
    version: str
    isolation: dict[str, Strength] = {}
    """For each level that kernels have: by which layers it keeps them apart, what these hold, what is left open."""


class Problem(msgspec.Struct, frozen=True, kw_only=True):
    """An error (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    limit: str | msgspec.UnsetType = msgspec.UNSET
    """With 429: which limit is reached."""
    death: Death | msgspec.UnsetType = msgspec.UNSET
