"""The route about what happened."""

from typing import Final

import msgspec

from llmspell_fleet.api.answers import Reply, json_answer
from llmspell_fleet.api.call import Call
from llmspell_fleet.api.queries import EventsQuery
from llmspell_fleet.api.streams import EVENTS, Numbered, follow, frame, resumed_since, wants_events
from llmspell_fleet.model.event import Event
from llmspell_fleet.model.views import Page

PAGE: Final = 1000
"""Events in one answer."""


async def listing(call: Call, query: EventsQuery) -> Reply:
    """What happened, in order: up to 1000 events after `since`.

    `next`, when there may be more, is the `since` to go on with. With `Accept: text/event-stream`, Server-Sent Events
    that go on as things happen; a client that comes back with Last-Event-ID goes on where it was.
    """
    if wants_events(call):
        since = resumed_since(call, query.since)
        encode = Numbered(_as_event, EVENTS, since) if call.owner is None else _as_event  # a tenant sees some of them
        return await follow(call, call.fleet.follow_events(call.owner, since=since), encode, EVENTS)
    items = list(await call.fleet.events(call.owner, since=query.since, limit=PAGE))
    return json_answer(Page(items=items, next=str(items[-1].seq) if len(items) == PAGE else None))


def _as_event(event: Event) -> bytes:
    return frame(event.type, msgspec.json.encode(event), event.seq)
