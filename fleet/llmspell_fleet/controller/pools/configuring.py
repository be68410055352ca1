"""What a configuration declares, made so: the plan of `policy.apply`, for the tenants and kernels that there are."""

import logging
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from typing import Any, Final

import msgspec
from msgspec.structs import replace

from llmspell_fleet.controller.background import Background
from llmspell_fleet.controller.dates import date_now
from llmspell_fleet.controller.events import Events
from llmspell_fleet.controller.kernels.entry import Entry
from llmspell_fleet.controller.pools.rolls import Rolls
from llmspell_fleet.controller.pools.tenants import Tenants
from llmspell_fleet.controller.supervision.supervisor import Supervisor
from llmspell_fleet.model.ids import KernelId, TenantId
from llmspell_fleet.model.kernel import Kernel
from llmspell_fleet.model.tenant import DEFAULT_TENANT, TenantSpec
from llmspell_fleet.observe.metrics import Metrics
from llmspell_fleet.policy.apply import Plan, State, Wanted, plan
from llmspell_fleet.policy.events import DrainAsked, StopAsked
from llmspell_fleet.store.records import TenantRecord
from llmspell_fleet.store.store import Store
from llmspell_kernel.connection import new_kernel_id

_LOG: Final = logging.getLogger("llmspell.fleet")
_NOTE: Final = "configured"
_NOTHING: Final = Wanted(tenants={}, kernels={})


class Configuring:
    """Belongs to the event loop. `delete` ends a tenant for good."""

    def __init__(
        self,
        tenants: Tenants,
        supervisor: Supervisor,
        rolls: Rolls,
        events: Events,
        metrics: Metrics,
        store: Store,
        background: Background,
        delete: Callable[[TenantId], Coroutine[Any, Any, None]],
    ) -> None:
        self._tenants = tenants
        self._supervisor = supervisor
        self._rolls = rolls
        self._events = events
        self._metrics = metrics
        self._store = store
        self._background = background
        self._delete = delete
        self._configured = _NOTHING
        self.raisable: Callable[[], Mapping[str, Collection[str]]] = dict
        """Limits of which processes that run can be granted more, by the isolation level that they are at."""

    def restore(self, notes: dict[str, str]) -> None:
        """Know what the configuration said when an earlier controller applied it."""
        text = notes.get(_NOTE)
        if text is None:
            return
        try:
            self._configured = msgspec.json.decode(text, type=Wanted)
        except msgspec.MsgspecError as fault:
            _LOG.error("what was configured last cannot be read: the configuration holds in all it says: %s", fault)
            return
        self._tenants.pinned = set(self._configured.kernels)

    def plan(self, wanted: Wanted, *, prunes: bool = False) -> Plan:
        """What making it so would change."""
        return plan(self._state(), wanted, prunes=prunes)

    def _state(self) -> State:
        named = (entry.kernel.spec for entry in self._entries(DEFAULT_TENANT) if entry.kernel.is_wanted)
        return State(
            tenants={tenant.id: tenant.spec for tenant in self._tenants if not tenant.is_leaving},
            kernels={spec.name: spec for spec in named if spec.name},
            configured=self._configured,
            raisable=self.raisable(),
        )

    def _entries(self, tenant: TenantId) -> Iterable[Entry]:
        return list(self._tenants.get(tenant).entries.values()) if tenant in self._tenants else []

    def require_room(self, todo: Plan, *, max_kernels: int) -> None:
        """TooManyError: the fleet or a tenant's quota has no room for what would be added.

        ConflictError: there is more than a bound that is lowered would allow.
        """
        more = 0
        for name, spec in todo.tenants.items():
            beyond = spec.replicas
            if name in self._tenants:
                self._tenants.require_kept(spec)
                beyond = self._tenants.get(name).beyond(spec.replicas)
            self._tenants.require_quota(beyond, spec)
            more += beyond
        if more:
            held, self._tenants.max_kernels = self._tenants.max_kernels, max_kernels
            try:
                self._tenants.require_room(more)
            finally:
                self._tenants.max_kernels = held
        self._tenants.require_capacity(max_kernels, todo.tenants, todo.removed)

    def carry_out(self, todo: Plan) -> None:
        """Do what a plan says: nothing else is touched. What restarts, and who leaves, does so after this."""
        self._configured = todo.configured
        self._store.save_note(_NOTE, msgspec.json.encode(todo.configured).decode())
        self._tenants.pinned = set(todo.configured.kernels)
        targets = {name: self._targets(name, todo) for name in (DEFAULT_TENANT, *todo.rolling)}
        for name, spec in todo.tenants.items():
            self._make(name, spec)
        self._make_kernels(todo)
        for name in dict.fromkeys((*todo.tenants, DEFAULT_TENANT)):
            if name in self._tenants:
                self._tenants.reconcile(self._tenants.get(name))
        for name, kernels in targets.items():
            if kernels and name in self._tenants:
                self._rolls.join(self._tenants.get(name), kernels, reason="the configuration has changed")
        for name in todo.removed:
            self._background.run(self._delete(name))

    def _targets(self, tenant: TenantId, todo: Plan) -> set[KernelId]:
        """The kernels of a tenant that need a new process; those that are made now do not."""
        declared = todo.configured.kernels if tenant == DEFAULT_TENANT else {}
        return {
            entry.id
            for entry in self._entries(tenant)
            if entry.kernel.is_wanted
            and (
                entry.kernel.spec.name in todo.rolling_kernels
                if entry.kernel.spec.name in declared
                else tenant in todo.rolling
            )
        }

    def _make(self, name: TenantId, spec: TenantSpec) -> None:
        if name in self._tenants:
            self._tenants.change(self._tenants.get(name), spec)
            self._events.emit("tenant.updated", name, data={"replicas": spec.replicas})
        else:
            self._tenants.add(TenantRecord(spec=spec, created_at=date_now()))
            self._metrics.add_tenant(name)
            self._events.emit("tenant.created", name, data={"replicas": spec.replicas})

    def _make_kernels(self, todo: Plan) -> None:
        named = {entry.kernel.spec.name: entry for entry in self._entries(DEFAULT_TENANT) if entry.kernel.is_wanted}
        for name, spec in todo.kernels.items():
            if name in named:
                self._supervisor.change_spec(named[name], spec)
            else:
                self._tenants.adopt(Kernel(spec=replace(spec, id=KernelId(new_kernel_id()))))
        for name in todo.removed_kernels:
            entry = named[name]
            self._supervisor.apply(entry, DrainAsked() if entry.load else StopAsked())
