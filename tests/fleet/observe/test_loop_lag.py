"""Lag is what a timer comes too late by."""

import asyncio
import time

import pytest
import uvloop

from llmspell_fleet.observe.loop_lag import LoopLag

HELD_S = 0.2


async def _first_lag(*, held_s: float) -> float:
    reported: asyncio.Future[float] = asyncio.get_running_loop().create_future()

    def report(lag_s: float) -> None:
        if not reported.done():
            reported.set_result(lag_s)

    lag = LoopLag(report, interval_s=0.01)
    lag.start()
    if held_s:
        held_until = time.monotonic() + held_s
        while time.monotonic() < held_until:
            pass
    try:
        return await asyncio.wait_for(reported, 20)
    finally:
        lag.stop()


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_loop_that_is_held_is_late_by_as_much(new_loop: type[asyncio.AbstractEventLoop]) -> None:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        assert runner.run(_first_lag(held_s=HELD_S)) >= HELD_S * 0.9


@pytest.mark.parametrize("new_loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_a_free_loop_reports_lag_that_is_never_negative(new_loop: type[asyncio.AbstractEventLoop]) -> None:
    with asyncio.Runner(loop_factory=new_loop) as runner:
        assert runner.run(_first_lag(held_s=0)) >= 0


@pytest.mark.asyncio
async def test_it_reports_again_and_again_until_it_is_stopped() -> None:
    enough = asyncio.Event()
    reports: list[float] = []

    def report(lag_s: float) -> None:
        reports.append(lag_s)
        if len(reports) == 5:
            enough.set()

    lag = LoopLag(report, interval_s=0.001)
    lag.start()
    await asyncio.wait_for(enough.wait(), 20)
    next_one = lag._timer
    lag.stop()

    assert next_one is not None
    assert next_one.cancelled()


@pytest.mark.asyncio
async def test_stopping_twice_or_before_the_start_is_allowed() -> None:
    lag = LoopLag(lambda lag_s: None)

    lag.stop()
    lag.start()
    lag.stop()
    lag.stop()
