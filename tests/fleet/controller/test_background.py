"""Work that nobody waits for: kept until it ends, told when it fails, ended with its owner."""

import asyncio
import logging

import pytest

from llmspell_fleet.controller.background import Background

pytestmark = pytest.mark.asyncio


async def test_what_has_no_end_is_begun_again_when_it_fails(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("llmspell_fleet.controller.background.AGAIN_S", 0.0)
    background = Background()
    begun: list[int] = []
    goes_on = asyncio.Event()

    async def work() -> None:
        begun.append(len(begun))
        if len(begun) < 3:
            raise ValueError("broken")
        goes_on.set()
        await asyncio.Event().wait()

    background.keep(work)
    await asyncio.wait_for(goes_on.wait(), 10)
    await background.close()

    assert begun == [0, 1, 2]
    assert [record.message for record in caplog.records] == ["background work failed, and is begun again"] * 2


async def test_what_it_comes_to_is_its_task_s() -> None:
    background = Background()

    async def work() -> str:
        return "done"

    assert await background.run(work()) == "done"
    await background.close()


async def test_a_failure_is_logged_with_where_it_came_from(caplog: pytest.LogCaptureFixture) -> None:
    background = Background()

    async def work() -> None:
        raise ValueError("broken")

    task = background.run(work())
    await asyncio.wait([task])
    await asyncio.sleep(0)  # its done callbacks come after the waiter's

    (record,) = caplog.records
    assert (record.levelno, record.message) == (logging.ERROR, "background work failed")
    assert record.exc_info is not None
    assert str(record.exc_info[1]) == "broken"
    await background.close()


async def test_closing_ends_what_is_left_and_waits_for_it(caplog: pytest.LogCaptureFixture) -> None:
    background = Background()
    begun, ended = asyncio.Event(), []

    async def work() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append("tidied up")

    task = background.run(work())
    await begun.wait()
    await background.close()

    assert task.cancelled()
    assert ended == ["tidied up"]
    assert not caplog.records


async def test_what_fails_at_its_end_does_not_hinder_the_rest(caplog: pytest.LogCaptureFixture) -> None:
    background = Background()
    ended = []

    async def failing() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("at the end")

    async def tidy() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("tidied up")

    background.run(failing())
    background.run(tidy())
    await asyncio.sleep(0)
    await background.close()

    assert ended == ["tidied up"]
    assert [record.message for record in caplog.records] == ["background work failed"]


async def test_what_has_ended_is_not_kept() -> None:
    background = Background()

    async def work() -> None:
        return

    await asyncio.gather(*(background.run(work()) for _ in range(10)))
    await asyncio.sleep(0)

    assert not background._tasks
    await background.close()
