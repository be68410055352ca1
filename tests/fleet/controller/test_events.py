"""Events: numbered across restarts, kept in memory and in the store, told to whoever follows and may see them."""

import asyncio
import logging
from pathlib import Path

import pytest

from llmspell_fleet.controller import events as module
from llmspell_fleet.controller.events import Events
from llmspell_fleet.model.event import Event, EventType
from llmspell_fleet.model.ids import KernelId, TenantId
from llmspell_fleet.store.store import Store
from support.spawning import eventually

pytestmark = pytest.mark.asyncio

A, B = TenantId("a"), TenantId("b")
KERNEL = KernelId("00000000-0000-4000-8000-000000000001")


@pytest.fixture
def events(store: Store) -> Events:
    return Events(store, store.load().next_event_seq)


def numbers(found: list[Event]) -> list[int]:
    return [event.seq for event in found]


async def test_events_are_numbered_kept_and_stored(events: Events, store: Store) -> None:
    events.emit("fleet.started", data={"kernels": 2})
    events.emit("kernel.ready", A, KERNEL, {"pid": 7})
    events.emit("tenant.deleted", B)

    kept = events.since(0, None, 100)
    assert [(e.seq, e.type, e.tenant, e.kernel_id, e.data) for e in kept] == [
        (1, "fleet.started", None, None, {"kernels": 2}),
        (2, "kernel.ready", A, KERNEL, {"pid": 7}),
        (3, "tenant.deleted", B, None, {}),
    ]
    assert await store.recent_events(since=0, limit=100, tenant=None) == kept


async def test_the_next_controller_goes_on_with_the_numbers(tmp_path: Path) -> None:
    path = str(tmp_path / "state" / "fleet.db")
    seen = []
    for _ in range(3):
        store = Store.open(path)
        events = Events(store, store.load().next_event_seq)
        seen.append(events.first_kept)
        events.emit("fleet.started")
        events.emit("fleet.stopping")
        store.close()

    assert seen == [1, 3, 5]


@pytest.mark.parametrize(
    ("case", "since", "tenant", "limit", "expected"),
    [
        ("all", 0, None, 100, [1, 2, 3, 4, 5, 6]),
        ("later ones", 4, None, 100, [5, 6]),
        ("none are later", 6, None, 100, []),
        ("the oldest of many", 1, None, 2, [2, 3]),
        ("a tenant's own", 0, A, 100, [2, 4]),
        ("a tenant's later ones", 2, A, 100, [4]),
        ("the first of a tenant's", 0, B, 1, [3]),
        ("nobody's", 0, TenantId("c"), 100, []),
    ],
)
async def test_since(
    events: Events, case: str, since: int, tenant: TenantId | None, limit: int, expected: list[int]
) -> None:
    for owner in (None, A, B, A, B, None):
        events.emit("kernel.ready", owner)

    assert numbers(events.since(since, tenant, limit)) == expected


async def test_memory_holds_the_newest_and_the_store_more(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT", 4)
    events = Events(store, store.load().next_event_seq)
    assert events.first_kept == 1
    for _ in range(10):
        events.emit("kernel.ready", A)

    assert events.first_kept == 7
    assert numbers(events.since(0, None, 100)) == [7, 8, 9, 10]
    assert numbers(await store.recent_events(since=0, limit=100, tenant=None)) == list(range(1, 11))


async def test_a_later_tenant_of_a_name_does_not_see_its_predecessor_s_events(events: Events) -> None:
    for owner in (A, B, A):
        events.emit("kernel.ready", owner)
    events.forget(A)
    assert events.since(0, A, 100) == []
    events.emit("tenant.created", A)

    assert numbers(events.since(0, A, 100)) == [4]
    assert numbers(events.since(0, B, 100)) == [2]


async def test_a_name_may_be_used_and_forgotten_again_and_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "KEPT", 8)
    events = Events(store, store.load().next_event_seq)
    for _ in range(20):
        events.emit("tenant.created", A)
        events.emit("tenant.created", B)
        events.forget(A)
    events.emit("tenant.created", A)

    assert numbers(events.since(0, A, 100)) == [41]
    assert numbers(events.since(0, B, 100)) == [34, 36, 38, 40]


async def test_a_follower_hears_what_was_and_then_what_comes_and_only_what_it_may(events: Events) -> None:
    heard: dict[str, list[int]] = {"everything": [], "a's": []}

    async def follow(name: str, since: int, tenant: TenantId | None) -> None:
        async for event in events.follow(since, tenant):
            heard[name].append(event.seq)

    for owner in (None, A, B):
        events.emit("kernel.ready", owner)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(follow("everything", 1, None))
        tasks.create_task(follow("a's", 0, A))
        await eventually(lambda: heard["everything"] and heard["a's"], "what was")
        for owner in (B, A, None):
            events.emit("kernel.died", owner)
        events.followers.end()

    assert heard == {"everything": [2, 3, 4, 5, 6], "a's": [2, 5]}


async def test_nothing_is_missed_or_doubled_between_what_was_and_what_comes(events: Events) -> None:
    events.emit("kernel.ready")
    events.emit("kernel.ready")
    follower = events.follow(0, None)
    heard = [(await anext(follower)).seq]
    events.emit("kernel.ready")  # while it is still being told what was
    heard += [(await anext(follower)).seq, (await anext(follower)).seq]
    events.emit("kernel.ready")
    events.followers.end()

    assert heard + [event.seq async for event in follower] == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("event_type", "level"),
    [
        ("kernel.ready", logging.DEBUG),
        ("tenant.created", logging.INFO),
        ("kernel.died", logging.WARNING),
        ("kernel.failed", logging.ERROR),
        ("zygote.died", logging.ERROR),
    ],
)
async def test_events_are_in_the_log_by_their_gravity(
    events: Events, event_type: EventType, level: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "llmspell.fleet.events")

    events.emit(event_type, A, KERNEL, {"signal": "SIGKILL", "exit_code": None})

    (record,) = caplog.records
    assert (record.levelno, record.message) == (level, f"{event_type} a {KERNEL} signal=SIGKILL")
