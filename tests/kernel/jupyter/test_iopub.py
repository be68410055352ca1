"""Publishing, with subscribers that read, pause, leave, and do not mean well. Real sockets; the time is given."""

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import zmq

from llmspell_kernel.diagnostics import Diagnostics
from llmspell_kernel.jupyter.clients import Monitor
from llmspell_kernel.jupyter.iopub import GRACE_S, KEPT_BYTES, PIPE, QUEUE_BYTES, IOPub
from llmspell_kernel.jupyter.sockets import Sockets, bind_sockets
from llmspell_kernel.options import LogOptions
from llmspell_kernel.wire.jupyter import Decoder, Encoder, Message, Signer
from support.homes import wait_until
from support.kernels import short_folder

KEY = b"key"
PARENT = b'{"msg_id":"the-request","msg_type":"execute_request"}'
BIG = b'{"text":"%b"}' % (b"x" * 60_000)


class Stage:
    """A publisher and its subscribers in one process."""

    def __init__(self, folder: Path) -> None:
        ip = str(folder / "s")
        self.sockets: Sockets = bind_sockets(transport="ipc", ip=ip, ports=(0, 0, 0, 0, 0), max_message_bytes=1 << 20)
        self._address = f"ipc://{ip}-{self.sockets.ports[1]}"
        self._monitor = Monitor(self.sockets.context, self.sockets.iopub)
        self.diagnostics = Diagnostics(LogOptions(file=str(folder / "log")))
        self.iopub = IOPub(
            self.sockets.iopub,
            self._monitor,
            Encoder(Signer(KEY), session="kernel"),
            kernel_id="k",
            date=lambda: b"2031-01-01T00:00:00.000000Z",
            diagnostics=self.diagnostics,
        )
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._subscribed: list[zmq.Socket[bytes]] = []

    def close(self) -> None:
        for socket in self._subscribed:
            socket.close(linger=0)
        self._context.term()
        self._monitor.close()
        for socket in self._all_sockets():
            socket.close(linger=0)
        self.sockets.context.term()
        self.diagnostics.close()

    def _all_sockets(self) -> list["zmq.Socket[bytes]"]:
        ours = self.sockets
        return [ours.shell, ours.iopub, ours.stdin, ours.control, ours.hb]

    def subscriber(self, topic: bytes = b"", *, kind: int = zmq.SUB, room: int = 0) -> "Subscriber":
        """A subscriber that was welcomed; `room` is how many messages it takes without being read."""
        socket = self._context.socket(kind)
        self._subscribed.append(socket)
        socket.rcvhwm = room
        socket.linger = 0
        if kind == zmq.SUB:
            socket.subscribe(topic)
        socket.connect(self._address)
        subscriber = Subscriber(socket, self.turn)
        if kind == zmq.SUB:
            subscriber.wait_for("iopub_welcome")
        return subscriber

    def turn(self) -> None:
        """One round of a loop."""
        self.iopub.welcome()
        self.iopub.departed()
        if self.iopub.stalled:
            self.iopub.advance(time.monotonic())

    def publish(self, kind: str, content: bytes = b"{}") -> None:
        self.iopub.publish(kind, content, PARENT)

    def fill(self) -> None:
        """Publish text until some subscriber lags."""
        while not self.iopub.stalled:
            self.publish("stream", BIG)

    def advance(self, *readers: "Subscriber") -> None:
        """Let what waits go out to who reads, until nothing waits for them."""
        now = time.monotonic()
        wait_until(lambda: [reader.read() for reader in readers] and self._has_advanced(now), "the end of the queue")

    def _has_advanced(self, now: float) -> bool:
        self.iopub.advance(now)
        return not self.iopub.stalled


