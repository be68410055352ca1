"""The controller's one connection to a kernel: a DEALER on its shell channel.

ZeroMQ's descriptor is edge-triggered: after every send, what may have arrived meanwhile has to be asked for, or the
next edge never comes.
"""

import asyncio
import contextlib
import resource
from collections.abc import Callable
from hashlib import sha256
from hmac import compare_digest
from secrets import token_hex
from typing import Final

import msgspec
import zmq

from llmspell_kernel.connection import ConnectionInfo
from llmspell_kernel.limits import KernelLimits
from llmspell_kernel.transport import is_readable, receive, send
from llmspell_kernel.wire.jupyter import DELIMITER, Encoder, Header, Signer

MAX_SOCKETS: Final = 100_000
"""ZeroMQ's own default ends at 341 kernels."""

AT_ONCE: Final = 64
"""Messages read from one kernel before the others get their turn."""

RECONNECT_MS: Final = 5_000
"""How long after a break a link connects again: far longer than it outlives its kernel, since what still waits to be
sent must not reach the next incarnation at the same address. Not never (-1): ZeroMQ then drops, at the break, what has
arrived and was not read yet: a kernel's last answers."""

DESCRIPTORS_PER_LINK: Final = 2
"""What one connection takes of RLIMIT_NOFILE."""

_decode_header = msgspec.json.Decoder(Header).decode
_DATE: Final = b"1970-01-01T00:00:00.000000Z"
"""Kernels do not read the dates of requests, and nobody else sees these."""


class RunContent(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """What a run_request asks (see `llmspell_kernel.jupyter.runs`)."""

    code: str
    ticket: int
    timeout_s: float
    stream: bool
    execution: str = ""
    """An id by which a later controller may ask for it; "" = none does."""


class AdoptContent(msgspec.Struct, frozen=True):
    """What an adopt_request asks (see `llmspell_kernel.jupyter.succession`)."""

    executions: tuple[str, ...]


class ClaimContent(msgspec.Struct, frozen=True, gc=False):
    """What a claim_request says (see `llmspell_kernel.jupyter.claims`)."""

    name: str
    log_level: str


class CullContent(msgspec.Struct, frozen=True, gc=False):
    """What a cull_request asks (see `llmspell_kernel.jupyter.lifetime`)."""

    in_s: float
    reason: str
    is_forced: bool


class LimitsContent(msgspec.Struct, frozen=True, gc=False):
    """What a limits_request asks (see `llmspell_kernel.jupyter.contents`)."""

    limits: KernelLimits
    proof: str


_encode = msgspec.json.Encoder().encode


def make_context() -> "zmq.Context[zmq.Socket[bytes]]":
    """The context of all links; to be made before the first of them."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    context.set(zmq.MAX_SOCKETS, MAX_SOCKETS)
    context.linger = 0
    return context


def raise_descriptor_limit() -> int:
    """Raise RLIMIT_NOFILE to the hard limit; returns it."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


class Link:
    """One connection. `on_message` hears (kind, number of the request that it belongs to, content).

    `on_past` hears the same of what earlier controllers had asked, by the request's msg_id.
    """

    __slots__ = ("_encoder", "_loop", "_on_message", "_on_past", "_scheduled", "_session", "_sign", "_socket", "count")

    def __init__(
        self,
        context: "zmq.Context[zmq.Socket[bytes]]",
        connection: ConnectionInfo,
        loop: asyncio.AbstractEventLoop,
        on_message: Callable[[str, int, bytes], None],
        on_past: Callable[[str, str, bytes], None],
    ) -> None:
        signer = Signer(connection.key.encode())
        self._sign = signer.sign
        # The same after a restart of the controller, so that answers on their way arrive (ROUTER_HANDOVER).
        self._session = "fleet-" + sha256(f"llmspell fleet {connection.key}".encode()).hexdigest()[:16]
        routing_id = self._session.encode()
        # Not the same: answers to an earlier controller must not be taken for ours.
        self._session += f"-{token_hex(4)}"
        self._encoder = Encoder(signer, session=self._session, username="llmspell-fleet")
        self._loop = loop
        self._on_message = on_message
        self._on_past = on_past
        self._scheduled = False
        self.count = 0
        """How many requests were sent; the last one's number."""
        socket = self._socket = context.socket(zmq.DEALER)
        socket.setsockopt(zmq.ROUTING_ID, routing_id)
        socket.setsockopt(zmq.SNDHWM, 0)
        socket.setsockopt(zmq.RCVHWM, 0)
        socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
        socket.connect(connection.endpoint("shell"))
        loop.add_reader(socket.FD, self._readable)

    def hello(self) -> int:
        """Ask for kernel_info; returns the request's number."""
        return self._send("kernel_info_request", b"{}")

    def run(self, content: RunContent) -> int:
        """Ask for an execution; returns the request's number."""
        return self._send("run_request", _encode(content))

    def adopt(self, content: AdoptContent) -> int:
        """Take over from an earlier controller; returns the request's number."""
        return self._send("adopt_request", _encode(content))

    def _send(self, kind: str, content: bytes) -> int:
        frames = self._encoder.encode(kind, content, date=_DATE)
        send(self._socket, frames)
        self.count += 1
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._readable)
        return self.count

    def _readable(self) -> None:
        self._scheduled = False
        for _ in range(AT_ONCE):
            if not self._read():
                return
        self._scheduled = True
        self._loop.call_soon(self._readable)

    def _read(self) -> bool:
        # Asked each time: what was heard may have closed it.
        if self._socket.closed or not is_readable(self._socket):
            return False
        frames, _descriptor = receive(self._socket)
        # A kernel whose script broke out of Lua says what it likes: it is heard no worse, and nobody else either.
        with contextlib.suppress(msgspec.MsgspecError, RecursionError, ValueError):
            self._hear(frames)
        return True

    def read_all(self) -> None:
        """Hear everything that has arrived by now."""
        while self._read():
            pass

    def _hear(self, frames: list[bytes]) -> None:
        if len(frames) < 6 or frames[0] != DELIMITER:
            return
        _, signature, header, parent, metadata, content = frames[:6]
        if not compare_digest(signature, self._sign(header, parent, metadata, content)):
            return
        kind = _decode_header(header).msg_type
        asked = _decode_header(parent).msg_id
        session, _, number = asked.rpartition("_")
        if session == self._session and number.isdecimal():
            self._on_message(kind, int(number), content)
        else:
            self._on_past(kind, asked, content)

    def claim(self, content: ClaimContent) -> None:
        """Say that it is somebody's now; there is no answer."""
        self._send("claim_request", _encode(content))

    def cull(self, content: CullContent) -> None:
        """Have it end when it is not used until then; there is no answer."""
        self._send("cull_request", _encode(content))

    def limit(self, content: LimitsContent) -> int:
        """Ask for other limits; returns the request's number."""
        return self._send("limits_request", _encode(content))

    def expire(self, ticket: int) -> int:
        """Ask that a run does not begin any more; returns the request's number."""
        return self._send("expire_request", b'{"ticket":%d}' % ticket)

    def interrupt(self) -> None:
        """Have what runs interrupted, and nothing that is sent later; there is no answer."""
        self._send("interrupt_request", b"{}")

    def statistics(self) -> int:
        """Ask for statistics; returns the request's number."""
        return self._send("statistics_request", b"{}")

    def shut_down(self) -> None:
        """Ask the kernel to end; its answer is its end."""
        self._send("shutdown_request", b'{"restart":false}')

    def close(self) -> None:
        """Hear no more."""
        if not self._socket.closed:
            self._loop.remove_reader(self._socket.FD)
            self._socket.close(0)
