"""What a kernel's configuration file holds, and what it comes to: limits, refusals, and what is not active.

Nothing here runs on the kernel's start path: the kernel itself reads `limits.KernelLimits` and
`options.ServeOptions`.
"""

import os
from collections.abc import Iterable, Mapping
from typing import Annotated, Any, Literal

import msgspec

from llmspell_kernel import planned_tables as planned
from llmspell_kernel import settings
from llmspell_kernel.connection import is_loopback, kernel_id_of
from llmspell_kernel.errors import RefusedError
from llmspell_kernel.limits import KIB, MIB, KernelLimits
from llmspell_kernel.options import LogOptions, ServeOptions
from llmspell_kernel.settings import Amount, ConfigurationError, Count, Duration, Port, Secret, Size
from llmspell_kernel.units import format_size

PLACEHOLDER_KEY = "your-hmac-key-here"
"""What the sample configuration holds in place of a key: as good as none, since everybody knows it."""

LEAST_MEMORY_BYTES = MIB
"""With less, Lua cannot even say that its memory is used up."""

LEAST_MESSAGE_SIZE = 64 * KIB
"""With less, ordinary requests of ordinary clients would be dropped."""

AtLeastOne = Annotated[int, msgspec.Meta(ge=1)]

_DEFAULTS = KernelLimits()

LEVELS: Mapping[str, Literal["debug", "info", "warning", "error"]] = {
    "trace": "debug",
    "debug": "debug",
    "info": "info",
    "warn": "warning",
    "warning": "warning",
    "error": "error",
}
"""What a file may say, and what it means."""

_NOT_BUILT = {
    "health": "the health endpoint",
    "metrics": "the metrics endpoint",
    "dap": "the debug adapter",
    "lsp": "the language server",
    "repl": "the REPL service",
    "debug": "the debugger",
    "workspace": "the language server",
    "hot_reload": "hot reload",
    "linting": "the linter",
    "completion": "the language server",
    "extension_registry": "the extension registry",
    "providers": "the script interface to language models",
}
_NOT_ACTIVE = {
    "auth_method": "clients of this kernel are recognised by the key in its connection file",
    "token_file": "clients of this kernel are recognised by the key in its connection file",
    "audit_log": "the audit log is not built yet",
    "allowed_origins": "this kernel has no face for browsers yet",
    "ip_whitelist": "this kernel listens on this machine only",
}
_NOT_ENFORCED = {
    "max_cpu_percent": "a kernel on its own does not bound its share of the processor",
    "session_timeout_secs": "a kernel on its own does not end sessions; idle_timeout_s ends an unused kernel",
}


class ServiceTable(msgspec.Struct, frozen=True, kw_only=True):
    """``[service]``: the kernel's identity and process."""

    id: str | None = None
    daemon: bool = False
    pid_file: str | None = None


class LoggingTable(msgspec.Struct, frozen=True, kw_only=True):
    """``[logging]``."""

    level: Literal["trace", "debug", "info", "warn", "warning", "error"] = "info"
    file: str | None = None
    format: Literal["console", "json"] = "console"
    rotate_size: Size = 100 * MIB
    rotate_count: Count = 10


class SecurityTable(msgspec.Struct, frozen=True, kw_only=True):
    """``[security]``."""

    tls_enabled: bool = False
    cert_path: str | None = None
    key_path: str | None = None
    auth_method: Literal["none", "token", "oauth2"] = "none"
    token_file: str | None = None
    audit_log: bool = False
    allowed_origins: tuple[str, ...] = ()
    ip_whitelist: tuple[str, ...] = ()


class PortsTable(msgspec.Struct, frozen=True, kw_only=True):
    """``[jupyter.ports]``; 0 = whichever is free."""

    shell_port: Port = 0
    iopub_port: Port = 0
    stdin_port: Port = 0
    control_port: Port = 0
    hb_port: Port = 0

    def in_order(self) -> tuple[int, int, int, int, int]:
        """As `connection.CHANNELS` orders them."""
        return (self.shell_port, self.iopub_port, self.stdin_port, self.control_port, self.hb_port)


