"""What a fleet's configuration file asks for and does not get: parts not built, keys without an effect."""

from collections.abc import Iterator

import msgspec

from llmspell_fleet.config.tables import AutoscaleTable, FleetFile
from llmspell_kernel import config as kernel_config
from llmspell_kernel.planned_tables import HealthTable

_AS_IN_A_KERNEL = (
    "dap",
    "lsp",
    "repl",
    "debug",
    "workspace",
    "hot_reload",
    "linting",
    "completion",
    "extension_registry",
    "providers",
)
"""Tables that a kernel of its own does not act on either."""

_WITHOUT_EFFECT = {
    ("service", "id"): "a fleet's kernels have identities of their own",
    ("runtime", "module_paths"): "`require` reads no files in a fleet's kernels yet",
    ("security", "cert_path"): "TLS is not built yet",
    ("security", "key_path"): "TLS is not built yet",
    ("security", "auth_method"): "every request needs a token of the fleet's",
    ("security", "token_file"): "the fleet keeps its tokens in the state directory",
    ("security", "audit_log"): "the audit log is not built yet",
    ("security", "ip_whitelist"): "the fleet listens on this machine only",
    ("limits", "session_timeout_secs"): "sessions do not expire yet; idle_timeout_s ends an unused kernel",
    ("metrics", "enabled"): "/metrics is always served, at the fleet's own address",
    ("metrics", "port"): "/metrics is served at the fleet's own address",
    ("metrics", "namespace"): "metrics' names begin with llmspell",
    ("monitoring", "metrics_retention"): "the fleet keeps no history of its metrics yet; let Prometheus scrape it",
}


def notices_for(file: FleetFile) -> list[str]:
    """A line for each thing that is accepted and not active."""
    untouched = FleetFile()
    shared = {table: getattr(file, table) for table in _AS_IN_A_KERNEL}
    found = kernel_config.notices(kernel_config.KernelConfig(**shared))
    found += [
        f"[{table}] {key}: accepted, not active: {reason}"
        for (table, key), reason in _WITHOUT_EFFECT.items()
        if getattr(getattr(file, table), key) != getattr(getattr(untouched, table), key)
    ]
    found += _whole_tables(file)
    found += degraded_by(file).values()
    return found


def degraded_by(file: FleetFile) -> dict[str, str]:
    """The health checks that a file degrades by asking for what is not built yet, and what they say."""
    degraded = {}
    channels: list[str] = [*file.monitoring.alert_channels]
    if file.health.enable_alerts or file.health.alert_webhook is not None:
        channels.append("[health] enable_alerts")
    if channels:
        degraded["alerts"] = f"alerts are not built yet: nobody is told by {', '.join(channels)}"
    if file.service_discovery.enabled:
        provider = file.service_discovery.provider
        degraded["service_discovery"] = f"service discovery is not built yet: nothing is registered with {provider}"
    return degraded


def _whole_tables(file: FleetFile) -> Iterator[str]:
    if file.jupyter != kernel_config.JupyterTable():
        yield (
            "[jupyter]: accepted, not active: a fleet chooses its kernels' addresses and keys; "
            "port in [[fleet.kernels]] gives one a TCP port"
        )
    # Alerts are said apart: they degrade the fleet's health.
    unalerted = msgspec.structs.replace(file.health, enable_alerts=False, alert_webhook=None)
    if unalerted != HealthTable():
        yield "[health]: accepted, not active: the fleet answers /health at its own address"
    if not file.fleet.autoscale.max and file.fleet.autoscale != AutoscaleTable():
        yield "[fleet.autoscale]: accepted, not active: its max is 0; say how many kernels there may be"
    declared = len(file.fleet.kernels)
    if file.fleet.startup_kernels is not None and file.fleet.startup_kernels < declared:
        yield f"[fleet] startup_kernels is {file.fleet.startup_kernels}, and all {declared} declared kernels start"
