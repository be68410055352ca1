"""Rolling restarts, one of a tenant at a time: carries out what `policy.rolling` says after each change of a kernel.

What is left of each is stored. A controller that was killed is followed by one that goes on with it.
"""

import asyncio
import logging
from collections.abc import Collection, Iterable, Mapping
from typing import Final, Literal

import msgspec
from msgspec.structs import replace

from llmspell_fleet.controller.dates import date_now
from llmspell_fleet.controller.events import Events
from llmspell_fleet.controller.pools.tenant import Tenant
from llmspell_fleet.controller.pools.tenants import Tenants
from llmspell_fleet.controller.supervision.supervisor import Supervisor
from llmspell_fleet.errors import BadRequestError, ConflictError, NotFoundError
from llmspell_fleet.model.ids import KernelId, TenantId
from llmspell_fleet.model.views import RollView
from llmspell_fleet.policy.events import DrainAsked, RestartAsked
from llmspell_fleet.policy.lifecycle import TAKES_WORK
from llmspell_fleet.policy.rolling import Roll, Step, is_put_down, step
from llmspell_fleet.store.store import Store

_LOG: Final = logging.getLogger("llmspell.fleet")
_NOTE: Final = "roll "
"""Before the tenant's name, in the store."""


class Rolls:
    """All that are under way. Belongs to the event loop."""

    def __init__(self, tenants: Tenants, supervisor: Supervisor, events: Events, store: Store) -> None:
        self._loop = asyncio.get_running_loop()
        self._tenants = tenants
        self._supervisor = supervisor
        self._events = events
        self._store = store
        self._rolls: dict[TenantId, Roll] = {}
        self._is_due: set[TenantId] = set()
        self._ended: dict[TenantId, asyncio.Future[None]] = {}
        tenants.on_change = self._changed

    def start(
        self,
        tenant: Tenant,
        *,
        max_unavailable: int,
        max_surge: int,
        kernels: Collection[KernelId] | None = None,
        reason: str = "",
    ) -> None:
        """Begin to give `kernels` of a tenant, or all of them, a new incarnation each.

        ConflictError: one is under way. BadRequestError: it could never begin. TooManyError: the fleet has no room for
        those that stand in.
        """
        if tenant.id in self._rolls:
            raise ConflictError(f"tenant {tenant.id} is being restarted already: wait for its end")
        if max_unavailable == 0 and max_surge == 0:
            raise BadRequestError(
                "max_unavailable and max_surge are both 0, and so no kernel could be restarted: let one of them be 1"
            )
        targets = {
            entry.id: entry.kernel.incarnation
            for entry in tenant.entries.values()
            if entry.kernel.is_wanted and (kernels is None or entry.id in kernels)
        }
        max_surge = min(max_surge, len(targets))
        self._tenants.promise(max_surge, tenant.spec)
        put_down = frozenset(kernel for kernel in targets if is_put_down(tenant.entries[kernel].kernel))
        self._begin(
            tenant,
            targets,
            max_unavailable=max_unavailable,
            max_surge=max_surge,
            reason=reason,
            put_down=put_down,
        )

    def join(self, tenant: Tenant, kernels: Collection[KernelId], *, reason: str) -> None:
        """Give `kernels` a new incarnation, one after the other; a restart that is under way takes them in."""
        targets = {kernel: tenant.entries[kernel].kernel.incarnation for kernel in kernels}
        before = self._rolls.get(tenant.id)
        if before is None:
            self._begin(tenant, targets, max_unavailable=1, max_surge=0, reason=reason)
            return
        joined = {**before.targets, **targets}
        total = before.total - len(before.targets) + len(joined)
        roll = self._rolls[tenant.id] = replace(before, targets=joined, total=total)
        tenant.roll = _view(roll, "rolling")
        self._keep(roll)
        self._soon(tenant.id)

    def _begin(
        self,
        tenant: Tenant,
        targets: dict[KernelId, int],
        *,
        max_unavailable: int,
        max_surge: int,
        reason: str,
        put_down: frozenset[KernelId] = frozenset(),
    ) -> None:
        roll = Roll(
            tenant=tenant.id,
            max_unavailable=max_unavailable,
            max_surge=max_surge,
            targets=targets,
            total=len(targets),
            started_at=date_now(),
            reason=reason,
            put_down=put_down,
        )
        self._take(tenant, roll)
        data: dict[str, object] = {
            "kernels": roll.total,
            "max_unavailable": max_unavailable,
            "max_surge": max_surge,
            **({"reason": reason} if reason else {}),
        }
        self._events.emit("tenant.rolling", tenant.id, data=data)
        self._advance(tenant.id)

    def restore(self, notes: Mapping[str, str]) -> None:
        """Go on with what an earlier controller had begun."""
        for name, text in notes.items():
            if not name.startswith(_NOTE):
                continue
            tenant = TenantId(name.removeprefix(_NOTE))
            try:
                roll = msgspec.json.decode(text, type=Roll)
            except msgspec.MsgspecError as fault:
                _LOG.error("the rolling restart of tenant %s cannot be read and has ended: %s", tenant, fault)
                self._store.save_note(name, None)
                continue
            if tenant not in self._tenants:
                self._store.save_note(name, None)  # it was deleted
                continue
            _LOG.info("the rolling restart of tenant %s goes on: %d kernels are left", tenant, len(roll.targets))
            self._take(self._tenants.get(tenant), roll)
            self._soon(tenant)

    def is_rolling(self, tenant: TenantId) -> bool:
        """Whether one is under way."""
        return tenant in self._rolls

    async def ended(self, tenant: TenantId, timeout_s: float) -> None:
        """Return when a tenant's has ended, or the time is over."""
        future = self._ended.get(tenant)
        if future is not None:
            await asyncio.wait([future], timeout=timeout_s)

    def _take(self, tenant: Tenant, roll: Roll) -> None:
        self._rolls[tenant.id] = roll
        self._ended[tenant.id] = self._loop.create_future()
        tenant.room = roll.max_surge
        tenant.roll = _view(roll, "rolling")
        self._keep(roll)

    def _keep(self, roll: Roll) -> None:
        self._store.save_note(f"{_NOTE}{roll.tenant}", msgspec.json.encode(roll).decode())

    def _changed(self, tenant: Tenant) -> None:
        if tenant.id in self._rolls:
            self._soon(tenant.id)

    def _soon(self, tenant: TenantId) -> None:
        """Look at it in the next turn of the loop: whoever changed something has ended by then."""
        if tenant not in self._is_due:
            self._is_due.add(tenant)
            self._loop.call_soon(self._advance, tenant)

    def _advance(self, tenant_id: TenantId) -> None:
        self._is_due.discard(tenant_id)
        roll = self._rolls.get(tenant_id)
        if roll is None or self._supervisor.is_closing:
            return  # what is left is stored, and done by the next start
        try:
            tenant = self._tenants.get(tenant_id)
        except NotFoundError:
            self._end(roll, None, Step(roll=roll, end="failed", reason="the tenant was deleted"))
            return
        kernels = [entry.kernel for entry in tenant.entries.values()]
        loads = {entry.id: entry.load + entry.leases for entry in tenant.entries.values()}
        todo = step(roll, kernels, loads, tenant.spec.replicas)
        if todo.end is not None:
            self._end(roll, tenant, todo)
            return
        if todo.roll != roll:
            self._rolls[tenant_id] = todo.roll
            tenant.roll = _view(todo.roll, "rolling")
            self._keep(todo.roll)
        self._restart(tenant, todo.restart)
        if todo.surge != tenant.surge:
            tenant.surge = todo.surge
            self._tenants.reconcile(tenant)

    def _restart(self, tenant: Tenant, kernels: Iterable[KernelId]) -> None:
        for kernel in kernels:
            entry = tenant.entries[kernel]
            is_busy = entry.load and entry.kernel.phase in TAKES_WORK
            self._supervisor.apply(entry, DrainAsked("restarted") if is_busy else RestartAsked())

    def _end(self, roll: Roll, tenant: Tenant | None, last: Step) -> None:
        del self._rolls[roll.tenant]
        self._store.save_note(f"{_NOTE}{roll.tenant}", None)
        self._ended.pop(roll.tenant).set_result(None)
        done = {"kernels": roll.total, "done": roll.total - len(last.roll.targets)}
        if last.end == "done":
            self._events.emit("tenant.rolled", roll.tenant, data={**done})
        else:
            self._events.emit("tenant.roll_failed", roll.tenant, data={**done, "reason": last.reason})
            _LOG.warning("the rolling restart of tenant %s has ended: %s", roll.tenant, last.reason)
        if tenant is not None:
            tenant.roll = _view(last.roll, last.end or "failed", last.reason)
            tenant.surge = tenant.room = 0
            self._tenants.reconcile(tenant)


def _view(roll: Roll, status: Literal["rolling", "done", "failed"], reason: str = "") -> RollView:
    return RollView(
        status=status,
        reason=reason,
        total=roll.total,
        done=roll.total - len(roll.targets),
        max_unavailable=roll.max_unavailable,
        max_surge=roll.max_surge,
        started_at=roll.started_at,
        finished_at=None if status == "rolling" else date_now(),
    )
