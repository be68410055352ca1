"""IOPub: what every client hears. Bounded for clients that do not listen, lossless for those that do.

ZeroMQ's own answers to a subscriber that stopped reading are to lose messages silently, the final `idle` among them, or
to hold all subscribers up. Here:

* while everybody reads, one send reaches all;
* when the pipe of one is full, each subscriber is sent to by itself, and what it has no room for waits in a queue of
  its own. While a queue is long the Lua thread is held up (`is_congested`): who reads slowly still gets everything;
* who takes nothing for `GRACE_S` is away, and holds nobody up any more. It loses text, and is told so in the place of
  it; statuses, results and errors are kept for it, up to `KEPT_BYTES`.

Sending to one subscriber alone takes topics of our own: with XPUB_MANUAL we say what a subscription matches, and let it
match all that we publish and one topic that nobody else has.
"""

import os
import termios
import time
from collections import deque
from collections.abc import Callable
from fcntl import ioctl
from typing import Final

import msgspec
import zmq

from llmspell_kernel.diagnostics import Diagnostics
from llmspell_kernel.jupyter.clients import Monitor
from llmspell_kernel.jupyter.contents import encode
from llmspell_kernel.transport import is_readable, send
from llmspell_kernel.wire.jupyter import EMPTY_OBJECT, Encoder

PIPE: Final = 512
"""Messages that wait for one subscriber inside ZeroMQ. It must not be changed while connections exist: the two ends
agree on it when they connect, and a sender that changes its mind waits for reports that never come."""

QUEUE_BYTES: Final = 1024 * 1024
"""With more than this waiting for a subscriber that reads, the Lua thread waits too."""

KEPT_BYTES: Final = 8 * 1024 * 1024
"""What is kept for a subscriber that is away."""

AT_ONCE: Final = 256
"""Subscriptions read before others get their turn."""

GRACE_S: Final = 1.0
RETRY_S: Final = 0.001
RETRY_AWAY_S: Final = 0.050

Frames = tuple[bytes, ...]


class Subscriber(msgspec.Struct):
    """One connection and what waits for it."""

    descriptor: int
    topic: bytes
    """Matched by this subscription alone."""
    moved_at: float
    is_away: bool = False
    unread: bytes = b""
    queue: deque[Frames] = msgspec.field(default_factory=deque)
    queue_bytes: int = 0
    lost_bytes: int = 0
    lost_of: bytes = EMPTY_OBJECT
    """The parent of what was lost last."""


