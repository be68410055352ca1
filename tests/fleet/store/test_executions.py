"""One request with an Idempotency-Key, however often it is sent, is run once and has one outcome."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import uuid4

import pytest

from llmspell_fleet.errors import BadRequestError, ConflictError, NotFoundError
from llmspell_fleet.model.ids import KernelId, TenantId
from llmspell_fleet.model.tenant import TenantSpec
from llmspell_fleet.store import database
from llmspell_fleet.store.records import Begun, Execution, Finished, Placed, TenantRecord
from llmspell_fleet.store.store import Store

A, B = TenantId("a"), TenantId("b")
BODY, OTHER_BODY = "a" * 64, "b" * 64


def at(age: timedelta = timedelta()) -> str:
    return (datetime.now(UTC) - age).isoformat(timespec="microseconds").replace("+00:00", "Z")


def asked(
    key: str | None, *, tenant: TenantId = A, body: str = BODY, age: timedelta = timedelta(), execution_id: str = ""
) -> Execution:
    return Execution(id=execution_id or str(uuid4()), tenant=tenant, key=key, sha256=body, created_at=at(age))


def outcome(execution_id: str, body: bytes = b"{}") -> Finished:
    return Finished(id=execution_id, status="done", http_status=200, outcome=body, finished_at=at())


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[Store]:
    store = Store.open(str(path))
    try:
        yield store
    finally:
        store.close()


@pytest.mark.asyncio
async def test_of_100_concurrent_requests_with_one_key_one_begins(store: Store) -> None:
    answers = await asyncio.gather(*(store.begin_execution(asked("k")) for _ in range(100)))

    (begun,) = [answer for answer in answers if isinstance(answer, Begun)]
    others = [answer for answer in answers if isinstance(answer, Execution)]
    assert len(others) == 99
    assert {other.id for other in others} == {begun.id}
    assert {other.status for other in others} == {"pending"}


@pytest.mark.asyncio
async def test_of_many_requests_with_many_keys_in_many_commits_one_of_each_begins(store: Store) -> None:
    async def ask(key: str) -> tuple[str, bool]:
        for _ in range(int(key) % 5):
            await asyncio.sleep(0)
        return key, isinstance(await store.begin_execution(asked(key)), Begun)

    answers = await asyncio.gather(*(ask(str(number % 40)) for number in range(1000)))

    begun = Counter(key for key, is_begun in answers if is_begun)
    assert begun == dict.fromkeys(map(str, range(40)), 1)


@pytest.mark.asyncio
async def test_a_repeated_request_gets_the_recorded_outcome_in_the_next_life_too(path: Path) -> None:
    first = asked("k")
    async with opened(path) as store:
        assert await store.begin_execution(first) == Begun(first.id)
        store.finish_execution(done := outcome(first.id, b'{"result": "2"}'))
        replayed = await store.begin_execution(asked("k"))
        assert isinstance(replayed, Execution)
        assert (replayed.id, replayed.status, replayed.outcome) == (first.id, "done", b'{"result": "2"}')
    async with opened(path) as store:
        assert await store.begin_execution(asked("k")) == replayed
        assert await store.execution(A, first.id) == replayed
        assert replayed.finished_at == done.finished_at


@pytest.mark.asyncio
@pytest.mark.parametrize("is_same_commit", [True, False])
async def test_a_key_with_another_body_is_a_conflict(store: Store, is_same_commit: bool) -> None:
    if is_same_commit:
        answers = await asyncio.gather(
            store.begin_execution(asked("k")),
            store.begin_execution(asked("k", body=OTHER_BODY)),
            return_exceptions=True,
        )
        conflict = answers[1]
    else:
        await store.begin_execution(asked("k"))
        with pytest.raises(ConflictError) as raised:
            await store.begin_execution(asked("k", body=OTHER_BODY))
        conflict = raised.value

    assert isinstance(conflict, ConflictError)
    assert "the Idempotency-Key 'k' came with another request at 2" in str(conflict)


@pytest.mark.asyncio
async def test_keys_are_a_tenant_s_own_and_executions_without_one_never_meet(store: Store) -> None:
    requests = [asked("k"), asked("k", tenant=B), asked(None), asked(None), asked("K"), asked("k ")]

    answers = [await store.begin_execution(request) for request in requests]

    assert answers == [Begun(request.id) for request in requests]


@pytest.mark.asyncio
async def test_another_tenant_s_execution_is_not_there(store: Store) -> None:
    first = asked("k")
    await store.begin_execution(first)

    assert await store.execution(A, first.id) == first
    assert await store.execution(B, first.id) is None
    assert await store.execution(A, "no such") is None


@pytest.mark.asyncio
async def test_the_first_outcome_is_the_outcome(store: Store) -> None:
    first = asked("k")
    await store.begin_execution(first)
    store.finish_execution(outcome(first.id, b"1"))
    store.finish_execution(outcome(first.id, b"2"))
    await store.flush()
    store.finish_execution(outcome(first.id, b"3"))

    found = await store.execution(A, first.id)
    assert found is not None
    assert found.outcome == b"1"


@pytest.mark.asyncio
async def test_what_a_dead_controller_left_is_listed_and_still_begun(path: Path) -> None:
    requests = [asked(f"k{number}", age=timedelta(hours=30 - number)) for number in range(3)]
    async with opened(path) as store:
        for request in requests:
            await store.begin_execution(request)
        store.finish_execution(outcome(requests[1].id))
    async with opened(path) as store:
        assert store.pending_executions() == [requests[0], requests[2]]
        assert await store.begin_execution(asked("k0")) == requests[0]
        store.finish_execution(outcome(requests[0].id))
        await store.flush()
        assert store.pending_executions() == [requests[2]]


@pytest.mark.asyncio
async def test_who_was_cancelled_while_it_began_can_still_say_what_became_of_it(store: Store) -> None:
    first = asked("k")
    beginning = asyncio.ensure_future(store.begin_execution(first))
    await asyncio.sleep(0)
    beginning.cancel()
    store.finish_execution(outcome(first.id, b"cancelled"))

    again = await store.begin_execution(asked("k"))
    assert isinstance(again, Execution)
    assert again.outcome == b"cancelled"
    assert beginning.cancelled()


@pytest.mark.asyncio
async def test_a_tenant_s_executions_go_with_it_and_those_that_were_beginning_too(store: Store) -> None:
    store.save_tenant(TenantRecord(spec=TenantSpec(id=A), created_at=at()))
    first = asked("k")
    await store.begin_execution(first)
    beginning = asyncio.ensure_future(store.begin_execution(asked("k2")))
    await asyncio.sleep(0)
    store.delete_tenant(A)
    store.save_tenant(TenantRecord(spec=TenantSpec(id=A), created_at=at()))

    with pytest.raises(NotFoundError, match="tenant a was deleted"):
        await beginning
    assert await store.execution(A, first.id) is None
    assert isinstance(await store.begin_execution(asked("k2")), Begun)


@pytest.mark.asyncio
async def test_a_key_that_is_not_text_is_refused_and_harms_nobody(store: Store) -> None:
    good, bad = await asyncio.gather(
        store.begin_execution(asked("k")), store.begin_execution(asked("\udcff")), return_exceptions=True
    )

    assert isinstance(good, Begun)
    assert isinstance(bad, BadRequestError)


@pytest.mark.asyncio
@pytest.mark.parametrize("key", ["nul \x00 within", "x" * 100_000, "é日本", "'; DROP TABLE executions; --", ""])
async def test_any_text_is_a_key(store: Store, key: str) -> None:
    first = asked(key)

    assert await store.begin_execution(first) == Begun(first.id)
    assert await store.begin_execution(asked(key)) == first
    assert isinstance(await store.begin_execution(asked(f"{key}!")), Begun)


# --- pruning


@pytest.mark.asyncio
async def test_after_a_day_an_outcome_goes_and_what_still_runs_stays(path: Path) -> None:
    old, running, young = asked("old", age=timedelta(hours=25)), asked("running", age=timedelta(hours=25)), asked("young", age=timedelta(hours=23))  # fmt: skip
    async with opened(path) as store:
        for request in (old, running, young):
            await store.begin_execution(request)
        store.finish_execution(outcome(old.id))
        store.finish_execution(outcome(young.id))
    async with opened(path) as store:
        assert isinstance(await store.begin_execution(asked("another")), Begun)

        assert await store.execution(A, old.id) is None
        assert await store.execution(A, running.id) == running
        assert await store.execution(A, young.id) is not None
        assert isinstance(await store.begin_execution(asked("old")), Begun)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("case", "bound", "value"), [("count", "MAX_EXECUTIONS", 20), ("size", "MAX_OUTCOMES_BYTES", 20 * 1000)]
)
async def test_beyond_the_bounds_the_oldest_go(
    path: Path, monkeypatch: pytest.MonkeyPatch, case: str, bound: str, value: int
) -> None:
    monkeypatch.setattr(database, bound, value)
    requests = [asked(f"k{number}", age=timedelta(minutes=100 - number)) for number in range(50)]
    async with opened(path) as store:
        running = asked("running", age=timedelta(hours=3))
        await store.begin_execution(running)
        for request in requests:
            await store.begin_execution(request)
            store.finish_execution(outcome(request.id, b"x" * 1000))
            await store.flush()
        kept = [request for request in requests if await store.execution(A, request.id)]

        assert 18 <= len(kept) <= 20
        assert kept == requests[-len(kept) :]
        assert await store.execution(A, running.id) == running


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("case", "bound", "value"), [("count", "MAX_EXECUTIONS", 20), ("size", "MAX_OUTCOMES_BYTES", 20 * 1000)]
)
async def test_a_tenant_that_floods_pushes_out_nobody_elses(
    path: Path, monkeypatch: pytest.MonkeyPatch, case: str, bound: str, value: int
) -> None:
    monkeypatch.setattr(database, bound, value)
    others = [asked(f"k{number}", tenant=B, age=timedelta(hours=2)) for number in range(5)]
    async with opened(path) as store:
        for request in (*others, *(asked(f"k{number}") for number in range(50))):
            await store.begin_execution(request)
            store.finish_execution(outcome(request.id, b"x" * 1000))
            await store.flush()

        assert all([await store.execution(B, request.id) for request in others]), case


@pytest.mark.asyncio
async def test_an_outcome_beyond_all_bounds_pushes_out_itself(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "MAX_OUTCOMES_BYTES", 20_000)
    other, giant = asked("k", tenant=B, age=timedelta(hours=2)), asked("k")
    async with opened(path) as store:
        for request, size in ((other, 1000), (giant, 100_000)):
            await store.begin_execution(request)
            store.finish_execution(outcome(request.id, b"x" * size))
            await store.flush()

        assert await store.execution(B, other.id) is not None
        assert await store.execution(A, giant.id) is None


@pytest.mark.asyncio
async def test_the_bounds_are_counted_from_what_was_there_before(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = [asked(f"k{number}", age=timedelta(minutes=100 - number)) for number in range(50)]
    async with opened(path) as store:
        for request in requests:
            await store.begin_execution(request)
            store.finish_execution(outcome(request.id))
    monkeypatch.setattr(database, "MAX_EXECUTIONS", 20)
    async with opened(path) as store:
        await store.begin_execution(asked("one more"))
        kept = [request for request in requests if await store.execution(A, request.id)]

    assert kept == requests[-len(kept) :]
    assert len(kept) in (18, 19)


@pytest.mark.asyncio
async def test_where_one_was_sent_last_is_known_to_the_next_controller(tmp_path: Path) -> None:
    path = tmp_path / "fleet.db"
    execution, unsent = asked("k"), asked(None)
    async with opened(path) as store:
        for one in (execution, unsent):
            assert isinstance(await store.begin_execution(one), Begun)
        for incarnation in (1, 2):
            store.place_execution(placed := placed_at(execution, incarnation))
        await store.flush()
    async with opened(path) as store:
        assert {one.id: one.placed for one in store.pending_executions()} == {execution.id: placed, unsent.id: None}


def placed_at(execution: Execution, incarnation: int) -> Placed:
    return Placed(id=execution.id, kernel_id=KernelId("k"), incarnation=incarnation, after_ticket=2**40, head=b"{")


@pytest.mark.asyncio
async def test_a_key_that_is_abandoned_and_asked_for_in_one_batch_begins_anew(store: Store) -> None:
    first, second = asked("k"), asked("k")
    assert isinstance(await store.begin_execution(first), Begun)
    store.abandon_execution(first.id)

    assert await store.begin_execution(second) == Begun(second.id)

    assert [one.id for one in store.pending_executions()] == [second.id]
