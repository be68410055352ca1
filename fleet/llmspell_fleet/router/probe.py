"""A closer look at a kernel that does not answer: its control channel and its heartbeat, on connections of their own.

A kernel that nobody beat before begins to echo with the thread that serves its channels: only then is an echo a sign of
life when that thread hangs.
"""

import asyncio
from collections.abc import Callable
from hmac import compare_digest
from secrets import token_hex
from typing import Final

import msgspec

from llmspell_fleet.router.connection import Connection
from llmspell_fleet.router.said import OWN_NAME
from llmspell_kernel.connection import ConnectionInfo
from llmspell_kernel.wire.jupyter import DELIMITER, Encoder, Signer

MOST_BYTES: Final = 64 * 1024
"""Of an answer."""

_DATE: Final = b"1970-01-01T00:00:00.000000Z"


class Vitals(msgspec.Struct, frozen=True):
    """Which channels answered."""

    control: bool
    heartbeat: bool


async def take_vitals(connection: ConnectionInfo, *, timeout_s: float) -> Vitals:
    """Ask on both; returns as soon as the control channel answers, or at the end of the time.

    OSError: we could not ask, which says nothing of the kernel.
    """
    probe = _Probe(connection)
    try:
        async with asyncio.timeout(timeout_s):
            await probe.answered
    except TimeoutError:
        pass
    finally:
        shortage = probe.shortage
        probe.close()
    if shortage is not None and not probe.has_answer:
        raise shortage
    return Vitals(probe.has_answer, probe.has_heartbeat)


class _Probe:
    """Two connections, from the question to the answer."""

    def __init__(self, connection: ConnectionInfo) -> None:
        self.answered: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.has_heartbeat = False
        signer = Signer(connection.key.encode())
        self._sign = signer.sign
        self._control = self._open(connection.endpoint("control"), self._hear)
        try:
            self._heartbeat = self._open(connection.endpoint("hb"), self._hear_heartbeat)
        except OSError:
            self._control.close()
            raise
        encoder = Encoder(signer, session=f"fleet-probe-{token_hex(4)}", username=OWN_NAME)
        self._control.send(encoder.encode("kernel_info_request", b"{}", date=_DATE))
        self._heartbeat.send((b"", b"ping"))

    @property
    def has_answer(self) -> bool:
        """Whether the control channel has answered."""
        return self.answered.done() and not self.answered.cancelled()

    @property
    def shortage(self) -> OSError | None:
        """Why one of them could not be asked."""
        return self._control.shortage or self._heartbeat.shortage

    def _open(self, endpoint: str, on_message: Callable[[list[bytes]], None]) -> Connection:
        return Connection(
            endpoint,
            b"",  # a name is given
            asyncio.get_running_loop(),
            most_bytes=MOST_BYTES,
            on_message=on_message,
            on_end=lambda _reason, _is_fault: None,
        )

    def _hear(self, frames: list[bytes]) -> None:
        is_genuine = len(frames) >= 6 and frames[0] == DELIMITER and compare_digest(frames[1], self._sign(*frames[2:6]))
        if is_genuine and not self.answered.done():
            self.answered.set_result(None)

    def _hear_heartbeat(self, _frames: list[bytes]) -> None:
        self.has_heartbeat = True

    def close(self) -> None:
        self._control.close()
        self._heartbeat.close()
