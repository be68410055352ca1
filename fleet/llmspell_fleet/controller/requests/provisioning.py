"""Tenants and kernels as the HTTP face asks for them: made, shown, changed and ended."""

import asyncio
import contextlib
import signal
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

import msgspec
from msgspec.structs import replace

from llmspell_fleet.controller.background import Background
from llmspell_fleet.controller.dates import date_now
from llmspell_fleet.controller.events import Events
from llmspell_fleet.controller.kernels.entry import Entry
from llmspell_fleet.controller.kernels.files import send_signal
from llmspell_fleet.controller.limits.isolation import Isolation
from llmspell_fleet.controller.pools.ended import Ended
from llmspell_fleet.controller.pools.leases import Leases
from llmspell_fleet.controller.pools.rolls import Rolls
from llmspell_fleet.controller.pools.tenant import Tenant
from llmspell_fleet.controller.pools.tenants import Tenants
from llmspell_fleet.controller.pools.users import Users
from llmspell_fleet.controller.pools.warm import WarmPool
from llmspell_fleet.controller.requests.views import kernel_view, tenant_view
from llmspell_fleet.controller.requests.wanted import pool_members, require_fixed, scaled
from llmspell_fleet.controller.requests.why import Explainer
from llmspell_fleet.controller.sampling import Sampling
from llmspell_fleet.controller.supervision.culling import Culling
from llmspell_fleet.controller.supervision.supervisor import Supervisor
from llmspell_fleet.controller.tokens import Tokens
from llmspell_fleet.controller.work.executions import Executions
from llmspell_fleet.controller.work.recorded import Recorded
from llmspell_fleet.errors import BadRequestError, ConflictError, NotFoundError, StoreError, UnavailableError
from llmspell_fleet.model.ids import WARM, KernelId, TenantId
from llmspell_fleet.model.kernel import Phase
from llmspell_fleet.model.labels import changed as changed_labels
from llmspell_fleet.model.requests import KernelRequest, LimitsChange, TenantChange, TenantRequest
from llmspell_fleet.model.tenant import IsolationLevel, Limits, Strategy, TenantSpec
from llmspell_fleet.model.views import (
    HealthView,
    KernelView,
    TenantCreated,
    TenantView,
)
from llmspell_fleet.observe.metrics import Metrics
from llmspell_fleet.policy.events import RestartAsked, StartAsked, StopAsked
from llmspell_fleet.policy.lifecycle import HAS_PROCESS, TAKES_WORK
from llmspell_fleet.store.records import TenantRecord
from llmspell_fleet.store.store import Store
from llmspell_kernel.errors import RefusedError

LEAST: Final = {"memory_bytes": 1024 * 1024, "storage_bytes": 64 * 1024}
"""With less than this, no kernel could start or run anything."""


class Parts(msgspec.Struct, frozen=True):
    """What the service is made of."""

    supervisor: Supervisor
    tenants: Tenants
    executions: Executions
    recorded: Recorded
    leases: Leases
    rolls: Rolls
    ended: Ended
    warm: WarmPool
    explainer: Explainer
    culling: Culling
    events: Events
    tokens: Tokens
    store: Store
    metrics: Metrics
    sampling: Sampling
    background: Background
    isolation: Isolation
    users: Users


class Defaults(msgspec.Struct, frozen=True):
    """What requests leave out, and what this fleet allows."""

    strategy: Strategy
    isolation_level: IsolationLevel
    limits: Limits
    is_multi_tenant: bool


