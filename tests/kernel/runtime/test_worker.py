"""The thread that owns Lua: jobs in order, aborted followers, input, and an end."""

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from llmspell_kernel.limits import KernelLimits
from llmspell_kernel.runtime.engine import Engine
from llmspell_kernel.runtime.outbox import Broken, Finished, InputRequest, Item, Outbox, Symbols
from llmspell_kernel.runtime.worker import Execution, TakeSymbols, Worker
from support.lua import DEADLINE_S


class Desk:
    """The I/O thread's side of a worker."""

    def __init__(self) -> None:
        self.woken = threading.Event()
        self.outbox = Outbox(self.woken.set, output_bytes=0)
        self.worker = Worker(Engine(self.outbox, KernelLimits()), self.outbox)
        self.worker.start()
        interrupter = self.worker.engine.interrupter
        interrupter.on_arm = self.outbox.nudge
        self.outbox.interrupted = lambda: interrupter.pending
        self.number = 0
        self.items: list[Item] = []

    def job(self, code: str, **changes: Any) -> Execution:
        self.number += 1
        given = {"epoch": 0, "stop_on_error": True, "may_read": False, "expressions": {}, **changes}
        return Execution(self.number, code.encode(), b"=In[1]", **given)

    def take_until(self, kind: type, count: int = 1) -> list[Any]:
        """Take items until so many of a kind have come; returns those."""
        while sum(isinstance(item, kind) for item in self.items) < count:
            if not self.outbox.has_items:
                # Quiet items wake nobody; the server looks for them every half millisecond.
                self.woken.wait(0.005)
                self.woken.clear()
            self.items += self.outbox.take(100)
        found = [item for item in self.items if isinstance(item, kind)]
        self.items = [item for item in self.items if not isinstance(item, kind)]
        return found

    def run(self, *jobs: Execution) -> list[Finished]:
        self.worker.submit(*jobs)
        return self.take_until(Finished, len(jobs))


@pytest.fixture
def desk() -> Iterator[Desk]:
    desk = Desk()
    yield desk
    desk.worker.engine.interrupter.arm(None, "shutdown")
    assert desk.worker.stop(DEADLINE_S)


def _results(finished: list[Finished]) -> list[Any]:
    return [None if item.outcome is None else item.outcome.result or item.outcome.status for item in finished]


def test_jobs_run_in_order_in_one_state(desk: Desk) -> None:
    finished = desk.run(desk.job("x = 1"), desk.job("x = x + 1"), desk.job("return x"))

    assert [item.number for item in finished] == [1, 2, 3]
    assert _results(finished) == ["ok", "ok", b"2"]


def test_output_stands_before_the_end_of_its_execution(desk: Desk) -> None:
    desk.worker.submit(*(desk.job(f"print({number})") for number in range(50)))
    texts: list[list[bytes]] = [[]]
    ends = 0
    while ends < 50:
        for item in desk.outbox.take(7):
            if isinstance(item, Finished):
                texts.append([])
                ends += 1
            else:
                assert isinstance(item, bytes)
                texts[-1].append(item)
        desk.woken.wait(0.001)

    assert texts[:-1] == [[b"%d\n" % number] for number in range(50)]


def test_a_failure_aborts_those_handed_over_with_it(desk: Desk) -> None:
    finished = desk.run(
        desk.job("error('x')"),
        desk.job("ran = 1"),
        desk.job("ran = 2"),
        desk.job("return ran", epoch=1),
    )

    assert _results(finished) == ["error", None, None, b"nil"]


def test_a_failure_without_stop_on_error_aborts_nobody(desk: Desk) -> None:
    finished = desk.run(desk.job("error('x')", stop_on_error=False), desk.job("return 1"))

    assert _results(finished) == ["error", b"1"]


def test_an_aborted_one_does_not_abort_the_next_epoch(desk: Desk) -> None:
    finished = desk.run(
        desk.job("error('a')"), desk.job("x = 1"), desk.job("error('b')", epoch=1), desk.job("x = 1", epoch=1),
        desk.job("return x", epoch=2),
    )  # fmt: skip

    assert _results(finished) == ["error", None, "error", None, b"nil"]


