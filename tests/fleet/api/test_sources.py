"""Host, Origin and Sec-Fetch-Site: rebound names and foreign web pages are refused before a token is looked at."""

import pytest

from support.fake_fleet import serving

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("localhost:9550", 200),
        ("LOCALHOST:9550", 200),
        ("127.0.0.1", 200),
        ("127.0.0.1:1", 200),
        ("::1", 200),
        ("[::1]", 200),
        ("[::1]:9550", 200),
        ("fleet.example", 200),
        ("fleet.example:80", 200),
        ("", 403),
        ("evil.example", 403),
        ("localhost.", 403),
        ("localhost.evil.example", 403),
        ("evil.example:localhost", 403),
        ("localhost:", 403),
        ("localhost:1:2", 403),
        ("localhost:123456", 403),
        ("localhost:9550/", 403),
        ("user@localhost", 403),
        ("127.0.0.1.nip.io", 403),
        ("127.1", 403),
        ("0x7f000001", 403),
        ("0.0.0.0", 403),
        ("[::ffff:127.0.0.1]", 403),
        ("\N{SMALL ROMAN NUMERAL FIFTY}ocalhost", 403),
        ("fleetXexample", 403),
    ],
)
async def test_host(host: str, status: int) -> None:
    async with serving(allowed_hosts=("fleet.example",)) as site:
        answer = await site.raw(f"GET /livez HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())

    assert answer.startswith(f"HTTP/1.1 {status} ".encode())


@pytest.mark.parametrize(
    ("case", "head"),
    [
        ("none", b"GET /livez HTTP/1.0\r\n"),
        ("two", b"GET /livez HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n"),
    ],
)
async def test_a_request_needs_one_host(case: str, head: bytes) -> None:
    async with serving() as site:
        answer = await site.raw(head + b"Connection: close\r\n\r\n")

    assert answer.split()[1] in {b"400", b"403"}


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        (None, 200),
        ("https://lab.example", 200),
        ("http://localhost:8888", 200),
        ("http://localhost", 200),
        ("https://lab.example:8443", 403),
        ("http://lab.example", 403),
        ("https://lab.example.evil.example", 403),
        ("https://evil.example/https://lab.example", 403),
        ("https://labXexample", 403),
        ("HTTPS://LAB.EXAMPLE", 403),
        ("https://localhost:8888", 403),
        ("http://localhost:8888.evil.example", 403),
        ("http://localhost:*", 403),
        ("http://localhost:", 403),
        ("http://localhost.evil.example:8888", 403),
        ("null", 403),
        ("", 403),
    ],
)
async def test_origin(origin: str | None, status: int) -> None:
    async with serving(allowed_origins=("https://lab.example", "http://localhost:*")) as site:
        reply = await site.ask("GET", "/v1/tenants", headers={} if origin is None else {"Origin": origin})

    assert reply.status == status


async def test_the_server_s_own_pages_may_ask() -> None:
    async with serving() as site:
        own = await site.ask("GET", "/v1/tenants", headers={"Origin": site.server.url})
        other_port = await site.ask("GET", "/v1/tenants", headers={"Origin": "http://127.0.0.1:1"})

    assert (own.status, other_port.status) == (200, 403)


@pytest.mark.parametrize(
    ("site_header", "origin", "status"),
    [
        ("same-origin", None, 200),
        ("none", None, 200),
        ("cross-site", None, 403),
        ("cross-site", "https://lab.example", 200),
        ("cross-site", "https://evil.example", 403),
    ],
)
async def test_cross_site_requests(site_header: str, origin: str | None, status: int) -> None:
    headers = {"Sec-Fetch-Site": site_header} | ({} if origin is None else {"Origin": origin})
    async with serving(allowed_origins=("https://lab.example",)) as site:
        assert (await site.ask("GET", "/livez", headers=headers)).status == status


@pytest.mark.parametrize("path", ["/livez", "/health", "/docs", "/v1/tenants", "/nowhere"])
async def test_a_foreign_host_is_refused_on_every_path(path: str) -> None:
    async with serving() as site:
        assert (await site.ask("GET", path, headers={"Host": "evil.example"})).status == 403


async def test_who_may_ask_can_change_while_it_is_served() -> None:
    async def statuses() -> list[int]:
        asked = [
            await site.ask("GET", "/livez", headers={"Host": "fleet.example"}),
            await site.ask("GET", "/livez", headers={"Origin": "https://lab.example"}),
            await site.ask("GET", "/livez", headers={"Origin": site.server.url}),
            await site.ask("GET", "/health", who=None),
        ]
        return [reply.status for reply in asked]

    async with serving() as site:
        before = await statuses()
        site.server.allow(["fleet.example"], ["https://lab.example"], is_metrics_public=True)
        opened = await statuses()
        site.server.allow([], [], is_metrics_public=False)
        after = await statuses()

    assert before == after == [403, 403, 200, 401]
    assert opened == [200, 200, 200, 200]
