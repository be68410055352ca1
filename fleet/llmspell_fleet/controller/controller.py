"""The controller put together: its parts, its start from what is stored, its end, and its reload."""

import asyncio
import logging
from collections.abc import Callable
from typing import Final, TypeVar

from llmspell_fleet.cgroups.tree import FleetCgroups
from llmspell_fleet.config.fleet import FleetConfig
from llmspell_fleet.config.wanted import wanted
from llmspell_fleet.controller.adoption import Adoption
from llmspell_fleet.controller.background import Background
from llmspell_fleet.controller.events import Events
from llmspell_fleet.controller.health import Health
from llmspell_fleet.controller.kernels.entry import Entry
from llmspell_fleet.controller.limits.holding import Holder, load_secret
from llmspell_fleet.controller.limits.isolation import Isolation
from llmspell_fleet.controller.pools.autoscaling import Autoscaling
from llmspell_fleet.controller.pools.configuring import Configuring
from llmspell_fleet.controller.pools.ended import Ended
from llmspell_fleet.controller.pools.leases import Leases
from llmspell_fleet.controller.pools.rolls import Rolls
from llmspell_fleet.controller.pools.tenants import Tenants
from llmspell_fleet.controller.pools.users import Users
from llmspell_fleet.controller.pools.warm import WarmPool
from llmspell_fleet.controller.requests.provisioning import Defaults, Parts
from llmspell_fleet.controller.requests.why import Explainer
from llmspell_fleet.controller.sampling import Sampling
from llmspell_fleet.controller.service import Service
from llmspell_fleet.controller.supervision.culling import Culling
from llmspell_fleet.controller.supervision.liveness import Liveness
from llmspell_fleet.controller.supervision.shutdown import stop_all
from llmspell_fleet.controller.supervision.supervisor import Supervisor
from llmspell_fleet.controller.tokens import Tokens
from llmspell_fleet.controller.work.executions import Executions
from llmspell_fleet.controller.work.recorded import Recorded
from llmspell_fleet.controller.work.unfinished import Unfinished
from llmspell_fleet.errors import ConflictError, StoreError
from llmspell_fleet.model.ids import WARM, KernelId
from llmspell_fleet.model.kernel import KernelSpec
from llmspell_fleet.observe.metrics import Metrics
from llmspell_fleet.paths import FleetPaths
from llmspell_fleet.router.connection import DESCRIPTORS
from llmspell_fleet.router.link import raise_descriptor_limit
from llmspell_fleet.spawner.processes import reap
from llmspell_fleet.spawner.spawner import Spawner
from llmspell_fleet.spawner.surveying import survey
from llmspell_fleet.store.store import Store
from llmspell_kernel.zygote.protocol import Confinement

T = TypeVar("T")

_LOG: Final = logging.getLogger("llmspell.fleet")

OWN_DESCRIPTORS: Final = 512
"""What the controller needs besides its kernels: HTTP connections, logs, the store."""

DESCRIPTORS_PER_KERNEL: Final = DESCRIPTORS + 3
"""Its connection, its pidfd, its output, its progress."""


