"""What a fleet's configuration file may hold, table by table.

A fleet's file may hold the tables of a kernel's file too (`llmspell_kernel.config`): one file describes a whole
machine. `checks` has what of it contradicts itself; what the tables come to is `fleet`'s matter.
"""

from typing import Annotated, Literal

import msgspec

from llmspell_fleet.config.supervision import ProbeTable, RestartTable, StopTable
from llmspell_fleet.model.ids import TenantId
from llmspell_fleet.model.isolation import DEFAULT_UIDS
from llmspell_fleet.model.kernel import Condition
from llmspell_fleet.model.pool import Autoscale, WarmUse
from llmspell_fleet.model.tenant import MIB, Fraction, IsolationLevel, Limits, RestartRule, Strategy, TenantSpec
from llmspell_fleet.policy.restart import RestartPolicy
from llmspell_kernel import config as kernel_config
from llmspell_kernel import planned_tables as planned
from llmspell_kernel.settings import Amount, Count, Duration, Port, Size

Text = Annotated[str, msgspec.Meta(min_length=1)]
Percent = Annotated[float, msgspec.Meta(ge=0, le=100_000)]
Clients = Annotated[int, msgspec.Meta(ge=1, le=100_000)]
Replicas = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
Processes = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
Files = Annotated[int, msgspec.Meta(ge=0, le=1_048_576)]
Kernels = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
Executions = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
Rate = Annotated[float, msgspec.Meta(ge=0, le=1e9)]

_DEFAULTS = Limits()
_RESTART = RestartPolicy()


class KernelLimitsTable(msgspec.Struct, frozen=True, kw_only=True):
    """``[fleet.kernels.limits]``: where one kernel differs from ``[limits]``."""

    memory_bytes: Size | None = None
    cpu_percent: Percent | None = None
    execution_timeout_s: Duration | None = None
    output_bytes: Size | None = None
    max_message_bytes: Size | None = None
    processes: Processes | None = None
    files: Files | None = None
    storage_bytes: Size | None = None


class FleetKernelTable(msgspec.Struct, frozen=True, kw_only=True):
    """``[[fleet.kernels]]``: a kernel of tenant ``default`` with a name of its own."""

    name: str
    port: Port | None = None
    log_file: Text | None = None
    pid_file: Text | None = None
    idle_timeout: Duration | None = None
    max_clients: Clients | None = None
    labels: dict[str, str] = {}
    restart: RestartRule | None = None
    max_age: Duration | None = None
    max_age_variance: Fraction | None = None
    depends_on: dict[str, Condition] = {}
    limits: KernelLimitsTable = KernelLimitsTable()


class AutoscaleTable(msgspec.Struct, frozen=True, kw_only=True):
    """``[fleet.autoscale]``: how many kernels tenant ``default`` has, by its load; ``max = 0`` is off."""

    min: Kernels = 1
    max: Count = 0
    busy_share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 0.8
    up_after: Duration = 0.2
    down_after: Duration = 60


class WarmTable(msgspec.Struct, frozen=True, kw_only=True):
    """``[fleet.warm]``: kernels that are READY before anybody needs them."""

    size: Count = 0
    use: WarmUse = "prefer"


class TenantLimitsTable(KernelLimitsTable, frozen=True, kw_only=True):
    """``[fleet.tenants.limits]``: where one tenant differs from ``[limits]``."""

    max_clients: Clients | None = None
    max_executions: Executions | None = None
    executions_per_s: Rate | None = None
    max_kernels: Count | None = None
    total_memory_bytes: Size | None = None
    total_cpu_percent: Percent | None = None
    total_storage_bytes: Size | None = None


