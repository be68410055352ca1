"""Records as clients see them."""

from collections.abc import Mapping

from llmspell_fleet.controller.kernels.entry import Entry
from llmspell_fleet.controller.kernels.hold import limit_views
from llmspell_fleet.controller.pools.tenant import Tenant
from llmspell_fleet.model.ids import KernelId
from llmspell_fleet.model.views import KernelView, TenantView, Usage
from llmspell_fleet.observe.usage import ProcessUsage
from llmspell_fleet.policy.lifecycle import shown


def kernel_view(entry: Entry, usage: ProcessUsage | None, now: float, labels: dict[str, str]) -> KernelView:
    """A kernel; `now` is loop time, `labels` are its tenant's and its own."""
    kernel = entry.kernel
    if kernel.pid is None:
        usage = None  # what is left of the last look is its last process's
    return KernelView(
        id=kernel.id,
        name=kernel.spec.name,
        tenant=kernel.spec.tenant,
        phase=shown(kernel, entry.load).value,
        pid=kernel.pid,
        incarnation=kernel.incarnation,
        started_at=kernel.started_at or None,
        uptime_s=round(now - kernel.spawned_at, 3) if kernel.pid is not None else None,
        restarts=kernel.restarts,
        usage=Usage(
            memory_bytes=usage.memory_bytes if usage is not None else None,
            cpu_s=usage.cpu_s if usage is not None else None,
            threads=usage.threads if usage is not None else None,
            files=usage.files if usage is not None else None,
            executions=entry.channel.executions if entry.channel is not None else 0,
            running=entry.load,
            leases=entry.leases,
        ),
        limits=limit_views(kernel.spec.limits, entry.grip.hold),
        isolation_level=entry.isolation_level,
        last_death=kernel.last_death,
        labels=labels,
    )


def tenant_view(tenant: Tenant, usages: Mapping[KernelId, ProcessUsage], now: float) -> TenantView:
    """A tenant with its kernels."""
    spec = tenant.spec
    return TenantView(
        id=tenant.id,
        replicas=spec.replicas,
        ready=tenant.ready,
        strategy=spec.strategy,
        limits=spec.limits,
        isolation_level=spec.isolation_level,
        idle_timeout_s=spec.idle_timeout_s,
        cull_busy=spec.cull_busy,
        cull_connected=spec.cull_connected,
        warm=spec.warm,
        warm_size=spec.warm_size,
        restart=spec.restart,
        max_age_s=spec.max_age_s,
        max_age_variance=spec.max_age_variance,
        autoscale=spec.autoscale,
        created_at=tenant.record.created_at,
        kernels=[
            kernel_view(entry, usages.get(entry.id), now, {**spec.labels, **entry.kernel.spec.labels})
            for entry in tenant.entries.values()
        ],
        labels=spec.labels,
        roll=tenant.roll,
    )
