"""`run_request`: an execution that is answered in one message, for callers that do not subscribe.

llmspell's own message, on the shell channel. A supervisor holds one connection to each of its kernels and speaks for
many callers: subscribing would cost it a second connection, and five messages to take apart for each execution. What
others see on IOPub is as for any execution.

Content: `code`; `ticket`, a number that grows (see `runtime.progress`); `timeout_s`, counted from the arrival,
waiting included, 0 = none; `execution`, an id by which its reply may be asked for later (see `succession`), "" = none;
`stream`: send `run_output` messages (`{"name", "text"}` or `{"display": bundle}`, or several of them as
`{"outputs": [...]}`) before the reply. `run_reply`:
`status` ("ok", "error", "interrupted", "timeout"), `execution_count`, `stdout`, `stderr`, `result` (text or null),
`data` (MIME bundle or null), `error` (`{"name", "message", "traceback"}` or null), `duration_s`, and `displays`
(bundles) when there were any. Streamed text is not repeated in the reply.
"""

from collections.abc import Callable
from typing import Annotated, Final

import msgspec

from llmspell_kernel.jupyter.contents import encode, json_text
from llmspell_kernel.runtime.engine import Outcome
from llmspell_kernel.runtime.outbox import FLUSH_BYTES

_HEAD: Final = b'{"status":"%b","execution_count":%d,"stdout":%b,"stderr":%b,'
_TAIL: Final = b'"result":%b,"data":%b,"error":%b,"duration_s":%.6f%b}'


class RunRequest(msgspec.Struct, gc=False):
    """The content of `run_request`."""

    code: str
    ticket: Annotated[int, msgspec.Meta(ge=0, le=2**62)] = 0
    timeout_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    stream: bool = False
    execution: str = ""


class Run:
    """What one run has come to so far."""

    __slots__ = (
        "_bytes",
        "_displays",
        "_keep",
        "_outputs",
        "_send",
        "_text",
        "due",
        "execution",
        "is_behind",
        "ticket",
    )

    def __init__(
        self, request: RunRequest, now: float, send: Callable[[bytes], None], keep: Callable[["Run", bytes], None]
    ) -> None:
        self.ticket = request.ticket
        self.execution = request.execution
        self.due = now + request.timeout_s if request.timeout_s else 0.0
        """Monotonic time at which it must have ended; 0 = whenever it does."""
        self._send = send if request.stream else None
        self._keep = keep
        self.is_behind: Callable[[], bool] = lambda: False
        """Whether its caller has much to read."""
        self._outputs: list[bytes] = []
        """Those that are not sent yet."""
        self._bytes = 0
        self._text: dict[bytes, list[bytes]] = {}
        self._displays: list[bytes] = []

    @property
    def is_held_up(self) -> bool:
        """Whether its script should write no more until its caller has read some of what there is."""
        return self._send is not None and self.is_behind()

    def write(self, name: bytes, text: bytes) -> None:
        """Take output, as a JSON string."""
        if self._send is not None:
            self._put(b'{"name":"%b","text":%b}' % (name, text))

    def _put(self, output: bytes) -> None:
        self._outputs.append(output)
        self._bytes += len(output)
        if self._bytes >= FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Send the output that was taken, in one message: a script may go from stream to stream with each byte."""
        outputs = self._outputs
        if outputs and self._send is not None:
            self._send(outputs[0] if len(outputs) == 1 else b'{"outputs":[%b]}' % b",".join(outputs))
            self._outputs, self._bytes = [], 0

    def keep(self, name: bytes, data: bytes) -> None:
        """Take output for the reply."""
        if self._send is None:
            self._text.setdefault(name, []).append(data)

    def display(self, bundle: bytes) -> None:
        """Take a MIME bundle, as JSON."""
        if self._send is not None:
            self._put(b'{"display":%b}' % bundle)
        else:
            self._displays.append(bundle)

    def reply(self, outcome: Outcome, count: int, duration_s: float) -> bytes:
        """The content of the reply; its output goes before."""
        self.flush()
        result = data = error = b"null"
        if outcome.error is not None:
            error = encode(outcome.error)
        elif outcome.result is not None:
            result = json_text(outcome.result)
            data = b'{"text/plain":%b}' % result
        displays = b',"displays":[%b]' % b",".join(self._displays) if self._displays else b""
        head = _HEAD % (outcome.status.encode(), count, self._joined(b"stdout"), self._joined(b"stderr"))
        content = head + _TAIL % (result, data, error, duration_s, displays)
        if self.execution:
            self._keep(self, content)
        return content

    def _joined(self, name: bytes) -> bytes:
        pieces = self._text.get(name)
        return json_text(b"".join(pieces)) if pieces else b'""'
