"""A Jupyter client cut to the bone: prebuilt, presigned frames out, frame-level receive in.

A benchmark's client shares the machine with what it measures, so it does the least that still counts and
checks every message. On the timed path it decodes no JSON: it looks for bytes inside frames.
"""

import hmac
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from types import TracebackType
from typing import NamedTuple, Self, cast

import zmq
from zmq.backend import Socket as Raw
from zmq.backend import zmq_poll

DELIMITER = b"<IDS|MSG>"
IDLE = b'"idle"'
EMPTY = b"{}"
EXECUTE = {
    "silent": False,
    "store_history": True,
    "user_expressions": {},
    "allow_stdin": False,
    "stop_on_error": True,
}
_SOCKETS = {"shell": zmq.DEALER, "control": zmq.DEALER, "iopub": zmq.SUB, "stdin": zmq.DEALER, "hb": zmq.REQ}

Channel = zmq.SyncSocket
_ALIVE_CHECK_S = 0.25
_send = Raw.send
_recv = Raw.recv


class BenchError(Exception):
    """A measurement could not be made; the message says what was expected and what came."""


class Message(NamedTuple):
    """The JSON frames of one message, undecoded."""

    header: bytes
    parent: bytes
    content: bytes


class Request(NamedTuple):
    """A signed request, ready to send; replies carry `msg_id` inside their parent header."""

    msg_id: bytes
    frames: tuple[bytes, ...]


class RawClient:
    """The channels of one client. Not thread-safe; close it, or use it as a context manager."""

    def __init__(
        self,
        connection: Mapping[str, object],
        channels: Iterable[str] = ("shell", "control", "iopub"),
        *,
        reconnect_ms: int = 20,
        context: zmq.Context[zmq.SyncSocket] | None = None,
        alive: Callable[[], bool] = lambda: True,
    ) -> None:
        self._own_context = context is None
        self._context = context or zmq.Context()
        self._key = str(connection["key"]).encode()
        self._alive = alive
        self._count = 0
        self.sockets = {name: self._connect(name, connection, reconnect_ms) for name in channels}
        self.shell, self.iopub = self.sockets["shell"], self.sockets["iopub"]
        self._session = f"bench-{id(self):x}-{time.monotonic_ns():x}"

    def _connect(self, name: str, connection: Mapping[str, object], reconnect_ms: int) -> Channel:
        channel = self._context.socket(_SOCKETS[name])
        channel.setsockopt(zmq.LINGER, 0)
        channel.setsockopt(zmq.RECONNECT_IVL, reconnect_ms)
        channel.setsockopt(zmq.RCVHWM, 0)
        channel.setsockopt(zmq.SNDHWM, 0)
        if name == "iopub":
            channel.setsockopt(zmq.SUBSCRIBE, b"")
        channel.connect(f"{connection['transport']}://{connection['ip']}:{connection[f'{name}_port']}")
        return channel

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close every channel without waiting for unsent messages."""
        for channel in self.sockets.values():
            channel.close(0)
        if self._own_context:
            self._context.term()

    def request(self, msg_type: str, content: Mapping[str, object] | None = None) -> Request:
        """Build and sign one request."""
        self._count += 1
        msg_id = f"{self._session}-{self._count:08x}"
        header = {"msg_id": msg_id, "session": self._session, "username": "bench", "version": "5.4"}
        dated = {**header, "msg_type": msg_type, "date": "2024-01-01T00:00:00.000000Z"}
        body = (json.dumps(dated).encode(), EMPTY, EMPTY, json.dumps(content or {}).encode())
        return Request(msg_id.encode(), (DELIMITER, self._sign(body), *body))

    def execute(self, code: str) -> Request:
        """Build and sign an execute_request."""
        return self.request("execute_request", {"code": code, **EXECUTE})

    def _sign(self, body: Iterable[bytes]) -> bytes:
        return hmac.new(self._key, b"".join(body), "sha256").hexdigest().encode()

    def reply(self, channel: Channel, request: Request, timeout_s: float) -> Message | None:
        """The next message on `channel` whose parent is `request`; None when time or the kernel ended."""
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0 and self._alive():
            if not channel.poll(math.ceil(min(left, _ALIVE_CHECK_S) * 1000)):
                continue
            message = receive(channel)
            if request.msg_id in message.parent:
                return message
        return None

    def ask(self, channel: str, request: Request, timeout_s: float = 10.0) -> Message:
        """Send on `channel` and wait for the reply there."""
        send(self.sockets[channel], request)
        message = self.reply(self.sockets[channel], request, timeout_s)
        if message is None:
            why = f"within {timeout_s:g} s, nothing came" if self._alive() else "and the kernel ended"
            raise BenchError(f"expected a reply on {channel} {why}")
        return message

    def run(self, code: str, timeout_s: float = 30.0) -> Message:
        """Execute `code`, wait for its idle on IOPub too, and return the execute_reply."""
        request = self.execute(code)
        reply = self.ask("shell", request, timeout_s)
        self.wait_iopub(request, IDLE, timeout_s)
        return reply

    def wait_iopub(self, request: Request, content: bytes, timeout_s: float = 10.0) -> None:
        """Read IOPub until a message of this request holds `content`."""
        deadline = time.monotonic() + timeout_s
        while (left := deadline - time.monotonic()) > 0:
            message = self.reply(self.iopub, request, left)
            if message is not None and content in message.content:
                return
        raise BenchError(f"expected {content.decode()} on IOPub within {timeout_s:g} s, it did not come")

    def wait_ready(self, timeout_s: float) -> None:
        """Return once the kernel answers on shell and its IOPub messages arrive, with nothing left unread."""
        deadline = time.monotonic() + timeout_s
        first = self.ask("shell", self.request("kernel_info_request"), timeout_s)
        if b"kernel_info_reply" not in first.header:
            raise BenchError(f"expected a kernel_info_reply, got the header {first.header!r}")
        while time.monotonic() < deadline:
            request = self.request("kernel_info_request")
            self.ask("shell", request, timeout_s)
            try:
                self.wait_iopub(request, IDLE, 0.1)
            except BenchError:
                continue
            return
        raise BenchError(f"expected IOPub to carry the status of a request within {timeout_s:g} s, it never did")


def send(channel: Channel, request: Request) -> None:
    """Send all frames; by pyzmq's backend, six times cheaper than its send_multipart."""
    frames = request.frames
    for frame in frames[:-1]:
        _send(channel, frame, zmq.SNDMORE)
    _send(channel, frames[-1])


def receive(channel: Channel, flags: int = 0) -> Message:
    """Receive one message without buffers, past identities or topic; `flags` are for its first frame."""
    frame = _recv(channel, flags)
    while frame != DELIMITER:
        frame = _recv(channel)
    _recv(channel)
    header, parent = _recv(channel), _recv(channel)
    _recv(channel)
    return Message(header, parent, _recv(channel))


def readable(channels: Sequence[Channel], timeout_s: float) -> list[Channel]:
    """Those of `channels` that can be read, empty when the time ran out."""
    ready = zmq_poll([(channel, zmq.POLLIN) for channel in channels], math.ceil(timeout_s * 1000))
    return [cast(Channel, channel) for channel, _ in ready]
