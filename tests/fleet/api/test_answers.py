"""What every answer has: its form, its headers, and what methods a path knows."""

import msgspec
import pytest

from llmspell_fleet.api.answers import Answer
from llmspell_fleet.api.routes import ROUTES
from support.fake_fleet import serving

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]

METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND"}


@pytest.mark.parametrize("path", sorted({route.path for route in ROUTES}))
async def test_other_methods_than_a_path_has_are_405_and_named(path: str) -> None:
    has = {route.method for route in ROUTES if route.path == path}
    has |= {"HEAD"} if "GET" in has else set()
    async with serving() as site:
        for method in sorted(METHODS - has):
            reply = await site.ask(method, path.format(tenant="acme", kernel="x", execution="e", lease="l"))

            assert reply.status == 405
            assert set(reply.headers["Allow"].split(", ")) == has
            assert method == "HEAD" or set(reply.detail.rpartition("only ")[2].split(", ")) == has


@pytest.mark.parametrize(
    "path", ["/livez", "/docs", "/v1/tenants", "/v1/tenants/acme", "/v1/tenants/nobody", "/v1/events"]
)
async def test_head_is_get_without_its_body(path: str) -> None:
    async with serving() as site:
        get, head = await site.ask("GET", path), await site.ask("HEAD", path)

    assert head.body == b""
    varying = {"Date", "X-Request-ID"}
    assert {key: value for key, value in head.headers.items() if key not in varying} == {
        key: value for key, value in get.headers.items() if key not in varying
    }


async def test_head_of_a_stream_ends() -> None:
    async with serving() as site:
        reply = await site.ask("HEAD", "/v1/events", headers={"Accept": "text/event-stream"})

        assert (reply.status, reply.headers["Content-Type"]) == (200, "text/event-stream")
        assert site.fleet.streams == 0


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/livez"),
        ("GET", "/nowhere"),
        ("POST", "/livez"),
        ("GET", "/v1/tenants"),
        ("GET", "/docs"),
        ("GET", "/metrics"),
    ],
)
async def test_every_answer_has_the_security_headers(method: str, path: str) -> None:
    async with serving() as site:
        headers = (await site.ask(method, path)).headers

    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Cache-Control"] == "no-store"
    assert headers["Content-Security-Policy"].startswith("default-src 'none'; ")
    assert "frame-ancestors 'none'" in headers["Content-Security-Policy"]
    assert "Access-Control-Allow-Origin" not in headers


@pytest.mark.parametrize(
    ("given", "is_echoed"),
    [("abc-1.2_3", True), ("x" * 64, True), ("x" * 65, False), ("a b", False), ("<b>", False), ("", False)],
)
async def test_the_request_id_is_echoed_when_it_is_one(given: str, is_echoed: bool) -> None:
    async with serving() as site:
        reply = await site.ask("GET", "/livez", headers={"X-Request-Id": given})

    assert (reply.headers["X-Request-Id" if "X-Request-Id" in reply.headers else "X-Request-ID"] == given) == is_echoed


async def test_request_ids_differ() -> None:
    async with serving() as site:
        ids = {(await site.ask("GET", "/livez")).headers["X-Request-ID"] for _ in range(3)}

    assert len(ids) == 3


async def test_a_death_is_told_of() -> None:
    async with serving() as site:
        reply = await site.ask("POST", "/v1/tenants/acme/execute", json={"code": "die"})

        assert reply.status == 502
        assert "died" in reply.detail
        assert reply.json["type"] == "urn:llmspell:problem:kernel-died"
        assert reply.json["death"]["signal"] == "SIGKILL"
        assert reply.json["death"]["kernel_id"] == site.fleet.kernel_of("acme")


