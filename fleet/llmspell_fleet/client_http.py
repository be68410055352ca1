"""HTTP for `client`: an address to connections, an answer to a body or an error, a stream to its messages."""

import contextlib
import http.client
import socket
import urllib.parse
from collections.abc import Iterable, Iterator
from http import HTTPStatus
from typing import NoReturn

import msgspec

from llmspell_fleet.errors import (
    BadRequestError,
    ConflictError,
    FleetError,
    ForbiddenError,
    GoneError,
    KernelDiedError,
    NotFoundError,
    TooManyError,
    UnauthorizedError,
    UnavailableError,
)
from llmspell_fleet.model.views import Problem
from llmspell_kernel.connection import is_loopback
from llmspell_kernel.errors import LlmspellError, MisuseError, NotRunningError, RefusedError

PROBLEM = "application/problem+json"
EVENT_STREAM = "text/event-stream"

_CONNECT_WITHIN_S = 5.0
_BY_STATUS = {
    error.status: error for error in (BadRequestError, UnauthorizedError, ForbiddenError, NotFoundError, ConflictError)
}


class Server:
    """Where a fleet is served: ``http://HOST:PORT``, ``https://…`` or ``unix:PATH``.

    MisuseError: that is no such address. RefusedError: others could read the token on its way there.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        if address.startswith("unix:"):
            self._socket_path, self._prefix = address.removeprefix("unix:").replace("//", "", 1), ""
            self.is_local = True
            if not self._socket_path.startswith("/"):
                raise MisuseError(f"expected unix: and the absolute path of a socket, found {address}")
            return
        self._socket_path = ""
        self._scheme, self._host, self._port, self._prefix = _split(address)
        self.is_local = is_loopback(self._host)
        if self._scheme == "http" and not self.is_local:
            raise RefusedError(
                f"{address} is on another machine and not encrypted, so that others could read the token on its way: "
                "use https://, or forward a port (ssh -L 9550:127.0.0.1:9550 HOST) and name that"
            )

    @contextlib.contextmanager
    def request(
        self, method: str, path: str, *, headers: dict[str, str], body: bytes | None, timeout_s: float | None
    ) -> Iterator[http.client.HTTPResponse]:
        """Send a request and give its answer, whatever its status; `timeout_s` bounds each silence, None = no bound.

        NotRunningError: nobody is there. LlmspellError: no answer in time, or not HTTP.
        """
        with contextlib.closing(self._connection()) as connection:
            with self._told():
                self._connect(connection)
                assert connection.sock is not None
                connection.sock.settimeout(timeout_s)
                connection.request(method, self._prefix + path, body=body, headers=headers)
                response = connection.getresponse()
            with response, self._told():
                yield response

    def _connection(self) -> http.client.HTTPConnection:
        if self._socket_path:
            return _UnixConnection(self._socket_path, timeout=_CONNECT_WITHIN_S)
        kind = http.client.HTTPSConnection if self._scheme == "https" else http.client.HTTPConnection
        return kind(self._host, self._port, timeout=_CONNECT_WITHIN_S)

    def _connect(self, connection: http.client.HTTPConnection) -> None:
        try:
            connection.connect()
        except PermissionError:
            raise RefusedError(
                f"this user may not connect to {self.address}: run this as the fleet's user, "
                "or name its address and a token of your own with --url and --token-file"
            ) from None
        except OSError as error:
            raise NotRunningError(
                f"nobody answers at {self.address} ({error.strerror or error}): "
                "is the fleet running there? `llmspell fleet up` starts one"
            ) from None

    @contextlib.contextmanager
    def _told(self) -> Iterator[None]:
        """Faults of the connection as messages for people."""
        try:
            yield
        except TimeoutError:
            raise LlmspellError(
                f"the fleet at {self.address} did not answer in time: it may be very busy or stopped; "
                "`llmspell fleet logs` may tell"
            ) from None
        except (ConnectionError, http.client.IncompleteRead):
            raise LlmspellError(
                f"the fleet at {self.address} closed the connection before its answer was complete: "
                "it may have been stopped; `llmspell fleet status` tells"
            ) from None
        except http.client.HTTPException as error:
            raise LlmspellError(
                f"expected HTTP from {self.address}, found something else ({type(error).__name__}): "
                "is it llmspell's fleet that listens there?"
            ) from None


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: str, *, timeout: float) -> None:
        # The name is for the Host header, which the fleet checks.
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        connected = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connected.settimeout(self.timeout)
            connected.connect(self._path)
        except BaseException:
            connected.close()
            raise
        self.sock = connected


def _split(address: str) -> tuple[str, str, int | None, str]:
    """Scheme, host, port and what comes before every path."""
    expected = "expected the fleet's address as in http://127.0.0.1:9550 or unix:/run/llmspell/fleet.sock"
    try:
        parts = urllib.parse.urlsplit(address)
        port = parts.port
    except ValueError as error:
        raise MisuseError(f"{expected}, found {address!r}: {error}") from None
    if parts.username is not None or parts.password is not None:
        raise MisuseError(f"{expected}: a token goes into a file, named with --token-file, never into an address")
    is_clean = address.isascii() and address.isprintable() and " " not in address
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment or not is_clean:
        raise MisuseError(f"{expected}, found {address!r}")
    return parts.scheme, parts.hostname, port, parts.path.rstrip("/")


def raise_problem(server: Server, response: http.client.HTTPResponse) -> NoReturn:
    """Raise what the answer says: the same errors that the fleet raised, with its words."""
    body = response.read()
    problem = None
    if response.headers.get_content_type() == PROBLEM:
        with contextlib.suppress(msgspec.DecodeError):
            problem = msgspec.json.decode(body, type=Problem)
    if problem is None:
        raise LlmspellError(
            f"expected a problem document with status {response.status} from {server.address}, found "
            f"{response.headers.get_content_type()}: is it llmspell's fleet that listens there?"
        )
    raise error_of(problem, retry_after=response.headers.get("Retry-After"))


def error_of(problem: Problem, *, retry_after: str | None = None) -> FleetError:
    """The error that a problem document was made of."""
    status, detail = problem.status, problem.detail
    if status in _BY_STATUS:
        return _BY_STATUS[status](detail)
    wait_s = float(retry_after) if retry_after is not None and retry_after.isdecimal() else 1.0
    if status == HTTPStatus.TOO_MANY_REQUESTS:
        return TooManyError(detail, retry_after_s=wait_s)
    if status == HTTPStatus.SERVICE_UNAVAILABLE:
        return UnavailableError(detail, retry_after_s=wait_s)
    if status == HTTPStatus.GONE:
        return GoneError(detail, None if problem.death is msgspec.UNSET else problem.death)
    if problem.death is not msgspec.UNSET:
        return KernelDiedError(detail, problem.death)
    error = FleetError(detail)
    error.status, error.title = status, problem.title
    return error


class StreamMessage(msgspec.Struct, frozen=True):
    """One message of a stream of Server-Sent Events."""

    event: str
    data: bytes


def stream_messages(lines: Iterable[bytes]) -> Iterator[StreamMessage]:
    """The messages in the lines of a stream; comments, which keep it alive, and one cut short by its end are left out.

    https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation
    """
    event, data = "message", list[bytes]()
    for line in lines:
        field, _, value = line.rstrip(b"\r\n").partition(b":")
        value = value.removeprefix(b" ")
        if field == b"event":
            event = value.decode(errors="replace")
        elif field == b"data":
            data.append(value)
        elif not field and not value and not line.startswith(b":"):
            if data:
                yield StreamMessage(event, b"\n".join(data))
            event, data = "message", []
