"""The controller's one connection to a kernel, as a DEALER on its shell channel."""

import asyncio
import resource
from collections.abc import Callable
from hashlib import sha256
from hmac import compare_digest
from secrets import token_hex
from typing import Final

import msgspec

from llmspell_fleet.router.connection import Connection
from llmspell_fleet.router.said import OWN_NAME, Nonsense
from llmspell_kernel.connection import ConnectionInfo
from llmspell_kernel.limits import KernelLimits
from llmspell_kernel.wire.jupyter import DELIMITER, EMPTY_OBJECT, Encoder, Header, Signer

LEFT_S: Final = 5.0
"""How long a kernel that has closed its connection may take to end: it does so at its end."""

MOST_UNASKED: Final = 10_000
"""Messages that answer nothing: more are no late answers to an earlier controller."""

MOST_UNSENT_BYTES: Final = 128 * 1024 * 1024
"""With more that its kernel has not taken yet, a connection is full."""

MOST_DIGITS: Final = 18
"""Of a request's number."""

ESCAPED: Final = 6
"""Bytes that JSON makes of one, at most."""

BESIDES_OUTPUT_BYTES: Final = 48 * 1024 * 1024
"""What a reply holds besides what was written: results and errors, which a kernel shortens, and an adopt_reply's line.
"""

WITHOUT_END_BYTES: Final = 1024 * 1024 * 1024
"""A kernel's largest message where its tenant's `output_bytes` is 0."""


def largest_message(output_bytes: int) -> int:
    """Bytes of the largest message of a kernel whose executions may write so much."""
    return output_bytes * ESCAPED + BESIDES_OUTPUT_BYTES if output_bytes else WITHOUT_END_BYTES


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


_decode_header = msgspec.json.Decoder(Header).decode
_encode = msgspec.json.Encoder().encode
_DATE: Final = b"1970-01-01T00:00:00.000000Z"
"""Kernels do not read the dates of requests, and nobody else sees these."""


def raise_descriptor_limit() -> int:
    """Raise RLIMIT_NOFILE to the hard limit; returns it."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


class Link:
    """One connection, to its end: what its incarnation says, and whether that is to be borne.

    `on_message` hears (kind, number of the request that it belongs to, content); `on_past` the same of what earlier
    controllers had asked, by the request's msg_id. Both say whether that was asked for. `on_offence` hears, once, why
    a kernel that lives is heard no more.
    """

    def __init__(
        self,
        connection: ConnectionInfo,
        loop: asyncio.AbstractEventLoop,
        *,
        proof: str,
        most_bytes: int,
        on_message: Callable[[str, int, bytes], bool],
        on_past: Callable[[str, str, bytes], bool],
        on_offence: Callable[[str], None],
    ) -> None:
        """`proof` is what the kernel knows its supervisor by."""
        signer = Signer(connection.key.encode())
        self._sign = signer.sign
        self._proof = _encode({"proof": proof})
        # The same after a restart of the controller, so that answers on their way arrive (ROUTER_HANDOVER).
        self._session = "fleet-" + sha256(f"llmspell fleet {connection.key}".encode()).hexdigest()[:16]
        routing_id = self._session.encode()
        # Not the same: answers to an earlier controller must not be taken for ours.
        self._session += f"-{token_hex(4)}"
        self._encoder = Encoder(signer, session=self._session, username=OWN_NAME)
        self._loop = loop
        self._on_message = on_message
        self._on_past = on_past
        self._on_offence = on_offence
        self._leaving: asyncio.TimerHandle | None = None
        self._unasked = 0
        self.count = 0
        """How many requests were sent; the last one's number."""
        self._connection = Connection(
            connection.endpoint("shell"),
            routing_id,
            loop,
            most_bytes=most_bytes,
            on_message=self._hear,
            on_end=self._ended,
        )

    # --- in

    def _hear(self, frames: list[bytes]) -> None:
        try:
            is_asked = self._is_asked(frames)
        except Nonsense as fault:
            self.offend(str(fault))
            return
        if not is_asked:
            self._unasked += 1
            if self._unasked > MOST_UNASKED:
                self.offend(f"it said more than {MOST_UNASKED} things that answer nothing")

    def _is_asked(self, frames: list[bytes]) -> bool:
        if len(frames) < 6 or frames[0] != DELIMITER:
            return False
        _, signature, header, parent, metadata, content = frames[:6]
        if not compare_digest(signature, self._sign(header, parent, metadata, content)):
            return False
        try:
            kind = _decode_header(header).msg_type
            asked = _decode_header(parent).msg_id
        except (msgspec.MsgspecError, RecursionError, ValueError):
            return False
        session, _, number = asked.rpartition("_")
        if session == self._session and number.isdecimal() and len(number) < MOST_DIGITS:
            return self._on_message(kind, int(number), content)
        return self._on_past(kind, asked, content)

    def offend(self, reason: str) -> None:
        """It said what no kernel of ours says: it is heard no more."""
        self.close()
        self._on_offence(reason)

    def _ended(self, reason: str, is_fault: bool) -> None:
        if is_fault:
            self.offend(reason)
        else:
            # As a rule it has ended, or is about to.
            self._leaving = self._loop.call_later(LEFT_S, self._on_offence, reason)

    @property
    def most_bytes(self) -> int:
        """The largest message that is taken."""
        return self._connection.most_bytes

    @most_bytes.setter
    def most_bytes(self, most_bytes: int) -> None:
        self._connection.most_bytes = most_bytes

    def read_all(self) -> None:
        """Hear everything that has arrived by now."""
        self._connection.read_all()

    def close(self) -> None:
        """Hear no more."""
        if self._leaving is not None:
            self._leaving.cancel()
        self._connection.close()

    # --- out

    @property
    def is_full(self) -> bool:
        """Whether more waits to be sent than should."""
        return self._connection.unsent_bytes > MOST_UNSENT_BYTES

    def _send(self, kind: str, content: bytes, metadata: bytes = EMPTY_OBJECT) -> int:
        self._connection.send(self._encoder.encode(kind, content, date=_DATE, metadata=metadata))
        self.count += 1
        return self.count

    def _demand(self, kind: str, content: object) -> int:
        """Ask what only a supervisor may."""
        return self._send(kind, _encode(content), self._proof)

    def hello(self) -> int:
        """Ask for kernel_info; returns the request's number."""
        return self._send("kernel_info_request", b"{}")

    def run(self, content: RunContent) -> int:
        """Ask for an execution; returns the request's number."""
        return self._send("run_request", _encode(content))

    def adopt(self, content: AdoptContent) -> int:
        """Take over from an earlier controller; returns the request's number."""
        return self._demand("adopt_request", content)

    def claim(self, content: ClaimContent) -> None:
        """Say that it is somebody's now; there is no answer."""
        self._demand("claim_request", content)

    def cull(self, content: CullContent) -> None:
        """Have it end when it is not used until then; there is no answer."""
        self._demand("cull_request", content)

    def limit(self, content: LimitsContent) -> int:
        """Ask for other limits; returns the request's number."""
        return self._demand("limits_request", content)

    def expire(self, ticket: int) -> int:
        """Ask that a run does not begin any more; returns the request's number."""
        return self._demand("expire_request", {"ticket": ticket})

    def interrupt(self) -> None:
        """Have what runs interrupted, and nothing that is sent later; there is no answer."""
        self._send("interrupt_request", b"{}")

    def statistics(self) -> int:
        """Ask for statistics; returns the request's number."""
        return self._send("statistics_request", b"{}")

    def shut_down(self) -> None:
        """Ask the kernel to end; its answer is its end."""
        self._send("shutdown_request", b'{"restart":false}')
