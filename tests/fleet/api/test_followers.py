"""What waits for a slow reader: bounded, in order, and nothing is lost unsaid."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmspell_fleet.api.followers import Backlog, Followers
from llmspell_fleet.errors import NotFoundError, UnavailableError


@given(st.lists(st.one_of(st.none(), st.integers(1, 9)), max_size=60))
def test_what_is_taken_and_what_is_said_to_be_missed_is_what_was_put(steps: list[int | None]) -> None:
    """None = take; a number = put an item of that length."""

    async def run() -> tuple[list[bytes], int]:
        backlog = Backlog(lambda missed: b"[%d]" % missed, limit_bytes=20)
        taken, put = [], 0
        for step in [*steps, 1, None]:
            if step is None:
                taken.append(await backlog.take(0))
            else:
                await backlog.put(b"(" + b"x" * step)
                put += 1
        return taken, put

    taken, put = asyncio.run(run())

    missed = sum(int(piece[1 : piece.index(b"]")]) for piece in taken if piece.startswith(b"["))
    assert b"".join(taken).count(b"(") + missed == put
    assert all(len(piece.partition(b"]")[2] or piece) <= 20 for piece in taken)


def test_without_a_gap_the_source_waits() -> None:
    async def run() -> None:
        backlog = Backlog(None, limit_bytes=2)
        await backlog.put(b"ab")
        async with asyncio.TaskGroup() as group:
            putting = group.create_task(backlog.put(b"c"))
            await asyncio.sleep(0)
            assert not putting.done()
            assert await backlog.take(1) == b"ab"
            assert await backlog.take(1) == b"c"

    asyncio.run(run())


def test_what_was_put_before_the_end_is_taken_after_it() -> None:
    async def run() -> None:
        backlog = Backlog(None)
        await backlog.put(b"a")
        backlog.end(NotFoundError("first"))
        backlog.end(NotFoundError("second"))
        assert not backlog.has_ended()
        assert await backlog.take(0) == b"a"
        assert backlog.has_ended()
        assert str(backlog.failure()) == "first"

    asyncio.run(run())


def test_nobody_follows_a_server_that_closes() -> None:
    async def run() -> None:
        followers = Followers(1)
        backlog = Backlog(None)
        with followers.admitted(backlog):
            with pytest.raises(UnavailableError, match="1 clients"), followers.admitted(Backlog(None)):
                pass
            followers.close()
            assert backlog.has_ended()
        with pytest.raises(UnavailableError, match="closing"), followers.admitted(Backlog(None)):
            pass

    asyncio.run(run())
