"""The client of a running fleet, against a real HTTP server that says what a fleet would, and worse."""

import json
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmspell_fleet.client import FleetClient, Gap, read_token
from llmspell_fleet.errors import FleetError, KernelDiedError, NotFoundError, TooManyError, UnavailableError
from llmspell_fleet.model.event import Event
from llmspell_fleet.model.requests import ExecuteRequest, LimitsChange, TenantChange
from llmspell_fleet.model.views import LogLine
from llmspell_fleet.paths import FleetPaths, make_paths
from llmspell_kernel import pidfile, runtime_dir
from llmspell_kernel.errors import LlmspellError, MisuseError, NotRunningError, RefusedError
from support.kernels import short_folder
from support.scripted_http import (
    DEATH,
    EVENT_STREAM,
    HEALTH,
    KERNEL,
    KERNEL_VIEW,
    OUTCOME,
    TENANT,
    Reply,
    ScriptedServer,
    problem,
    scripted_server,
)

pytestmark = pytest.mark.integration


@pytest.fixture
def folder() -> Iterator[Path]:
    with short_folder() as path:
        yield path


@pytest.fixture
def server(folder: Path) -> Iterator[ScriptedServer]:
    with scripted_server(str(folder / "http.sock")) as made:
        yield made


@pytest.fixture
def paths(folder: Path, monkeypatch: pytest.MonkeyPatch) -> FleetPaths:
    for name in ("RUNTIME", "STATE", "LOG"):
        monkeypatch.setenv(f"LLMSPELL_{name}_DIR", str(folder / name.lower()))
    return make_paths()


@pytest.fixture
def client(server: ScriptedServer) -> FleetClient:
    return FleetClient(server.url, "secret")


def _running(paths: FleetPaths, server: ScriptedServer) -> None:
    """The files of a fleet that serves at `server`, with this process for its controller."""
    record = pidfile.claim(paths.pid_file, lock_path=runtime_dir.lock_path(), connection_file=paths.address_file)
    address = {
        "pid": record.pid,
        "start_time": record.start_time,
        "url": server.url,
        "socket": server.unix.removeprefix("unix:"),
        "version": "1",
    }
    _write(paths.address_file, json.dumps(address))
    _write(paths.admin_token, "admin-secret\n")


def _write(path: str, text: str, mode: int = 0o600) -> None:
    Path(path).write_text(text)
    Path(path).chmod(mode)


# --- what it asks and what it makes of the answers ----------------------------------------------------------------

CALLS: list[tuple[str, Callable[[FleetClient], Any], Reply, str, str, Any]] = [
    ("health", lambda c: c.health(), Reply(HEALTH), "GET", "/health", None),
    ("tenants", lambda c: c.tenants(), Reply({"items": [TENANT]}), "GET", "/v1/tenants", None),
    ("a tenant", lambda c: c.tenant("acme"), Reply(TENANT), "GET", "/v1/tenants/acme", None),
    (
        "a new tenant",
        lambda c: c.create_tenant("acme", TenantChange(replicas=2, limits=LimitsChange(memory_bytes=5), wait_s=0)),
        Reply({**TENANT, "token": "t"}, 201),
        "POST",
        "/v1/tenants",
        {"id": "acme", "replicas": 2, "limits": {"memory_bytes": 5}, "wait_s": 0.0},
    ),
    (
        "a change",
        lambda c: c.update_tenant("acme", TenantChange(idle_timeout_s=5)),
        Reply(TENANT),
        "PATCH",
        "/v1/tenants/acme",
        {"idle_timeout_s": 5.0, "wait_s": 10.0},
    ),
    ("an end", lambda c: c.delete_tenant("acme"), Reply(b"", 204), "DELETE", "/v1/tenants/acme", None),
    ("kernels", lambda c: c.kernels(), Reply({"items": [KERNEL_VIEW]}), "GET", "/v1/kernels", None),
    ("events", lambda c: c.events(since=7), Reply({"items": []}), "GET", "/v1/events?since=7", None),
    (
        "logs",
        lambda c: c.logs(KERNEL, grep="a b&c"),
        Reply(b"", content_type=EVENT_STREAM),
        "GET",
        f"/v1/kernels/{KERNEL}/logs?since=0&grep=a+b%26c",
        None,
    ),
    (
        "an execution",
        lambda c: c.execute("acme", ExecuteRequest(code="return 1", timeout_s=5)),
        Reply(OUTCOME),
        "POST",
        "/v1/tenants/acme/execute",
        {"code": "return 1", "timeout_s": 5.0, "stream": False, "wait": True},
    ),
]


