"""Executions whose output is sent as it comes: bounded for slow readers, and not ended by those who leave."""

import asyncio
import json
from collections.abc import AsyncIterator

import pytest

from llmspell_fleet.controller.pools.tenant import Tenant
from llmspell_fleet.controller.work import streaming
from llmspell_fleet.controller.work.streaming import _Pieces
from llmspell_fleet.errors import TooManyError, UnavailableError
from support.controllers import SPIN, Site, Start, begun, kill, only, request
from support.spawning import eventually

pytestmark = pytest.mark.asyncio

Piece = tuple[str, bytes]


def text_of(text: str, name: str = "stdout") -> bytes:
    """As a kernel sends it."""
    return json.dumps({"name": name, "text": text}).encode()


async def first_of(pieces: AsyncIterator[Piece]) -> Piece:
    return await anext(pieces)


async def all_of(pieces: AsyncIterator[Piece]) -> list[tuple[str, object]]:
    return [(event, json.loads(data)) async for event, data in pieces]


# --- what waits to be sent


async def test_output_and_displays_stay_in_order() -> None:
    pieces = _Pieces()
    pieces.put("output", text_of("one"))
    pieces.put("display", b'{"text/html":"<b>","text/plain":"b"}')
    pieces.put("output", text_of("two", "stderr"))
    pieces.end()

    assert await all_of(pieces.all()) == [
        ("output", {"name": "stdout", "text": "one"}),
        ("display", {"text/html": "<b>", "text/plain": "b"}),
        ("output", {"name": "stderr", "text": "two"}),
    ]


async def test_a_reader_who_waits_is_woken_by_output_and_by_the_end() -> None:
    pieces = _Pieces()
    reader = pieces.all()
    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        first = tasks.create_task(first_of(reader))
        await asyncio.sleep(0)
        pieces.put("output", text_of("one"))
    assert first.result() == ("output", text_of("one"))

    async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
        rest = tasks.create_task(all_of(reader))
        await asyncio.sleep(0)
        pieces.end()
    assert rest.result() == []


async def test_what_a_slow_reader_does_not_take_is_lost_and_it_is_told_how_much(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(streaming, "MOST_WAITING_BYTES", 100)
    pieces = _Pieces()
    content = text_of("x" * 30)
    taken = 100 // len(content) + 1
    for _ in range(taken + 5):
        pieces.put("output", content)
    pieces.end()

    found = await all_of(pieces.all())

    assert found[:-1] == [("output", json.loads(content))] * taken
    said = f"[llmspell: {5 * len(content)} bytes of output were not delivered: they were not read in time]\n"
    assert found[-1] == ("output", {"name": "stderr", "text": said})


async def test_a_reader_who_catches_up_loses_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "MOST_WAITING_BYTES", 100)
    pieces = _Pieces()
    reader = pieces.all()
    for number in range(10):
        for _ in range(3):
            pieces.put("output", text_of(f"{number}"))
        for _ in range(3):
            assert (await anext(reader)) == ("output", text_of(f"{number}"))
    pieces.end()

    assert await all_of(reader) == []


async def test_one_piece_may_be_larger_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "MOST_WAITING_BYTES", 10)
    pieces = _Pieces()
    pieces.put("output", text_of("x" * 1000))
    pieces.end()

    assert await all_of(pieces.all()) == [("output", {"name": "stdout", "text": "x" * 1000})]


# --- executions


def stream(site: Site, tenant: Tenant, code: str, **members: object) -> AsyncIterator[Piece]:
    return site.controller.service.execute_stream(tenant.id, request(code, **members))


@pytest.mark.integration
async def test_output_comes_before_the_result_and_is_not_repeated_in_it(controller: Start) -> None:
    async with controller() as site:
        tenant = await site.tenant()

        found = await all_of(stream(site, tenant, "print('one') display{html='<b>'} return 2"))

        assert [event for event, _ in found] == ["output", "display", "result"]
        assert found[0][1] == {"name": "stdout", "text": "one\n"}
        result = found[-1][1]
        assert isinstance(result, dict)
        assert (result["status"], result["result"], result["stdout"]) == ("ok", "2", "")
        assert tenant.executions == 0


@pytest.mark.integration
async def test_an_execution_goes_on_when_its_reader_leaves(controller: Start) -> None:
    async with controller() as site:
        tenant = await site.tenant()
        pieces = stream(site, tenant, "print('begun') for i = 1, 2e7 do end ran = true")
        assert (await anext(pieces))[0] == "output"
        assert hasattr(pieces, "aclose")
        await pieces.aclose()
        assert tenant.executions == 1

        assert (await site.execute(tenant, "return tostring(ran)"))["result"] == "true"
        await eventually(lambda: not tenant.executions, "its place is given back")


@pytest.mark.integration
async def test_what_is_refused_or_has_no_kernel_is_raised_before_the_first_piece(controller: Start) -> None:
    async with controller() as site:
        tenant = await site.tenant(replicas=0, limits={"max_executions": 1})
        with pytest.raises(UnavailableError, match="tenant t has no kernel"):
            await all_of(stream(site, tenant, "return 1", timeout_s=0.05))
        assert tenant.executions == 0

        tenant.executions = 1
        with pytest.raises(TooManyError):
            await all_of(stream(site, tenant, "return 1"))
        assert tenant.executions == 1


@pytest.mark.integration
async def test_a_death_after_the_first_piece_is_a_problem_at_the_end(controller: Start) -> None:
    async with controller() as site:
        tenant = await site.tenant()
        pieces = stream(site, tenant, f"print('begun') {SPIN}")
        assert (await anext(pieces))[0] == "output"
        kill(only(tenant))

        ((event, problem),) = await all_of(pieces)

        assert event == "problem"
        assert isinstance(problem, dict)
        assert (problem["status"], problem["death"]["signal"]) == (502, "SIGKILL")
        assert tenant.executions == 0


@pytest.mark.integration
async def test_the_time_of_a_stream_is_held_too(controller: Start) -> None:
    async with controller() as site:
        tenant = await site.tenant()
        running = site.controller.background.run(all_of(stream(site, tenant, SPIN, timeout_s=0.3)))
        await begun(only(tenant))

        ((event, result),) = await running

        assert event == "result"
        assert isinstance(result, dict)
        assert result["status"] == "timeout"