class FleetTenantTable(msgspec.Struct, frozen=True, kw_only=True):
    """``[[fleet.tenants]]``: a tenant besides ``default``; what is left out is as for one that a request makes."""

    id: str
    replicas: Replicas = 1
    strategy: Strategy | None = None
    isolation_level: IsolationLevel | None = None
    idle_timeout: Duration = 0
    cull_busy: bool = False
    cull_connected: bool = False
    labels: dict[str, str] = {}
    limits: TenantLimitsTable = TenantLimitsTable()
    autoscale: AutoscaleTable = AutoscaleTable()
    warm: WarmUse = "prefer"
    warm_size: Count = 0
    restart: RestartRule = "always"
    max_age: Duration = 0
    max_age_variance: Fraction = 0.1


class FleetTable(msgspec.Struct, frozen=True, kw_only=True):
    """``[fleet]``."""

    name: str = "llmspell"
    host: str = "127.0.0.1"
    port: Port = 9550
    max_kernels: Kernels = 2000
    startup_kernels: Count | None = None
    spawner: Literal["zygote", "subprocess"] = "zygote"
    zygote_forks: Count = 1000
    start_deadline: Duration = _RESTART.start_deadline_s
    stop_deadline: Duration = _RESTART.stop_deadline_s
    drain_deadline: Duration = _RESTART.drain_deadline_s
    max_age: Duration = 0
    max_age_variance: Fraction = 0.1
    lease_ttl: Duration = 300
    kernels: list[FleetKernelTable] = []
    tenants: list[FleetTenantTable] = []
    restart: RestartTable = RestartTable()
    stop: StopTable = StopTable()
    probe: ProbeTable = ProbeTable()
    autoscale: AutoscaleTable = AutoscaleTable()
    warm: WarmTable = WarmTable()


class LoadBalancingTable(msgspec.Struct, frozen=True, kw_only=True):
    """``[load_balancing]``."""

    strategy: Strategy = "least_loaded"
    health_check_interval: Duration = 30
    failover_enabled: bool = True


class MultiTenantTable(msgspec.Struct, frozen=True, kw_only=True):
    """``[multi_tenant]``."""

    enabled: bool = True
    isolation_level: IsolationLevel = "process"
    resource_quotas: bool = True


class MonitoringTable(msgspec.Struct, frozen=True, kw_only=True):
    """``[monitoring]``."""

    interval: Duration = 30
    metrics_retention: Duration = 0
    alert_channels: tuple[Literal["webhook", "slack", "pagerduty"], ...] = ()


class ServiceDiscoveryTable(msgspec.Struct, frozen=True, kw_only=True):
    """``[service_discovery]``."""

    enabled: bool = False
    provider: Literal["consul", "etcd", "kubernetes", "file"] | None = None


class SecurityTable(kernel_config.SecurityTable, frozen=True, kw_only=True):
    """``[security]``: as a kernel's, and who may be asked by which name."""

    auth_method: Literal["none", "token", "oauth2"] = "token"
    allowed_hosts: tuple[str, ...] = ()
    uid_range: str = f"{DEFAULT_UIDS[0]}-{DEFAULT_UIDS[1]}"


class LimitsTable(msgspec.Struct, frozen=True, kw_only=True):
    """``[limits]``: what a tenant and its kernels may use unless somebody says otherwise; 0 = no bound."""

    memory_bytes: Size = _DEFAULTS.memory_bytes
    cpu_percent: Percent = _DEFAULTS.cpu_percent
    execution_timeout_s: Duration = _DEFAULTS.execution_timeout_s
    output_bytes: Size = _DEFAULTS.output_bytes
    max_clients: Clients = _DEFAULTS.max_clients
    max_message_bytes: Size = _DEFAULTS.max_message_bytes
    processes: Processes = _DEFAULTS.processes
    files: Files = _DEFAULTS.files
    storage_bytes: Size = _DEFAULTS.storage_bytes
    max_executions: Executions = _DEFAULTS.max_executions
    executions_per_s: Rate = _DEFAULTS.executions_per_s
    max_kernels: Count = _DEFAULTS.max_kernels
    total_memory_bytes: Size = _DEFAULTS.total_memory_bytes
    total_cpu_percent: Percent = _DEFAULTS.total_cpu_percent
    total_storage_bytes: Size = _DEFAULTS.total_storage_bytes
    idle_timeout_s: Duration = 0
    cull_busy: bool = False
    cull_connected: bool = False
    max_memory_mb: Amount | None = None
    max_cpu_percent: Percent | None = None
    max_message_size: Size | None = None
    session_timeout_secs: Duration | None = None


