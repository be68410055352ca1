"""What a fleet is configured to be: the file, the environment and the command line, as one frozen record.

`FleetConfig` knows no file: `tables` has the tables, `reload` what holds without a restart.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import msgspec

from llmspell_fleet.config import checks, tables
from llmspell_fleet.config.notices import degraded_by, notices_for
from llmspell_fleet.config.tables import FleetFile, FleetKernelTable
from llmspell_fleet.model.isolation import DEFAULT_UIDS, uids_of
from llmspell_fleet.model.kernel import Condition
from llmspell_fleet.model.pool import Autoscale, WarmUse
from llmspell_fleet.model.requests import LimitsChange
from llmspell_fleet.model.tenant import MIB, IsolationLevel, Limits, RestartRule, Strategy, TenantSpec
from llmspell_fleet.policy.liveness import ProbePolicy
from llmspell_fleet.policy.restart import RestartPolicy
from llmspell_kernel import config as kernel_config
from llmspell_kernel import settings
from llmspell_kernel.errors import MisuseError, RefusedError
from llmspell_kernel.settings import ConfigurationError

FILE_NAME = "fleet.toml"
"""What is read from the configuration directory when no file is named."""

DEFAULT_REPLICAS = 2
"""Kernels of tenant `default` when neither `startup_kernels` nor a ``[[fleet.kernels]]`` says how many."""

LogLevel = Literal["debug", "info", "warning", "error"]

_ALWAYS_ALLOWED = ("localhost", "127.0.0.1", "::1")
_OWN_FILES = frozenset(("fleet.pid", "fleet.json", "fleet.sock", "fleet.log"))


class DeclaredKernel(msgspec.Struct, frozen=True, kw_only=True):
    """A kernel of tenant `default` that the configuration names."""

    name: str
    port: int | None = None
    """The shell port on 127.0.0.1, 0 = whichever is free; the other four are found. None = unix sockets."""
    log_file: str | None = None
    pid_file: str | None = None
    idle_timeout_s: float | None = None
    """None = as `FleetConfig.idle_timeout_s` says."""
    labels: Mapping[str, str] = {}
    """Besides those of its tenant."""
    restart: RestartRule | None = None
    max_age_s: float | None = None
    max_age_variance: float | None = None
    """None = as `FleetConfig` says, these three."""
    depends_on: dict[str, Condition] = {}
    limits: LimitsChange = LimitsChange()
    """Where it differs from `FleetConfig.limits`."""

    def limited(self, limits: Limits) -> Limits:
        """What this kernel may use when others of its tenant may use `limits`."""
        return self.limits.applied_to(limits)


class FleetConfig(msgspec.Struct, frozen=True, kw_only=True):
    """How a fleet is to be run. Paths are absolute, durations seconds, sizes bytes."""

    name: str = "llmspell"
    host: str = "127.0.0.1"
    port: int = 9550
    """0 = whichever is free."""
    allowed_hosts: tuple[str, ...] = ()
    """Lower case, without ports: by which names the HTTP interface may be asked besides those in `hosts`."""
    allowed_origins: tuple[str, ...] = ()
    """Lower case: which pages of other origins may ask; a port of ``*`` stands for any."""
    tls_enabled: bool = False
    metrics_public: bool = False
    """Whether `/health` and `/metrics` need no token, from this machine."""

    daemon: bool = False
    """Go to the background unless the command line says otherwise."""
    pid_file: str | None = None
    """Where a service manager wants the controller's pid, besides its own file in the runtime directory."""
    log_level: LogLevel = "info"
    log_file: str | None = None
    """None = the log directory's `fleet.log`."""
    log_format: Literal["console", "json"] = "console"
    log_rotate_bytes: int = 100 * MIB
    """0 = never."""
    log_rotate_count: int = 10

    max_kernels: int = 2000
    startup_kernels: int = DEFAULT_REPLICAS
    """Replicas of tenant `default` at the first start: the declared ones, and unnamed ones up to this number."""
    declared: tuple[DeclaredKernel, ...] = ()
    tenants: tuple[TenantSpec, ...] = ()
    """Those that are declared, besides `default`."""
    spawner: Literal["zygote", "subprocess"] = "zygote"
    zygote_forks: int = 1000
    """After how many starts the zygote is renewed; 0 = never."""
    restart: RestartPolicy = RestartPolicy()
    restart_rule: RestartRule = "always"
    max_age_s: float = 0.0
    max_age_variance: float = 0.1
    """Of tenant `default`, these three."""
    probe: ProbePolicy = ProbePolicy()
    lease_ttl_s: float = 300.0
    """How long a lease lasts that nobody renews."""

    strategy: Strategy = "least_loaded"
    """Of tenants that state none."""
    failover_enabled: bool = True
    """Whether a request whose kernel died before it began is tried on another one."""
    multi_tenant_enabled: bool = True
    """False = tenant `default` is the only one there may be."""
    isolation_level: IsolationLevel = "process"
    """Of tenants that state none."""
    uids: tuple[int, int] = DEFAULT_UIDS
    """First and last of the users that tenants' kernels become at `strict`, where the fleet is root."""
    allows_weaker: bool = False
    """Whether kernels get `process` where `strict` cannot be had."""
    resource_quotas: bool = True
    """Whether tenants as a whole are held to their limits, as `max_executions`; kernels always are to theirs."""
    limits: Limits = Limits()
    """Of tenant `default`, and what other tenants' requests leave out."""
    idle_timeout_s: float = 0.0
    """Of tenant `default`; 0 = never culled."""
    cull_busy: bool = False
    cull_connected: bool = False
    warm: WarmUse = "prefer"
    """Of tenant `default`: whether its new kernels are warm ones."""
    warm_size: int = 0
    """How many kernels of the default spec are kept warm."""
    autoscale: Autoscale | None = None
    """Of tenant `default`; None = it has `startup_kernels`."""
    monitoring_interval_s: float = 30.0
    """Between two looks at what the kernels use."""

    notices: tuple[str, ...] = ()
    """What was asked for and is not done, for people; each to be told once."""
    degraded: Mapping[str, str] = {}
    """Health checks that this configuration degrades, and why."""

    @property
    def hosts(self) -> tuple[str, ...]:
        """By which names the HTTP interface may be asked, all of them."""
        return _distinct((*_ALWAYS_ALLOWED, self.host, *self.allowed_hosts))


