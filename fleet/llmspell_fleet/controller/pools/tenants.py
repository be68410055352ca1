"""All tenants: what each should have, and the kernels that it is promised and given."""

import asyncio
import logging
from collections.abc import Callable, Collection, Container, Iterator, Mapping
from typing import Final

from msgspec.structs import replace

from llmspell_fleet.controller.kernels.entry import Entry
from llmspell_fleet.controller.pools.homes import Homes
from llmspell_fleet.controller.pools.tenant import Tenant
from llmspell_fleet.controller.supervision.supervisor import Supervisor
from llmspell_fleet.errors import ConflictError, NotFoundError, TooManyError
from llmspell_fleet.model.ids import WARM, KernelId, TenantId
from llmspell_fleet.model.kernel import Kernel, KernelSpec, Phase, inherited
from llmspell_fleet.model.tenant import Limits, TenantSpec
from llmspell_fleet.policy.admit import Denied, admit_kernels
from llmspell_fleet.policy.events import DrainAsked, StartAsked, StopAsked
from llmspell_fleet.policy.lifecycle import HAS_PROCESS, TAKES_WORK, takes_work
from llmspell_fleet.policy.quota import admit_quota, demand, too_low
from llmspell_fleet.policy.reconcile import plan
from llmspell_fleet.store.records import TenantRecord
from llmspell_fleet.store.store import Store
from llmspell_kernel.connection import new_kernel_id

_LOG: Final = logging.getLogger("llmspell.fleet")


def _raise(denied: Denied | None) -> None:
    if denied is not None:
        raise TooManyError(denied.detail, retry_after_s=denied.retry_after_s, limit=denied.limit)


