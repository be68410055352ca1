"""What a configuration says there should be: tenants and declared kernels as the records that the fleet works with."""

from llmspell_fleet.config.fleet import DeclaredKernel, FleetConfig
from llmspell_fleet.model.ids import KernelId
from llmspell_fleet.model.kernel import KernelSpec, inherited
from llmspell_fleet.model.tenant import DEFAULT_TENANT, TenantSpec
from llmspell_fleet.policy.apply import Wanted


def wanted(config: FleetConfig) -> Wanted:
    """All that a configuration declares."""
    default = default_tenant(config)
    return Wanted(
        tenants={default.id: default, **{tenant.id: tenant for tenant in config.tenants}},
        kernels={declared.name: _kernel(declared, default) for declared in config.declared},
    )


def default_tenant(config: FleetConfig) -> TenantSpec:
    """Tenant `default`, as a configuration has it."""
    autoscale = config.autoscale
    return TenantSpec(
        id=DEFAULT_TENANT,
        replicas=config.startup_kernels if autoscale is None else autoscale.clipped(config.startup_kernels),
        autoscale=autoscale,
        strategy=config.strategy,
        limits=config.limits,
        isolation_level=config.isolation_level,
        idle_timeout_s=config.idle_timeout_s,
        cull_busy=config.cull_busy,
        cull_connected=config.cull_connected,
        warm=config.warm,
        restart=config.restart_rule,
        max_age_s=config.max_age_s,
        max_age_variance=config.max_age_variance,
    )


def _kernel(declared: DeclaredKernel, default: TenantSpec) -> KernelSpec:
    members = inherited(default)
    members["limits"] = declared.limited(default.limits)
    for name in ("idle_timeout_s", "restart", "max_age_s", "max_age_variance"):
        if getattr(declared, name) is not None:
            members[name] = getattr(declared, name)
    return KernelSpec(
        id=KernelId(""),
        tenant=DEFAULT_TENANT,
        name=declared.name,
        port=declared.port,
        log_file=declared.log_file,
        pid_file=declared.pid_file,
        labels=dict(declared.labels),
        depends_on=dict(declared.depends_on),
        **members,
    )