def load_fleet_file(
    path: str | None, *, environ: Mapping[str, str], text: str | None = None, source: str | None = None
) -> FleetFile:
    """The file at `path`, or what `text` says in its place, or the defaults; ``LLMSPELL_LOG_LEVEL`` is on top.

    `source` names `text` in messages. ConfigurationError lists everything wrong with it.
    """
    source = source or path or FILE_NAME
    if text is not None:
        file = settings.decode(text, FleetFile, source=source, environ=environ)
    else:
        file = FleetFile() if path is None else settings.load(path, FleetFile, environ=environ)
    if found := checks.problems(file):
        raise ConfigurationError(source, found)
    level = environ.get("LLMSPELL_LOG_LEVEL")
    if not level:
        return file
    try:
        logging = msgspec.convert({"level": level}, kernel_config.LoggingTable)
    except msgspec.ValidationError:
        known = ", ".join(kernel_config.LEVELS)
        raise MisuseError(f"expected LLMSPELL_LOG_LEVEL to be one of {known}, found {level!r}") from None
    return msgspec.structs.replace(file, logging=msgspec.structs.replace(file.logging, level=logging.level))


def load_fleet_config(
    path: str | None,
    *,
    environ: Mapping[str, str],
    text: str | None = None,
    source: str | None = None,
    directory: str = "",
) -> FleetConfig:
    """What `load_fleet_file` comes to; relative paths are `directory`'s, or the working directory's."""
    return fleet_config(load_fleet_file(path, environ=environ, text=text, source=source), directory)


def fleet_config(file: FleetFile, directory: str = "") -> FleetConfig:
    """What a file comes to."""
    fleet, logging, restart = file.fleet, file.logging, file.fleet.restart
    limits, strategy = tables.limits_of(file.limits), file.load_balancing.strategy
    wanted = fleet.startup_kernels
    if wanted is None:
        wanted = len(fleet.kernels) or min(DEFAULT_REPLICAS, fleet.max_kernels)
    return FleetConfig(
        name=fleet.name,
        host=fleet.host,
        port=fleet.port,
        allowed_hosts=_distinct(file.security.allowed_hosts),
        allowed_origins=_distinct(file.security.allowed_origins),
        tls_enabled=file.security.tls_enabled,
        metrics_public=file.metrics.public,
        daemon=file.service.daemon,
        pid_file=_absolute(file.service.pid_file, directory),
        log_level=kernel_config.LEVELS[logging.level],
        log_file=_absolute(logging.file, directory),
        log_format=logging.format,
        log_rotate_bytes=logging.rotate_size,
        log_rotate_count=logging.rotate_count,
        max_kernels=fleet.max_kernels,
        startup_kernels=max(wanted, len(fleet.kernels)),
        declared=tuple(_declared(table, directory) for table in fleet.kernels),
        tenants=tuple(
            tables.tenant_of(table, strategy=strategy, limits=limits, isolation_level=file.multi_tenant.isolation_level)
            for table in fleet.tenants
        ),
        spawner=fleet.spawner,
        zygote_forks=fleet.zygote_forks,
        restart=RestartPolicy(
            max_restarts=restart.max_restarts,
            window_s=restart.window,
            first_delay_s=restart.first_delay,
            longest_delay_s=restart.longest_delay,
            start_deadline_s=fleet.start_deadline,
            stop_deadline_s=fleet.stop_deadline,
            drain_deadline_s=fleet.drain_deadline,
            interrupt_deadline_s=fleet.stop.interrupt_deadline,
            shutdown_deadline_s=fleet.stop.shutdown_deadline,
        ),
        restart_rule=restart.rule,
        max_age_s=fleet.max_age,
        max_age_variance=fleet.max_age_variance,
        probe=ProbePolicy(
            interval_s=file.load_balancing.health_check_interval,
            timeout_s=fleet.probe.timeout,
            deadline_s=fleet.probe.deadline,
            resumes=fleet.probe.resume,
        ),
        lease_ttl_s=fleet.lease_ttl,
        strategy=strategy,
        failover_enabled=file.load_balancing.failover_enabled,
        multi_tenant_enabled=file.multi_tenant.enabled,
        isolation_level=file.multi_tenant.isolation_level,
        uids=uids_of(file.security.uid_range) or DEFAULT_UIDS,
        resource_quotas=file.multi_tenant.resource_quotas,
        limits=limits,
        idle_timeout_s=file.limits.idle_timeout_s,
        cull_busy=file.limits.cull_busy,
        cull_connected=file.limits.cull_connected,
        warm=fleet.warm.use,
        warm_size=fleet.warm.size,
        autoscale=tables.autoscale_of(fleet.autoscale),
        monitoring_interval_s=file.monitoring.interval,
        notices=tuple(notices_for(file)),
        degraded=degraded_by(file),
    )


