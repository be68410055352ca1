"""The one way from the Lua thread to the I/O thread: order, waking, pace, limits, answers."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from llmspell_kernel.runtime.engine import Outcome
from llmspell_kernel.runtime.outbox import (
    FLUSH_BYTES,
    PENDING_BYTES,
    Finished,
    Flush,
    InputRequest,
    Item,
    Outbox,
    Publication,
    StderrText,
)
from support.lua import DEADLINE_S


@dataclass(slots=True)
class Reader:
    """The I/O thread's side: counts how often it was woken."""

    woken: int = 0
    interrupting: bool = False
    stopped: int = 0
    threads: list[threading.Thread] = field(default_factory=list)

    def wake(self) -> None:
        self.woken += 1

    def outbox(self, *, output_bytes: int = 0) -> Outbox:
        outbox = Outbox(self.wake, output_bytes=output_bytes)
        outbox.interrupted = lambda: self.interrupting
        outbox.stop_for_output = self.stop
        outbox.begin(may_read=True)
        return outbox

    def stop(self) -> None:
        self.stopped += 1

    def run(self, writer: Callable[[], object]) -> threading.Thread:
        thread = threading.Thread(target=writer, daemon=True)
        thread.start()
        self.threads.append(thread)
        return thread


@pytest.fixture
def reader() -> Reader:
    return Reader()


def _until(condition: Callable[[], bool], what: str) -> None:
    end = time.monotonic() + DEADLINE_S
    turn = threading.Event()
    while not condition():
        assert time.monotonic() < end, what
        turn.wait(0.001)


def test_items_come_out_in_the_order_they_went_in(reader: Reader) -> None:
    outbox = reader.outbox()
    outbox.write(1, b"a")
    outbox.write(2, b"b")
    outbox.publish(b"display_data", b"{}", b"id")
    outbox.flush()
    outbox.write(1, b"c")
    outbox.post_quietly(Finished(1, Outcome("ok")))

    expected: list[Item] = [
        b"a",
        StderrText(b"b"),
        Publication("display_data", b"{}", b"id"),
        Flush(),
        b"c",
        Finished(1, Outcome("ok")),
    ]
    assert outbox.has_items
    assert outbox.take(4) + outbox.take(100) == expected
    assert not outbox.has_items
    assert outbox.take(10) == []


def test_a_little_text_wakes_once_and_is_not_urgent(reader: Reader) -> None:
    outbox = reader.outbox()
    for _ in range(100):
        outbox.write(1, b"line\n")

    assert (reader.woken, outbox.awake, outbox.urgent) == (1, True, False)
    outbox.take(1000)
    assert (outbox.awake, outbox.urgent) == (False, False)
    outbox.write(1, b"again")
    assert reader.woken == 2