def test_expressions_are_evaluated_after_a_success_only(desk: Desk) -> None:
    wanted = {"good": "1 + 1", "bad": "missing.field"}
    first, second = desk.run(
        desk.job("x = 1", expressions=wanted), desk.job("error('x')", expressions=wanted, stop_on_error=False)
    )

    assert first.expressions == {
        "good": (True, b'{"text/plain":"2"}'),
        "bad": (False, b"expression:1: attempt to index a nil value (global 'missing')"),
    }
    assert second.expressions is None


def test_symbols_are_taken_between_jobs(desk: Desk) -> None:
    desk.worker.submit(desk.job("marker = 1"), TakeSymbols(), desk.job("later = 1"))
    symbols = desk.take_until(Symbols)[0]
    desk.take_until(Finished, 2)

    names = {row.split(b"\0")[0] for row in symbols.rows}
    assert b"marker" in names
    assert b"later" not in names


def test_an_interrupt_stops_the_job_that_runs(desk: Desk) -> None:
    job = desk.job("print('on') while true do end")
    desk.worker.submit(job)
    desk.take_until(bytes)

    assert desk.worker.engine.interrupter.arm(job.number, "interrupt")
    finished = desk.take_until(Finished)

    assert _results(finished) == ["interrupted"]


def test_input_is_asked_for_and_not_kept_for_the_next(desk: Desk) -> None:
    desk.worker.submit(desk.job("return io.read(1)", may_read=True))
    desk.take_until(InputRequest)
    desk.outbox.answer(b"first line")
    first = desk.take_until(Finished)
    desk.worker.submit(desk.job("return io.read()", may_read=True))
    desk.take_until(InputRequest)
    desk.outbox.answer(None)
    second = desk.take_until(Finished)
    desk.worker.submit(desk.job("return io.read()", may_read=True))
    desk.take_until(InputRequest)
    desk.outbox.answer(b"third line")

    assert _results(first + second + desk.take_until(Finished)) == [b"f", b"nil", b"third line"]


def test_one_who_may_not_ask_gets_an_error(desk: Desk) -> None:
    finished = desk.run(desk.job("return io.read()"))

    assert finished[0].outcome is not None
    assert finished[0].outcome.error is not None
    assert "does not answer requests for input" in finished[0].outcome.error.message


def test_a_burst_of_short_jobs_is_finished_and_so_is_the_one_before_a_long_one(desk: Desk) -> None:
    jobs = [desk.job("x = 1") for _ in range(500)]
    long = desk.job("print('long') while true do end")
    desk.worker.submit(*jobs, long)

    assert len(desk.take_until(Finished, 500)) == 500
    desk.worker.engine.interrupter.arm(long.number, "interrupt")
    assert _results(desk.take_until(Finished)) == ["interrupted"]


def test_jobs_from_another_thread_wake_it(desk: Desk) -> None:
    for _ in range(200):
        assert _results(desk.run(desk.job("return 1"))) == [b"1"]


def test_stop_drops_what_waits_and_says_when_a_job_goes_on() -> None:
    desk = Desk()
    job = desk.job("print('on') while true do end")
    desk.worker.submit(job, desk.job("x = 1"))
    desk.take_until(bytes)

    assert not desk.worker.stop(0.05)
    desk.worker.engine.interrupter.arm(job.number, "shutdown")
    assert desk.worker.stop(DEADLINE_S)

    assert _results(desk.take_until(Finished)) == ["interrupted"]
    assert not desk.outbox.has_items


@pytest.mark.parametrize(("fault", "is_memory"), [(MemoryError(), True), (ValueError("ours"), False)])
def test_a_fault_of_ours_is_told_and_ends_the_thread(fault: Exception, is_memory: bool, desk: Desk) -> None:
    def fail(*_arguments: object) -> None:
        raise fault

    desk.worker.engine.execute = fail  # type: ignore[method-assign,assignment]
    desk.worker.submit(desk.job("return 1"))

    (broken,) = desk.take_until(Broken)
    assert (broken.is_memory, "Traceback" in broken.text) == (is_memory, not is_memory)