def _declared(table: FleetKernelTable, directory: str) -> DeclaredKernel:
    return DeclaredKernel(
        name=table.name,
        port=table.port,
        log_file=_absolute(table.log_file, directory),
        pid_file=_absolute(table.pid_file, directory),
        idle_timeout_s=table.idle_timeout,
        labels=table.labels,
        restart=table.restart,
        max_age_s=table.max_age,
        max_age_variance=table.max_age_variance,
        depends_on=table.depends_on,
        limits=LimitsChange(max_clients=table.max_clients, **msgspec.structs.asdict(table.limits)),
    )


def _distinct(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.lower() for name in names))


def _absolute(path: str | None, directory: str) -> str | None:
    return None if path is None else kernel_config.absolute_path(os.path.join(directory, os.path.expanduser(path)))


def apply_command_line(config: FleetConfig, *, port: int | None = None) -> FleetConfig:
    """`config` with what the command line says on top; to be done again after each reload."""
    if port is None:
        return config
    for kernel in config.declared:
        if port and kernel.port == port:
            raise MisuseError(f"--port: expected another port than kernel {kernel.name}'s own, found {port}")
    return msgspec.structs.replace(config, port=port)


def rerooted(
    config: FleetConfig, *, runtime_dir: str | None, log_dir: str | None
) -> tuple[FleetConfig, tuple[str, ...]]:
    """`config` with its log and pid files moved below the directories that were given, and what to say of it.

    None = that one was not given, and configured paths hold. RefusedError: two files would become one.
    """
    told: list[str] = []
    for option, directory, key in (("--log-dir", log_dir, "log_file"), ("--runtime-dir", runtime_dir, "pid_file")):
        if directory is None:
            continue
        root = Path(kernel_config.absolute_path(directory))
        paths = [path for owner in (config, *config.declared) if (path := getattr(owner, key)) is not None]
        config = _moved(config, key, root)
        _refuse_collisions(config, key, option)
        if away := [path for path in paths if Path(path).parent != root]:
            told.append(f"{option}: {', '.join(away)} {'is' if len(away) == 1 else 'are'} in {root} instead")
    return config, tuple(told)


def _moved(config: FleetConfig, key: str, root: Path) -> FleetConfig:
    def below(path: str | None) -> str | None:
        return None if path is None else str(root / Path(path).name)

    declared = tuple(
        msgspec.structs.replace(kernel, **{key: below(getattr(kernel, key))}) for kernel in config.declared
    )
    own = below(getattr(config, key))
    if own is not None and Path(own).name in _OWN_FILES:
        own = None  # It is written there anyway.
    return msgspec.structs.replace(config, declared=declared, **{key: own})


def _refuse_collisions(config: FleetConfig, key: str, option: str) -> None:
    own = getattr(config, key)
    seen = {own: "the fleet's"} if own is not None else {}
    for kernel in config.declared:
        path = getattr(kernel, key)
        if path is None:
            continue
        other = "the fleet's" if Path(path).name in _OWN_FILES else seen.get(path)
        if other is not None:
            raise RefusedError(
                f"{option}: {path} would be both kernel {kernel.name}'s {key} and {other}: "
                "give the files different names in the configuration"
            )
        seen[path] = f"kernel {kernel.name}'s"