class JupyterTable(msgspec.Struct, frozen=True, kw_only=True):
    """``[jupyter]``: the face that Jupyter clients talk to."""

    enabled: bool = True
    ip: str = "127.0.0.1"
    transport: Literal["tcp", "ipc"] = "tcp"
    kernel_name: str = "llmspell"
    connection_file: str | None = None
    key: Secret | None = None
    ports: PortsTable = PortsTable()


class LimitsTable(msgspec.Struct, frozen=True, kw_only=True):
    """``[limits]``; 0 = no bound, wherever one may be absent."""

    memory_bytes: Size = _DEFAULTS.memory_bytes
    execution_timeout_s: Duration = _DEFAULTS.execution_timeout_s
    output_bytes: Size = _DEFAULTS.output_bytes
    max_clients: AtLeastOne = _DEFAULTS.max_clients
    max_message_size: Size = _DEFAULTS.max_message_size
    idle_timeout_s: Duration = _DEFAULTS.idle_timeout_s
    max_memory_mb: Amount | None = None
    max_cpu_percent: Amount | None = None
    session_timeout_secs: Duration | None = None


class RuntimeTable(msgspec.Struct, frozen=True, kw_only=True):
    """``[runtime]``."""

    module_paths: tuple[str, ...] = ()


class KernelConfig(planned.PlannedTables, frozen=True, kw_only=True):
    """A whole configuration file."""

    service: ServiceTable = ServiceTable()
    logging: LoggingTable = LoggingTable()
    security: SecurityTable = SecurityTable()
    jupyter: JupyterTable = JupyterTable()
    limits: LimitsTable = LimitsTable()
    runtime: RuntimeTable = RuntimeTable()
    health: planned.HealthTable = planned.HealthTable()
    metrics: planned.MetricsTable = planned.MetricsTable()


def load_config(path: str) -> KernelConfig:
    """Read the file at `path`. ConfigurationError lists everything wrong with it."""
    config = settings.load(path, KernelConfig)
    if problems := _contradictions(config):
        raise ConfigurationError(path, problems)
    return config


def default_config() -> KernelConfig:
    """What holds without a file."""
    return KernelConfig()


def overridden(config: KernelConfig, overrides: Iterable[tuple[str, str, Any]]) -> KernelConfig:
    """`config` with other values for some keys, each given as table, key, value."""
    for table, key, value in overrides:
        changed = msgspec.structs.replace(getattr(config, table), **{key: value})
        config = msgspec.structs.replace(config, **{table: changed})
    return config


def configured(options: ServeOptions, path: str) -> ServeOptions:
    """`options` with the limits and the logging of the file at `path`.

    For a kernel whose addresses a client chose. RefusedError: the file asks for what no kernel must start with.
    """
    config = load_config(path)
    if reasons := refusals(config):
        raise RefusedError("the kernel is not started:\n" + "\n".join(f"  {reason}" for reason in reasons))
    return msgspec.structs.replace(
        options, limits=kernel_limits(config), log=log_options(config), config_file=absolute_path(path)
    )


def reloaded(options: ServeOptions) -> ServeOptions:
    """`options` with the limits and the logging that their configuration file says now.

    What a kernel cannot change while it runs (its identity, addresses, files) stays as it was.
    """
    config = default_config() if options.config_file is None else load_config(options.config_file)
    config = overridden(config, options.overrides)
    log = log_options(config)
    if options.log.owns_stdio:
        log = msgspec.structs.replace(log, file=log.file or options.log.file, owns_stdio=True)
    return msgspec.structs.replace(options, limits=kernel_limits(config), log=log)


