"""`run_request`: an execution that is answered in one message, for callers that do not subscribe.

llmspell's own message, on the shell channel. A supervisor holds one connection to each of its kernels and speaks for
many callers: subscribing would cost it a second connection, and five messages to take apart for each execution. What
others see on IOPub is as for any execution.

Content: `code`; `ticket`, a number that grows (see `runtime.progress`); `timeout_s`, counted from the arrival,
waiting included, 0 = none; `execution`, an id by which its reply may be asked for later (see `succession`), "" = none;
`stream`: send `run_output` messages (`{"name", "text"}` or `{"display": bundle}`, or several of them as
`{"outputs": [...]}`) as there is output. `run_reply`:
`status` ("ok", "error", "interrupted", "timeout"), `execution_count`, `stdout`, `stderr`, `result` (text or null),
`data` (MIME bundle or null), `error` (`{"name", "message", "traceback"}` or null), `duration_s`, and `displays`
(bundles) when there were any. What was streamed is not repeated in the reply.

Nor is what went before it in `run_part` messages (`stdout`, `stderr`, `displays`): nobody holds a long reply at once.
They are sent while the script runs, which waits while its caller has much to read; those of a run with an id, whose
reply may be asked for again as a whole, at its end.
"""

from codecs import utf_8_decode
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Final

import msgspec

from llmspell_kernel.jupyter.contents import encode, json_text
from llmspell_kernel.runtime.engine import Outcome
from llmspell_kernel.runtime.outbox import FLUSH_BYTES

_HEAD: Final = b'{"status":"%b","execution_count":%d,"stdout":%b,"stderr":%b,'
_TAIL: Final = b'"result":%b,"data":%b,"error":%b,"duration_s":%.6f%b}'
_PART: Final = b'{"stdout":%b,"stderr":%b,"displays":[%b]}'


class RunRequest(msgspec.Struct, gc=False):
    """The content of `run_request`."""

    code: str
    ticket: Annotated[int, msgspec.Meta(ge=0, le=2**62)] = 0
    timeout_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    stream: bool = False
    execution: str = ""


class Part(msgspec.Struct, frozen=True, gc=False):
    """Output that goes before a reply, as the script wrote it; `displays` are bundles, with commas between them."""

    stdout: bytes
    stderr: bytes
    displays: bytes

    @property
    def size(self) -> int:
        """Bytes that it takes to hold it."""
        return len(self.stdout) + len(self.stderr) + len(self.displays)

    def content(self) -> bytes:
        """Of its run_part."""
        return _PART % (json_text(self.stdout), json_text(self.stderr), self.displays)


def said(parts: Sequence[Part], reply: bytes) -> Iterator[tuple[str, bytes]]:
    """The messages that answer a run, each made when its turn comes."""
    for part in parts:
        yield "run_part", part.content()
    yield "run_reply", reply


class Run:
    """What one run has come to so far."""

    __slots__ = (
        *("_displays", "_keep", "_outputs", "_send", "_streams", "_text", "_weight"),
        *("due", "execution", "is_behind", "is_far_behind", "parts", "ticket"),
    )

    def __init__(
        self,
        request: RunRequest,
        now: float,
        send: Callable[[str, bytes], None],
        keep: Callable[["Run", bytes], None],
    ) -> None:
        """`send` is told a message's type and content; `keep` the reply of a run with an id."""
        self.ticket = request.ticket
        self.execution = request.execution
        self.due = now + request.timeout_s if request.timeout_s else 0.0
        """Monotonic time at which it must have ended; 0 = whenever it does."""
        self.parts: list[Part] = []
        """What is to be sent before the reply, at the end."""
        self._streams = request.stream
        self._send = send
        self._keep = keep
        self.is_behind: Callable[[], bool] = lambda: False
        """Whether its caller has much to read."""
        self.is_far_behind: Callable[[], bool] = lambda: False
        """Whether its caller has so much to read that it can be told no more."""
        self._outputs: list[bytes] = []
        """Those to be streamed that are not sent yet."""
        self._text: dict[bytes, bytearray] = {}
        self._displays = bytearray()
        self._weight = 0
        """Bytes of what is not sent yet, as JSON."""

    @property
    def is_held_up(self) -> bool:
        """Whether its script should write no more until its caller has read some of what there is."""
        return not self.execution and self.is_behind()

    def write(self, name: bytes, data: bytes, quoted: bytes) -> None:
        """Take output; `quoted` is the same as a JSON string."""
        if self._streams:
            self._stream(b'{"name":"%b","text":%b}' % (name, quoted))
        else:
            self._text.setdefault(name, bytearray()).extend(data)
            self._hold(len(quoted))

    def display(self, bundle: bytes) -> None:
        """Take a MIME bundle, as JSON."""
        if self._streams:
            self._stream(b'{"display":%b}' % bundle)
        elif len(bundle) < FLUSH_BYTES:
            self._displays += b",%b" % bundle if self._displays else bundle
            self._hold(len(bundle))
        else:
            self._end_part()
            self._put(Part(b"", b"", bundle))

    def _stream(self, output: bytes) -> None:
        self._outputs.append(output)
        self._weight += len(output)
        if self._weight >= FLUSH_BYTES:
            self.flush()

    def flush(self) -> None:
        """Send what is to be streamed, in one message: a script may go from stream to stream with each byte."""
        if outputs := self._outputs:
            content = outputs[0] if len(outputs) == 1 else b'{"outputs":[%b]}' % b",".join(outputs)
            self._outputs, self._weight = [], 0
            self._send("run_output", content)

    def _hold(self, weight: int) -> None:
        self._weight += weight
        if self._weight >= FLUSH_BYTES:
            self._end_part()

    def _end_part(self) -> None:
        part = Part(self._taken(b"stdout"), self._taken(b"stderr"), bytes(self._displays))
        self._displays, self._weight = bytearray(), 0
        if part.size:
            self._put(part)

    def _put(self, part: Part) -> None:
        if self.execution:
            self.parts.append(part)
        else:
            self._send("run_part", part.content())

    def _taken(self, name: bytes) -> bytes:
        """What there is of a stream, but for a character whose end has not come."""
        text = self._text.get(name)
        if not text:
            return b""
        tail = text[-3:]
        end = len(text) - len(tail) + utf_8_decode(tail, "replace", False)[1]
        taken = bytes(text[:end])
        del text[:end]
        return taken

    def reply(self, outcome: Outcome, count: int, duration_s: float) -> bytes:
        """The content of the reply; what is to be streamed goes before."""
        self.flush()
        result = data = error = b"null"
        if outcome.error is not None:
            error = encode(outcome.error)
        elif outcome.result is not None:
            result = json_text(outcome.result)
            data = b'{"text/plain":%b}' % result
        displays = b',"displays":[%b]' % bytes(self._displays) if self._displays else b""
        head = _HEAD % (outcome.status.encode(), count, self._quoted(b"stdout"), self._quoted(b"stderr"))
        content = head + _TAIL % (result, data, error, duration_s, displays)
        if self.execution:
            self._keep(self, content)
        return content

    def _quoted(self, name: bytes) -> bytes:
        text = self._text.get(name)
        return json_text(bytes(text)) if text else b'""'