class Provisioning:
    """Every method is one request; authorisation was done before. Belongs to the event loop."""

    def __init__(self, parts: Parts, defaults: Defaults, health: Callable[[], HealthView]) -> None:
        self._loop = asyncio.get_running_loop()
        self._of = parts
        self.defaults = defaults
        self.health = health
        self.is_ready = False
        """Whether requests can be served."""

    # --- tenants

    async def create_tenant(self, request: TenantRequest) -> TenantCreated:
        """Make a tenant (Fleet)."""
        self._require_open()
        of = self._of
        if not self.defaults.is_multi_tenant:
            raise ConflictError("this fleet has the one tenant `default`: [multi_tenant] enabled is false")
        level = await self._of.isolation.granted(request.isolation_level or self.defaults.isolation_level)
        tenant_id = TenantId(request.id)
        if tenant_id in of.tenants:
            raise ConflictError(f"tenant {tenant_id} exists already; PATCH or `llmspell tenant update` changes it")
        replicas = request.replicas if request.autoscale is None else request.autoscale.clipped(request.replicas)
        if level == "strict":
            of.users.require()
        spec = TenantSpec(
            id=tenant_id,
            replicas=replicas,
            strategy=request.strategy or self.defaults.strategy,
            limits=_limits_changed(self.defaults.limits, request.limits),
            isolation_level=level,
            idle_timeout_s=request.idle_timeout_s,
            labels=request.labels,
            **pool_members(request),
        )
        of.tenants.promise(replicas, spec)
        record = TenantRecord(spec=spec, created_at=date_now())
        if spec.warm == "require":
            await of.warm.secure(of.tenants.new_spec(Tenant(record)), replicas, request.wait_s)
            if tenant_id in of.tenants:
                raise ConflictError(f"tenant {tenant_id} exists by now; PATCH or `llmspell tenant update` changes it")
            of.tenants.promise(replicas, spec)
        tenant = of.tenants.add(record)
        of.metrics.add_tenant(tenant_id)
        token = of.tokens.issue("tenant", tenant_id)
        of.events.emit("tenant.created", tenant_id, data={"replicas": spec.replicas})
        of.tenants.reconcile(tenant)
        await self._recorded_or_undone(lambda: self._forget_tenant(tenant))
        await self._until_ready(tenant, request.wait_s)
        return TenantCreated(**msgspec.structs.asdict(self._view(tenant)), token=token)

    def tenants(self) -> list[TenantView]:
        """All of them (Fleet)."""
        return [self._view(tenant) for tenant in sorted(self._of.tenants, key=lambda t: t.id) if not tenant.is_leaving]

    def tenant(self, tenant: TenantId) -> TenantView:
        """One of them (Fleet)."""
        return self._view(self._of.tenants.get(tenant))

    async def update_tenant(self, tenant: TenantId, change: TenantChange) -> TenantView:
        """Change what it should have (Fleet)."""
        self._require_open()
        self._of.tenants.get(tenant)
        if change.isolation_level is not None:
            change = replace(change, isolation_level=await self._of.isolation.granted(change.isolation_level))
        found = self._of.tenants.get(tenant)
        changed = self._with(found.spec, change)
        if changed.warm == "require" and changed.replicas > found.spec.replicas:
            fresh = self._of.tenants.new_spec(Tenant(replace(found.record, spec=changed)))
            await self._of.warm.secure(fresh, changed.replicas - found.spec.replicas, change.wait_s)
            found = self._of.tenants.get(tenant)
            changed = self._with(found.spec, change)
        spec = found.spec
        self._of.tenants.require_kept(changed)
        self._of.tenants.promise(found.beyond(changed.replicas), changed)
        if changed.isolation_level == "strict" != spec.isolation_level and found.record.uid is None:
            self._of.users.require()
        if changed != spec:
            self._of.tenants.change(found, changed)
            self._of.events.emit("tenant.updated", tenant, data={"replicas": changed.replicas})
            # Before a kernel is told to end: a controller that is killed now goes on with it.
            await self._recorded()
            self._of.tenants.reconcile(found)
        if change.isolation_level is not None and (outdated := found.outdated):
            self._of.rolls.join(found, outdated, reason="the isolation level has changed")
            await self._of.rolls.ended(tenant, change.wait_s)
        await self._recorded()
        await self._until_ready(found, change.wait_s)
        return self._view(found)

    def _with(self, spec: TenantSpec, change: TenantChange) -> TenantSpec:
        changed = replace(
            spec,
            replicas=spec.replicas if change.replicas is None else change.replicas,
            strategy=change.strategy or spec.strategy,
            limits=_limits_changed(spec.limits, change.limits),
            isolation_level=change.isolation_level or spec.isolation_level,
            idle_timeout_s=spec.idle_timeout_s if change.idle_timeout_s is None else change.idle_timeout_s,
            labels=_labels_changed(spec.labels, change.labels),
            **pool_members(change),
        )
        return scaled(changed, change)

    def _require_open(self) -> None:
        """StoreError: what is asked for now could not be recorded, and would not outlive the controller."""
        self._require_running()
        if self._of.store.fault is not None:
            raise StoreError(f"nothing is changed while the state cannot be recorded: {self._of.store.fault}")

    def _require_running(self) -> None:
        """UnavailableError: what is asked for now would be for the next controller to carry out."""
        if self._of.supervisor.is_closing:
            raise UnavailableError("the fleet is shutting down")

    async def _recorded(self) -> None:
        """What is answered is on disk: a controller that is killed comes back to it. Else /health tells."""
        with contextlib.suppress(StoreError):
            await self._of.store.flush()

    async def _recorded_or_undone(self, undo: Callable[[], Awaitable[None]]) -> None:
        """The same of what is new; StoreError: it could not be recorded, and is gone again."""
        try:
            await self._of.store.flush()
        except StoreError:
            await undo()
            raise

    async def delete_tenant(self, tenant: TenantId) -> None:
        """End it (Fleet)."""
        self._require_open()
        await self._forget_tenant(self._of.tenants.get(tenant))
        await self._recorded()

    async def _forget_tenant(self, tenant: Tenant) -> None:
        self._of.tokens.revoke(tenant.id)
        self._of.events.emit("tenant.deleted", tenant.id)
        await self._of.tenants.remove(tenant)
        self._of.events.forget(tenant.id)
        self._of.ended.forget(tenant.id)
        self._of.metrics.forget_tenant(tenant.id)

    def _view(self, tenant: Tenant) -> TenantView:
        return tenant_view(tenant, self._of.sampling.usages, self._loop.time())

    async def _until_ready(self, tenant: Tenant, wait_s: float) -> None:
        give_up_at = self._loop.time() + wait_s
        for entry in list(tenant.entries.values()):
            if entry.kernel.is_wanted:
                await _settled(entry, give_up_at - self._loop.time())

    # --- kernels

    def kernels(self, tenant: TenantId | None) -> list[KernelView]:
        """A tenant's, or everybody's (Fleet)."""
        return [self._kernel_view(entry) for entry in self._of.supervisor if tenant is None or entry.tenant == tenant]

    def kernel(self, kernel: KernelId, tenant: TenantId | None) -> KernelView:
        """One (Fleet)."""
        return self._kernel_view(self._entry(kernel, tenant))

    def _kernel_view(self, entry: Entry) -> KernelView:
        usage = self._of.sampling.usages.get(entry.id)
        return kernel_view(entry, usage, self._loop.time(), self._of.tenants.labels(entry))

    def _entry(self, kernel: KernelId, tenant: TenantId | None) -> Entry:
        entry = self._of.supervisor.get(kernel)
        if entry is None or (tenant is not None and entry.tenant != tenant):
            self._of.ended.check_kernel(kernel, tenant)
            raise NotFoundError(f"there is no kernel {kernel[:64]!r}")
        return entry

    async def create_kernel(self, request: KernelRequest) -> KernelView:
        """One more for a tenant (Fleet)."""
        self._require_open()
        of = self._of
        tenant = of.tenants.get(request.tenant)
        _require_addable(tenant, request)
        spec = of.tenants.new_spec(tenant, name=request.name or "", port=request.port, labels=request.labels)
        if tenant.spec.warm == "require":
            await of.warm.secure(spec, 1, request.wait_s)
            tenant = of.tenants.get(request.tenant)
            _require_addable(tenant, request)
        of.tenants.promise(tenant.beyond(tenant.spec.replicas + 1), tenant.spec)
        of.tenants.change(tenant, replace(tenant.spec, replicas=tenant.spec.replicas + 1))
        entry = of.tenants.add_kernel(tenant, spec)
        assert entry is not None, "a warm one was secured in this step"
        if entry.kernel.phase is Phase.PENDING:
            of.supervisor.apply(entry, StartAsked())
        await self._recorded_or_undone(lambda: self._end(entry))
        if request.port:
            await self._require_port(entry)
        await _settled(entry, request.wait_s)
        return self._kernel_view(entry)

    async def _require_port(self, entry: Entry) -> None:
        """ConflictError, and nothing is left of it, when the kernel is refused the port that it was asked for."""
        deadline_s = self._of.supervisor.policy.start_deadline_s
        await entry.wait_until(lambda k: k.phase in TAKES_WORK or k.last_death is not None, deadline_s)
        death = entry.kernel.last_death
        if death is not None and death.exit_code == RefusedError.exit_code:
            await self.delete_kernel(entry.id, None)
            raise ConflictError(f"the kernel cannot have port {entry.kernel.spec.port}: {death.detail}")

    async def delete_kernel(self, kernel: KernelId, tenant: TenantId | None) -> None:
        """End one (Fleet)."""
        self._require_open()
        entry = self._entry(kernel, tenant)
        if entry.tenant == WARM:
            self._of.supervisor.apply(entry, StopAsked())
            await entry.wait_until(lambda kernel: kernel.phase not in HAS_PROCESS, None)
            return
        await self._end(entry)
        await self._recorded()

    async def _end(self, entry: Entry) -> None:
        """For good: its tenant has one less from now on."""
        owner = self._of.tenants.get(entry.tenant)
        if entry.kernel.is_wanted:
            autoscale = owner.spec.autoscale
            fewer = max(autoscale.min if autoscale is not None else 0, owner.spec.replicas - 1)
            self._of.tenants.change(owner, replace(owner.spec, replicas=fewer))
        self._of.supervisor.apply(entry, StopAsked())
        self._of.tenants.reconcile(owner)
        await entry.wait_until(lambda kernel: kernel.phase not in HAS_PROCESS, None)
        self._of.ended.kernel_deleted(entry.id)

    async def interrupt_kernel(self, kernel: KernelId, tenant: TenantId | None) -> None:
        """Interrupt what it runs (Fleet)."""
        entry = self._entry(kernel, tenant)
        if entry.process is None:
            raise ConflictError(f"kernel {kernel} has no process: it is {entry.kernel.phase.value}")
        if entry.channel is not None and not entry.load:
            # In line with what is sent later, which it must not hit.
            entry.channel.interrupt()
        else:
            send_signal(entry.process, signal.SIGINT)
        self._of.supervisor.emit(entry, "kernel.interrupted")

    async def restart_kernel(self, kernel: KernelId, tenant: TenantId | None) -> KernelView:
        """Give it a new incarnation (Fleet)."""
        self._require_running()
        entry = self._entry(kernel, tenant)
        before = entry.kernel.incarnation
        self._of.supervisor.apply(entry, RestartAsked())
        wait_s = 2 * (self._of.supervisor.policy.start_deadline_s + self._of.supervisor.policy.stop_deadline_s)
        await entry.wait_until(
            lambda k: k.phase is Phase.FAILED or (k.incarnation > before and k.phase in TAKES_WORK), wait_s
        )
        return self.kernel(kernel, tenant)