def _contradictions(config: KernelConfig) -> list[str]:
    problems = []
    fixed = [port for port in config.jupyter.ports.in_order() if port]
    if len(set(fixed)) < len(fixed):
        problems.append(f"[jupyter.ports]: expected five different ports, found {', '.join(map(str, fixed))}")
    if config.service.id is not None:
        try:
            kernel_id_of(config.service.id)
        except ValueError as error:
            problems.append(f"[service] id: {error}")
    limits = config.limits
    if limits.max_message_size < LEAST_MESSAGE_SIZE:
        least = format_size(LEAST_MESSAGE_SIZE)
        problems.append(
            f"[limits] max_message_size: expected at least {least}, found {format_size(limits.max_message_size)}"
        )
    if 0 < kernel_limits(config).memory_bytes < LEAST_MEMORY_BYTES:
        found = format_size(kernel_limits(config).memory_bytes)
        problems.append(
            f"[limits] memory_bytes: expected 0 (no bound) or at least {format_size(LEAST_MEMORY_BYTES)}, found {found}"
        )
    if limits.memory_bytes != _DEFAULTS.memory_bytes and limits.max_memory_mb is not None:
        problems.append("[limits] max_memory_mb: memory_bytes says the same thing; keep one of the two")
    return problems


def refusals(config: KernelConfig) -> list[str]:
    """Why a kernel must not start with `config`, each with what to do; empty: it may."""
    jupyter = config.jupyter
    reasons = []
    if not jupyter.enabled:
        reasons.append("[jupyter] enabled is false, and it is the only face built yet: nothing could reach the kernel")
    if config.security.tls_enabled:
        reasons.append("[security] tls_enabled (--tls) is true, and TLS is not built yet: set it to false")
    if not jupyter.ip:
        reasons.append("[jupyter] ip (--ip) is empty: expected an address of this machine, such as 127.0.0.1")
    elif jupyter.transport == "tcp" and not is_loopback(jupyter.ip):
        reasons.append(
            f"[jupyter] ip (--ip) is {jupyter.ip}, which other machines reach, and there is no TLS: "
            "use 127.0.0.1 and an ssh tunnel"
        )
    if jupyter.key == PLACEHOLDER_KEY:
        reasons.append("[jupyter] key is the sample's placeholder, which everybody knows: remove it for a fresh one")
    return reasons


def notices(config: KernelConfig) -> list[str]:
    """What `config` asks for and does not get: parts not built, limits that nothing enforces."""
    found = []
    for table, part in _NOT_BUILT.items():
        asked = getattr(config, table)
        if asked != getattr(KernelConfig(), table):
            found.append(f"[{table}]: accepted, not active: {part} is not built yet")
    for table, reasons in (("security", _NOT_ACTIVE), ("limits", _NOT_ENFORCED)):
        asked, unasked = getattr(config, table), getattr(KernelConfig(), table)
        what = "not enforced" if table == "limits" else "not active"
        found += [
            f"[{table}] {key}: accepted, {what}: {reason}"
            for key, reason in reasons.items()
            if getattr(asked, key) != getattr(unasked, key)
        ]
    return found


def kernel_limits(config: KernelConfig) -> KernelLimits:
    """What the kernel itself is to enforce."""
    limits = config.limits
    mb = limits.max_memory_mb
    memory_bytes = limits.memory_bytes if mb is None else int(mb * MIB)
    return KernelLimits(
        memory_bytes=memory_bytes,
        execution_timeout_s=limits.execution_timeout_s,
        output_bytes=limits.output_bytes,
        max_clients=limits.max_clients,
        max_message_size=limits.max_message_size,
        idle_timeout_s=limits.idle_timeout_s,
        module_paths=tuple(map(absolute_path, config.runtime.module_paths)),
    )


def log_options(config: KernelConfig) -> LogOptions:
    """How the kernel is to log."""
    logging = config.logging
    return LogOptions(
        file=None if logging.file is None else absolute_path(logging.file),
        level=LEVELS[logging.level],
        json_lines=logging.format == "json",
        rotate_bytes=logging.rotate_size,
        rotate_count=logging.rotate_count,
    )


def absolute_path(path: str) -> str:
    """A path of the user's as it stays true after a daemon has left the directory it was started in."""
    return os.path.abspath(os.path.expanduser(path))
