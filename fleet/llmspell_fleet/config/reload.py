"""What of a changed configuration holds at once, and what needs a restart of the fleet."""

from typing import Any

import msgspec

from llmspell_fleet.config.fleet import FleetConfig
from llmspell_fleet.model.plan import Change
from llmspell_fleet.model.tenant import Limits

_NESTED = ("limits", "probe", "restart")
_AT_ONCE = {
    "name": "[fleet] name",
    "max_kernels": "[fleet] max_kernels",
    "startup_kernels": "[fleet] startup_kernels",
    "lease_ttl_s": "[fleet] lease_ttl",
    "restart.start_deadline_s": "[fleet] start_deadline",
    "restart.stop_deadline_s": "[fleet] stop_deadline",
    "restart.drain_deadline_s": "[fleet] drain_deadline",
    "restart.interrupt_deadline_s": "[fleet.stop] interrupt_deadline",
    "restart.shutdown_deadline_s": "[fleet.stop] shutdown_deadline",
    "restart_rule": "[fleet.restart] rule",
    "max_age_s": "[fleet] max_age",
    "max_age_variance": "[fleet] max_age_variance",
    "restart.max_restarts": "[fleet.restart] max_restarts",
    "restart.window_s": "[fleet.restart] window",
    "restart.first_delay_s": "[fleet.restart] first_delay",
    "restart.longest_delay_s": "[fleet.restart] longest_delay",
    "strategy": "[load_balancing] strategy",
    "probe.interval_s": "[load_balancing] health_check_interval",
    "probe.timeout_s": "[fleet.probe] timeout",
    "probe.deadline_s": "[fleet.probe] deadline",
    "probe.resumes": "[fleet.probe] resume",
    "failover_enabled": "[load_balancing] failover_enabled",
    "multi_tenant_enabled": "[multi_tenant] enabled",
    "isolation_level": "[multi_tenant] isolation_level",
    "resource_quotas": "[multi_tenant] resource_quotas",
    **{f"limits.{name}": f"[limits] {name}" for name in Limits.__struct_fields__},
    "idle_timeout_s": "[limits] idle_timeout_s",
    "cull_busy": "[limits] cull_busy",
    "cull_connected": "[limits] cull_connected",
    "warm": "[fleet.warm] use",
    "warm_size": "[fleet.warm] size",
    "autoscale": "[fleet.autoscale]",
    "monitoring_interval_s": "[monitoring] interval",
    "allowed_hosts": "[security] allowed_hosts",
    "allowed_origins": "[security] allowed_origins",
    "metrics_public": "[metrics] public",
    "log_level": "[logging] level",
}
_AT_A_RESTART = {
    "host": "[fleet] host",
    "port": "[fleet] port",
    "spawner": "[fleet] spawner",
    "zygote_forks": "[fleet] zygote_forks",
    "uids": "[security] uid_range",
    "tls_enabled": "[security] tls_enabled",
    "daemon": "[service] daemon",
    "pid_file": "[service] pid_file",
    "log_file": "[logging] file",
    "log_format": "[logging] format",
    "log_rotate_bytes": "[logging] rotate_size",
    "log_rotate_count": "[logging] rotate_count",
}


_DECLARED = {"declared", "tenants"}
"""What there should be is `policy.apply`'s matter."""
_TOLD = {
    "notices": "what is not active",
    "degraded": "what degrades the fleet's health",
    "allows_weaker": "--allow-weaker-isolation",
}


class ReloadPlan(msgspec.Struct, frozen=True, kw_only=True):
    """What a reload does, but for tenants and kernels."""

    changes: tuple[Change, ...]
    """Keys are as files name them; limits are those of tenants that are made from now on."""
    config: FleetConfig
    """What holds from now on: the old configuration with what holds at once."""

    @property
    def applied(self) -> tuple[str, ...]:
        """Keys that hold from now on."""
        return tuple(change.key for change in self.changes if change.how == "live")

    @property
    def needs_restart(self) -> tuple[str, ...]:
        """Keys that hold after a restart of the fleet."""
        return tuple(change.key for change in self.changes if change.how == "restart")


def reload_plan(old: FleetConfig, new: FleetConfig) -> ReloadPlan:
    """How to get from `old`, which holds, to `new`: each with the command line on top, re-rooted and not refused."""
    before, after = _flat(old), _flat(new)
    names = {**_AT_ONCE, **_AT_A_RESTART, **_TOLD}
    changes = [
        Change(
            target="fleet",
            key=names[key],
            before=msgspec.to_builtins(before[key]),
            after=msgspec.to_builtins(after[key]),
            how="restart" if key in _AT_A_RESTART else "live",
        )
        for key in after
        if key in names and before[key] != after[key]
    ]
    fields = {key.partition(".")[0] for key in _AT_ONCE} | _TOLD.keys() | _DECLARED
    return ReloadPlan(
        changes=tuple(changes),
        config=msgspec.structs.replace(old, **{field: getattr(new, field) for field in fields}),
    )


def _flat(config: FleetConfig) -> dict[str, Any]:
    values = msgspec.structs.asdict(config)
    for name in _NESTED:
        nested = msgspec.structs.asdict(values.pop(name))
        values |= {f"{name}.{key}": value for key, value in nested.items()}
    return values