def _require_addable(tenant: Tenant, request: KernelRequest) -> None:
    """ConflictError: the tenant has a kernel of that name, or as many as its load wants."""
    if request.name and any(entry.kernel.spec.name == request.name for entry in tenant.entries.values()):
        raise ConflictError(f"tenant {tenant.id} has a kernel called {request.name} already")
    require_fixed(tenant.spec)


async def _settled(entry: Entry, wait_s: float) -> None:
    """Wait until a kernel is ready, or will not be."""
    await entry.wait_until(lambda k: k.phase in TAKES_WORK or k.phase is Phase.FAILED or not k.is_wanted, wait_s)


def _labels_changed(labels: Mapping[str, str], change: Mapping[str, str] | None) -> dict[str, str]:
    try:
        return changed_labels(labels, change)
    except ValueError as fault:
        raise BadRequestError(f"labels: {fault}") from None


def _limits_changed(limits: Limits, change: LimitsChange | None) -> Limits:
    if change is None:
        return limits
    try:
        changed = change.applied_to(limits)
    except msgspec.ValidationError as fault:
        raise BadRequestError(f"limits: {fault}") from None
    for name, least in LEAST.items():
        if 0 < getattr(changed, name) < least:
            raise BadRequestError(
                f"limits.{name}: expected 0 (no bound) or at least {least}, found {getattr(changed, name)}"
            )
    return changed
