"""The executions that one incarnation of a kernel has been given, and what became of them at its death."""

import asyncio
from collections.abc import Callable, Sequence
from hashlib import sha256
from typing import Any, Final

import msgspec

from llmspell_fleet.model.ids import KernelId
from llmspell_fleet.model.kernel import Death, RunningExecution
from llmspell_fleet.router import said
from llmspell_fleet.router.link import (
    WITHOUT_END_BYTES,
    AdoptContent,
    ClaimContent,
    CullContent,
    LimitsContent,
    Link,
    RunContent,
    largest_message,
)
from llmspell_fleet.router.progress import ProgressReader
from llmspell_fleet.router.said import AdoptReply, Nonsense, Past, Statistics
from llmspell_kernel.connection import ConnectionInfo
from llmspell_kernel.limits import KernelLimits

LEFT_IN_LINE = 1 << 20
"""More executions than an earlier controller can have left waiting: their tickets come after the one begun last."""


class Lost(Exception):  # noqa: N818 - an outcome, not a fault
    """The kernel died before it answered. `had_begun`: it may have run, and is not to be run again."""

    def __init__(self, death: Death, *, had_begun: bool) -> None:
        super().__init__()
        self.death = death
        self.had_begun = had_begun


class Sent(msgspec.Struct):
    """One execution that a kernel was sent."""

    id: str
    code: str
    """With `is_past`, its SHA-256."""
    ticket: int
    sent_at: float
    answer: "asyncio.Future[bytes]"
    on_output: Callable[[str, bytes], None] | None
    output_bytes: int = 0
    """Output that was heard."""
    is_past: bool = False
    """Sent by an earlier controller."""
    held: said.Held | None = None
    """What was said of it before its reply."""

    def put_out(self, kind: str, content: bytes, most_bytes: int, room: said.Room) -> None:
        """Hand its output on, if somebody listens, or hold it; Nonsense: it is none, or too much."""
        if kind == "run_part":
            self.held = self.held or said.Held(room)
            self.held.take(content, most_bytes)
            return
        for event, output, size in said.run_outputs(content):
            self.output_bytes += size
            if self.output_bytes > most_bytes:
                raise Nonsense(f"one execution wrote more than {most_bytes} bytes")
            if self.on_output is not None:
                self.on_output(event, output)

    def as_running(self, now: float) -> RunningExecution:
        """For a death certificate."""
        digest = self.code if self.is_past else sha256(self.code.encode("utf-8", "surrogatepass")).hexdigest()
        return RunningExecution(id=self.id, sha256=digest, running_s=round(now - self.sent_at, 6))


_OUTPUT: Final = frozenset(("run_output", "run_part"))

_NOT_BEGUN: Final = b'{"begun":false}'

_CUT_OFF: Final = (b'{"status":"interrupted"', b'{"status":"timeout"')
"""How the replies of runs begin that did not come to their script's end."""

CUT_OFF_S: Final = 1.0
"""How long before its process's end a run was cut off that the end has to do with: it is answered, and ends."""


class Inherited(msgspec.Struct):
    """What earlier controllers had asked of a kernel."""

    line: "list[asyncio.Future[bytes]]"
    """The runs that it has not answered, each with the content of its run_reply, or `Lost`."""
    running: "dict[str, asyncio.Future[bytes]]"
    """Those of them that have an id, by it."""
    replies: dict[str, bytes]
    """The contents of run_replies that nobody heard, by the ids that were asked for."""
    forgotten: int
    """Up to this ticket a run with an id may have been answered, and its reply be gone."""


def _in_line(past: Past, sent_at: float, answer: "asyncio.Future[bytes]") -> Sent:
    # Most of them nobody waits for, and nobody looks at how they ended.
    answer.add_done_callback(lambda done: done.cancelled() or done.exception())
    return Sent(past.execution, past.sha256, past.ticket, sent_at, answer, None, is_past=True)


