"""The HTTP server: listening on TCP and a unix socket, and what every request goes through."""

import asyncio
import contextlib
import itertools
import logging
import os
import re
import secrets
import socket
from collections.abc import Callable, Iterable
from typing import Final, cast

from aiohttp import web

from llmspell_fleet.api import bodies
from llmspell_fleet.api.answers import Answer, Reply
from llmspell_fleet.api.auth import Guard, Principal
from llmspell_fleet.api.call import Api, Call
from llmspell_fleet.api.connection import Connection
from llmspell_fleet.api.description import Description
from llmspell_fleet.api.fleet import Fleet
from llmspell_fleet.api.followers import Followers
from llmspell_fleet.api.intake import Intake
from llmspell_fleet.api.options import HttpOptions, MetricsPort
from llmspell_fleet.api.problems import InternalError, problem_answer
from llmspell_fleet.api.route import Route, RouteTable
from llmspell_fleet.api.routes import ROUTES
from llmspell_fleet.errors import BadRequestError, FleetError

_LOG: Final = logging.getLogger("llmspell.fleet.api")

BACKLOG: Final = 1024
"""Connections that the system keeps while we are busy."""

LINGER_S: Final = 2.0
"""How long the rest of a refused body is read and dropped, so that its client gets to read the refusal."""

UNROUTED: Final = "unrouted"
"""What metrics call requests that no route took."""

_REQUEST_ID: Final = re.compile(r"[A-Za-z0-9._-]{1,64}", re.ASCII)


class HttpServer:
    """The server while it listens."""

    def __init__(
        self,
        front: "Front",
        listeners: list[asyncio.AbstractServer],
        sockets: tuple[socket.socket, socket.socket],
        url: str,
        socket_path: str,
    ) -> None:
        self.url = url
        """As in http://127.0.0.1:9550."""
        self._front = front
        self._listeners = listeners
        self.sockets = sockets
        """Copies of those that it listens on: TCP, unix."""
        self._socket_path = socket_path

    @property
    def connections(self) -> int:
        """How many are open."""
        return self._front.connections

    @property
    def intake(self) -> Intake:
        """Which of them are read."""
        return self._front.intake

    def end_streams(self) -> None:
        """End what follows events and logs: its reader asks again, from the number that it has."""
        self._front.end_streams()

    def stop_accepting(self) -> None:
        """Leave those who connect in the system's queue. In a moment, every connection that was accepted is known."""
        for listener in self._listeners:
            listener.close()
        self._listeners = []

    async def accept(self) -> None:
        """Accept connections, unless that is so already."""
        if not self._listeners:
            tcp, unix = (one.dup() for one in self.sockets)
            self._listeners = await _listen(self._front, tcp, unix)

    async def take_up(self, connections: Iterable[socket.socket]) -> None:
        """Serve clients that were connected to another process image."""
        for connection in connections:
            await asyncio.get_running_loop().connect_accepted_socket(self._front.connect, connection)

    def allow(self, hosts: Iterable[str], origins: Iterable[str], *, is_metrics_public: bool) -> None:
        """Serve under these host names and to these web pages from now on, besides our own."""
        self._front.guard.allow(hosts, (*origins, *_own_origins(self.url)), is_metrics_public=is_metrics_public)

    async def close(self) -> None:
        """Take no more connections, end the streams, let running requests finish for a while, then end them."""
        for listener in self._listeners:
            listener.close()
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._socket_path)
        await self._front.close()
        for listener in self._listeners:
            await listener.wait_closed()
        for own in self.sockets:
            own.close()


async def serve_http(
    fleet: Fleet,
    principal_of: Callable[[str], Principal | None],
    metrics: MetricsPort,
    options: HttpOptions,
    tcp: socket.socket,
    unix: socket.socket,
) -> HttpServer:
    """Listen on these two sockets (`api.sockets`, or another process image's)."""
    sockets = tcp.dup(), unix.dup()
    host = f"[{options.host}]" if ":" in options.host else options.host
    port = tcp.getsockname()[1]
    guard = Guard(
        principal_of,
        allowed_hosts=options.allowed_hosts,
        allowed_origins=(
            *options.allowed_origins,
            *_own_origins(f"http://{host}:{port}"),
        ),
        is_metrics_public=options.is_metrics_public,
    )
    front = Front(
        Api(fleet, metrics, options, Followers(options.max_followers), Description(ROUTES, options.version)), guard
    )
    listeners = await _listen(front, tcp, unix)
    return HttpServer(front, listeners, sockets, f"http://{host}:{port}", options.socket)


async def _listen(front: "Front", tcp: socket.socket, unix: socket.socket) -> list[asyncio.AbstractServer]:
    loop = asyncio.get_running_loop()
    return [
        await loop.create_server(front.connect, sock=tcp, backlog=BACKLOG),
        await loop.create_unix_server(front.connect, sock=unix, backlog=BACKLOG),
    ]


