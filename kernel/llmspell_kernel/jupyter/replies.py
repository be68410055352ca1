"""Answers to requests: the reply to whom it is for, between the busy and the idle that everybody hears.

ZeroMQ counts messages and not bytes, and refuses what it has no room for. So its queue for each client is short, and
what does not fit waits here, in order. While much does, a script whose output goes to that client waits as well
(`is_behind`): what a run wrote and came to is not lost to a caller who reads it late.
"""

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import msgspec
import zmq

from llmspell_kernel.diagnostics import Diagnostics
from llmspell_kernel.jupyter.clock import DateClock
from llmspell_kernel.jupyter.contents import BUSY, IDLE, ErrorContent, encode
from llmspell_kernel.jupyter.iopub import IOPub
from llmspell_kernel.jupyter.runs import Part, said
from llmspell_kernel.transport import send
from llmspell_kernel.wire.jupyter import Encoder, Message

QUEUE_BYTES: Final = 1024 * 1024
"""With more than this waiting for the caller of a run, its script waits too."""

FULL_BYTES: Final = 32 * QUEUE_BYTES
"""With more than this, what further runs come to waits with them: it was asked for, and is not lost."""

AT_ONCE: Final = 64
"""Messages to one client before others get their turn."""

MOST_WAITING: Final = 200_000
"""Replies that wait for one client to read them; what more there is of other things than runs is dropped."""

RETRY_S: Final = 0.001
RETRY_SLOWLY_S: Final = 0.050
"""How soon it is tried again, at first and when nothing comes of it."""

_OF_RUNS: Final = frozenset(("run_output", "run_part", "run_reply"))

Frames = tuple[bytes, ...]


class _Later(msgspec.Struct):
    """Messages that are made one by one, of so many bytes that are held for them."""

    messages: Iterator[Frames]
    bytes: int


class _Waiting(msgspec.Struct):
    """What waits for one client."""

    messages: deque[Frames | _Later] = msgspec.field(default_factory=deque)
    bytes: int = 0

    def put(self, frames: Frames) -> None:
        """The last."""
        self.messages.append(frames)
        self.bytes += sum(map(len, frames))

    def next(self) -> Frames | None:
        """The first; None = there is no more."""
        while self.messages:
            first = self.messages[0]
            if not isinstance(first, _Later):
                return first
            frames = next(first.messages, None)
            if frames is None:
                self.messages.popleft()
                self.bytes -= first.bytes
            else:
                self.messages.appendleft(frames)
                self.bytes += sum(map(len, frames))
        return None

    def gone(self, frames: Frames) -> None:
        """The first was sent."""
        self.messages.popleft()
        self.bytes -= sum(map(len, frames))


class Replies:
    """Sends replies. Belongs to the I/O thread."""

    def __init__(
        self,
        encoder: Encoder,
        clock: DateClock,
        iopub: IOPub,
        diagnostics: Diagnostics,
        *,
        touch: Callable[[Any], None],
    ) -> None:
        self._touch = touch
        self._encode = encoder.encode
        self._date = clock.now
        self._iopub = iopub
        self._diagnostics = diagnostics
        self._waiting: dict[tuple[Any, bytes], _Waiting] = {}
        """By socket and client."""
        self.retry_s = RETRY_S
        """How soon `advance` wants to be called again, while anything is waiting."""
        self.on_wait: Callable[[], None] = lambda: None
        """Called when something waits: `advance` wants to be called `retry_s` later."""

    def send(self, socket: Any, message: Message, msg_type: str, content: bytes) -> None:
        """Send the reply to `message`."""
        reply = self._encode(msg_type, content, date=self._date(), parent=message.header_bytes)
        frames = (*message.identities, *reply)
        if self._waiting and (waiting := self._waiting.get((socket, frames[0]))):
            if len(waiting.messages) >= MOST_WAITING and msg_type not in _OF_RUNS:
                self._diagnostics.warn("reply_dropped", f"a client does not read its replies: {msg_type} dropped")
                return
        elif self._has_gone(socket, frames):
            return
        else:
            waiting = self._waiting[socket, frames[0]] = _Waiting()
            self.retry_s = RETRY_S
        waiting.put(frames)
        self.on_wait()

    def answer(self, socket: Any, message: Message, parts: Sequence[Part], reply: bytes) -> None:
        """Send the reply to a run after what goes before it."""
        if not parts:
            self.send(socket, message, "run_reply", reply)
            return
        size = len(reply) + sum(part.size for part in parts)
        waiting = self._waiting.setdefault((socket, message.identities[0]), _Waiting())
        made = (
            (*message.identities, *self._encode(kind, content, date=self._date(), parent=message.header_bytes))
            for kind, content in said(parts, reply)
        )
        waiting.messages.append(_Later(made, size))
        waiting.bytes += size
        self.retry_s = RETRY_S
        self.on_wait()

    def _has_gone(self, socket: Any, frames: Frames) -> bool:
        """Send a message; whether nothing remains to be done about it."""
        self._touch(socket)
        try:
            send(socket, frames)
        except zmq.Again:
            return False
        except zmq.ZMQError as fault:
            if fault.errno != zmq.EHOSTUNREACH:
                raise
            self._diagnostics.count("reply_to_departed")
        return True

    # --- clients that lag

    @property
    def is_waiting(self) -> bool:
        """Whether anything waits for anybody."""
        return bool(self._waiting)

    def is_behind(self, socket: Any, message: Message, most_bytes: int = QUEUE_BYTES) -> bool:
        """Whether who sent `message` should read before there is more for it."""
        waiting = self._waiting.get((socket, message.identities[0]))
        return waiting is not None and waiting.bytes > most_bytes

    def advance(self) -> None:
        """Send what waits."""
        has_moved = False
        for key, waiting in list(self._waiting.items()):
            for _ in range(AT_ONCE):
                frames = waiting.next()
                if frames is None or not self._has_gone(key[0], frames):
                    break
                waiting.gone(frames)
                has_moved = True
            if not waiting.messages:
                del self._waiting[key]
        self.retry_s = RETRY_S if has_moved else min(2 * self.retry_s, RETRY_SLOWLY_S)

    def finish(self, within_s: float) -> None:
        """Send what waits, as far as it is taken within that time."""
        give_up_at = time.monotonic() + within_s
        self.advance()
        while self._waiting and time.monotonic() < give_up_at:
            time.sleep(self.retry_s)
            self.advance()

    @contextmanager
    def bracket(self, message: Message) -> Iterator[None]:
        """Say that the kernel is busy with `message`, and idle afterwards."""
        self._iopub.publish("status", BUSY, message.header_bytes)
        try:
            yield
        finally:
            self._iopub.publish("status", IDLE, message.header_bytes)

    def refuse(self, socket: Any, message: Message, name: str, text: str) -> None:
        """Answer a request that is understood as far as its type and cannot be served."""
        self._diagnostics.count("request_refused")
        kind = message.header.msg_type
        with self.bracket(message):
            if kind.endswith("_request"):
                content = encode(ErrorContent(name, text, (f"{name}: {text}",)))
                self.send(socket, message, kind.removesuffix("_request") + "_reply", content)