@pytest.mark.parametrize(("case", "call", "reply", "method", "path", "body"), CALLS, ids=[case for case, *_ in CALLS])
def test_a_method_is_one_request_with_the_token(
    server: ScriptedServer,
    client: FleetClient,
    case: str,
    call: Callable[[FleetClient], Any],
    reply: Reply,
    method: str,
    path: str,
    body: Any,
) -> None:
    server.answers(reply)

    call(client)

    (asked,) = server.asked
    assert (asked.method, asked.path, asked.body) == (method, path, body), case
    assert asked.headers["Authorization"] == "Bearer secret"


def test_answers_have_types(server: ScriptedServer, client: FleetClient) -> None:
    server.answers(Reply({**TENANT, "token": "t"}, 201))

    made = client.create_tenant("acme", TenantChange())

    assert (made.token, made.kernels[0].limits["memory_bytes"].enforced_by) == ("t", "lua")


def test_a_health_that_is_bad_is_an_answer_all_the_same(server: ScriptedServer, client: FleetClient) -> None:
    server.answers(Reply({**HEALTH, "status": "unhealthy"}, 503))

    assert client.health().status == "unhealthy"


def test_a_tenant_s_kernels_are_a_part_of_all(server: ScriptedServer, client: FleetClient) -> None:
    server.answers(Reply({"items": [KERNEL_VIEW, {**KERNEL_VIEW, "tenant": "other"}]}))

    assert [kernel.tenant for kernel in client.kernels(tenant="other")] == ["other"]


def test_all_pages_of_events_are_asked_for(server: ScriptedServer, client: FleetClient) -> None:
    events = [{"seq": number, "at": "2026", "type": "fleet.started"} for number in (1, 2, 3)]
    server.answers(Reply({"items": events[:2], "next": "2"}), Reply({"items": events[2:]}))

    assert [event.seq for event in client.events()] == [1, 2, 3]
    assert [asked.path for asked in server.asked] == ["/v1/events?since=0", "/v1/events?since=2"]


def test_the_unix_socket_serves_the_same(server: ScriptedServer) -> None:
    server.answers(Reply(HEALTH))

    assert FleetClient(server.unix, "secret").health().name == "test"
    assert server.last.headers["Host"] == "localhost"


def test_an_address_may_be_below_a_path(server: ScriptedServer) -> None:
    server.answers(Reply(HEALTH))

    FleetClient(f"{server.url}/llmspell/", "secret").health()

    assert server.last.path == "/llmspell/health"


# --- streams ------------------------------------------------------------------------------------------------------


def test_a_stream_is_followed_to_its_end_with_its_gaps(server: ScriptedServer, client: FleetClient) -> None:
    stream = (
        b': still here\n\nid: 1\nevent: log\ndata: {"seq": 1, "at": "2026", "text": "one"}\n\n'
        b'event: gap\ndata: {"missed": 3}\n\n'
        b'id: 5\nevent: log\ndata: {"seq": 5, "at": "2026",\ndata: "text": "five"}\n\nevent: log\ndata: {"cut'
    )
    server.answers(Reply(stream, content_type=EVENT_STREAM))

    found = list(client.follow_logs(KERNEL, since=0))

    assert found == [
        LogLine(seq=1, at="2026", text="one"),
        Gap(3),
        LogLine(seq=5, at="2026", text="five"),
    ]
    assert server.last.path == f"/v1/kernels/{KERNEL}/logs?since=0&follow=true"
    assert server.last.headers["Accept"] == EVENT_STREAM


def test_events_arrive_as_they_happen(server: ScriptedServer, client: FleetClient) -> None:
    chunk = b'event: fleet.started\ndata: {"seq": 9, "at": "2026", "type": "fleet.started"}\n\n'
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    server.answers(Reply(raw=head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(chunk), chunk)))

    assert list(client.follow_events()) == [Event(seq=9, at="2026", type="fleet.started")]


def test_a_stream_that_fails_says_why(server: ScriptedServer, client: FleetClient) -> None:
    document = {"type": "x", "title": "Not found", "status": 404, "detail": "the kernel is gone"}
    stream = b"event: problem\ndata: " + json.dumps(document).encode() + b"\n\n"
    server.answers(Reply(stream, content_type=EVENT_STREAM))

    with pytest.raises(NotFoundError, match="the kernel is gone"):
        list(client.follow_logs(KERNEL))


def test_a_stream_that_breaks_off_says_so(server: ScriptedServer, client: FleetClient) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
    server.answers(Reply(raw=head + b"ff\r\nevent: log"))

    with pytest.raises(LlmspellError, match="closed the connection before its answer was complete"):
        list(client.follow_logs(KERNEL))


