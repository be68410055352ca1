"""The client's ends of a kernel's five channels: signed messages out, verified messages in.

One thread uses one `Channels`; nothing here waits longer than it is told to.
"""

import time
from datetime import UTC, datetime
from typing import Any

import msgspec
import zmq

from llmspell_kernel.connection import ConnectionInfo, new_kernel_id
from llmspell_kernel.errors import NotRunningError, PeerError
from llmspell_kernel.wire.jupyter import Decoder, Encoder, Header, Message, Signer

_LARGEST_ANSWER = 1 << 40
"""Bytes. A kernel that we chose to trust may answer at any length."""

TAKES_WITHIN_MS = 2000
"""How long a full queue to the kernel may stay full."""

_decode_header = msgspec.json.Decoder(Header).decode


class Received(msgspec.Struct, frozen=True):
    """One message from the kernel."""

    channel: str
    msg_type: str
    parent_id: str
    """The request that it answers; empty when it answers none."""
    message: Message


class Channels:
    """Open sockets to one kernel. Connecting always succeeds; only an answer shows that somebody is there."""

    def __init__(self, info: ConnectionInfo) -> None:
        self._context = zmq.Context()
        self._context.linger = 0
        signer = Signer(info.key.encode())
        session = new_kernel_id()
        self._encoder = Encoder(signer, session=session, username="llmspell")
        self._decoder = Decoder(signer, max_message_bytes=_LARGEST_ANSWER)
        self._sockets: dict[str, zmq.Socket[bytes]] = {}
        self._poller = zmq.Poller()
        # stdin shares shell's identity, so that the kernel finds the client that an input request is for.
        identity = session.encode()
        for channel, kind in (
            ("iopub", zmq.SUB),
            ("shell", zmq.DEALER),
            ("stdin", zmq.DEALER),
            ("control", zmq.DEALER),
            # A DEALER, not Jupyter's REQ: a lost beat leaves nothing to repair.
            ("hb", zmq.DEALER),
        ):
            socket = self._context.socket(kind)
            socket.sndtimeo = TAKES_WITHIN_MS
            if kind == zmq.SUB:
                socket.subscribe(b"")
            elif channel != "hb":
                socket.setsockopt(zmq.IDENTITY, identity)
            socket.connect(info.endpoint(channel))
            self._sockets[channel] = socket
            self._poller.register(socket, zmq.POLLIN)

    def close(self) -> None:
        """Close every socket; what was not sent yet is dropped."""
        self._context.destroy(linger=0)

    def send(self, channel: str, msg_type: str, content: dict[str, Any], *, parent: bytes = b"{}") -> str:
        """Send a message and return its id. NotRunningError: the kernel takes no more of them."""
        frames = self._encoder.encode(
            msg_type,
            msgspec.json.encode(content),
            date=datetime.now(UTC).isoformat().encode(),
            parent=parent,
        )
        try:
            self._sockets[channel].send_multipart(frames)
        except zmq.Again:
            # As when it answers with so much that it does not come to reading: neither end would ever go on.
            raise NotRunningError(
                f"the kernel has read nothing on its {channel} channel for {TAKES_WITHIN_MS / 1000:g} s: it hangs, or "
                "is no kernel"
            ) from None
        return self._encoder.last_msg_id()

    def send_heartbeat(self) -> None:
        """Ask for an echo, which `receive` tells as a message of type ``heartbeat``."""
        self._sockets["hb"].send_multipart([b"", b"llmspell"])

    def receive(self, timeout_s: float) -> list[Received]:
        """What arrives within `timeout_s`, at least one message unless it passes; unsigned ones are left out.

        IOPub comes first, so that what a request published is known before its reply is acted upon.
        """
        ready = dict(self._poller.poll(max(0, round(timeout_s * 1000))))
        received = []
        for channel, socket in self._sockets.items():
            if socket in ready:
                received += self._drain(channel, socket)
        return received

    def _drain(self, channel: str, socket: "zmq.Socket[bytes]") -> list[Received]:
        received: list[Received] = []
        while True:
            try:
                frames = socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return received
            if channel == "hb":
                received.append(_heartbeat(frames))
                continue
            try:
                message = self._decoder.decode(frames)
                parent_id = "" if message.parent_bytes == b"{}" else _decode_header(message.parent_bytes).msg_id
            except (PeerError, msgspec.DecodeError):
                # Signed by nobody who has our key, or an answer to nothing that we could have asked: not for us.
                continue
            received.append(Received(channel, message.header.msg_type, parent_id, message))


def _heartbeat(frames: list[bytes]) -> Received:
    nothing = Message(frames, Header("", "heartbeat"), b"", b"", b"", b"{}", [])
    return Received("hb", "heartbeat", "", nothing)


class Deadline:
    """A point in time to give up at; without one, never."""

    __slots__ = ("_at",)

    def __init__(self, timeout_s: float | None) -> None:
        self._at = None if timeout_s is None else time.monotonic() + timeout_s

    def left_s(self, at_most: float) -> float:
        """How long one step may wait: until the deadline, and no longer than `at_most`."""
        return at_most if self._at is None else max(0.0, min(at_most, self._at - time.monotonic()))

    @property
    def has_passed(self) -> bool:
        """Whether it is time to give up."""
        return self._at is not None and time.monotonic() >= self._at