class Controller:
    """Owns all parts. Belongs to the event loop."""

    def __init__(self, config: FleetConfig, paths: FleetPaths, spawner: Spawner, *, version: str) -> None:
        self._config = config
        self._paths = paths
        self.spawner = self._spawner = spawner
        self._store = Store.open(paths.database)
        try:
            self._loaded = self._store.load()
            self.tokens = Tokens(self._loaded.tokens, self._store)
            self.tokens.ensure_file(paths.admin_token, "admin")
            self.tokens.ensure_file(paths.viewer_token, "viewer")
        except BaseException:
            self._store.close()
            raise
        capacity = max(1, (raise_descriptor_limit() - OWN_DESCRIPTORS) // DESCRIPTORS_PER_KERNEL)
        self.metrics = Metrics(version=version)
        self.events = Events(self._store, self._loaded.next_event_seq)
        self.supervisor = Supervisor(
            spawner=spawner,
            store=self._store,
            events=self.events,
            metrics=self.metrics,
            paths=paths,
            holder=Holder(FleetCgroups(paths.runtime, paths.cgroups), load_secret(paths.secret), self._unenforced),
            policy=config.restart,
            log_level=config.log_level,
        )
        self.tenants = Tenants(self.supervisor, self._store, capacity=capacity)
        self.isolation = Isolation(lambda: survey(config.uids[1]), config.uids, allows_weaker=config.allows_weaker)
        self.supervisor.starts.isolate = self._isolate
        self.supervisor.holder.storage = self.isolation.storage
        self.users = Users(self.tenants, self.supervisor, self.isolation)
        self.background = Background()
        self.adopted = 0
        """Kernels that were found running at the start."""
        self.executions = Executions(
            self.tenants,
            self.supervisor,
            self.metrics,
            fails_over=config.failover_enabled,
            has_quotas=config.resource_quotas,
            later=self.background.run,
        )
        recorded = Recorded(self.executions, self._store, self.background)
        self._recorded = recorded
        self.ended = Ended(self._store)
        self.leases = Leases(self.tenants, self._store, self.ended, ttl_s=config.lease_ttl_s, later=self.background.run)
        self.tenants.watchers += [self.ended.kernel_changed, self.leases.kernel_changed]
        self.culling = Culling(self.supervisor, self.background)
        self.warm = WarmPool(self.tenants, self.supervisor, spawner, self.metrics, self.background)
        self.autoscaling = Autoscaling(self.tenants, self.events)
        self.leases.on_end = self.supervisor.idle
        self.liveness = Liveness(
            self.supervisor, policy=config.probe, helper=lambda: spawner.pid, later=self.background.run
        )
        self.tenants.watchers.append(self.liveness.kernel_changed)
        self.sampling = Sampling(self.metrics, self.tenants, self.supervisor, self._store, spawner)
        self.sampling.warm_phases, self.sampling.warm_wanted = self.warm.phases, lambda: self.warm.wanted
        self.health = Health(
            self.supervisor,
            self.tenants,
            spawner,
            self._store,
            version=version,
            has_helper=config.spawner == "zygote",
            isolation=self.isolation,
        )
        self.rolls = Rolls(self.tenants, self.supervisor, self.events, self._store)
        parts = Parts(
            supervisor=self.supervisor,
            tenants=self.tenants,
            executions=self.executions,
            recorded=recorded,
            leases=self.leases,
            rolls=self.rolls,
            ended=self.ended,
            warm=self.warm,
            culling=self.culling,
            explainer=Explainer(self.supervisor, self.tenants, self.leases, self.culling, self.autoscaling),
            events=self.events,
            tokens=self.tokens,
            store=self._store,
            metrics=self.metrics,
            sampling=self.sampling,
            background=self.background,
            isolation=self.isolation,
            users=self.users,
        )
        self.service = Service(parts, _defaults(config), self.health.view)
        self.configuring = Configuring(
            self.tenants,
            self.supervisor,
            self.rolls,
            self.events,
            self.metrics,
            self._store,
            self.background,
            self.service.delete_tenant,
        )
        self.configuring.raisable = self.isolation.raisable
        self._hold(config)

    def _unenforced(self, entry: Entry, limit: str, value: float) -> None:
        self.events.emit("limit.unenforced", entry.tenant, entry.id, {"limit": limit, "value": value})

    def _isolate(self, entry: Entry, confinement: Confinement) -> Confinement:
        self.users.give(entry)
        return self.isolation.confined(entry.kernel.spec, confinement)

    # --- start

    async def start(self) -> None:
        """Take up what is stored and running, and begin to start what should be there."""
        loaded = self._loaded
        await self._spawner.open(self.supervisor)
        self.background.keep(self.supervisor.starts.run)
        self.background.keep(self.liveness.run)
        for record in loaded.tenants:
            self.tenants.add(record)
            self.metrics.add_tenant(record.spec.id)
        unfinished = Unfinished(self._store.pending_executions(), self.supervisor, self.tenants, self._store)
        adoption = Adoption(
            *(self.tenants, self.supervisor, self._spawner, self._paths, self.background, unfinished),
            self.users.is_ours,
        )
        adopted = self.adopted = await adoption.run(loaded.kernels)
        running = [entry.id for entry in self.supervisor if entry.process is not None]
        if removed := self.supervisor.holder.cgroups.sweep(running):
            _LOG.info("%d cgroups of kernels that are gone were removed", removed)
        self._recorded.resume(unfinished)
        self.rolls.restore(loaded.notes)
        self.configuring.restore(loaded.notes)
        self.configuring.carry_out(self.configuring.plan(wanted(self._config)))
        self.ended.restore(loaded.notes)
        for tenant in self.tenants:
            self.tenants.reconcile(tenant)
        self.tenants.remember_sessions(self._paths.homes)
        self.leases.restore(loaded.leases)
        self.background.keep(self.sampling.run)
        self.background.keep(self.autoscaling.run)
        self.background.keep(self.culling.run)
        self.background.keep(self.warm.run)
        data: dict[str, object] = {"adopted": adopted, "kernels": len(self.supervisor)}
        self.events.emit("fleet.started", data=data)
        _LOG.info("the fleet has %d kernels, %d of them adopted", len(self.supervisor), adopted)

    # --- while it runs

    def hold(self, config: FleetConfig) -> None:
        """Hold another configuration, but for what it declares (`configuring`)."""
        self._config = config
        self._hold(config)

    def _hold(self, config: FleetConfig) -> None:
        self.supervisor.policy = config.restart
        self.liveness.policy = config.probe
        self.supervisor.starts.log_level = config.log_level
        self.tenants.max_kernels = config.max_kernels
        self.executions.fails_over = config.failover_enabled
        self.executions.has_quotas = self.tenants.has_quotas = config.resource_quotas
        self.leases.ttl_s = config.lease_ttl_s
        self.warm.size, self.warm.default = config.warm_size, _default_kernel(config)
        self.health.name = config.name
        self.health.degraded = config.degraded
        self.service.defaults = _defaults(config)

    # --- the end

    async def recorded(self) -> None:
        """Return when everything that there is to be recorded is. ConflictError: it cannot be."""
        try:
            await self._store.flush()
        except StoreError as fault:
            raise ConflictError(f"what must be found again cannot be recorded: {fault}") from None

    def let_go(self) -> None:
        """Record the last, and leave everything else as it is, for a successor to adopt."""
        try:
            self._store.close()
        except StoreError as fault:
            _LOG.error("the last changes could not be recorded: %s", fault)

    async def stop(self, *, is_forced: Callable[[], bool], spares_adopted: bool = False) -> None:
        """Take no more work, and end every kernel: whoever waits for an execution is answered meanwhile.

        With `spares_adopted` those stay that an earlier controller started.
        """
        if self.supervisor.is_closing:
            return
        self.service.is_ready = False
        self.events.emit("fleet.stopping")
        for tenant in self.tenants:
            tenant.wake()  # none will come: who waits for a kernel sees it when it looks
        await stop_all(self.supervisor, is_forced=is_forced, spares_adopted=spares_adopted)

    async def close(self, *, is_forced: Callable[[], bool], spares_adopted: bool = False) -> None:
        """Let go of everything, once `stop` has ended the kernels.

        With `spares_adopted` those stay that an earlier controller started: who could not start must not end them.
        """
        await self.stop(is_forced=is_forced, spares_adopted=spares_adopted)
        self.leases.close()
        await self.background.close()
        await self._spawner.close()
        reap()
        self.supervisor.close()
        self.supervisor.holder.close()
        self.tenants.homes.close()
        self.events.followers.end()
        try:
            # What waits is written, and blocks: nobody is served any more.
            await asyncio.get_running_loop().run_in_executor(None, self._store.close)
        except StoreError as fault:
            _LOG.error("the last changes could not be recorded: %s", fault)


def _default_kernel(config: FleetConfig) -> KernelSpec:
    """What the fleet's own warm kernels are: as those of a tenant that asks for nothing else."""
    return KernelSpec(id=KernelId(""), tenant=WARM, limits=config.limits, isolation_level=config.isolation_level)


def _defaults(config: FleetConfig) -> Defaults:
    return Defaults(
        strategy=config.strategy,
        isolation_level=config.isolation_level,
        limits=config.limits,
        is_multi_tenant=config.multi_tenant_enabled,
    )