# --- refusals -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "exit_code"),
    [(400, 2), (401, 4), (403, 4), (404, 1), (405, 1), (409, 4), (413, 1), (429, 1), (500, 1), (502, 1), (503, 1)],
)
def test_a_problem_is_raised_with_the_fleet_s_own_words_and_an_exit_code(
    server: ScriptedServer, client: FleetClient, status: int, exit_code: int
) -> None:
    server.answers(problem(status, "what was found, and what to do"))

    with pytest.raises(FleetError, match=r"^what was found, and what to do$") as raised:
        client.tenants()

    assert (raised.value.status, raised.value.exit_code) == (status, exit_code)


@pytest.mark.parametrize(("status", "error"), [(429, TooManyError), (503, UnavailableError)])
@pytest.mark.parametrize(("header", "wait_s"), [({"Retry-After": "7"}, 7.0), ({}, 1.0), ({"Retry-After": "soon"}, 1.0)])
def test_who_is_busy_says_when_to_come_back(
    server: ScriptedServer,
    client: FleetClient,
    status: int,
    error: type[FleetError],
    header: dict[str, str],
    wait_s: float,
) -> None:
    server.answers(problem(status, "busy", headers=header))

    with pytest.raises(error) as raised:
        client.tenants()

    assert raised.value.retry_after_s == wait_s


def test_a_kernel_that_died_comes_with_its_death_certificate(server: ScriptedServer, client: FleetClient) -> None:
    server.answers(problem(502, "it was killed", death={**DEATH, "signal": "SIGKILL"}))

    with pytest.raises(KernelDiedError, match="it was killed") as raised:
        client.execute("acme", ExecuteRequest(code=""))

    assert raised.value.death.signal == "SIGKILL"


@pytest.mark.parametrize("tenant", ["", "..", "a/b", "Acme", "a\0", "é", "a" * 64, "a\n"])
def test_a_name_that_none_can_have_is_never_asked_for(server: ScriptedServer, client: FleetClient, tenant: str) -> None:
    with pytest.raises(MisuseError, match="expected a tenant's name of up to 63 characters"):
        client.tenant(tenant)

    assert server.asked == []


# --- others at the other end --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "reply", "message"),
    [
        ("a page", Reply(b"<html>", content_type="text/html"), "is not what llmspell .* expects"),
        ("another JSON", Reply({"items": 7}), r"is not what llmspell .* expects \(Expected `array`"),
        ("a page that is an error", Reply(b"no", 404, "text/html"), "expected a problem document with status 404"),
        ("a problem that is none", Reply(b"{}", 404, "application/problem+json"), "expected a problem document"),
        ("a redirection", Reply(b"", 302, headers={"Location": "/x"}), "expected a problem document with status 302"),
        ("no HTTP", Reply(raw=b"SSH-2.0-OpenSSH\r\n"), "expected HTTP from .*, found something else"),
        ("nothing", Reply(raw=b""), "closed the connection before its answer was complete"),
        (
            "a part",
            Reply(raw=b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n{"),
            "closed the connection before its answer was complete",
        ),
    ],
)
def test_what_is_no_fleet_is_told_as_such(
    server: ScriptedServer, client: FleetClient, case: str, reply: Reply, message: str
) -> None:
    server.answers(reply)

    with pytest.raises(LlmspellError, match=message) as raised:
        client.tenants()

    assert raised.value.exit_code == 1, case


def test_who_is_silent_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmspell_fleet.client._DELETED_WITHIN_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        client = FleetClient(f"http://127.0.0.1:{silent.getsockname()[1]}", "secret")

        with pytest.raises(LlmspellError, match="did not answer in time"):
            client.delete_tenant("acme")


@pytest.mark.parametrize("kind", ["tcp", "unix", "unix that nobody listens at"])
def test_where_nobody_is_nothing_runs(folder: Path, kind: str) -> None:
    path = folder / "gone.sock"
    with socket.create_server(("127.0.0.1", 0)) as probe:
        address = f"http://127.0.0.1:{probe.getsockname()[1]}" if kind == "tcp" else f"unix:{path}"
    if kind.endswith("listens at"):
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(path))

    with pytest.raises(NotRunningError, match=r"nobody answers at .*: is the fleet running there"):
        FleetClient(address, "secret").health()