def _own_origins(url: str) -> tuple[str, ...]:
    """Where pages come from that this server itself has served."""
    port = url.rpartition(":")[2]
    return tuple(f"http://{name}:{port}" for name in ("localhost", "127.0.0.1", "[::1]"))


class Front:
    """What every connection and request goes through."""

    def __init__(self, api: Api, guard: Guard) -> None:
        self._api = api
        self.guard = guard
        self._table = RouteTable(ROUTES)
        self._loop = asyncio.get_running_loop()
        self._ids = itertools.count(1)
        self._id_prefix = secrets.token_hex(4)
        # An Answer is what aiohttp's connection asks of a response, and no StreamResponse.
        self._server = web.Server(cast("Callable[[web.BaseRequest], asyncio.Future[web.StreamResponse]]", self.answer))
        self.intake = Intake(lambda: cast("list[Connection]", self._server.connections))
        self._sweep_s = max(0.05, api.options.read_timeout_s / 6)
        self._sweeper = self._loop.call_later(self._sweep_s, self._sweep)

    def connect(self) -> asyncio.Protocol:
        """The protocol of a new connection."""
        return Connection(
            self._server,
            loop=self._loop,
            max_connections=self._api.options.max_connections,
            intake=self.intake,
            keepalive_timeout=self._api.options.keepalive_s,
            lingering_time=min(LINGER_S, self._api.options.read_timeout_s),
            access_log=None,
            logger=_LOG,
            auto_decompress=False,
        )

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._server.connections)

    def end_streams(self) -> None:
        """End what follows something; others may follow again."""
        self._api.followers.end()

    async def close(self) -> None:
        """End all connections."""
        self._sweeper.cancel()
        self._api.followers.close()
        self._server.pre_shutdown()
        await self._server.shutdown(self._api.options.shutdown_s)

    async def answer(self, request: web.BaseRequest) -> Reply:
        """Answer one request."""
        begun = self._loop.time()
        connection = cast(Connection, request.protocol)
        connection.begin()
        request_id = self._request_id(request)
        label = UNROUTED
        reply: Reply
        try:
            self.guard.check_source(request.headers)
            path, _, query = request.raw_path.partition("?")
            route, ids = self._table.find(request.method, path)
            label = route.path
            principal = self.guard.identify(route.access, request.headers)
            call = Call(self._api, request, request_id, principal, ids)
            call.check_tenant()
            self.guard.permit(route.access, principal)
            call.check_ids()
            reply = await self._handle(call, route, query)
        except FleetError as error:
            reply = problem_answer(error)
        except ConnectionError:
            raise
        except Exception:  # noqa: BLE001 - the last resort of every handler: one request fails, and the log says why
            _LOG.exception("request %s failed: %.20s %.200s", request_id, request.method, request.raw_path)
            reply = problem_answer(InternalError(f"the request failed; the fleet's log says why, at {request_id}"))
        self._api.metrics.request_finished(label, request.method, reply.status, self._loop.time() - begun)
        if isinstance(reply, Answer):
            reply.request_id = request_id
            reply.on_written = connection.end
            reply.stall_timeout_s = self._api.options.stall_timeout_s
        else:
            connection.end()
        return reply

    async def _handle(self, call: Call, route: Route, query: str) -> Reply:
        arguments = []
        if route.decoder is not None:
            options = self._api.options
            body = await bodies.read_body(
                call.request, limit_bytes=options.max_body_bytes, timeout_s=options.read_timeout_s
            )
            arguments.append(bodies.decode_body(body or (b"{}" if route.is_body_optional else b""), route.decoder))
        elif route.method == "POST" and await self._has_body(call):
            raise BadRequestError("this takes no body")
        if route.query is not None or query:
            arguments.append(bodies.decode_query(query, route.query))
        return await route.handler(call, *arguments)

    async def _has_body(self, call: Call) -> bool:
        options = self._api.options
        body = await bodies.read_body(
            call.request, limit_bytes=options.max_body_bytes, timeout_s=options.read_timeout_s
        )
        return body.strip() not in {b"", b"{}"}

    def _request_id(self, request: web.BaseRequest) -> str:
        given = request.headers.get("X-Request-Id")
        if given is not None and _REQUEST_ID.fullmatch(given):
            return given
        return f"{self._id_prefix}-{next(self._ids):x}"

    def _sweep(self) -> None:
        deadline = self._loop.time() - self._api.options.read_timeout_s
        for connection in self._server.connections:
            cast(Connection, connection).close_if_late(deadline)
        self._sweeper = self._loop.call_later(self._sweep_s, self._sweep)
