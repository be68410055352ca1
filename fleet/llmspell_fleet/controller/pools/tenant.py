"""One tenant at work: its kernels, its sessions, and what it is doing right now."""

import asyncio
import re
from collections.abc import Callable
from typing import Final

from llmspell_fleet.controller.kernels.entry import Entry
from llmspell_fleet.controller.pools.homes import Visit
from llmspell_fleet.model.ids import KernelId, TenantId
from llmspell_fleet.model.tenant import TenantSpec
from llmspell_fleet.model.views import RollView  # noqa: TC001 - so are all others
from llmspell_fleet.policy.admit import FULL, Bucket
from llmspell_fleet.policy.balance import Pool
from llmspell_fleet.policy.lifecycle import HAS_PROCESS, takes_work
from llmspell_fleet.store.records import TenantRecord

MOST_SESSIONS: Final = 100_000
"""Sessions of one tenant whose home is remembered; beyond, the oldest is forgotten, and placed anew."""

_OWN_SESSION: Final = re.compile(r"k-([0-9a-f]{12})-([0-9]{1,9})", re.ASCII)


class Tenant:
    """One tenant at work. Belongs to the event loop."""

    def __init__(self, record: TenantRecord, note: Callable[[Visit], None] = lambda _visit: None) -> None:
        self.record = record
        self._note = note
        self.pool = Pool()
        self.entries: dict[KernelId, Entry] = {}
        """Its kernels, in the order in which they came."""
        self.executions = 0
        """Running and waiting, everywhere."""
        self.bucket: Bucket = FULL
        self.homes: dict[str, KernelId] = {}
        """Where each session lives."""
        self._seen: dict[str, tuple[KernelId, int]] = {}
        """Which incarnation of which kernel each session met last, those between two homes included."""
        self.waiters: dict[asyncio.Future[None], None] = {}
        """Executions that wait for a kernel, the first that came first."""
        self.is_leaving = False
        self.surge = 0
        """Kernels that it has beyond its replicas, to stand in while others restart."""
        self.room = 0
        """How many those may become: promised while others restart."""
        self.roll: RollView | None = None
        """Its rolling restart: the one under way, or the last one."""

    @property
    def id(self) -> TenantId:
        """Its name."""
        return self.record.spec.id

    @property
    def spec(self) -> TenantSpec:
        """What it should have."""
        return self.record.spec

    @property
    def ready(self) -> int:
        """Kernels that take work."""
        return sum(takes_work(entry.kernel) for entry in self.entries.values())

    @property
    def _staying(self) -> int:
        return sum(entry.kernel.is_wanted for entry in self.entries.values())

    @property
    def promised(self) -> int:
        """Kernels that it was promised or has; the place of one that leaves is free when that is gone."""
        staying = self._staying
        return max(0 if self.is_leaving else self.spec.replicas + self.room, staying) + len(self.entries) - staying

    @property
    def outdated(self) -> list[KernelId]:
        """Kernels whose processes are at another isolation level than they should be at by now."""
        kept = (
            entry for entry in self.entries.values() if entry.kernel.is_wanted and entry.kernel.phase in HAS_PROCESS
        )
        return [entry.id for entry in kept if entry.isolation_level != entry.kernel.spec.isolation_level]

    @property
    def lacking(self) -> int:
        """Kernels that it should have and that were not begun."""
        return 0 if self.is_leaving else max(0, self.spec.replicas + self.surge - self._staying)

    def beyond(self, replicas: int) -> int:
        """How many more `replicas` are than it was promised or keeps."""
        return max(0, replicas + self.room - max(self.spec.replicas + self.room, self._staying))

    def wake(self) -> None:
        """A kernel became ready, or will not: let those look who wait."""
        waiters, self.waiters = self.waiters, {}
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)

    # --- sessions

    def recognise(self, session: str) -> None:
        """Give a session of our own making (`own_session`) the home that is in its name."""
        if session in self.homes:
            return
        named = _OWN_SESSION.fullmatch(session)
        if named is not None:
            for entry in self.entries.values():
                if entry.id.replace("-", "").startswith(named[1]):
                    self.settle(session, entry.id, int(named[2]))

    def settle(self, session: str, kernel: KernelId, incarnation: int, *, is_told: bool = True) -> bool:
        """`session` meets an incarnation; whether what it left at its last visit is gone.

        Without `is_told` nobody hears of that now, and the next visit tells it.
        """
        home, seen = self.homes.get(session), self._seen.get(session)
        is_reset = seen is not None and seen != (kernel, incarnation)
        if seen is None and len(self._seen) >= MOST_SESSIONS:
            self._forget_oldest()
        if home != kernel:
            if home is not None:
                self.pool.add_session(home, -1)
            self.pool.add_session(kernel, 1)
            self.homes[session] = kernel
        if is_told or not is_reset:
            self._seen[session] = (kernel, incarnation)
        if home != kernel or seen != self._seen[session]:
            self._note(Visit(self.id, session, kernel, *self._seen[session]))
        return is_reset

    def remember(self, visit: Visit) -> None:
        """Take up what an earlier controller knew of a session."""
        if visit.kernel is not None:
            if len(self._seen) >= MOST_SESSIONS:
                self._forget_oldest()
            self._seen[visit.session] = (visit.kernel, visit.incarnation)
            if visit.home in self.entries:
                self.homes[visit.session] = visit.home
                self.pool.add_session(visit.home, 1)

    def leave_home(self, session: str) -> None:
        """Let a session be placed anew; that its state is gone is still known."""
        self.pool.add_session(self.homes.pop(session), -1)
        if session in self._seen:
            self._note(Visit(self.id, session, None, *self._seen[session]))

    def _forget_oldest(self) -> None:
        oldest = next(iter(self._seen))
        del self._seen[oldest]
        if oldest in self.homes:
            self.leave_home(oldest)


def own_session(entry: Entry) -> str:
    """A session for who names none: whoever uses it comes back to the same kernel."""
    return f"k-{entry.id.replace('-', '')[:12]}-{entry.kernel.incarnation}"