@pytest.mark.parametrize(
    ("path", "body", "status", "after"),
    [
        ("/v1/tenants", {"id": "x", "replicas": 101}, 429, "3"),
        ("/v1/tenants/acme/execute", {"code": "busy"}, 503, "1"),
        ("/v1/tenants/acme/execute", {"code": "busy", "stream": True}, 503, "1"),
    ],
)
async def test_who_is_refused_for_now_is_told_when_to_come_back(
    path: str, body: object, status: int, after: str
) -> None:
    async with serving() as site:
        reply = await site.ask("POST", path, json=body)

    assert (reply.status, reply.headers["Retry-After"]) == (status, after)
    assert reply.detail


async def test_a_fault_of_ours_is_logged_and_not_shown(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as site:
        reply = await site.ask("POST", "/v1/tenants/acme/execute", json={"code": "fault"})

        assert reply.status == 500
        assert "secret" not in reply.detail
        assert reply.headers["X-Request-ID"] in reply.detail
        assert (await site.ask("GET", "/livez")).status == 200
    (record,) = caplog.records
    assert reply.headers["X-Request-ID"] in record.getMessage()
    assert "a fault with a secret in it" in caplog.text


async def test_requests_are_counted_by_route_and_never_by_path() -> None:
    async with serving() as site:
        await site.ask("POST", "/v1/tenants/acme/execute", json={"code": "x"})
        await site.ask("GET", "/v1/tenants/nobody")
        await site.ask("GET", "/v1/tenants", who=None)
        await site.ask("GET", "/made/up/" + "x" * 100)
        await site.ask("PROPFIND", "/livez")
        await site.ask("GET", "/livez", headers={"Host": "evil.example"})

        assert site.metrics.finished == [
            ("/v1/tenants/{tenant}/execute", "POST", 200),
            ("/v1/tenants/{tenant}", "GET", 404),
            ("/v1/tenants", "GET", 401),
            ("unrouted", "GET", 404),
            ("unrouted", "PROPFIND", 405),
            ("unrouted", "GET", 403),
        ]


@pytest.mark.parametrize("value", ["a\r\nX-Evil: 1", "a\n", "a\0", "ü"])
async def test_no_header_can_become_two(value: str) -> None:
    with pytest.raises(ValueError, match="header"):
        Answer(201, headers={"Location": value})


async def test_connections_are_kept_or_closed_as_asked() -> None:
    ask = b"GET /livez HTTP/1.%d\r\nHost: localhost\r\nConnection: %b\r\n\r\n"
    async with serving() as site:
        both = await site.raw(ask % (1, b"keep-alive") + ask % (1, b"close"))
        old = await site.raw(ask % (0, b"keep-alive") + ask % (0, b"close"))

    assert both.count(b"HTTP/1.1 200 OK") == 2
    assert both.count(b"Connection: close") == 1
    assert old.count(b"HTTP/1.1 200 OK") == 2
    assert old.count(b"Connection: keep-alive") == 1


@pytest.mark.parametrize(
    ("case", "sent", "status"),
    [
        ("not HTTP", b"SSH-2.0-OpenSSH_9.2\r\n\r\n", b"400"),
        ("TLS", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"400"),
        ("a method that is none", b"LLMSPELL / HTTP/1.1\r\nHost: localhost\r\n\r\n", b"400"),
        ("a header without a colon", b"GET / HTTP/1.1\r\nHost\r\n\r\n", b"400"),
        ("a space before the colon", b"GET / HTTP/1.1\r\nHost : localhost\r\n\r\n", b"400"),
        ("a line that is too long", b"GET /" + b"x" * 10_000 + b" HTTP/1.1\r\n\r\n", b"431"),
        (
            "a header that is too long",
            b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"x" * 10_000 + b"\r\n\r\n",
            b"431",
        ),
        ("too many headers", b"GET / HTTP/1.1\r\nHost: localhost\r\n" + b"X: 1\r\n" * 1000 + b"\r\n", b"400"),
    ],
)
async def test_what_is_not_http_is_answered_with_a_problem(case: str, sent: bytes, status: bytes) -> None:
    async with serving() as site:
        answer = await site.raw(sent)

    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.split()[1] == status
    assert b"Content-Type: application/problem+json" in head
    assert b"Connection: close" in head
    assert msgspec.json.decode(body)["status"] == int(status)
