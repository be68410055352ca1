"""Looks at what the fleet uses, now and then, and shows it with the metrics: the `api.options.MetricsPort`."""

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

from llmspell_fleet.controller.pools.tenants import Tenants
from llmspell_fleet.controller.supervision.supervisor import Supervisor
from llmspell_fleet.model.ids import KernelId  # noqa: TC001 - so are all others
from llmspell_fleet.observe.loop_lag import LoopLag
from llmspell_fleet.observe.metrics import Metrics
from llmspell_fleet.observe.snapshot import KernelSample, Snapshot, TenantSample
from llmspell_fleet.observe.usage import ProcessUsage, UsageSampler, own_usage
from llmspell_fleet.policy.lifecycle import shown
from llmspell_fleet.spawner.spawner import Spawner
from llmspell_fleet.store.store import Store

if TYPE_CHECKING:
    from llmspell_fleet.model.kernel import Phase

INTERVAL_S: Final = 2.0
"""Between two looks at few kernels."""

INTERVAL_PER_KERNEL_S: Final = 0.008
"""A look takes 25 µs a kernel: with this, all looks together take 0.3 % of a core, however many kernels there are."""


class Sampling:
    """Belongs to the event loop."""

    def __init__(
        self, metrics: Metrics, tenants: Tenants, supervisor: Supervisor, store: Store, spawner: Spawner
    ) -> None:
        self._metrics = metrics
        self._tenants = tenants
        self._supervisor = supervisor
        self._store = store
        self._spawner = spawner
        self._sampler = UsageSampler()
        self._lag = LoopLag(metrics.loop_lag)
        self.request_finished = metrics.request_finished
        self.http_connections: Callable[[], int] = lambda: 0
        """Set once there is an HTTP server."""
        self.warm_phases: Callable[[], Mapping[Phase, int]] = dict
        self.warm_wanted: Callable[[], int] = lambda: 0
        """Of the warm pool, once there is one."""
        self.usages: dict[KernelId, ProcessUsage] = {}
        """What each kernel used when it was last looked at."""

    async def run(self) -> None:
        """Look every two seconds, and less often at more than 250 kernels."""
        self._lag.start()
        try:
            while True:
                pids = {entry.id: entry.process.pid for entry in self._supervisor if entry.process is not None}
                self._supervisor.holder.catch_up()
                self.usages = await self._sampler.sweep(pids)
                await asyncio.sleep(max(INTERVAL_S, len(pids) * INTERVAL_PER_KERNEL_S))
        finally:
            self._lag.stop()

    def render(self, accept: str) -> tuple[bytes, str]:
        """The metrics as a scrape sees them: what there is now, and what was used when it was last looked at."""
        self._metrics.update(self._snapshot())
        return self._metrics.render(accept)

    def _snapshot(self) -> Snapshot:
        now = asyncio.get_running_loop().time()
        return Snapshot(
            at=time.monotonic(),
            kernels=[
                KernelSample(
                    id=entry.id,
                    tenant=entry.tenant,
                    phase=shown(entry.kernel, entry.load),
                    incarnation=entry.kernel.incarnation,
                    uptime_s=now - entry.kernel.spawned_at if entry.process is not None else 0.0,
                    usage=self.usages.get(entry.id),
                )
                for entry in self._supervisor
            ],
            tenants=[
                TenantSample(
                    id=tenant.id,
                    running=(running := sum(min(1, entry.load) for entry in tenant.entries.values())),
                    waiting=max(0, tenant.executions - running),
                    leases=sum(entry.leases for entry in tenant.entries.values()),
                )
                for tenant in self._tenants
            ],
            warm=self.warm_phases(),
            warm_wanted=self.warm_wanted(),
            capacity=min(self._tenants.max_kernels, self._tenants.capacity),
            zmq_connections=self._supervisor.channels,
            http_connections=self.http_connections(),
            is_zygote_up=self._spawner.pid is not None,
            is_store_up=self._store.fault is None,
            store_queue_length=self._store.waiting,
            own=own_usage(),
        )