def test_much_text_is_urgent(reader: Reader) -> None:
    outbox = reader.outbox()
    outbox.write(1, b"x" * (FLUSH_BYTES // 2))
    assert not outbox.urgent
    outbox.write(1, b"x" * (FLUSH_BYTES // 2))

    assert (outbox.urgent, reader.woken) == (True, 2)


@pytest.mark.parametrize(
    "act",
    [
        lambda outbox: outbox.flush(),
        lambda outbox: outbox.publish(b"display_data", b"{}", None),
        lambda outbox: outbox.post(Finished(1, None)),
    ],
)
def test_what_somebody_waits_for_is_urgent(reader: Reader, act: Callable[[Outbox], None]) -> None:
    outbox = reader.outbox()
    act(outbox)

    assert (outbox.urgent, reader.woken) == (True, 1)


def test_a_quiet_item_wakes_nobody(reader: Reader) -> None:
    outbox = reader.outbox()
    outbox.post_quietly(Finished(1, None))

    assert (outbox.urgent, outbox.awake, outbox.has_items, reader.woken) == (False, False, True, 0)


def test_what_is_left_after_a_part_was_taken_stays_urgent(reader: Reader) -> None:
    outbox = reader.outbox()
    for number in range(5):
        outbox.post(Finished(number, None))
    outbox.take(3)

    assert outbox.urgent
    outbox.take(3)
    assert not outbox.urgent


@pytest.mark.parametrize("kind", ["stdout", "stderr", "display"])
def test_a_writer_waits_until_enough_was_taken(reader: Reader, kind: str) -> None:
    outbox = reader.outbox()
    chunk, done = b"x" * (256 * 1024), 0

    def flood() -> None:
        nonlocal done
        for _ in range(40):
            if kind == "display":
                outbox.publish(b"display_data", chunk, None)
            else:
                outbox.write(1 if kind == "stdout" else 2, chunk)
            done += 1

    thread = reader.run(flood)
    _until(lambda: done >= PENDING_BYTES // len(chunk) // 2, "the writer does not write")
    thread.join(0.05)
    held_at = done
    while thread.is_alive():
        outbox.take(1)
        thread.join(0.001)

    assert held_at <= PENDING_BYTES // len(chunk) + 1
    assert done == 40


def test_an_interrupt_frees_a_writer_that_waits(reader: Reader) -> None:
    outbox = reader.outbox()
    thread = reader.run(lambda: outbox.write(1, b"x" * (2 * PENDING_BYTES)))
    _until(lambda: outbox.has_items, "the writer does not write")

    reader.interrupting = True
    outbox.nudge()
    thread.join(DEADLINE_S)

    assert not thread.is_alive()


@pytest.mark.parametrize("kind", ["streams in turn", "small displays"])
def test_many_small_messages_hold_a_writer_back_too(reader: Reader, kind: str) -> None:
    """Each becomes a message of its own, which costs far more than its text."""
    outbox = reader.outbox()
    done = 0

    def flood() -> None:
        nonlocal done
        for number in range(5000):
            if kind == "small displays":
                outbox.publish(b"display_data", b"{}", None)
            else:
                outbox.write(1 + number % 2, b"x")
            done += 1

    thread = reader.run(flood)
    _until(lambda: done >= 100, "the writer does not write")
    thread.join(0.05)
    held_at = done
    while thread.is_alive():
        outbox.take(10)
        thread.join(0.001)

    assert held_at < 1000
    assert done == 5000


def test_the_output_limit_stops_the_script_and_counts_per_execution(reader: Reader) -> None:
    outbox = reader.outbox(output_bytes=10)
    outbox.write(1, b"12345")
    outbox.write(2, b"67890")
    assert reader.stopped == 0
    outbox.write(1, b"!")
    outbox.publish(b"display_data", b"{}", None)
    assert reader.stopped == 2
    outbox.begin(may_read=False)
    outbox.write(1, b"1234567890")

    assert reader.stopped == 2
    assert outbox.take(10) == [b"12345", StderrText(b"67890"), b"1234567890"]


def test_displays_count_as_output(reader: Reader) -> None:
    outbox = reader.outbox(output_bytes=1000)
    for _ in range(20):
        outbox.publish(b"display_data", b"x" * 100, None)

    assert reader.stopped == 10
    assert len(outbox.take(100)) == 10


def test_what_was_refused_holds_nobody_back(reader: Reader) -> None:
    outbox = reader.outbox(output_bytes=10)
    for _ in range(100):
        outbox.write(1, b"x" * PENDING_BYTES)
    outbox.begin(may_read=False)
    outbox.write(1, b"fine")

    assert outbox.take(10) == [b"fine"]


@pytest.mark.parametrize(
    ("line", "expected"), [(b"typed", (b"line", b"typed")), (b"", (b"line", b"")), (None, (b"end", b""))]
)
def test_an_answer_reaches_the_script(reader: Reader, line: bytes | None, expected: tuple[bytes, bytes]) -> None:
    outbox = reader.outbox()
    outbox.answer(b"nobody asked")
    answers: list[tuple[bytes, bytes]] = []
    thread = reader.run(lambda: answers.append(outbox.read_line()))
    _until(lambda: outbox.has_items, "nothing is asked")
    assert outbox.take(10) == [InputRequest()]

    outbox.answer(line)
    thread.join(DEADLINE_S)

    assert answers == [expected]
    assert outbox.has_read


def test_without_a_front_end_that_answers_reading_fails_at_once(reader: Reader) -> None:
    outbox = reader.outbox()
    outbox.begin(may_read=False)

    status, message = outbox.read_line()

    assert status == b"error"
    assert b"does not answer requests for input" in message
    assert not outbox.has_items
    assert not outbox.has_read


def test_an_interrupt_ends_the_wait_for_an_answer(reader: Reader) -> None:
    outbox = reader.outbox()
    answers: list[tuple[bytes, bytes]] = []
    thread = reader.run(lambda: answers.append(outbox.read_line()))
    _until(lambda: outbox.has_items, "nothing is asked")

    reader.interrupting = True
    outbox.nudge()
    thread.join(DEADLINE_S)

    assert answers == [(b"error", b"io.read: interrupted")]


def test_nothing_is_lost_between_two_threads(reader: Reader) -> None:
    woken = threading.Event()
    outbox = Outbox(woken.set, output_bytes=0)
    count = 50_000

    def write() -> None:
        for number in range(count):
            outbox.write(1, b"%d\n" % number)
        outbox.post(Finished(1, None))

    thread = reader.run(write)
    taken: list[Item] = []
    while not taken or not isinstance(taken[-1], Finished):
        assert woken.wait(DEADLINE_S), "a wake-up was lost"
        woken.clear()
        while outbox.has_items:
            taken += outbox.take(256)
    thread.join(DEADLINE_S)

    assert taken[:-1] == [b"%d\n" % number for number in range(count)]
