"""What happened in the fleet: numbered, kept, stored, told to whoever follows."""

import logging
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, Final

from llmspell_fleet.controller.dates import date_now
from llmspell_fleet.controller.followers import Followers
from llmspell_fleet.model.event import Event, EventType
from llmspell_fleet.model.ids import KernelId, TenantId
from llmspell_fleet.store.store import Store

_LOG: Final = logging.getLogger("llmspell.fleet.events")

_LEVELS: Final[dict[EventType, int]] = {
    "kernel.starting": logging.DEBUG,
    "kernel.ready": logging.DEBUG,
    "kernel.stopped": logging.DEBUG,
    "kernel.died": logging.WARNING,
    "kernel.backoff": logging.WARNING,
    "kernel.failed": logging.ERROR,
    "zygote.died": logging.ERROR,
    "limit.unenforced": logging.WARNING,
}

KEPT: Final = 10_000
"""Events kept in memory; the store keeps more."""


class Events:
    """The fleet's events. Belongs to the event loop."""

    def __init__(self, store: Store, next_seq: int) -> None:
        self._store = store
        self._next = next_seq
        self._kept: deque[Event] = deque(maxlen=KEPT)
        self._past: dict[TenantId, int] = {}
        """Up to which number a name's events are those of a tenant that is gone."""
        self.followers: Followers[Event] = Followers()

    def emit(
        self,
        event_type: EventType,
        tenant: TenantId | None = None,
        kernel: KernelId | None = None,
        data: dict[str, Any] | None = None,
    ) -> None:
        """Something happened."""
        event = Event(seq=self._next, at=date_now(), type=event_type, tenant=tenant, kernel_id=kernel, data=data or {})
        self._next += 1
        self._kept.append(event)
        self._store.record_event(event)
        self.followers.tell(event)
        level = _LEVELS.get(event_type, logging.INFO)
        if _LOG.isEnabledFor(level):
            subject = " ".join(filter(None, (event_type, tenant, kernel)))
            _LOG.log(level, "%s%s", subject, "".join(f" {name}={value}" for name, value in event.data.items() if value))

    @property
    def first_kept(self) -> int:
        """The number of the oldest event in memory, or of the next one."""
        return self._kept[0].seq if self._kept else self._next

    def forget(self, tenant: TenantId) -> None:
        """A tenant is gone: a later one of its name does not see its events."""
        self._past = {name: seq for name, seq in self._past.items() if seq >= self.first_kept}
        self._past[tenant] = self._next - 1

    def since(self, seq: int, tenant: TenantId | None, limit: int) -> list[Event]:
        """The oldest `limit` of the events kept in memory with a number above `seq` that `tenant` may see."""
        found = []
        if tenant is not None:
            seq = max(seq, self._past.get(tenant, 0))
        for event in self._kept:
            if event.seq > seq and (tenant is None or event.tenant == tenant):
                found.append(event)
                if len(found) == limit:
                    break
        return found

    async def follow(self, seq: int, tenant: TenantId | None) -> AsyncIterator[Event]:
        """Those, and then the new ones as they come."""
        with self.followers.follow() as new:
            for event in self.since(seq, tenant, KEPT):
                yield event
            async for event in new:
                if tenant is None or event.tenant == tenant:
                    yield event
