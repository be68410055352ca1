"""What a fleet's configuration file may hold, table by table, and what in it contradicts itself.

A fleet's file may hold the tables of a kernel's file too (`llmspell_kernel.config`): one file describes a whole
machine. What the tables come to is `config`'s matter.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Annotated, Literal

import msgspec

from llmspell_fleet.model.ids import NAME, is_name
from llmspell_fleet.model.pool import Autoscale, WarmUse
from llmspell_fleet.model.tenant import MIB, IsolationLevel, Limits, Strategy
from llmspell_fleet.policy.restart import RestartPolicy
from llmspell_kernel import config as kernel_config
from llmspell_kernel import planned_tables as planned
from llmspell_kernel.settings import Amount, Count, Duration, Port, Size
from llmspell_kernel.units import format_duration, format_size

Text = Annotated[str, msgspec.Meta(min_length=1)]
Percent = Annotated[float, msgspec.Meta(ge=0, le=100_000)]
Clients = Annotated[int, msgspec.Meta(ge=1, le=100_000)]
Processes = Annotated[int, msgspec.Meta(ge=0, le=2**31 - 1)]
Files = Annotated[int, msgspec.Meta(ge=0, le=1_048_576)]
Kernels = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
Executions = Annotated[int, msgspec.Meta(ge=1, le=1_000_000)]
Rate = Annotated[float, msgspec.Meta(ge=0, le=1e9)]

SPELLINGS = {"max_memory_mb": "memory_bytes", "max_cpu_percent": "cpu_percent", "max_message_size": "max_message_bytes"}
"""Keys of ``[limits]`` that say what another one says."""

_DEFAULTS = Limits()
_RESTART = RestartPolicy()
_LARGEST_MEMORY_BYTES = 2**50
_LARGEST_MESSAGE_BYTES = 2**31
_ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(?:[a-z0-9.-]+|\[[0-9a-f:.]+\])(?::(?:[0-9]{1,5}|\*))?", re.ASCII)
_HOST = re.compile(r"[a-z0-9][a-z0-9.-]*", re.ASCII)


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
    limits: KernelLimitsTable = KernelLimitsTable()


class RestartTable(msgspec.Struct, frozen=True, kw_only=True):
    """``[fleet.restart]``: what follows a kernel's death."""

    max_restarts: Count = _RESTART.max_restarts
    window: Duration = _RESTART.window_s
    first_delay: Duration = _RESTART.first_delay_s
    longest_delay: Duration = _RESTART.longest_delay_s


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


class FleetTable(msgspec.Struct, frozen=True, kw_only=True):
    """``[fleet]``."""

    name: str = "llmspell"
    host: str = "127.0.0.1"
    port: Port = 9550
    max_kernels: Kernels = 2000
    startup_kernels: Count | None = None
    spawner: Literal["zygote", "subprocess"] = "zygote"
    start_deadline: Duration = _RESTART.start_deadline_s
    stop_deadline: Duration = _RESTART.stop_deadline_s
    drain_deadline: Duration = _RESTART.drain_deadline_s
    lease_ttl: Duration = 300
    kernels: list[FleetKernelTable] = []
    restart: RestartTable = RestartTable()
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


class FleetFile(msgspec.Struct, frozen=True, kw_only=True):
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
    dap: planned.DapTable = planned.DapTable()
    lsp: planned.LspTable = planned.LspTable()
    repl: planned.ReplTable = planned.ReplTable()
    debug: planned.DebugTable = planned.DebugTable()
    workspace: planned.WorkspaceTable = planned.WorkspaceTable()
    hot_reload: planned.HotReloadTable = planned.HotReloadTable()
    linting: planned.LintingTable = planned.LintingTable()
    completion: planned.CompletionTable = planned.CompletionTable()
    extension_registry: planned.ExtensionRegistryTable = planned.ExtensionRegistryTable()
    providers: dict[str, planned.ProviderTable] = {}


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


def problems(file: FleetFile) -> list[str]:
    """What cannot be meant although each key for itself could; a line for each, as `settings` writes them."""
    found = [*_fleet_problems(file.fleet), *_declared_problems(file.fleet), *_duration_problems(file)]
    found += _limits_problems(file.limits)
    if file.service_discovery.enabled and file.service_discovery.provider is None:
        found.append("[service_discovery] provider: is missing, expected one of consul, etcd, kubernetes, file")
    for origin in file.security.allowed_origins:
        if not _ORIGIN.fullmatch(origin.lower()):
            found.append(
                "[security] allowed_origins: expected an origin as browsers send it, such as http://localhost:8888 "
                f"or http://localhost:* for any port, found {origin!r}"
            )
    for host in file.security.allowed_hosts:
        if not _is_host(host.lower()):
            found.append(
                "[security] allowed_hosts: expected a name or an address without a port, such as "
                f"fleet.example.com, found {host!r}"
            )
    for key, path in (("[service] pid_file", file.service.pid_file), ("[logging] file", file.logging.file)):
        if path is not None and not _is_path(path):
            found.append(f"{key}: expected the path of a file, found {path!r}")
    return found


