"""Those who follow a stream: each hears everything in order, within bounds, until the end."""

import asyncio
from collections.abc import AsyncIterator
from typing import TypeVar

import pytest

from llmspell_fleet.controller.followers import MOST_WAITING, Followers

T = TypeVar("T")

pytestmark = pytest.mark.asyncio


async def next_of(items: AsyncIterator[T]) -> T:
    return await anext(items)


async def test_each_follower_hears_what_is_told_from_when_it_began() -> None:
    followers: Followers[int] = Followers()
    followers.tell(0)
    with followers.follow() as one:
        followers.tell(1)
        with followers.follow() as other:
            followers.tell(2)
            followers.end()

            assert [item async for item in one] == [1, 2]
            assert [item async for item in other] == [2]


async def test_who_waits_is_woken() -> None:
    followers: Followers[str] = Followers()
    with followers.follow() as items:
        async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(next_of(items))
            await asyncio.sleep(0)
            followers.tell("news")

        assert waiting.result() == "news"


async def test_a_slow_follower_loses_the_oldest_and_costs_the_others_nothing() -> None:
    followers: Followers[int] = Followers()
    with followers.follow() as slow, followers.follow() as prompt:
        heard = []
        for number in range(MOST_WAITING + 10):
            followers.tell(number)
            heard.append(await anext(prompt))
        followers.end()

        assert heard == list(range(MOST_WAITING + 10))
        assert [item async for item in slow] == list(range(10, MOST_WAITING + 10))


async def test_who_has_left_is_told_nothing() -> None:
    followers: Followers[int] = Followers()
    with followers.follow():
        assert len(followers._queues) == 1
    with pytest.raises(RuntimeError, match="broken"), followers.follow():
        raise RuntimeError("broken")

    assert not followers._queues
    followers.tell(1)


async def test_the_end_comes_after_what_was_told_and_wakes_who_waits() -> None:
    followers: Followers[int] = Followers()
    with followers.follow() as items:

        async def all_of_them() -> list[int]:
            return [item async for item in items]

        async with asyncio.timeout(10), asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(all_of_them())
            await asyncio.sleep(0)
            followers.tell(1)
            followers.end()

        assert waiting.result() == [1]


async def test_who_begins_to_follow_after_the_end_does_not_wait_for_ever() -> None:
    followers: Followers[int] = Followers()
    followers.end()

    async with asyncio.timeout(10):
        with followers.follow() as items:
            assert [item async for item in items] == []
