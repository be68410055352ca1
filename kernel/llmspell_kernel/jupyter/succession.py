"""`adopt_request`: what a supervisor that comes after another one asks of a kernel, and what is kept for that.

llmspell's own message, on the shell channel. A supervisor may be killed and another one take its place while a run is
in line, or after it was answered to nobody. The new one asks by the ids that the old one gave to runs (`run_request`'s
`execution`). From then on the kernel takes runs from this supervisor alone: what the old one had sent and what was not
read yet is dropped, so that a run of which the kernel says that it does not know it never begins.

Content: `executions`, the ids that are asked for. `adopt_reply`: `line`, the runs that are not answered yet, in order,
each with its `execution` ("" = it was given no id), the `msg_id` that its reply will have as parent, its `ticket`, the
`sha256` of its code and how long it has been there (`running_s`); `replies`, the contents of those run_replies by id
that are asked for and kept (those with parts are in `line` instead, and are said again); `forgotten`, the highest
ticket of a run with an id whose reply is no longer kept.
"""

import time
from collections import deque
from collections.abc import Iterable, Sequence
from hashlib import sha256
from typing import Final

import msgspec

from llmspell_kernel.jupyter.contents import encode
from llmspell_kernel.jupyter.runs import Part, Run, RunRequest
from llmspell_kernel.wire.jupyter import Header, Message

SUPERVISOR: Final = "llmspell-fleet"
"""The username of a supervisor's messages."""

MOST_KEPT: Final = 256
MOST_KEPT_BYTES: Final = 1024 * 1024
"""The last reply is kept however long it is."""


class AdoptRequest(msgspec.Struct, gc=False):
    """The content of `adopt_request`."""

    executions: tuple[str, ...] = ()


class Waiting(msgspec.Struct, gc=False):
    """A run in line."""

    execution: str
    msg_id: str
    ticket: int
    sha256: str
    running_s: float


class Kept(msgspec.Struct, gc=False):
    """The reply to a run with an id, and what goes before it."""

    run: Waiting
    message: Message
    """What asked for it, without its content."""
    parts: Sequence[Part]
    reply: bytes
    bytes: int


class Succession:
    """Whose runs are taken, and the replies to those that somebody may ask for again. Belongs to the I/O thread."""

    __slots__ = ("_bytes", "_forgotten", "_kept", "_supervisor")

    def __init__(self) -> None:
        self._supervisor = ""
        """The session of the supervisor that has taken over; "" = there was but one."""
        self._kept: deque[Kept] = deque()
        self._bytes = 0
        self._forgotten = 0

    def keep(self, message: Message, run: Run, reply: bytes) -> None:
        """Remember the reply to a run with an id, which `message` asked for."""
        size = len(reply) + sum(part.size for part in run.parts)
        asked = msgspec.structs.replace(message, content_bytes=b"", buffers=[])
        self._kept.append(Kept(_waiting(message, run, 0.0), asked, run.parts, reply, size))
        self._bytes += size
        while len(self._kept) > MOST_KEPT or (self._bytes > MOST_KEPT_BYTES and len(self._kept) > 1):
            oldest = self._kept.popleft()
            self._bytes -= oldest.bytes
            self._forgotten = max(self._forgotten, oldest.run.ticket)

    def is_past(self, header: Header) -> bool:
        """Whether a run was sent by a supervisor whose place another one has taken."""
        return self._supervisor != "" and header.username == SUPERVISOR and header.session != self._supervisor

    def take_over(
        self, header: Header, request: AdoptRequest, runs: Iterable[tuple[Message, Run, float]]
    ) -> tuple[bytes, list[Kept]]:
        """Obey another supervisor from now on; the content of the reply, and what is to be said again after it.

        `runs` are in line, each with its begin.
        """
        self._supervisor = header.session
        asked = frozenset(request.executions)
        kept = [one for one in self._kept if one.run.execution in asked]
        again = [one for one in kept if one.parts]
        line = [*(one.run for one in again), *(_waiting(*one) for one in runs)]
        replies = {one.run.execution: msgspec.Raw(one.reply) for one in kept if not one.parts}
        return encode({"status": "ok", "line": line, "replies": replies, "forgotten": self._forgotten}), again


def _waiting(message: Message, run: Run, begun_at: float) -> Waiting:
    code = msgspec.json.decode(message.content_bytes, type=RunRequest).code
    return Waiting(
        run.execution,
        message.header.msg_id,
        run.ticket,
        sha256(code.encode("utf-8", "surrogatepass")).hexdigest(),
        round(time.monotonic() - begun_at, 6) if begun_at else 0.0,
    )