def _fleet_problems(fleet: FleetTable) -> Iterator[str]:
    if not is_name(fleet.name):
        yield f"[fleet] name: expected a name that matches {NAME}, found {fleet.name!r}"
    wanted = max(fleet.startup_kernels or 0, len(fleet.kernels))
    if wanted > fleet.max_kernels:
        yield f"[fleet] max_kernels: expected at least the {wanted} kernels of the start, found {fleet.max_kernels}"
    try:
        autoscale_of(fleet.autoscale)
    except ValueError as fault:
        yield f"[fleet.autoscale] {fault}"
    first, longest = fleet.restart.first_delay, fleet.restart.longest_delay
    if first > longest:
        yield (
            f"[fleet.restart] longest_delay: expected at least first_delay, which is {format_duration(first)}, "
            f"found {format_duration(longest)}"
        )


def _declared_problems(fleet: FleetTable) -> Iterator[str]:
    kernels = fleet.kernels
    for index, kernel in enumerate(kernels):
        where = f"[fleet.kernels[{index}]]"
        if not is_name(kernel.name):
            yield f"{where} name: expected a name that matches {NAME}, found {kernel.name!r}"
        if kernel.port and kernel.port == fleet.port:
            yield f"{where} port: expected another port than the fleet's own, found {kernel.port}"
        for key, path in (("log_file", kernel.log_file), ("pid_file", kernel.pid_file)):
            if path is not None and not _is_path(path):
                yield f"{where} {key}: expected the path of a file, found {path!r}"
        yield from _bounds_problems(where.replace("]]", "].limits]"), kernel.limits)
    for key in ("name", "port", "log_file", "pid_file"):
        for value in _repeated(getattr(kernel, key) for kernel in kernels):
            yield f"[[fleet.kernels]] {key}: expected a different one for each kernel, found {value!r} more than once"


def _repeated(values: Iterable[str | int | None]) -> list[str | int]:
    # Port 0 is whichever is free: never the same one twice.
    return [value for value, count in Counter(values).items() if value and count > 1]


def _duration_problems(file: FleetFile) -> Iterator[str]:
    fleet = file.fleet
    for key, value, least_s in (
        ("[fleet] start_deadline", fleet.start_deadline, 1),
        ("[fleet] stop_deadline", fleet.stop_deadline, 0.1),
        ("[fleet] lease_ttl", fleet.lease_ttl, 1),
        ("[fleet.restart] window", fleet.restart.window, 1),
        ("[load_balancing] health_check_interval", file.load_balancing.health_check_interval, 0.1),
        ("[monitoring] interval", file.monitoring.interval, 0.1),
    ):
        if value < least_s:
            yield f"{key}: expected at least {format_duration(least_s)}, found {format_duration(value)}"
    if fleet.lease_ttl > 86_400:
        yield f"[fleet] lease_ttl: expected at most 1d, found {format_duration(fleet.lease_ttl)}"


def _limits_problems(table: LimitsTable) -> Iterator[str]:
    for other, key in SPELLINGS.items():
        if getattr(table, other) is not None and getattr(table, key) != getattr(_DEFAULTS, key):
            yield f"[limits] {other}: {key} says the same thing; keep one of the two"
    yield from _bounds_problems("[limits]", limits_of(table))


def _bounds_problems(where: str, limits: Limits | KernelLimitsTable) -> Iterator[str]:
    memory, message = limits.memory_bytes, limits.max_message_bytes
    least = kernel_config.LEAST_MEMORY_BYTES
    if memory is not None and (0 < memory < least or memory > _LARGEST_MEMORY_BYTES):
        yield (
            f"{where} memory_bytes: expected 0 (no bound), or from {format_size(least)} to "
            f"{format_size(_LARGEST_MEMORY_BYTES)}, found {format_size(memory)}"
        )
    least = kernel_config.LEAST_MESSAGE_SIZE
    if message is not None and not least <= message <= _LARGEST_MESSAGE_BYTES:
        yield (
            f"{where} max_message_bytes: expected from {format_size(least)} to "
            f"{format_size(_LARGEST_MESSAGE_BYTES)}, found {format_size(message)}"
        )


def _is_host(text: str) -> bool:
    if ":" not in text:
        return _HOST.fullmatch(text) is not None
    import ipaddress

    try:
        ipaddress.IPv6Address(text)
    except ValueError:
        return False
    return True


def _is_path(text: str) -> bool:
    return text.isprintable() and not text.endswith("/") and text.strip() != ""