class MetricsTable(planned.MetricsTable, frozen=True, kw_only=True):
    """``[metrics]``: as a kernel's, and whether they need a token."""

    enabled: bool = True
    public: bool = False


class FleetFile(planned.PlannedTables, frozen=True, kw_only=True):
    """A whole configuration file of a fleet."""

    fleet: FleetTable = FleetTable()
    load_balancing: LoadBalancingTable = LoadBalancingTable()
    multi_tenant: MultiTenantTable = MultiTenantTable()
    monitoring: MonitoringTable = MonitoringTable()
    service_discovery: ServiceDiscoveryTable = ServiceDiscoveryTable()
    limits: LimitsTable = LimitsTable()
    security: SecurityTable = SecurityTable()
    metrics: MetricsTable = MetricsTable()
    service: kernel_config.ServiceTable = kernel_config.ServiceTable()
    logging: kernel_config.LoggingTable = kernel_config.LoggingTable()
    jupyter: kernel_config.JupyterTable = kernel_config.JupyterTable()
    runtime: kernel_config.RuntimeTable = kernel_config.RuntimeTable()
    health: planned.HealthTable = planned.HealthTable()


def limits_of(table: LimitsTable) -> Limits:
    """What ``[limits]`` comes to."""
    mb, percent, size = table.max_memory_mb, table.max_cpu_percent, table.max_message_size
    return Limits(
        memory_bytes=table.memory_bytes if mb is None else int(mb * MIB),
        cpu_percent=table.cpu_percent if percent is None else percent,
        execution_timeout_s=table.execution_timeout_s,
        output_bytes=table.output_bytes,
        max_clients=table.max_clients,
        max_message_bytes=table.max_message_bytes if size is None else size,
        processes=table.processes,
        files=table.files,
        storage_bytes=table.storage_bytes,
        max_executions=table.max_executions,
        executions_per_s=table.executions_per_s,
        max_kernels=table.max_kernels,
        total_memory_bytes=table.total_memory_bytes,
        total_cpu_percent=table.total_cpu_percent,
        total_storage_bytes=table.total_storage_bytes,
    )


def autoscale_of(table: AutoscaleTable) -> Autoscale | None:
    """What ``[fleet.autoscale]`` comes to; ValueError when it contradicts itself."""
    if not table.max:
        return None
    return Autoscale(
        min=table.min,
        max=table.max,
        busy_share=table.busy_share,
        up_after_s=table.up_after,
        down_after_s=table.down_after,
    )


def tenant_of(
    table: FleetTenantTable, *, strategy: Strategy, limits: Limits, isolation_level: IsolationLevel
) -> TenantSpec:
    """What ``[[fleet.tenants]]`` comes to, where the fleet's own values are those."""
    named = {name: value for name, value in msgspec.structs.asdict(table.limits).items() if value is not None}
    autoscale = autoscale_of(table.autoscale)
    return TenantSpec(
        id=TenantId(table.id),
        replicas=table.replicas if autoscale is None else autoscale.clipped(table.replicas),
        strategy=table.strategy or strategy,
        limits=msgspec.structs.replace(limits, **named),
        isolation_level=table.isolation_level or isolation_level,
        idle_timeout_s=table.idle_timeout,
        cull_busy=table.cull_busy,
        cull_connected=table.cull_connected,
        labels=table.labels,
        autoscale=autoscale,
        warm=table.warm,
        warm_size=table.warm_size,
        restart=table.restart,
        max_age_s=table.max_age,
        max_age_variance=table.max_age_variance,
    )
