"""One client's connection: aiohttp's, with deadlines for what it reads and answers of ours for what is not HTTP."""

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from typing import Any, Final

from aiohttp import web
from aiohttp.http_exceptions import LineTooLong

from llmspell_fleet.api.intake import Intake
from llmspell_fleet.api.problems import HeadersTooLargeError, problem_answer
from llmspell_fleet.errors import BadRequestError, FleetError

_LOG: Final = logging.getLogger("llmspell.fleet.api")


class Connection(web.RequestHandler):
    """Knows since when a request has been arriving, and what to cancel when its client has gone."""

    __slots__ = ("_arriving_since", "_intake", "_is_answering", "_max_connections", "_stream", "is_fetchable")

    def __init__(self, manager: web.Server, *, max_connections: int, intake: Intake, **further: Any) -> None:
        super().__init__(manager, **further)
        self._max_connections = max_connections
        self._intake = intake
        self._arriving_since: float | None = None
        self._is_answering = False
        self._stream: asyncio.Task[Any] | None = None
        self.is_fetchable = False
        """Whether the answer that is being made can be had again by asking again."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client came; one too many is not kept."""
        super().connection_made(transport)
        if self._manager is not None and len(self._manager.connections) > self._max_connections:
            self.force_close()
        if self._intake.is_paused:
            # Not yet: reading begins after this call.
            self._loop.call_soon(self.rest)

    def data_received(self, data: bytes) -> None:
        """Bytes came."""
        if data and self._arriving_since is None:
            self._arriving_since = self._loop.time()
        super().data_received(data)

    def connection_lost(self, exc: BaseException | None) -> None:
        """The client has gone: its stream ends, what it had executed goes on."""
        if self._stream is not None:
            self._stream.cancel()
        super().connection_lost(exc)

    def begin(self) -> None:
        """A request has arrived, and is being answered."""
        self._arriving_since = None
        self._is_answering = True

    def end(self) -> None:
        """It is answered."""
        self._arriving_since = None
        self._is_answering = self.is_fetchable = False
        if self._intake.is_paused:
            self._loop.call_soon(self.rest)

    # --- for `Intake`

    @property
    def is_answering(self) -> bool:
        """Whether a request has arrived, and is not answered."""
        return self._is_answering

    @property
    def is_busy(self) -> bool:
        """Whether a request is arriving or being answered, or an answer is still to be sent."""
        transport = self.transport
        if transport is None or transport.is_closing():
            return False
        is_asked = self._is_answering or self._arriving_since is not None or bool(self._messages)
        return is_asked or transport.get_write_buffer_size() > 0

    @property
    def descriptor(self) -> int:
        """Of its socket; -1 = it is closed, or about to be."""
        transport = self.transport
        if transport is None or transport.is_closing():
            return -1
        return int(transport.get_extra_info("socket").fileno())

    def rest(self) -> None:
        """Read no further request."""
        transport = self.transport
        if transport is not None and not self.is_busy and self._intake.is_paused and transport.is_reading():
            transport.pause_reading()

    def wake(self) -> None:
        """Read on."""
        transport = self.transport
        if transport is not None and not transport.is_closing() and not transport.is_reading():
            transport.resume_reading()

    def close_if_late(self, deadline: float) -> None:
        """Close, if the head of a request has been arriving since before `deadline` (the loop's time)."""
        if not self._is_answering and self._arriving_since is not None and self._arriving_since < deadline:
            self.force_close()

    @contextlib.contextmanager
    def cancelling_when_lost(self) -> Iterator[None]:
        """Cancel the current task when the client goes."""
        self._stream = asyncio.current_task()
        try:
            yield
        finally:
            self._stream = None

    def handle_error(
        self,
        request: web.BaseRequest,  # noqa: ARG002 - there is none, when this is called
        status: int = 500,  # noqa: ARG002
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The answer to what cannot be read as HTTP."""
        if isinstance(exc, ConnectionError):
            raise exc  # nobody is there to be answered
        _LOG.debug("a request could not be read: %.200s", message)
        error: FleetError = BadRequestError(
            f"this is not a request as HTTP/1.1 has them: {(message or '').partition(chr(10))[0]}"
        )
        if isinstance(exc, LineTooLong):
            error = HeadersTooLargeError("the request's first line or a header is longer than 8 KiB")
        answer = problem_answer(error)
        answer.is_last = True
        return answer  # type: ignore[return-value]