class Subscriber:
    """One end of a subscription."""

    def __init__(self, socket: "zmq.Socket[bytes]", turn: Callable[[], None]) -> None:
        self.socket = socket
        self._turn = turn
        self.messages: list[Message] = []
        self._decode = Decoder(Signer(KEY), max_message_bytes=1 << 30).decode

    def read(self) -> None:
        """Take all that is there."""
        while self.socket.poll(0):
            self.messages.append(self._decode(self.socket.recv_multipart()))

    def kinds(self) -> list[str]:
        return [message.header.msg_type for message in self.messages if message.header.msg_type != "iopub_welcome"]

    def wait_for(self, kind: str) -> None:
        wait_until(lambda: self._has_heard(kind), f"a message of type {kind}")

    def _has_heard(self, kind: str) -> bool:
        self._turn()
        self.read()
        return any(message.header.msg_type == kind for message in self.messages)

    def gaps(self) -> list[str]:
        texts = [m.content_bytes for m in self.messages if b'"stderr"' in m.content_bytes]
        return [msgspec.json.decode(text)["text"] for text in texts]


@pytest.fixture
def stage() -> Iterator[Stage]:
    with short_folder() as folder, contextlib.closing(Stage(folder)) as stage:
        yield stage


def test_everybody_hears_what_is_published(stage: Stage) -> None:
    subscribers = [stage.subscriber() for _ in range(3)]
    for kind in ("status", "stream", "end"):
        stage.publish(kind)

    for subscriber in subscribers:
        subscriber.wait_for("end")
        assert subscriber.kinds() == ["status", "stream", "end"]
        assert subscriber.messages[-1].parent_bytes == PARENT
        assert subscriber.messages[-1].identities == [b"kernel.k.end"]
    assert not stage.iopub.stalled


def test_publishing_to_nobody_costs_nothing(stage: Stage) -> None:
    for _ in range(PIPE * 3):
        stage.publish("stream", BIG)

    assert not stage.iopub.stalled


def test_a_welcome_is_for_the_newcomer_alone(stage: Stage) -> None:
    first = stage.subscriber()
    second = stage.subscriber(b"kernel.")
    stage.publish("end")
    first.wait_for("end")
    second.wait_for("end")

    assert [m.header.msg_type for m in first.messages] == ["iopub_welcome", "end"]
    assert msgspec.json.decode(second.messages[0].content_bytes) == {"subscription": "kernel."}


@pytest.mark.parametrize(
    ("topic", "heard"),
    [
        (b"", ["status", "end"]),
        (b"kernel.", ["status", "end"]),
        (b"kernel.k.end", ["end"]),
        (b"kernel.k.", ["status", "end"]),
    ],
)
def test_a_subscription_matches_as_a_prefix(topic: bytes, heard: list[str], stage: Stage) -> None:
    subscriber = stage.subscriber(topic)
    stage.publish("status")
    stage.publish("end")
    subscriber.wait_for("end")

    assert subscriber.kinds() == heard


@pytest.mark.parametrize("topic", [b"other", b"kernel.other.", b"kernel.kk"])
def test_a_subscription_to_something_else_is_welcomed_and_hears_nothing(topic: bytes, stage: Stage) -> None:
    subscriber = stage.subscriber(topic)
    for _ in range(PIPE * 2):
        stage.publish("stream", BIG)

    assert not stage.iopub.stalled
    subscriber.read()
    assert subscriber.kinds() == []


def test_while_a_reader_is_behind_the_script_is_held_up_and_nothing_is_lost(stage: Stage) -> None:
    slow = stage.subscriber(room=1)
    published = 0
    while not stage.iopub.is_congested:
        stage.publish("stream", BIG)
        published += 1
    assert published * len(BIG) > QUEUE_BYTES
    stage.publish("end")

    stage.advance(slow)
    slow.wait_for("end")

    assert slow.kinds() == ["stream"] * published + ["end"]
    assert not stage.iopub.is_congested


def test_others_get_what_one_has_no_room_for(stage: Stage) -> None:
    stopped = stage.subscriber(room=1)
    reader = stage.subscriber()
    stage.fill()
    for _ in range(50):
        stage.publish("status")
    stage.publish("end")

    reader.wait_for("end")
    assert reader.kinds().count("status") == 50
    assert stage.iopub.stalled
    stage.advance(stopped)
    stopped.wait_for("end")
    assert stopped.kinds() == reader.kinds()


