"""What clients ask over HTTP: the bodies. Unknown members, wrong types and non-objects are refused by their types."""

from typing import Annotated, Literal

import msgspec

from llmspell_fleet.model.ids import NAME, TenantId
from llmspell_fleet.model.labels import Labels, LabelsChange
from llmspell_fleet.model.pool import Autoscale, WarmUse
from llmspell_fleet.model.tenant import Count, Fraction, IsolationLevel, Limits, RestartRule, Seconds, Strategy

Session = Annotated[str, msgspec.Meta(min_length=1, max_length=200)]


class LimitsChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Some limits; those that are not named stay."""

    memory_bytes: int | None = None
    cpu_percent: float | None = None
    execution_timeout_s: float | None = None
    output_bytes: int | None = None
    max_clients: int | None = None
    max_message_bytes: int | None = None
    processes: int | None = None
    files: int | None = None
    storage_bytes: int | None = None
    max_executions: int | None = None
    executions_per_s: float | None = None
    max_kernels: int | None = None
    total_memory_bytes: int | None = None
    total_cpu_percent: float | None = None
    total_storage_bytes: int | None = None

    def applied_to(self, limits: Limits) -> Limits:
        """`limits` with those that are named here. msgspec.ValidationError: one cannot be that."""
        named = {name: value for name, value in msgspec.structs.asdict(self).items() if value is not None}
        return msgspec.convert({**msgspec.structs.asdict(limits), **named}, Limits)


class TenantRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`POST /v1/tenants`."""

    id: Annotated[str, msgspec.Meta(pattern=NAME, max_length=63)]
    replicas: Count = 1
    strategy: Strategy | None = None
    """None = the fleet's own."""
    limits: LimitsChange | None = None
    """Those that are not named are the fleet's own."""
    isolation_level: IsolationLevel | None = None
    idle_timeout_s: Seconds = 0.0
    cull_busy: bool = False
    cull_connected: bool = False
    warm: WarmUse = "prefer"
    warm_size: Count = 0
    restart: RestartRule = "always"
    """Which ends of their own are followed by another process: all, crashes (on-failure), none (never)."""
    max_age_s: Seconds = 0.0
    """The age at which a kernel finishes what it runs and gets a new process; 0 = any."""
    max_age_variance: Fraction = 0.1
    """Up to this share of `max_age_s` is taken off at random."""
    labels: Labels = {}
    wait_s: Annotated[float, msgspec.Meta(ge=0, le=600)] = 10.0
    """How long to wait for all replicas to be READY before answering."""
    autoscale: Autoscale | None = None
    """None = `replicas` stays as it is asked; else it is where the fleet begins."""


class TenantChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`PATCH /v1/tenants/{tenant}`; what is not named stays."""

    replicas: Count | None = None
    strategy: Strategy | None = None
    limits: LimitsChange | None = None
    isolation_level: IsolationLevel | None = None
    idle_timeout_s: Seconds | None = None
    cull_busy: bool | None = None
    cull_connected: bool | None = None
    warm: WarmUse | None = None
    warm_size: Count | None = None
    restart: RestartRule | None = None
    max_age_s: Seconds | None = None
    max_age_variance: Fraction | None = None
    labels: LabelsChange | None = None
    """Those that are not named stay; one that is "" goes."""
    autoscale: Autoscale | msgspec.UnsetType | None = msgspec.UNSET
    """null = `replicas` stays as it is from now on."""
    wait_s: Annotated[float, msgspec.Meta(ge=0, le=600)] = 10.0


class KernelRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`POST /v1/kernels`: one more kernel for a tenant."""

    tenant: Annotated[TenantId, msgspec.Meta(pattern=NAME, max_length=63)]
    name: Annotated[str, msgspec.Meta(pattern=NAME, max_length=63)] | None = None
    port: Annotated[int, msgspec.Meta(ge=0, le=65535)] | None = None
    """The shell port on 127.0.0.1; None = unix sockets, 0 = whichever is free."""
    labels: Labels = {}
    """Besides its tenant's, which it has too."""
    wait_s: Annotated[float, msgspec.Meta(ge=0, le=600)] = 10.0


Share = Annotated[int, msgspec.Meta(ge=0, le=1_000_000)] | Annotated[str, msgspec.Meta(pattern=r"^[0-9]{1,3}%$(?!\n)")]
"""A number of kernels, or so many percent of the tenant's replicas, as "25%"."""


class RollRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`POST /v1/tenants/{tenant}/restart`: all its kernels, a few at a time."""

    max_unavailable: Share = 1
    """So many may be not ready because of it; a percentage is rounded down."""
    max_surge: Share = 0
    """So many kernels may be started besides, to stand in meanwhile; a percentage is rounded up."""
    wait_s: Annotated[float, msgspec.Meta(ge=0, le=600)] = 10.0
    """How long to wait for its end before answering; it goes on all the same."""


class UpgradeRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`POST /v1/upgrade`."""

    wait_s: Annotated[float, msgspec.Meta(ge=0, le=600)] = 10.0
    """How long requests that are being answered may take to end. Nothing new is read meanwhile."""
    force: bool = False
    """Whether to go on then all the same, and let those answers be lost."""


class ApplyRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`POST /v1/apply`: another configuration for the fleet."""

    config: str
    """The text of a configuration file, TOML; relative paths and `${NAME}` are the controller's."""
    name: Annotated[str, msgspec.Meta(max_length=4096)] = ""
    """What messages call it, as the name of its file."""
    dry_run: bool = False
    """Say what would be done, and do nothing."""
    prune: bool = False
    """Remove tenants that an earlier configuration declared and this one does not."""


ForwardedSignal = Literal["INT", "TERM", "HUP", "USR1", "USR2"]


class SignalRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`POST …/signal`: INT interrupts, TERM ends this process, HUP reopens the log, USR1 and USR2 are for the log."""

    signal: ForwardedSignal


class DrainRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`POST …/drain`."""

    restart: bool = False
    """Whether a new process follows; else a kernel stays down until it is restarted."""
    wait_s: Annotated[float, msgspec.Meta(ge=0, le=600)] = 60.0
    """How long to wait for its end before answering."""


class ExecuteRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`POST /v1/tenants/{tenant}/execute`."""

    code: str
    session: Session | None = None
    timeout_s: Annotated[float, msgspec.Meta(gt=0, le=100 * 365 * 86_400)] | None = None
    """The whole of it, waiting included; clipped to the tenant's execution_timeout_s."""
    stream: bool = False
    wait: bool = True
    """False = 202 at once, the outcome is fetched from `/executions/{id}`."""


class LeaseChange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """`PATCH /v1/leases/{id}`: renew it."""

    ttl_s: Annotated[float, msgspec.Meta(gt=0, le=86_400)] | None = None
