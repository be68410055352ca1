"""A real HTTP server that answers what a test tells it to, and keeps what it was asked."""

import contextlib
import json
import socket
import socketserver
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import msgspec

from llmspell_fleet.model.ids import KernelId
from llmspell_fleet.model.tenant import Limits

JSON = "application/json"
PROBLEM = "application/problem+json"
EVENT_STREAM = "text/event-stream"

KERNEL = KernelId("00000000-0000-4000-8000-00000000abcd")
HEALTH = {
    "status": "degraded",
    "name": "test",
    "checks": {"discovery": {"status": "degraded", "detail": "nobody answers"}},
    "controller": {"pid": 7, "uptime_s": 1.5},
    "zygote": {"pid": None, "uptime_s": 0},
    "counts": {"READY": 2, "tenants": 1},
    "version": "1",
}
KERNEL_VIEW: dict[str, Any] = {
    "id": KERNEL,
    "name": "",
    "tenant": "acme",
    "phase": "READY",
    "pid": 8,
    "incarnation": 1,
    "started_at": None,
    "uptime_s": None,
    "restarts": 0,
    "usage": {},
    "limits": {"memory_bytes": {"value": 1, "enforced_by": "lua"}},
    "last_death": None,
}
TENANT: dict[str, Any] = {
    "id": "acme",
    "replicas": 1,
    "ready": 1,
    "strategy": "sticky",
    "limits": msgspec.to_builtins(Limits()),
    "isolation_level": "process",
    "idle_timeout_s": 0,
    "created_at": "2026-01-01T00:00:00Z",
    "kernels": [KERNEL_VIEW],
}
OUTCOME = {
    "kernel_id": KERNEL,
    "session": "s",
    "status": "ok",
    "execution_count": 1,
    "stdout": "",
    "stderr": "",
    "result": "42",
    "data": {"text/plain": "42"},
    "error": None,
    "duration_s": 0.01,
}
DEATH = {"kernel_id": KERNEL, "tenant": "acme", "incarnation": 1, "pid": 8, "at": "2026", "cause": "signal"}


@dataclass(frozen=True, slots=True)
class Reply:
    """One answer."""

    body: Any = b""
    """Bytes as they are, anything else as JSON."""
    status: int = 200
    content_type: str = JSON
    headers: dict[str, str] = field(default_factory=dict)
    raw: bytes | None = None
    """Instead of all that: what is written to the connection, which is then closed."""

    @property
    def content(self) -> bytes:
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


@dataclass(frozen=True, slots=True)
class Asked:
    """One request."""

    method: str
    path: str
    headers: dict[str, str]
    body: Any


class ScriptedServer:
    """Answers requests in turn with `replies`; the last one stays."""

    def __init__(self, url: str, unix: str) -> None:
        self.url = url
        self.unix = unix
        self.replies: list[Reply] = [Reply({})]
        self.asked: list[Asked] = []

    def answers(self, *replies: Reply) -> None:
        self.replies = list(replies)

    def next(self) -> Reply:
        return self.replies.pop(0) if len(self.replies) > 1 else self.replies[0]

    @property
    def last(self) -> Asked:
        return self.asked[-1]


def problem(status: int, detail: str, **further: Any) -> Reply:
    """A problem document."""
    document = {"type": "urn:llmspell:problem:x", "title": "Some title", "status": status, "detail": detail}
    headers = further.pop("headers", {})
    return Reply({**document, **further}, status, PROBLEM, headers)


@contextlib.contextmanager
def scripted_server(socket_path: str) -> Iterator[ScriptedServer]:
    """Serve on a free port of 127.0.0.1 and on a unix socket."""
    script: ScriptedServer

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            length = int(self.headers.get("Content-Length", 0))
            content = self.rfile.read(length)
            body = json.loads(content) if content else None
            script.asked.append(Asked(self.command, self.path, dict(self.headers.items()), body))
            reply = script.next()
            if reply.raw is not None:
                self.wfile.write(reply.raw)
                return
            self.send_response(reply.status)
            self.send_header("Content-Type", reply.content_type)
            self.send_header("Content-Length", str(len(reply.content)))
            for name, value in reply.headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(reply.content)

        do_GET = do_POST = do_PATCH = do_DELETE = _answer  # noqa: N815 - the base class calls these

        def log_message(self, *_arguments: object) -> None:
            """Say nothing."""

        def address_string(self) -> str:
            return "a client"

    class UnixServer(socketserver.ThreadingUnixStreamServer):
        daemon_threads = True

        def get_request(self) -> tuple[socket.socket, Any]:
            connection, _ = super().get_request()
            return connection, ("local", 0)

    tcp = HTTPServer(("127.0.0.1", 0), Handler)
    unix = UnixServer(socket_path, Handler)
    script = ScriptedServer(f"http://127.0.0.1:{tcp.server_port}", f"unix:{socket_path}")
    threads = [threading.Thread(target=server.serve_forever, args=(0.02,)) for server in (tcp, unix)]
    for thread in threads:
        thread.start()
    try:
        yield script
    finally:
        for server in (tcp, unix):
            server.shutdown()
            server.server_close()
        for thread in threads:
            thread.join()