class Tenants:
    """All tenants, and the one place where kernels are promised. Belongs to the event loop."""

    def __init__(self, supervisor: Supervisor, store: Store, *, capacity: int) -> None:
        self._supervisor = supervisor
        self._store = store
        self.homes = Homes()
        """Where sessions live, for the next controller."""
        self._tenants: dict[TenantId, Tenant] = {}
        self.pinned: Collection[str] = ()
        """Names of kernels that the configuration declares."""
        self.max_kernels = capacity
        self.has_quotas = True
        """Whether tenants as a whole are held to their limits."""
        self.capacity = capacity
        """What this machine's descriptors allow."""
        self.on_change: Callable[[Tenant], None] = lambda _tenant: None
        """Called after a kernel of a tenant changed, from within that change."""
        self.watchers: list[Callable[[Entry, Kernel], None]] = []
        """Called with an entry and its record before, each time that the record was replaced while the fleet works."""
        self.claim: Callable[[Tenant, KernelSpec], Entry | None] = lambda _tenant, _spec: None
        """Gives a tenant a warm kernel, if there is one for that spec."""
        self.adopt_warm: Callable[[Kernel], Entry] = supervisor.add
        """Takes in a stored kernel of no tenant."""
        self.uid_of: Callable[[Tenant], int | None] = lambda _tenant: None
        """The user of a tenant's kernels at `strict` (`controller.pools.users`)."""
        supervisor.on_change = self._changed

    def __iter__(self) -> Iterator[Tenant]:
        return iter(list(self._tenants.values()))

    def __contains__(self, tenant: object) -> bool:
        return tenant in self._tenants

    def __len__(self) -> int:
        return len(self._tenants)

    def get(self, tenant: TenantId) -> Tenant:
        """One; NotFoundError."""
        found = self._tenants.get(tenant)
        if found is None or found.is_leaving:
            raise NotFoundError(f"there is no tenant {tenant[:64]!r}; `llmspell tenant list` names those there are")
        return found

    def labels(self, entry: Entry) -> dict[str, str]:
        """A kernel's: its tenant's and its own."""
        owner = self._tenants.get(entry.tenant)
        return {**(owner.spec.labels if owner is not None else {}), **entry.kernel.spec.labels}

    # --- promises

    @property
    def promised(self) -> int:
        """Kernels that tenants were promised or still have."""
        return sum(tenant.promised for tenant in self._tenants.values())

    def promise(self, more: int, to: TenantSpec) -> None:
        """TooManyError when there is no room for so many more kernels, in the fleet or in the tenant's quota.

        ConflictError: at `strict`, nobody can enforce a limit. `to` is the tenant as it shall be. The caller takes the
        kernels in the same step.
        """
        self.require_room(more)
        self.require_quota(more, to)

    def require_room(self, more: int) -> None:
        """TooManyError: the fleet has no room for so many more kernels."""
        _raise(admit_kernels(self.promised, more, max_kernels=self.max_kernels, capacity=self.capacity))

    def require_quota(self, more: int, to: TenantSpec) -> None:
        """TooManyError: the tenant, as it shall be, may not have so many more. ConflictError: see `promise`."""
        self._supervisor.holder.require_enforced(to)
        if self.has_quotas:
            _raise(self._beyond_quota(more, to))

    def _beyond_quota(self, more: int, to: TenantSpec) -> Denied | None:
        before: list[Limits] = []
        after: list[Limits] = []
        tenant = self._tenants.get(to.id)
        if tenant is not None:
            entries = tenant.entries.values()
            coming = max(0, tenant.promised - len(entries))
            before = [entry.kernel.spec.limits for entry in entries] + [tenant.spec.limits] * coming
            after = [to.limits if self._follows(e) else e.kernel.spec.limits for e in entries] + [to.limits] * coming
        after += [to.limits] * more
        counted = self._supervisor.holder.counted(to)
        return admit_quota(to.limits, demand(before), demand(after), counted=counted)

    def require_kept(self, to: TenantSpec) -> None:
        """ConflictError: the tenant, as it shall be, may have less than it has then."""
        tenant = self.get(to.id)
        old, new = tenant.spec.limits, to.limits
        own = [e.kernel.spec.limits for e in tenant.entries.values() if e.kernel.is_wanted and not self._follows(e)]
        others = max(0, to.replicas + tenant.room - len(own))
        counted = self._supervisor.holder.counted(to)
        reason = ""
        if self.has_quotas:
            reason = too_low(old, new, demand([*own, *[new] * others]), counted=counted)
        if not reason and old.total_memory_bytes != new.total_memory_bytes:
            reason = self._supervisor.holder.total_too_low(to)
        if reason:
            raise ConflictError(f"tenant {to.id}: limits: {reason}")

    def require_capacity(self, max_kernels: int, to: Mapping[TenantId, TenantSpec], without: Container[str]) -> None:
        """ConflictError: a fleet with so few kernels has no place for those of `to` and of the tenants that stay."""
        staying = [tenant for tenant in self if not tenant.is_leaving and tenant.id not in without]
        there = sum(to.get(tenant.id, tenant.spec).replicas + tenant.room for tenant in staying)
        there += sum(spec.replicas for name, spec in to.items() if name not in self)
        if max_kernels < self.max_kernels and there > max_kernels:
            raise ConflictError(
                f"[fleet] max_kernels: expected at least {there}, the kernels that tenants have, found {max_kernels}: "
                "have fewer replicas or delete tenants first"
            )

    def _follows(self, entry: Entry) -> bool:
        """Whether a kernel is as its tenant says: those that the configuration declares are as that says."""
        return not entry.kernel.spec.name or entry.kernel.spec.name not in self.pinned

    # --- what changes

    def add(self, record: TenantRecord) -> Tenant:
        """Take a tenant in; it has no kernels yet."""
        tenant = self._tenants[record.spec.id] = Tenant(record, self.homes.note)
        self._bound(record.spec)
        self._store.save_tenant(record)
        return tenant

    def remember_sessions(self, path: str) -> None:
        """Take up where sessions live, when all kernels are there, and note it from now on."""
        self.homes.open(path)
        for visit in self.homes.visits.values():
            if visit.tenant in self._tenants:
                self._tenants[visit.tenant].remember(visit)
        self.homes.visits = {}

    def change(self, tenant: Tenant, spec: TenantSpec) -> None:
        """What it should have from now on; of its kernels' limits, those that can hold at once do."""
        is_bounded = (tenant.spec.limits, tenant.spec.isolation_level) == (spec.limits, spec.isolation_level)
        tenant.record = replace(tenant.record, spec=spec)
        if not is_bounded:
            self._supervisor.holder.bound_tenant(spec)  # before its kernels are granted more, or fails
        self._store.save_tenant(tenant.record)
        for entry in tenant.entries.values():
            changed = replace(entry.kernel.spec, **inherited(spec), uid=self.uid_of(tenant))
            if changed != entry.kernel.spec and self._follows(entry):
                self._supervisor.change_spec(entry, changed)
        if not is_bounded:
            self._bound(spec)

    def _bound(self, spec: TenantSpec) -> None:
        if reason := self._supervisor.holder.bound_tenant(spec):
            _LOG.warning("tenant %s: %s", spec.id, reason)

    def adopt(self, kernel: Kernel) -> Entry:
        """Take in a kernel of a tenant's: a new one, or one that was stored."""
        if kernel.spec.tenant == WARM:
            return self.adopt_warm(kernel)
        entry = self._supervisor.add(kernel)
        self.take_in(self._tenants[kernel.spec.tenant], entry)
        return entry

    def take_in(self, tenant: Tenant, entry: Entry) -> None:
        """A kernel is the tenant's from now on."""
        tenant.entries[entry.id] = entry
        tenant.pool.add(entry.id)
        if entry.kernel.phase in TAKES_WORK:
            tenant.pool.set_ready(entry.id, True)
            tenant.wake()

    def add_kernel(self, tenant: Tenant, spec: KernelSpec) -> Entry | None:
        """One more: a warm one if there is one, else a new one, which is PENDING.

        None = the tenant takes warm ones only, and there is none: `reconcile` is called again when there is.
        """
        claimed = self.claim(tenant, spec)
        if claimed is not None or tenant.spec.warm == "require":
            return claimed
        return self.adopt(Kernel(spec=spec))

    def reconcile(self, tenant: Tenant) -> None:
        """Add or remove kernels until there are as many as there should be, and start those that wait to be.

        A busy kernel that leaves finishes what it runs, unless its tenant leaves altogether.
        """
        loads = {entry.id: entry.load + entry.leases for entry in tenant.entries.values()}
        kernels = [entry.kernel for entry in tenant.entries.values()]
        wanted = 0 if tenant.is_leaving else tenant.spec.replicas + tenant.surge
        todo = plan(wanted, kernels, loads, self.pinned)
        for kernel in todo.remove:
            entry = tenant.entries[kernel]
            self._supervisor.apply(entry, DrainAsked() if entry.load and not tenant.is_leaving else StopAsked())
        for _ in range(todo.add):
            if self.add_kernel(tenant, self.new_spec(tenant)) is None:
                break
        for entry in list(tenant.entries.values()):
            if entry.kernel.is_wanted and entry.kernel.phase is Phase.PENDING:
                self._supervisor.apply(entry, StartAsked())

    def own_user(self, tenant: Tenant, uid: int) -> None:
        """It is the tenant's from now on, whatever its isolation level becomes."""
        tenant.record = replace(tenant.record, uid=uid)
        if self._tenants.get(tenant.id) is tenant:
            self._store.save_tenant(tenant.record)

    def new_spec(
        self, tenant: Tenant, *, name: str = "", port: int | None = None, labels: Mapping[str, str] | None = None
    ) -> KernelSpec:
        """A kernel as the tenant's are."""
        return KernelSpec(
            id=KernelId(new_kernel_id()),
            tenant=tenant.id,
            name=name,
            port=port,
            labels=dict(labels or {}),
            **inherited(tenant.spec),
            uid=self.uid_of(tenant),
        )

    async def remove(self, tenant: Tenant) -> None:
        """End its kernels and forget it."""
        tenant.is_leaving = True
        tenant.wake()
        leaving = list(tenant.entries.values())
        self.reconcile(tenant)
        for entry in leaving:
            await entry.wait_until(lambda kernel: kernel.phase not in HAS_PROCESS, None)
        self._supervisor.holder.cgroups.forget_tenant(tenant.id)
        del self._tenants[tenant.id]
        self._store.delete_tenant(tenant.id)
        self.homes.forget(tenant.id)

    def _changed(self, entry: Entry, was: Kernel) -> None:
        """A kernel's record was replaced."""
        if not self._supervisor.is_closing:
            for watch in self.watchers:
                watch(entry, was)
        tenant = self._tenants.get(entry.tenant)
        if tenant is None or entry.id not in tenant.entries:
            return
        kernel = entry.kernel
        if takes_work(kernel) != takes_work(was):
            tenant.pool.set_ready(entry.id, takes_work(kernel))
        if kernel.phase is not was.phase or kernel.is_silent != was.is_silent:
            tenant.wake()
        if not kernel.is_wanted and kernel.phase not in HAS_PROCESS and not self._supervisor.is_closing:
            del tenant.entries[entry.id]
            tenant.pool.remove(entry.id)
            # After this event: whoever applied it still looks at the entry.
            asyncio.get_running_loop().call_soon(self._supervisor.forget, entry)
        self.on_change(tenant)
