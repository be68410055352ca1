"""The contents of requests, checked while they are decoded; and the constant parts of answers.

Types and defaults are those of the messaging specification, version 5.4. Members that it does not name are ignored.
"""

from typing import Any, Final, Literal

import msgspec

from llmspell_kernel.limits import KernelLimits

BUSY: Final = b'{"execution_state":"busy"}'
IDLE: Final = b'{"execution_state":"idle"}'
STARTING: Final = b'{"execution_state":"starting"}'


class ExecuteRequest(msgspec.Struct, gc=False):
    """`execute_request`."""

    code: str
    silent: bool = False
    store_history: bool = True
    user_expressions: dict[str, str] | None = None
    allow_stdin: bool = True
    stop_on_error: bool = True


class CompleteRequest(msgspec.Struct, gc=False):
    """`complete_request`; the position counts code points."""

    code: str
    cursor_pos: int


class InspectRequest(msgspec.Struct, gc=False):
    """`inspect_request`."""

    code: str
    cursor_pos: int
    detail_level: int = 0


class IsCompleteRequest(msgspec.Struct, gc=False):
    """`is_complete_request`."""

    code: str


class HistoryRequest(msgspec.Struct, gc=False):
    """`history_request`; which members matter depends on `hist_access_type`."""

    hist_access_type: Literal["tail", "range", "search"]
    output: bool = False
    raw: bool = True
    session: int = 0
    start: int = 0
    stop: int | None = None
    n: int | None = None
    pattern: str | None = None
    unique: bool = False


class CommInfoRequest(msgspec.Struct, gc=False):
    """`comm_info_request`."""

    target_name: str | None = None


class CommMessage(msgspec.Struct, gc=False):
    """`comm_open`, `comm_msg` and `comm_close`."""

    comm_id: str
    target_name: str = ""
    data: Any = None


class ShutdownRequest(msgspec.Struct, gc=False):
    """`shutdown_request`."""

    restart: bool = False


class LimitsRequest(msgspec.Struct, gc=False):
    """`limits_request`, llmspell's own: other limits from now on."""

    limits: KernelLimits


class InputReply(msgspec.Struct, gc=False):
    """`input_reply`."""

    value: str


class ErrorContent(msgspec.Struct, gc=False):
    """The content of `error`, and with a status of an error reply."""

    ename: str
    evalue: str
    traceback: tuple[str, ...] | list[str] = ()
    status: Literal["error"] = "error"
    execution_count: int | msgspec.UnsetType = msgspec.UNSET


UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding a content raises that is not what its type says, not UTF-8, or nested deeper than the stack."""

_encode_into: Final = msgspec.json.Encoder().encode_into


def encode(content: Any) -> bytes:
    """JSON. MemoryError: the process has no more.

    `msgspec.json.encode` falls at address 0 then: it gives back a buffer that could not grow (msgspec 0.22).
    """
    buffer = bytearray()
    _encode_into(content, buffer)
    return bytes(buffer)


def json_text(text: bytes) -> bytes:
    """Bytes of a script, UTF-8 or not, as a JSON string."""
    return encode(text.decode("utf-8", "replace"))
