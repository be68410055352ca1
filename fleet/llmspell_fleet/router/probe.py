"""A closer look at a kernel that does not answer: its control channel and its heartbeat, on connections of their own.

A kernel that nobody beat before begins to echo with the thread that serves its channels: only then is an echo a sign of
life when that thread hangs.
"""

import asyncio
from hmac import compare_digest
from secrets import token_hex
from typing import Final

import msgspec
import zmq

from llmspell_kernel.connection import ConnectionInfo
from llmspell_kernel.transport import is_readable, receive, send
from llmspell_kernel.wire.jupyter import DELIMITER, Encoder, Signer

_DATE: Final = b"1970-01-01T00:00:00.000000Z"


class Vitals(msgspec.Struct, frozen=True):
    """Which channels answered."""

    control: bool
    heartbeat: bool


async def take_vitals(
    context: "zmq.Context[zmq.Socket[bytes]]", connection: ConnectionInfo, *, timeout_s: float
) -> Vitals:
    """Ask on both; returns as soon as the control channel answers, or at the end of the time."""
    probe = _Probe(context, connection)
    try:
        async with asyncio.timeout(timeout_s):
            await probe.answered
    except TimeoutError:
        pass
    finally:
        probe.close()
    return Vitals(probe.has_control, probe.has_heartbeat)


class _Probe:
    """Two sockets, from the question to the answer. ZeroMQ's descriptors are edge-triggered: see `router.link`."""

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", connection: ConnectionInfo) -> None:
        self._loop = asyncio.get_running_loop()
        self.answered: asyncio.Future[None] = self._loop.create_future()
        self.has_control = self.has_heartbeat = False
        signer = Signer(connection.key.encode())
        self._sign = signer.sign
        self._sockets = {name: context.socket(zmq.DEALER) for name in ("control", "hb")}
        for name, socket in self._sockets.items():
            socket.connect(connection.endpoint(name))
            self._loop.add_reader(socket.FD, self._read)
        encoder = Encoder(signer, session=f"fleet-probe-{token_hex(4)}", username="llmspell-fleet")
        send(self._sockets["control"], encoder.encode("kernel_info_request", b"{}", date=_DATE))
        send(self._sockets["hb"], [b"", b"ping"])
        self._loop.call_soon(self._read)

    def _read(self) -> None:
        for name, socket in self._sockets.items():
            while not socket.closed and is_readable(socket):
                frames, _descriptor = receive(socket)
                if name == "hb":
                    self.has_heartbeat = True
                elif self._is_genuine(frames):
                    self.has_control = True
        if self.has_control and not self.answered.done():
            self.answered.set_result(None)

    def _is_genuine(self, frames: list[bytes]) -> bool:
        return len(frames) >= 6 and frames[0] == DELIMITER and compare_digest(frames[1], self._sign(*frames[2:6]))

    def close(self) -> None:
        for socket in self._sockets.values():
            self._loop.remove_reader(socket.FD)
            socket.close(0)
