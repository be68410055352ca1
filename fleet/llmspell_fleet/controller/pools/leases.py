"""Kernels lent to ZeroMQ clients: who has one, until when."""

import asyncio
import secrets
from collections.abc import Callable, Coroutine
from typing import Any

import msgspec

from llmspell_fleet.controller.dates import date_now
from llmspell_fleet.controller.kernels.entry import Entry
from llmspell_fleet.controller.pools.ended import Ended
from llmspell_fleet.controller.pools.tenant import Tenant
from llmspell_fleet.controller.pools.tenants import Tenants
from llmspell_fleet.errors import NotFoundError
from llmspell_fleet.model.ids import TenantId
from llmspell_fleet.model.kernel import Kernel, Phase
from llmspell_fleet.policy.lifecycle import HAS_PROCESS
from llmspell_fleet.store.records import Lease
from llmspell_fleet.store.store import Store


class _Held(msgspec.Struct):
    """A lease with the timer that ends it."""

    lease: Lease
    ttl_s: float
    timer: asyncio.TimerHandle


class Leases:
    """All leases. Belongs to the event loop."""

    def __init__(
        self,
        tenants: Tenants,
        store: Store,
        ended: Ended,
        *,
        ttl_s: float,
        later: Callable[[Coroutine[Any, Any, None]], object],
    ):
        self._loop = asyncio.get_running_loop()
        self._tenants = tenants
        self._store = store
        self._ended = ended
        self.ttl_s = ttl_s
        self._later = later
        """Runs a coroutine in the background."""
        self._held: dict[str, _Held] = {}
        self.on_end: Callable[[Entry], None] = lambda _entry: None
        """Called with a kernel that was given back."""

    def __len__(self) -> int:
        return len(self._held)

    def grant(self, tenant: Tenant, session: str, entry: Entry) -> Lease:
        """Lend `entry` to a session; one session has one lease, which is renewed."""
        for held in self._held.values():
            if held.lease.tenant == tenant.id and held.lease.session == session and held.lease.kernel_id == entry.id:
                return self._renew(held, held.ttl_s)
        lease = Lease(
            id=secrets.token_hex(12),
            tenant=tenant.id,
            session=session,
            kernel_id=entry.id,
            expires_at=date_now(self.ttl_s),
        )
        self._hold(lease, self.ttl_s, entry)
        tenant.pool.add_load(entry.id, 1)
        self._store.save_lease(lease)
        return lease

    def _hold(self, lease: Lease, ttl_s: float, entry: Entry) -> None:
        entry.leases += 1
        timer = self._loop.call_later(ttl_s, self._expire, lease.id)
        self._held[lease.id] = _Held(lease, ttl_s, timer)

    def ending_of(self, entry: Entry) -> list[float]:
        """Loop times at which the leases of a kernel end if nobody renews them."""
        return [held.timer.when() for held in self._held.values() if held.lease.kernel_id == entry.id]

    def get(self, lease: str, tenant: TenantId | None) -> Lease:
        """One that holds; NotFoundError, also when it is another tenant's."""
        held = self._held.get(lease)
        if held is None:
            self._ended.check_lease(lease, tenant)
        if held is None or (tenant is not None and held.lease.tenant != tenant):
            raise NotFoundError("there is no such lease: it has ended, or never was; ask for a connection again")
        return held.lease

    def renew(self, lease: str, tenant: TenantId | None, ttl_s: float | None) -> Lease:
        """Let it hold for `ttl_s` from now on."""
        self.get(lease, tenant)
        held = self._held[lease]
        return self._renew(held, ttl_s or held.ttl_s)

    def _renew(self, held: _Held, ttl_s: float) -> Lease:
        held.timer.cancel()
        held.ttl_s = ttl_s
        held.lease = msgspec.structs.replace(held.lease, expires_at=date_now(ttl_s))
        held.timer = self._loop.call_later(ttl_s, self._expire, held.lease.id)
        self._store.save_lease(held.lease)
        return held.lease

    def end(self, lease: str, tenant: TenantId | None) -> None:
        """Take it back."""
        self.get(lease, tenant)
        held = self._held.pop(lease)
        held.timer.cancel()
        self._store.delete_lease(lease)
        for owner in self._tenants:
            entry = owner.entries.get(held.lease.kernel_id)
            if entry is not None:
                entry.leases -= 1
                owner.pool.add_load(entry.id, -1)
                self.on_end(entry)

    def kernel_changed(self, entry: Entry, _was: Kernel) -> None:
        """A kernel's record was replaced. One that was culled, or has left, is lent no more."""
        kernel, death = entry.kernel, entry.kernel.last_death
        if kernel.phase in HAS_PROCESS or (kernel.is_wanted and kernel.phase is not Phase.STOPPED):
            return
        for held in [held for held in self._held.values() if held.lease.kernel_id == entry.id]:
            self._ended.lease_ended(held.lease.id, held.lease.session, kernel.spec, death)
            self.end(held.lease.id, None)

    def _expire(self, lease: str) -> None:
        """Its time is over; unless its kernel was used meanwhile, which renews it."""
        self._later(self._look(lease))

    async def _look(self, lease: str) -> None:
        held = self._held.get(lease)
        if held is None:
            return
        owner = next((t for t in self._tenants if t.id == held.lease.tenant), None)
        entry = owner.entries.get(held.lease.kernel_id) if owner is not None else None
        timer = held.timer
        is_used = entry is not None and await _is_used(entry, held.ttl_s)
        if lease not in self._held or held.timer is not timer:
            return  # it was ended or renewed meanwhile
        if is_used:
            self._renew(held, held.ttl_s)
        else:
            self.end(lease, None)

    def restore(self, leases: list[Lease]) -> None:
        """Take up what an earlier controller had granted, each for a full term: its clients could not renew it."""
        for lease in leases:
            owner = next((t for t in self._tenants if t.id == lease.tenant), None)
            entry = owner.entries.get(lease.kernel_id) if owner is not None else None
            if owner is None or entry is None:
                self._store.delete_lease(lease.id)
                continue
            owner.pool.add_load(entry.id, 1)
            self._hold(lease, self.ttl_s, entry)

    def close(self) -> None:
        """Forget the timers."""
        for held in self._held.values():
            held.timer.cancel()


async def _is_used(entry: Entry, within_s: float) -> bool:
    """Whether a client other than the controller asked something of the kernel lately."""
    if entry.channel is None:
        return False
    try:
        async with asyncio.timeout(1.0):
            told = await entry.channel.statistics()
    except (TimeoutError, ConnectionError):
        return False
    return any(client.idle_s < within_s for client in told.others())