def test_who_takes_nothing_for_the_grace_loses_text_alone_and_is_told_in_its_place(stage: Stage) -> None:
    stopped = stage.subscriber(room=1)
    stage.fill()
    now = time.monotonic()
    stage.iopub.advance(now)
    stage.iopub.advance(now + GRACE_S * 2)
    for number in range(3):
        for _ in range(100):
            stage.publish("stream", BIG)
        stage.publish("execute_result" if number < 2 else "end", b'{"n":%d}' % number)
        assert not stage.iopub.is_congested

    stage.advance(stopped)
    stopped.wait_for("end")

    kinds = stopped.kinds()
    assert kinds[-6:] == ["stream", "execute_result", "stream", "execute_result", "stream", "end"]
    expected = f"[llmspell: {100 * len(BIG)} bytes of output were not delivered: this client had stopped reading]\n"
    assert stopped.gaps() == [expected] * 3
    assert all(m.parent_bytes == PARENT for m in stopped.messages if b'"stderr"' in m.content_bytes)


def test_a_gap_at_the_end_is_told_too(stage: Stage) -> None:
    stopped = stage.subscriber(room=1)
    stage.fill()
    stage.iopub.advance(time.monotonic())
    stage.iopub.advance(time.monotonic() + GRACE_S * 2)
    stage.publish("stream", BIG)

    stage.advance(stopped)

    wait_until(lambda: stopped.read() or stopped.gaps(), "the gap")
    assert not stage.iopub.stalled


def test_what_is_kept_for_who_is_away_is_bounded(stage: Stage) -> None:
    stopped = stage.subscriber(room=1)
    stage.fill()
    stage.iopub.advance(time.monotonic())
    stage.iopub.advance(time.monotonic() + GRACE_S * 2)
    sent = 3 * KEPT_BYTES // len(BIG)
    for _ in range(sent):
        stage.publish("display_data", BIG)
    stage.advance(stopped)
    wait_until(lambda: stopped.read() or stopped.gaps(), "the gap")

    kept = stopped.kinds().count("display_data")
    assert KEPT_BYTES // len(BIG) <= kept < sent


def test_who_reads_again_is_held_up_for_again(stage: Stage) -> None:
    stopped = stage.subscriber(room=1)
    stage.fill()
    stage.iopub.advance(time.monotonic())
    stage.iopub.advance(time.monotonic() + GRACE_S * 2)
    assert not stage.iopub.is_congested
    stage.advance(stopped)
    stopped.messages.clear()

    published = 0
    while not stage.iopub.is_congested:
        stage.publish("stream", BIG)
        published += 1
    stage.publish("end")
    stage.advance(stopped)
    stopped.wait_for("end")

    assert published * len(BIG) > QUEUE_BYTES
    assert stopped.gaps() == []
    assert stopped.kinds()[-published - 1 :] == ["stream"] * published + ["end"]


def test_who_leaves_while_behind_is_forgotten(stage: Stage) -> None:
    stopped = stage.subscriber(room=1)
    stage.fill()
    stopped.socket.close()

    wait_until(lambda: stage.turn() or not stage.iopub.stalled, "the departure to be noticed")
    stage.subscriber()


def test_many_come_and_go(stage: Stage) -> None:
    stays = stage.subscriber()
    for _ in range(50):
        stage.subscriber().socket.close()
        stage.publish("status")
    stage.publish("end")
    stays.wait_for("end")

    assert stays.kinds() == ["status"] * 50 + ["end"]


NONSENSE = {
    "text": [b"hello"],
    "nothing": [b""],
    "several frames": [b"a", b"\x01b", b"\0c"],
    "a subscription with more": [b"\x01a", b"\x01b"],
    "the end of what never began": [b"\0nothing"],
}


@pytest.mark.parametrize("case", NONSENSE)
def test_who_sends_nonsense_does_not_take_others_subscriptions(case: str, stage: Stage) -> None:
    stranger = stage.subscriber(kind=zmq.XSUB)
    for _ in range(200):
        stranger.socket.send_multipart(NONSENSE[case])
    # Whoever comes in the middle of it is welcomed in the end.
    readers = [stage.subscriber() for _ in range(5)]
    stage.subscriber(room=1)
    stage.fill()
    stage.publish("end")

    for reader in readers:
        reader.wait_for("end")
        assert reader.kinds()[-1] == "end"