# --- addresses ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("address", "error", "message"),
    [
        ("", MisuseError, "expected the fleet's address as in http"),
        ("127.0.0.1:9550", MisuseError, "expected the fleet's address"),
        ("ftp://localhost", MisuseError, "expected the fleet's address"),
        ("http://", MisuseError, "expected the fleet's address"),
        ("http://localhost:99999", MisuseError, "Port out of range"),
        ("http://localhost/?token=x", MisuseError, "expected the fleet's address"),
        ("http://localhost/a b", MisuseError, "expected the fleet's address"),
        ("http://user:secret@localhost", MisuseError, "^(?!.*secret).*a token goes into a file"),
        ("unix:run/fleet.sock", MisuseError, "the absolute path of a socket"),
        ("http://example.com:9550", RefusedError, "not encrypted, so that others could read the token"),
        ("http://192.0.2.1", RefusedError, "not encrypted"),
        ("http://127.example.com", RefusedError, "not encrypted"),
    ],
)
def test_an_address_that_cannot_be_meant_is_refused(address: str, error: type[LlmspellError], message: str) -> None:
    with pytest.raises(error, match=message):
        FleetClient(address, "secret")


@pytest.mark.parametrize(
    "address",
    ["http://localhost:1", "http://[::1]:1", "http://127.1.2.3", "https://example.com", "unix:/a", "unix:///a"],
)
def test_an_address_that_keeps_the_token_safe_is_taken(address: str) -> None:
    assert FleetClient(address, "secret").address == address


# --- finding it ---------------------------------------------------------------------------------------------------


def test_the_fleet_of_the_directories_is_found_with_its_admin_token(server: ScriptedServer, paths: FleetPaths) -> None:
    _running(paths, server)
    server.answers(Reply(HEALTH))

    found = FleetClient.find(paths)
    found.health()

    assert found.address == server.unix
    assert server.last.headers["Authorization"] == "Bearer admin-secret"


def test_an_address_comes_before_the_directories(server: ScriptedServer, paths: FleetPaths) -> None:
    _write(paths.admin_token, "admin-secret\n")

    assert FleetClient.find(paths, url=server.url).address == server.url


def test_a_token_file_comes_before_the_admin_s_and_may_be_a_link(
    server: ScriptedServer, paths: FleetPaths, folder: Path
) -> None:
    _running(paths, server)
    _write(str(folder / "mounted"), " tenant-secret \n", 0o644)
    (folder / "token").symlink_to(folder / "mounted")
    server.answers(Reply(HEALTH))

    FleetClient.find(paths, token_file=str(folder / "token")).health()

    assert server.last.headers["Authorization"] == "Bearer tenant-secret"


def test_the_admin_s_token_is_not_sent_to_other_machines(paths: FleetPaths) -> None:
    _write(paths.admin_token, "admin-secret\n")

    with pytest.raises(MisuseError, match="is on another machine, which this machine's admin token is not for"):
        FleetClient.find(paths, url="https://example.com")


def test_where_no_fleet_runs_it_is_told_how_to_start_one(paths: FleetPaths) -> None:
    with pytest.raises(
        NotRunningError, match=f"no fleet is running in {paths.runtime}: start one with `llmspell fleet up`"
    ):
        FleetClient.find(paths)


def test_a_fleet_that_does_not_serve_yet_is_not_running(server: ScriptedServer, paths: FleetPaths) -> None:
    _running(paths, server)
    Path(paths.address_file).unlink()

    with pytest.raises(NotRunningError, match=f"does not serve at this moment, process {os.getpid()}"):
        FleetClient.find(paths)


@pytest.mark.parametrize(
    ("case", "content", "mode", "error", "message"),
    [
        ("none", None, 0, MisuseError, "there is no admin token .*--state-dir"),
        ("that others may read", "secret", 0o644, RefusedError, "has mode 0644"),
        ("empty", "\n", 0o600, MisuseError, "should hold one token on one line"),
        ("with two lines", "secret\nsecret\n", 0o600, MisuseError, "^(?!.*secret).*should hold one token"),
        ("of another encoding", "sécret", 0o600, MisuseError, "should hold one token"),
        ("too long", "x" * 5000, 0o600, MisuseError, "is longer than 4096 bytes"),
    ],
)
def test_an_admin_token_that_cannot_be_used_says_why(
    paths: FleetPaths, case: str, content: str | None, mode: int, error: type[LlmspellError], message: str
) -> None:
    if content is not None:
        _write(paths.admin_token, content, mode)

    with pytest.raises(error, match=message):
        read_token(paths, None)
    assert case


def test_a_token_file_that_is_not_there_says_so(paths: FleetPaths, folder: Path) -> None:
    with pytest.raises(MisuseError, match="there is no token file"):
        read_token(paths, str(folder / "none"))
