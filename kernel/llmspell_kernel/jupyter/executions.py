"""Executions, from the request to the idle that ends it.

**Order.** Cells are handed to the Lua thread as they come, so that it never waits for this one; what they publish is
sent in the order in which they ran. `_line` holds them: its head is the one that runs, and everything that comes out
of the outbox before the head's `Finished` is the head's. All of it belongs to the I/O thread.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from llmspell_kernel.jupyter.contents import BUSY, IDLE, ErrorContent, ExecuteRequest, encode, json_text
from llmspell_kernel.jupyter.history import History
from llmspell_kernel.jupyter.iopub import IOPub
from llmspell_kernel.jupyter.outputs import joined, publish_display, publish_text
from llmspell_kernel.jupyter.pager import Question, question
from llmspell_kernel.jupyter.runs import Part, Run
from llmspell_kernel.runtime.engine import Outcome, ScriptError, Status
from llmspell_kernel.runtime.outbox import (
    Broken,
    Finished,
    InputRequest,
    Item,
    Publication,
    Symbols,
)
from llmspell_kernel.runtime.worker import Execution, Worker
from llmspell_kernel.wire.jupyter import Message

FULL_LINE: Final = 4096
FULL_LINE_BYTES: Final = 64 * 1024 * 1024
"""With this many executions waiting, or this much code, no more requests are read from the shell channel."""

_ABORTED: Final = b'{"status":"aborted","execution_count":%d,"user_expressions":{},"payload":[]}'
_DONE: Final = b'{"status":"ok","execution_count":%d,"user_expressions":%b,"payload":[%b]}'
_RESULT: Final = b'{"execution_count":%d,"data":{"text/plain":%b},"metadata":{}}'
_INPUT: Final = b'{"code":%b,"execution_count":%d}'


class _Running(msgspec.Struct):
    """An execution in line."""

    number: int
    message: Message
    request: ExecuteRequest
    count: int
    epoch: int
    question: Question | None
    run: Run | None
    begun_at: float = 0.0


class Executions:
    """The line of executions."""

    def __init__(
        self,
        worker: Worker,
        iopub: IOPub,
        history: History,
        *,
        reply: Callable[[Message, str, bytes], None],
        answer: Callable[[Message, Sequence[Part], bytes], None],
        ask: Callable[[Message], None],
        read_ahead: Callable[[float], None],
    ) -> None:
        self._worker = worker
        self._iopub = iopub
        self._history = history
        self._reply = reply
        self._answer = answer
        self._ask = ask
        self._read_ahead = read_ahead
        self._line: deque[_Running] = deque()
        self._line_bytes = 0
        self._new: list[Execution] = []
        self._numbers = 0
        self._epoch = 0
        self._next_count = 1
        self.on_broken: Callable[[Broken], None] = lambda _broken: None
        """Called when the Lua thread has ended by a fault of ours."""
        self.breathe: Callable[[], None] = lambda: None
        """Called between the pieces of one long text: others want to be heard meanwhile."""
        self.count = 0
        """The number of the last cell that was stored, as front ends show it."""
        self.finished = self.failed = 0
        self.page: Callable[[Question], bytes] = lambda _question: b""
        """The payload that answers a cell which asks about a name."""
        self.symbols: list[bytes] = []
        """The globals as of the last look."""
        self._since_symbols: deque[tuple[int, str]] = deque(maxlen=64)

    # --- what the loop asks ------------------------------------------------------------------------------------

    @property
    def running(self) -> int | None:
        """The number of the execution that runs; None when none does."""
        return self._line[0].number if self._line else None

    @property
    def run(self) -> Run | None:
        """The running execution, when it is a run."""
        return self._line[0].run if self._line else None

    def cells_since_symbols(self) -> list[tuple[int, str]]:
        """The cells since that look, the running one included: names that they define are not in it."""
        cells = list(self._since_symbols)
        if self._line:
            cells.append((self._line[0].count, self._line[0].request.code))
        return cells

    @property
    def waiting(self) -> int:
        """How many are in line, the running one included."""
        return len(self._line)

    @property
    def has_new(self) -> bool:
        """Whether `hand_over` has something to do."""
        return bool(self._new)

    @property
    def is_full(self) -> bool:
        """Whether reading more requests would let the line grow without bound."""
        return len(self._line) >= FULL_LINE or self._line_bytes >= FULL_LINE_BYTES

    def runs(self) -> list[tuple[Message, Run, float]]:
        """The runs in line, and when each began (monotonic, 0 = it has not)."""
        return [(one.message, one.run, one.begun_at) for one in self._line if one.run is not None]

    # --- in ----------------------------------------------------------------------------------------------------

    def submit(self, message: Message, request: ExecuteRequest, run: Run | None = None) -> None:
        """Put a request in line; `run` when it is to be answered in one message."""
        self._numbers += 1
        store = request.store_history and not request.silent
        count = self._next_count if store else self._next_count - 1
        if store:
            self._next_count += 1
        asked = question(request.code)
        running = _Running(self._numbers, message, request, count, self._epoch, asked, run)
        self._line.append(running)
        self._line_bytes += len(message.content_bytes)
        self._new.append(
            Execution(
                running.number,
                b"" if asked else request.code.encode("utf-8", "surrogatepass"),
                b"=In[%d]" % (count if store else count + 1),
                self._epoch,
                request.stop_on_error,
                request.allow_stdin,
                request.user_expressions or {},
                run.ticket if run else 0,
                run.due if run else 0.0,
            )
        )

    def hand_over(self) -> None:
        """Give the requests that came since the last call to the Lua thread, in one batch.

        The first of a batch is announced before: the threads share the interpreter, and one that works while the other
        sends slows both down. A single one is announced after, while the other thread wakes up.
        """
        if len(self._new) > 1:
            self.announce()
        self._worker.submit(*self._new)
        self._new.clear()

    def announce(self) -> None:
        """Say that the first in line is being executed, if that was not said yet."""
        if self._line:
            self._begin(self._line[0])

    def _begin(self, running: _Running) -> None:
        if running.begun_at:
            return
        running.begun_at = time.monotonic()
        if running.epoch != self._epoch and running.run is None:
            return
        parent = running.message.header_bytes
        self._iopub.publish("status", BUSY, parent)
        request = running.request
        if request.silent:
            return
        self.count = running.count
        self._iopub.publish("execute_input", _INPUT % (encode(request.code), running.count), parent)

    # --- out ---------------------------------------------------------------------------------------------------

    def deliver(self, items: Sequence[Item]) -> None:
        """Publish what the Lua thread brought."""
        self.announce()
        for item in joined(items):
            if isinstance(item, tuple):
                self._stream(*item)
            else:
                self._event(item)
        if run := self.run:
            run.flush()

    def _event(self, item: Item) -> None:
        if type(item) is Finished:
            self._finish(item)
        elif type(item) is Publication:
            self._publication(item)
        elif type(item) is InputRequest and self._line:
            self._ask(self._line[0].message)
        elif type(item) is Broken:
            self.on_broken(item)
        elif type(item) is Symbols:
            self.symbols = item.rows
            self._since_symbols.clear()

    def _stream(self, name: bytes, data: bytes) -> None:
        if not self._line or self._line[0].request.silent:
            return
        head = self._line[0]
        publish_text(self._iopub, name, data, parent=head.message.header_bytes, run=head.run, breathe=self.breathe)

    def _publication(self, item: Publication) -> None:
        if not self._line or self._line[0].request.silent:
            return
        head = self._line[0]
        publish_display(self._iopub, item, parent=head.message.header_bytes, run=head.run)

    def _finish(self, item: Finished) -> None:
        if not self._line or self._line[0].number != item.number:
            return  # answered before: see `fail_running`
        running = self._line[0]
        outcome = item.outcome
        if outcome is None:
            self._leave(running, _ABORTED % self.count, with_busy=True)
            return
        self.finished += 1
        if running.run:
            self._answer_run(running, running.run, outcome)
        if outcome.error is None:
            self._succeed(running, outcome, item.expressions)
        else:
            self._fail(running, outcome.error, outcome.status)

    def _succeed(self, running: _Running, outcome: Outcome, expressions: dict[str, tuple[bool, bytes]] | None) -> None:
        request = running.request
        if outcome.result is not None and not request.silent:
            content = _RESULT % (running.count, json_text(outcome.result))
            self._iopub.publish("execute_result", content, running.message.header_bytes)
        result = outcome.result.decode("utf-8", "replace") if outcome.result is not None else None
        self._remember(running, result)
        page = self.page(running.question) if running.question else b""
        self._leave(running, _DONE % (running.count, _expressions(expressions) if expressions else b"{}", page))

    def _fail(self, running: _Running, error: ScriptError, status: Status) -> None:
        self.failed += 1
        if running.request.stop_on_error:
            # Whatever was sent before this answer is aborted; what comes later is not. A person who interrupts has
            # sent what there is to send, and wants an answer.
            self._read_ahead(time.monotonic() - running.begun_at if status == "error" else math.inf)
            self._epoch += 1
            self._next_count = self.count + 1
        content = ErrorContent(error.name, error.message, error.traceback)
        if not running.request.silent:
            published = {"ename": error.name, "evalue": error.message, "traceback": error.traceback}
            self._iopub.publish("error", encode(published), running.message.header_bytes)
        self._remember(running, None)
        content.execution_count = running.count
        self._leave(running, encode(content))

    def _answer_run(self, running: _Running, run: Run, outcome: Outcome) -> None:
        reply = run.reply(outcome, running.count, time.monotonic() - running.begun_at)
        self._answer(running.message, run.parts, reply)

    def fail_running(self, error: ScriptError, status: Status = "interrupted") -> None:
        """Answer the running execution without its outcome, and abort the rest: the process is about to end.

        Runs that were not begun get no answer: whoever sent them sees that, and runs them elsewhere.
        """
        if not self._line:
            return
        head = self._line[0]
        if head.run:
            self._answer_run(head, head.run, Outcome(status, None, error))
        self._fail(head, error, status)
        while self._line:
            self._leave(self._line[0], _ABORTED % self.count, with_busy=True)

    def _remember(self, running: _Running, result: str | None) -> None:
        code = running.request.code
        if running.request.store_history and not running.request.silent:
            self._history.add(running.count, code, result)
        self._since_symbols.append((running.count, code))

    def _leave(self, running: _Running, reply: bytes, *, with_busy: bool = False) -> None:
        parent = running.message.header_bytes
        if with_busy:
            self._iopub.publish("status", BUSY, parent)
        if running.run is None:
            self._reply(running.message, "execute_reply", reply)
        self._iopub.publish("status", IDLE, parent)
        self._line.popleft()
        self._line_bytes -= len(running.message.content_bytes)
        if self._line:
            self._begin(self._line[0])


def _expressions(expressions: dict[str, tuple[bool, bytes]]) -> bytes:
    answers: dict[str, object] = {}
    for name, (is_ok, value) in expressions.items():
        if is_ok:
            answers[name] = {"status": "ok", "data": msgspec.Raw(value), "metadata": {}}
        else:
            text = value.decode("utf-8", "replace")
            answers[name] = {"status": "error", "ename": "LuaError", "evalue": text, "traceback": [text]}
    return encode(answers)