class IOPub:
    """The publishing side. All of it belongs to the I/O thread."""

    def __init__(
        self,
        socket: "zmq.Socket[bytes]",
        monitor: Monitor,
        encoder: Encoder,
        *,
        kernel_id: str,
        date: Callable[[], bytes],
        diagnostics: Diagnostics,
    ) -> None:
        """`socket` is an XPUB with XPUB_MANUAL and XPUB_NODROP, `monitor` its monitor."""
        self._socket = socket
        self._monitor = monitor
        self._encode = encoder.encode
        self._date = date
        self._diagnostics = diagnostics
        self._prefix = b"kernel.%b." % kernel_id.encode()
        self._topics: dict[str, bytes] = {}
        self._subscribers: dict[int, Subscriber] = {}
        self._subscriptions = 0
        self._is_lagging = False
        self._is_doubtful = False
        """Whether the connections of the subscriptions that wait are not known for sure: see `_cut_off`."""
        self.on_stall: Callable[[], None] = lambda: None
        """Called when a message could not be sent at once: `advance` wants to be called `retry_s` later."""
        self.touch: Callable[[zmq.Socket[bytes]], None] = lambda _socket: None
        """Called with the socket whenever something is sent on it (`Loop.touch`)."""

    @property
    def has_subscribers(self) -> bool:
        """Whether anybody hears what is published."""
        return bool(self._subscribers)

    def publish(
        self, msg_type: str, content: bytes, parent: bytes = EMPTY_OBJECT, metadata: bytes = EMPTY_OBJECT
    ) -> None:
        """Publish one message; `parent` is the header of the request that it belongs to."""
        if not self._subscribers:
            return  # half of what a run costs would be for nobody
        topic = self._topics.get(msg_type)
        if topic is None:
            topic = self._topics[msg_type] = self._prefix + msg_type.encode()
        message = self._encode(msg_type, content, date=self._date(), parent=parent, metadata=metadata)
        if self._is_lagging or not self._send((topic, *message)):
            self._lag()
            is_text = msg_type == "stream"
            for subscriber in self._subscribers.values():
                self._put(subscriber, message, is_text)

    # --- subscribers that lag ----------------------------------------------------------------------------------

    @property
    def stalled(self) -> bool:
        """Whether `advance` wants to be called every `retry_s`."""
        return self._is_lagging

    @property
    def retry_s(self) -> float:
        """When `advance` wants to be called again."""
        is_near = any(s.queue and not s.is_away for s in self._subscribers.values())
        return RETRY_S if is_near else RETRY_AWAY_S

    @property
    def is_congested(self) -> bool:
        """Whether no more output should be taken from the script for now."""
        return self._is_lagging and any(
            s.queue_bytes > QUEUE_BYTES and not s.is_away for s in self._subscribers.values()
        )

    def advance(self, now: float) -> None:
        """Send what waits, and see who is away."""
        for subscriber in self._subscribers.values():
            self._drain(subscriber)
            if not subscriber.queue or _has_moved(subscriber):
                subscriber.moved_at, subscriber.is_away = now, False
            elif now - subscriber.moved_at > GRACE_S:
                subscriber.is_away = True
            if subscriber.lost_bytes and not subscriber.queue:
                self._state_gap(subscriber)
        self._is_lagging = any(subscriber.queue for subscriber in self._subscribers.values())

    def _lag(self) -> None:
        if not self._is_lagging:
            self._is_lagging = True
            now = time.monotonic()
            for subscriber in self._subscribers.values():
                subscriber.moved_at = now
        self.on_stall()

    def _put(self, subscriber: Subscriber, message: Frames, is_text: bool) -> None:
        if not subscriber.queue and self._send((subscriber.topic, *message)):
            return
        if subscriber.is_away and (is_text or subscriber.queue_bytes > KEPT_BYTES):
            subscriber.lost_bytes += len(message[-1])
            subscriber.lost_of = message[-3]
            return
        if subscriber.lost_bytes:
            self._state_gap(subscriber)
        subscriber.queue.append(message)
        subscriber.queue_bytes += sum(map(len, message))

    def _drain(self, subscriber: Subscriber) -> None:
        queue = subscriber.queue
        while queue and self._send((subscriber.topic, *queue[0])):
            subscriber.queue_bytes -= sum(map(len, queue.popleft()))

    def _state_gap(self, subscriber: Subscriber) -> None:
        lost, subscriber.lost_bytes = subscriber.lost_bytes, 0
        text = f"[llmspell: {lost} bytes of output were not delivered: this client had stopped reading]\n"
        content = encode({"name": "stderr", "text": text})
        message = self._encode("stream", content, date=self._date(), parent=subscriber.lost_of)
        subscriber.queue.append(message)
        subscriber.queue_bytes += sum(map(len, message))
        self._drain(subscriber)

    def _send(self, frames: Frames) -> bool:
        self.touch(self._socket)
        try:
            send(self._socket, frames)
        except zmq.Again:
            return False
        return True

    # --- who subscribes ----------------------------------------------------------------------------------------

    def departed(self) -> None:
        """Forget the subscribers whose connections ended."""
        for descriptor in self._monitor.ended():
            self._subscribers.pop(descriptor, None)

    def welcome(self) -> None:
        """Answer subscriptions that came in: `iopub_welcome` (JEP 65), so that a client knows when it hears us."""
        for _ in range(AT_ONCE):
            if not is_readable(self._socket):
                self._is_doubtful = False
                return
            self._heard(self._socket.recv(zmq.NOBLOCK, copy=False))
        self.touch(self._socket)

    def _heard(self, event: "zmq.Frame") -> None:
        kind = event.bytes[:1]
        if kind == b"\0" and not event.more:
            return
        descriptor = int(event.get(zmq.SRCFD))
        if kind != b"\x01" or event.more:
            self._diagnostics.warn("iopub_nonsense", "a subscriber sent something that is no subscription: cut off")
            self._is_doubtful = True
        if self._is_doubtful:
            _cut_off(descriptor)
        else:
            # If the descriptor was another connection's before, then the end of that one has been reported by now.
            self.departed()
            # A second one may be real, or the second part of nonsense that only begins like a subscription.
            self._is_doubtful = descriptor in self._subscribers
            self._subscribe(event.bytes[1:], descriptor)

    def _subscribe(self, topic: bytes, descriptor: int) -> None:
        self._subscriptions += 1
        # A topic matches all that begin with it: the end is marked, or 1 would match 12.
        own = b"%b\0%d\0" % (topic, self._subscriptions)
        subscribe = self._socket.setsockopt
        subscribe(zmq.SUBSCRIBE, own)
        if self._prefix.startswith(topic):
            subscribe(zmq.SUBSCRIBE, self._prefix)
        elif topic.startswith(self._prefix):
            subscribe(zmq.SUBSCRIBE, topic)
        now = time.monotonic()
        subscriber = self._subscribers.setdefault(descriptor, Subscriber(descriptor, own, now))
        content = encode({"subscription": topic.decode("utf-8", "replace")})
        self._put(subscriber, self._encode("iopub_welcome", content, date=self._date()), is_text=False)
        if subscriber.queue:
            self._lag()


def _has_moved(subscriber: Subscriber) -> bool:
    """Whether a subscriber has read anything since this was asked last.

    ZeroMQ tells us of room in a pipe only once half of it was read, which takes a slow reader longer than `GRACE_S`.
    """
    before = subscriber.unread
    try:
        subscriber.unread = ioctl(subscriber.descriptor, termios.TIOCOUTQ, b"\0\0\0\0")
    except OSError:
        return False  # the connection has ended, and the monitor is about to say so
    return subscriber.unread != before


def _cut_off(descriptor: int) -> None:
    """End a connection; a subscriber that means well connects again by itself.

    XPUB_MANUAL keeps the connection that a subscription came by in a queue of its own, and what is no subscription
    takes one from there that is not its own (libzmq 4.3.5). So after such a message, until both queues are empty,
    nobody knows whose connection a subscription would be noted for.
    """
    import socket

    try:
        with socket.socket(fileno=os.dup(descriptor)) as connection:
            connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return  # it has ended by itself
