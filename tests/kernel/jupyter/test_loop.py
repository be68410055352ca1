"""The loop: timers, descriptors and sockets."""

import os
import time
from collections.abc import Iterator

import pytest
import zmq

from llmspell_kernel.jupyter.loop import Loop
from llmspell_kernel.transport import receive


@pytest.fixture
def loop() -> Loop:
    loop = Loop()
    loop.timer("give up", lambda _now: loop.end("gave up"))
    loop.set("give up", time.monotonic() + 20)
    return loop


@pytest.fixture
def pair() -> Iterator[tuple["zmq.Socket[bytes]", "zmq.Socket[bytes]"]]:
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    one, other = context.socket(zmq.PAIR), context.socket(zmq.PAIR)
    one.bind("inproc://pair")
    other.connect("inproc://pair")
    yield one, other
    context.destroy(linger=0)


def test_timers_ring_in_time_and_once(loop: Loop) -> None:
    rung: list[str] = []
    loop.timer("first", lambda _now: rung.append("first"))
    loop.timer("last", lambda _now: loop.end("done"))
    loop.set("last", time.monotonic() + 0.02)
    loop.set("first", time.monotonic() + 0.01)

    assert loop.run() == "done"
    assert rung == ["first"]


def test_a_timer_that_is_cleared_does_not_ring(loop: Loop) -> None:
    rung: list[str] = []
    loop.timer("cleared", lambda _now: rung.append("cleared"))
    loop.timer("last", lambda _now: loop.end("done"))
    loop.set("cleared", time.monotonic())
    loop.clear("cleared", "never set")
    loop.set("last", time.monotonic())

    assert loop.run() == "done"
    assert rung == []


@pytest.mark.parametrize("change", ["clear", "set"])
def test_a_timer_that_another_one_clears_or_sets_anew_does_not_ring_in_the_same_round(change: str, loop: Loop) -> None:
    rung: list[str] = []
    now = time.monotonic()

    def first(_now: float) -> None:
        if change == "clear":
            loop.clear("second")
        else:
            loop.set("second", now + 1000)

    loop.timer("first", first)
    loop.timer("second", lambda _now: rung.append("second"))
    loop.timer("last", lambda _now: loop.end("done"))
    for name in ("first", "second", "last"):
        loop.set(name, now)

    assert loop.run() == "done"
    assert rung == []


def test_the_first_time_that_is_set_holds_when_it_should(loop: Loop) -> None:
    loop.timer("last", lambda _now: loop.end("done"))
    loop.set("last", time.monotonic())
    loop.set_if_unset("last", time.monotonic() + 1000)

    assert loop.run() == "done"


def test_the_first_reason_to_end_is_told(loop: Loop) -> None:
    loop.end("first")
    loop.end("second")

    assert loop.run() == "first"


def test_a_descriptor_that_can_be_read_is_read_until_it_is_forgotten(loop: Loop) -> None:
    reader, writer = os.pipe()
    try:
        read: list[bytes] = []

        def on_readable() -> None:
            read.append(os.read(reader, 1))
            if len(read) == 2:
                loop.forget(reader)
                loop.timer("last", lambda _now: loop.end("done"))
                loop.set("last", time.monotonic() + 0.01)

        loop.read(reader, on_readable)
        os.write(writer, b"abc")

        assert loop.run() == "done"
        assert read == [b"a", b"b"]
    finally:
        os.close(reader)
        os.close(writer)


def test_a_socket_is_read_though_its_callback_leaves_messages(
    loop: Loop, pair: tuple["zmq.Socket[bytes]", "zmq.Socket[bytes]"]
) -> None:
    ours, theirs = pair
    read: list[bytes] = []

    def on_readable() -> None:
        read.append(receive(ours)[0][0])
        loop.touch(ours)
        if len(read) == 3:
            loop.end("done")

    loop.read(ours, on_readable)
    for text in (b"a", b"b", b"c"):
        theirs.send(text)

    assert loop.run() == "done"
    assert read == [b"a", b"b", b"c"]


def test_a_socket_that_is_paused_is_read_when_it_goes_on(
    loop: Loop, pair: tuple["zmq.Socket[bytes]", "zmq.Socket[bytes]"]
) -> None:
    ours, theirs = pair
    paused = True

    def on_readable() -> None:
        assert not paused
        assert receive(ours)[0] == [b"a"]
        loop.end("done")

    def go_on(_now: float) -> None:
        nonlocal paused
        paused = False
        loop.pause(ours, paused=False)

    loop.read(ours, on_readable)
    loop.pause(ours, paused=True)
    theirs.send(b"a")
    loop.timer("go on", go_on)
    loop.set("go on", time.monotonic() + 0.02)

    assert loop.run() == "done"
