"""Answers without an end in sight: Server-Sent Events, and lines of text."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Final, Generic, Protocol, TypeVar

import msgspec
from aiohttp import web

from llmspell_fleet.api.answers import CONTENT_POLICY, EVENT_STREAM, SECURITY_HEADERS, TEXT, Answer, Reply
from llmspell_fleet.api.call import Call
from llmspell_fleet.api.connection import Connection
from llmspell_fleet.api.followers import Backlog
from llmspell_fleet.api.problems import InternalError
from llmspell_fleet.errors import BadRequestError, FleetError
from llmspell_fleet.problems import problem_of


class _HasSeq(Protocol):
    @property
    def seq(self) -> int: ...


T = TypeVar("T")
N = TypeVar("N", bound=_HasSeq)

_LOG: Final = logging.getLogger("llmspell.fleet.api")

PATIENCE_S: Final = 1.0
"""How long a stream that may still be refused waits for its first item before it answers 200."""


class Form(msgspec.Struct, frozen=True):
    """How a kind of stream says what is not one of its items."""

    content_type: str
    heartbeat: bytes
    gap: Callable[[int], bytes]
    """That so many items were lost."""
    problem: Callable[[FleetError], bytes]
    """Why it ends before its time."""


def frame(event: str, data: bytes, seq: int | None = None) -> bytes:
    """One Server-Sent Event; `data` is JSON, in which line breaks mean nothing."""
    if b"\n" in data or b"\r" in data:
        data = b" ".join(data.splitlines())
    head = b"" if seq is None else b"id: %d\n" % seq
    return b"%bevent: %b\ndata: %b\n\n" % (head, event.encode(), data)


EVENTS: Final = Form(
    EVENT_STREAM,
    b": still here\n\n",
    lambda missed: frame("gap", b'{"missed":%d}' % missed),
    lambda error: frame("problem", msgspec.json.encode(problem_of(error))),
)
LINES: Final = Form(
    TEXT,
    b"",
    lambda missed: b"gap: %d lines were lost, because they were not read in time\n" % missed,
    lambda error: f"problem: {error}\n".encode(),
)


def wants_events(call: Call) -> bool:
    """Whether the client asked for Server-Sent Events."""
    return EVENT_STREAM in call.request.headers.get("Accept", "")


def resumed_since(call: Call, since: int) -> int:
    """After which sequence number to go on: Last-Event-ID when a client comes back, else `since`."""
    text = call.request.headers.get("Last-Event-ID")
    if not text:
        return since
    if not (text.isascii() and text.isdigit() and len(text) <= 18):
        raise BadRequestError(f"Last-Event-ID must be a sequence number of this stream, not {text[:100]!r}")
    return int(text)


class Numbered(Generic[N]):
    """Encodes items whose sequence numbers are consecutive, and says so where some are missing."""

    def __init__(self, encode: Callable[[N], bytes], form: Form, since: int) -> None:
        self._encode = encode
        self._form = form
        self._last = since
        """0 = whatever comes first is the first that was asked for."""

    def __call__(self, item: N) -> bytes:
        """The item's bytes, after those that tell of a gap before it."""
        missed = item.seq - self._last - 1 if self._last else 0
        self._last = item.seq
        encoded = self._encode(item)
        return self._form.gap(missed) + encoded if missed > 0 else encoded


async def follow(call: Call, source: AsyncIterator[T], encode: Callable[[T], bytes], form: Form) -> Reply:
    """Answer with what `source` yields until it ends, the client goes or the server closes.

    Items that `encode` gives no bytes for are left out. A client that reads too slowly loses the oldest, and is told.
    """
    backlog = Backlog(form.gap)
    with call.api.followers.admitted(backlog):
        return await _serve(call, source, encode, form, backlog)


async def deliver(call: Call, source: AsyncIterator[T], encode: Callable[[T], bytes], form: Form) -> Reply:
    """Answer with what `source` yields, all of it: the source waits for the client. What it raises first is raised."""
    return await _serve(call, source, encode, form, Backlog(None), patience_s=PATIENCE_S)


async def _serve(
    call: Call,
    source: AsyncIterator[T],
    encode: Callable[[T], bytes],
    form: Form,
    backlog: Backlog,
    *,
    patience_s: float = 0.0,
) -> Reply:
    if call.request.method == "HEAD":
        return Answer(200, content_type=form.content_type)
    connection = call.request.protocol
    assert isinstance(connection, Connection)
    failure: Exception | None = None
    async with asyncio.TaskGroup() as group:
        pump = group.create_task(_pump(source, encode, backlog))
        try:
            with connection.cancelling_when_lost():
                return await _write(call, form, backlog, patience_s)
        except (FleetError, ConnectionError) as error:
            failure = error  # raised below, since a task group would wrap it
        finally:
            pump.cancel()
    raise failure


async def _pump(source: AsyncIterator[T], encode: Callable[[T], bytes], backlog: Backlog) -> None:
    error: FleetError | None = None
    try:
        async for item in source:
            if encoded := encode(item):
                await backlog.put(encoded)
    except FleetError as refusal:
        error = refusal
    except Exception:  # noqa: BLE001 - its client is told, and the log says why
        _LOG.exception("a stream failed")
        error = InternalError("the stream failed; the fleet's log says why")
    finally:
        if (close := getattr(source, "aclose", None)) is not None:
            await close()
        backlog.end(error)


async def _write(call: Call, form: Form, backlog: Backlog, patience_s: float) -> web.StreamResponse:
    options = call.api.options
    first = await backlog.take(patience_s) if patience_s else b""
    if not first and (failure := backlog.failure()) is not None:
        raise failure
    response = web.StreamResponse(
        headers={
            "Content-Type": form.content_type,
            "Content-Security-Policy": CONTENT_POLICY,
            "X-Accel-Buffering": "no",
            "Server": "llmspell",
            "X-Request-Id": call.request_id,
            **SECURITY_HEADERS,
        }
    )
    writer = await response.prepare(call.request)
    if writer is not None and not first:
        writer.send_headers()  # who follows something quiet is told that it has begun
    await _send(call, response, first)
    while not backlog.has_ended():
        taken = await backlog.take(options.heartbeat_s)
        await _send(call, response, taken or (b"" if backlog.has_ended() else form.heartbeat))
    if (failure := backlog.failure()) is not None:
        await _send(call, response, form.problem(failure))
    await response.write_eof()
    return response


async def _send(call: Call, response: web.StreamResponse, data: bytes) -> None:
    if not data:
        return
    try:
        async with asyncio.timeout(call.api.options.stall_timeout_s):
            await response.write(data)
    except TimeoutError:
        if call.request.transport is not None:
            call.request.transport.abort()
        raise ConnectionResetError("the client takes nothing") from None