class Channel:
    """What one incarnation is asked, from its first answer to its end. Belongs to the event loop."""

    def __init__(
        self,
        kernel: KernelId,
        connection: ConnectionInfo,
        *,
        progress_path: str,
        proof: str,
        output_bytes: int,
        on_answered: Callable[[], None],
        on_idle: Callable[[], None],
        on_offence: Callable[[str], None],
    ) -> None:
        """`output_bytes` is what its executions may write; `on_offence` hears why it is to be replaced."""
        self.kernel = kernel
        self.connection = connection
        self.load = 0
        """Executions sent and not answered."""
        self.executions = 0
        """Executions answered."""
        self.heard_at = 0.0
        """Loop time of its last message."""
        self._loop = asyncio.get_running_loop()
        self._progress = ProgressReader(progress_path)
        self._tickets = self._progress.begun + LEFT_IN_LINE
        self._on_answered = on_answered
        self._on_idle = on_idle
        self._sent: dict[int, Sent] = {}
        self._cut_off: tuple[Sent, float] | None = None
        """The run that was answered last without its script's end, and when (loop time)."""
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._greetings: set[int] = set()
        self._past: dict[str, Sent] = {}
        """What earlier controllers had sent, by msg_id."""
        self._inherited: asyncio.Future[Inherited] | None = None
        self._adopting = 0
        self._most_bytes, self._room = largest_message(output_bytes), said.Room(self._bound_messages)
        self._link = Link(
            connection,
            self._loop,
            proof=proof,
            most_bytes=self._most_bytes,
            on_message=self._hear,
            on_past=self._hear_past,
            on_offence=on_offence,
        )

    def greet(self) -> None:
        """Ask it who it is; `on_answered` is called each time it says so."""
        self._greetings.add(self._link.hello())

    def send(
        self,
        execution: str,
        code: str,
        *,
        timeout_s: float,
        on_output: Callable[[str, bytes], None] | None = None,
        is_recorded: bool = False,
    ) -> "asyncio.Future[bytes]":
        """Have it run `code`; the future holds the content of its run_reply, or raises `Lost`.

        `on_output` hears "output" or "display", and its JSON (`router.said`).
        With `is_recorded` a later controller may ask for it by its id.
        """
        self._tickets += 1
        number = self._link.run(
            RunContent(code, self._tickets, timeout_s, on_output is not None, execution if is_recorded else "")
        )
        answer = self._loop.create_future()
        self._sent[number] = Sent(execution, code, self._tickets, self._loop.time(), answer, on_output)
        self.load += 1
        return answer

    @property
    def last_ticket(self) -> int:
        """Of the execution that was sent last; those that follow have higher ones."""
        return self._tickets

    @property
    def is_full(self) -> bool:
        """Whether the kernel should take what it was sent before it is sent more executions."""
        return self._link.is_full

    def has_begun(self, answer: "asyncio.Future[bytes]") -> bool:
        """Whether the execution of `answer` is known to have begun."""
        begun = self._progress.begun
        return any(sent.ticket <= begun for sent in self._sent.values() if sent.answer is answer)

    async def expire(self, answer: "asyncio.Future[bytes]") -> bool:
        """See to it that the execution of `answer` does not begin any more; False = it has, or it is answered.

        The kernel says so, at once whatever it runs: it alone knows what it is about to begin. ConnectionError: it
        ended meanwhile.
        """
        ticket = next((sent.ticket for sent in self._sent.values() if sent.answer is answer), None)
        if ticket is None or self.has_begun(answer):
            return False
        asked: asyncio.Future[bytes] = self._loop.create_future()
        self._asked[self._link.expire(ticket)] = asked
        return await asked == _NOT_BEGUN

    def interrupt(self) -> None:
        """Interrupt what it runs, and nothing that is sent later."""
        self._link.interrupt()

    # --- what earlier controllers had asked

    def adopt(self, executions: Sequence[str]) -> None:
        """Take over from an earlier controller; `inherited` is what it had asked. To come before `greet`."""
        self._inherited = self._loop.create_future()
        self._adopting = self._link.adopt(AdoptContent(tuple(executions)))
        self._bound_messages()

    def _bound_messages(self) -> None:
        """What earlier controllers asked for was held to limits that we do not know; what is held was said."""
        most_bytes = WITHOUT_END_BYTES if self._adopting or self._past else self._most_bytes
        self._link.most_bytes = most_bytes - self._room.used

    async def inherited(self) -> Inherited:
        """What it had asked of the kernel; Lost: the kernel has ended."""
        if self._inherited is None:
            return Inherited([], {}, {}, 0)
        return await asyncio.shield(self._inherited)

    def _take_over(self, reply: AdoptReply) -> None:
        inherited = Inherited([], {}, {name: said.written(one) for name, one in reply.replies.items()}, reply.forgotten)
        now = self._loop.time()
        for one in reply.line:
            answer = self._loop.create_future()
            self._past[one.msg_id] = _in_line(one, now - one.running_s, answer)
            inherited.line.append(answer)
            if one.execution:
                inherited.running[one.execution] = answer
        self.load += len(reply.line)
        if self._inherited is not None and not self._inherited.done():
            self._inherited.set_result(inherited)
        self._bound_messages()
        if not self.load:
            self._on_idle()

    def _hear_past(self, kind: str, asked: str, content: bytes) -> bool:
        self.heard_at = self._loop.time()
        if asked not in self._past:
            # Until it has said what its line was, that may be of it.
            return bool(self._adopting)
        if kind in _OUTPUT:
            self._past[asked].put_out(kind, content, WITHOUT_END_BYTES, self._room)
        else:
            reply = said.run_reply(content, self._past[asked].held)
            self._answered(self._past.pop(asked), reply)
            self._bound_messages()
        return True

    def _answered(self, sent: Sent, reply: bytes) -> None:
        self.load -= 1
        self.executions += 1
        self._cut_off = (sent, self._loop.time()) if reply.startswith(_CUT_OFF) else None
        if not sent.answer.done():
            sent.answer.set_result(reply)
        if not self.load:
            self._on_idle()

    def _hear(self, kind: str, number: int, content: bytes) -> bool:
        self.heard_at = self._loop.time()
        if kind == "run_reply" and number in self._sent:
            reply = said.run_reply(content, self._sent[number].held)
            self._answered(self._sent.pop(number), reply)
        elif kind in _OUTPUT and number in self._sent:
            self._sent[number].put_out(kind, content, self._most_bytes, self._room)
        elif kind in {"statistics_reply", "limits_reply", "expire_reply"} and number in self._asked:
            told = said.statistics(content) if kind == "statistics_reply" else content
            asked = self._asked.pop(number)
            if not asked.done():
                asked.set_result(told)
        elif kind == "adopt_reply" and number == self._adopting:
            self._adopting = 0
            self._take_over(said.adopt_reply(content))
        elif kind == "kernel_info_reply" and number in self._greetings:
            self._greetings.remove(number)
            if self._adopting:
                # It answers in order: it is of a version that knows no adopt_request.
                self._adopting = 0
                self._take_over(AdoptReply())
            self._on_answered()
        else:
            return False
        return True

    def running(self) -> tuple[RunningExecution, ...]:
        """What was begun and is not answered."""
        begun, now, line = self._progress.begun, self._loop.time(), (*self._past.values(), *self._sent.values())
        return tuple(sent.as_running(now) for sent in line if sent.ticket <= begun)

    def ended_with(self) -> tuple[RunningExecution, ...]:
        """What runs, and what was cut off just now: for a death certificate."""
        self._link.read_all()  # what it answered did not end with it
        now = self._loop.time()
        if self._cut_off is None or now - self._cut_off[1] >= CUT_OFF_S:
            return self.running()
        return (*self.running(), self._cut_off[0].as_running(now))

    def claim(self, *, name: str, log_level: str) -> None:
        """Tell it that it is somebody's now, and what it is called."""
        self._link.claim(ClaimContent(name, log_level))

    def cull(self, *, in_s: float, reason: str, is_forced: bool) -> None:
        """Have it tell its clients that it is culled, and end `in_s` later unless it is used or that is forced."""
        self._link.cull(CullContent(in_s, reason, is_forced))

    def shut_down(self) -> None:
        """Ask it to end: what runs is interrupted and answered."""
        self._link.shut_down()

    def limit(self, limits: KernelLimits) -> "asyncio.Future[bytes]":
        """Have it hold its scripts and clients to other limits; the future is done when it does."""
        # Never less: what runs may have written more before it is held to less.
        self._most_bytes = max(self._most_bytes, largest_message(limits.output_bytes))
        self._bound_messages()
        answer = self._loop.create_future()
        self._asked[self._link.limit(LimitsContent(limits))] = answer
        return answer

    async def statistics(self) -> Statistics:
        """What it has done and holds, asked of the kernel itself. ConnectionError: it ended meanwhile."""
        answer: asyncio.Future[Statistics] = self._loop.create_future()
        self._asked[self._link.statistics()] = answer
        return await answer

    def end(self, death: Death) -> None:
        """The incarnation is over: what it has not answered by now is lost."""
        # Read now: soon the next incarnation counts from the beginning, on the same page.
        begun = self._progress.begun
        self._on_idle = lambda: None  # whoever listens asks the next incarnation by now
        self._link.read_all()  # what it said before its end is here
        self._link.close()
        self._progress.close()
        lost = [*self._past.values(), *self._sent.values()]
        self._sent, self._past, self.load = {}, {}, 0
        if self._inherited is not None and not self._inherited.done():
            self._inherited.set_exception(Lost(death, had_begun=True))
            self._inherited.exception()  # nobody may be waiting for it
        for sent in lost:
            if not sent.answer.done():
                sent.answer.set_exception(Lost(death, had_begun=sent.ticket <= begun))
        for asked in self._asked.values():
            if not asked.done():
                asked.set_exception(ConnectionResetError("the kernel has ended"))
