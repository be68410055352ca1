"""What kernels say, made sure of: the one place where their words are taken apart.

A kernel whose script broke out of Lua says what it likes. So nothing that it said goes on as it came: it is read as the
type that it has to be, and what leaves the controller is written anew, as one JSON document with each name once.
"""

from collections.abc import Callable
from typing import Annotated, Any, Final, Literal, TypeVar

import msgspec

from llmspell_fleet.model.printable import printable

T = TypeVar("T")

OWN_NAME: Final = "llmspell-fleet"
"""The controller's, among a kernel's clients."""

LONGEST_LINE: Final = 32_768
"""Runs that wait in a kernel: it reads no more when it has 4,096, but for a row of 10,000."""


class Nonsense(Exception):  # noqa: N818 - an outcome, not a fault
    """A kernel said what no kernel of ours says."""


class ScriptError(msgspec.Struct, gc=False, omit_defaults=True):
    """Why a script failed."""

    name: str
    message: str
    traceback: list[str]
    code: str | None = None


class RunReply(msgspec.Struct, gc=False, omit_defaults=True):
    """A run_reply (`llmspell_kernel.jupyter.runs`)."""

    status: Literal["ok", "error", "interrupted", "timeout"]
    execution_count: int
    stdout: str
    stderr: str
    result: str | None
    data: dict[str, Any] | None
    error: ScriptError | None
    duration_s: float
    displays: list[dict[str, Any]] | msgspec.UnsetType = msgspec.UNSET


class RunPart(msgspec.Struct, gc=False):
    """A run_part: of the same members, what goes before the reply."""

    stdout: str
    stderr: str
    displays: list[dict[str, Any]]


class RunOutput(msgspec.Struct, gc=False, omit_defaults=True):
    """A run_output: text, or a MIME bundle."""

    name: Literal["stdout", "stderr"] | msgspec.UnsetType = msgspec.UNSET
    text: str | msgspec.UnsetType = msgspec.UNSET
    display: dict[str, Any] | msgspec.UnsetType = msgspec.UNSET


class RunOutputs(RunOutput, gc=False, omit_defaults=True):
    """A run_output as it comes: one, or several."""

    outputs: Annotated[list[RunOutput], msgspec.Meta(min_length=1)] | msgspec.UnsetType = msgspec.UNSET


class Client(msgspec.Struct):
    """One that is connected to a kernel."""

    username: str
    idle_s: float = 0.0


class Statistics(msgspec.Struct):
    """What of a kernel's statistics the controller asks for."""

    state: str
    idle_s: float
    claimed: bool
    executions: int
    waiting: int
    clients: list[Client]

    def others(self) -> list[Client]:
        """The clients without the controller itself."""
        return [client for client in self.clients if client.username != OWN_NAME]


class Past(msgspec.Struct):
    """A run in line (`llmspell_kernel.jupyter.succession`)."""

    execution: Annotated[str, msgspec.Meta(pattern=r"^[a-z0-9-]{0,64}\Z")]
    msg_id: Annotated[str, msgspec.Meta(max_length=256)]
    ticket: int
    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
    running_s: float


class AdoptReply(msgspec.Struct):
    """What a kernel says to an adopt_request."""

    line: Annotated[list[Past], msgspec.Meta(max_length=LONGEST_LINE)] = []
    replies: dict[str, RunReply] = {}
    forgotten: int = 2**62
    """As of a kernel that knows no adopt_request, or not us: it may have run anything."""


def _reader(kind: type[T]) -> Callable[[bytes], T]:
    decode = msgspec.json.Decoder(kind).decode

    def read(content: bytes) -> T:
        try:
            return decode(content)
        except (msgspec.MsgspecError, RecursionError, ValueError) as fault:
            # The fault may quote it.
            raise Nonsense(f"it said what is no {kind.__name__}: {printable(str(fault), longest=200)}") from None

    return read


_encode: Final = msgspec.json.Encoder().encode
_reply: Final = _reader(RunReply)
_part: Final = _reader(RunPart)
_outputs: Final = _reader(RunOutputs)
statistics: Final = _reader(Statistics)
adopt_reply: Final = _reader(AdoptReply)


def written(said: RunReply | RunOutput | dict[str, Any] | str) -> bytes:
    """The same as JSON of ours."""
    try:
        return _encode(said)
    except (RecursionError, ValueError) as fault:  # what can be read and not written: half of a surrogate pair
        raise Nonsense(f"it said what is no JSON: {printable(str(fault), longest=200)}") from None


class Room(msgspec.Struct):
    """What is held of one kernel's words, of all its executions together."""

    on_change: Callable[[], None]
    used: int = 0
    """Bytes, and one for each part: no kernel says that nothing was."""

    def use(self, size: int) -> None:
        """So much more is held, or less."""
        self.used += size
        self.on_change()


class Held:
    """What was said of one execution before its reply, as JSON of ours whose end is open."""

    __slots__ = ("_displays", "_room", "_size", "_stderr", "_stdout")

    def __init__(self, room: Room) -> None:
        self._room = room
        self._stdout, self._stderr, self._displays = bytearray(b'"'), bytearray(b'"'), bytearray()
        self._size = 0

    def take(self, content: bytes, most_bytes: int) -> None:
        """The next run_part; Nonsense: more than that is held of its kernel."""
        part = _part(content)
        size = 1
        for held, text in ((self._stdout, part.stdout), (self._stderr, part.stderr)):
            if text:
                inside = memoryview(written(text))[1:-1]
                held.extend(inside)
                size += len(inside)
        for display in part.displays:
            json = written(display)
            self._displays += b",%b" % json if self._displays else json
            size += len(json)
        self._size += size
        self._room.use(size)
        if self._room.used > most_bytes:
            raise Nonsense(f"it said more than {most_bytes} bytes before it replied")

    def reply(self, reply: RunReply) -> bytes:
        """The reply, with what was said before it, of which nothing is held any more."""
        self._room.use(-self._size)
        whole: Any = reply
        for name, held in (("stdout", self._stdout), ("stderr", self._stderr)):
            held.extend(memoryview(written(getattr(reply, name)))[1:])
            setattr(whole, name, msgspec.Raw(held))
        if self._displays:
            whole.displays = [msgspec.Raw(self._displays), *(reply.displays or ())]
        return written(whole)


def run_reply(content: bytes, held: Held | None = None) -> bytes:
    """A run_reply, which begins with its status."""
    reply = _reply(content)
    return written(reply) if held is None else held.reply(reply)


Output = tuple[Literal["output", "display"], bytes, int]
"""What an output is; its text (`{"name", "text"}`) or its MIME bundle; no more than the bytes that the script wrote."""


def run_outputs(content: bytes) -> list[Output]:
    """What a run_output holds."""
    said = _outputs(content)
    return [_run_output(one) for one in said.outputs] if isinstance(said.outputs, list) else [_run_output(said)]


def _run_output(said: RunOutput) -> Output:
    if isinstance(said.display, dict):
        bundle = written(said.display)
        return "display", bundle, len(bundle)
    if said.name is msgspec.UNSET or not isinstance(said.text, str):
        raise Nonsense("it said what is no RunOutput: neither text nor display")
    # A character is at least one byte of what was written, and no kernel says that nothing was.
    return "output", written(said), len(said.text) or 1
