"""Listening: the port, the unix socket, what is in the way, slow and many clients, and the end."""

import asyncio
import contextlib
import socket
import stat
from pathlib import Path

import aiohttp
import pytest

from llmspell_fleet.api import sockets
from llmspell_fleet.api.options import HttpOptions
from llmspell_fleet.api.server import HttpServer, serve_http
from llmspell_kernel.errors import RefusedError
from support.fake_fleet import PRINCIPALS, TOKENS, FakeFleet, FakeMetrics, serving, until

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]


async def _serve(path: Path, *, host: str = "127.0.0.1", port: int = 0) -> HttpServer:
    options = HttpOptions(socket=str(path), host=host, version="0")
    return await serve_http(FakeFleet(), PRINCIPALS.get, FakeMetrics(), options, *sockets.take(host, port, str(path)))


async def test_the_unix_socket_is_its_owner_s_and_needs_a_token_too() -> None:
    async with serving() as site:
        assert stat.S_IMODE(site.socket.stat().st_mode) == 0o600
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(site.socket))) as client:
            async with client.get("http://localhost/v1/tenants") as response:
                assert response.status == 401
            headers = {"Authorization": f"Bearer {TOKENS['admin']}"}
            async with client.get("http://localhost/v1/tenants", headers=headers) as response:
                assert response.status == 200
        path = site.socket
    assert not path.exists()


async def test_a_port_that_is_taken_is_named(tmp_path: Path) -> None:
    async with serving() as site:
        with pytest.raises(RefusedError, match=rf"port {site.port} on 127\.0\.0\.1 is taken.*--port"):
            await _serve(tmp_path / "s", port=site.port)
        assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("host", "said"),
    [
        ("0.0.0.0", "beyond loopback"),
        ("::", "beyond loopback"),
        ("192.0.2.1", "beyond loopback"),
        ("example.org", "IP address"),
        ("", "IP address"),
    ],
)
async def test_nothing_but_loopback_is_listened_on(host: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match=said):
        await _serve(tmp_path / "s", host=host)


async def test_a_name_for_loopback_will_do(tmp_path: Path) -> None:
    server = await _serve(tmp_path / "s", host="localhost")
    try:
        assert server.url.startswith("http://localhost:")
    finally:
        await server.close()


async def test_the_socket_of_a_dead_controller_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))

    server = await _serve(path)
    await server.close()

    assert not path.exists()


async def test_the_socket_of_a_living_controller_is_left_alone() -> None:
    async with serving() as site:
        with pytest.raises(RefusedError, match="another controller"):
            await _serve(site.socket)
        assert (await site.ask("GET", "/livez")).status == 200
        assert site.socket.exists()


async def test_what_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "s").write_text("precious")
    with pytest.raises(RefusedError, match="no socket"):
        await _serve(tmp_path / "s")
    assert (tmp_path / "s").read_text() == "precious"


@pytest.mark.parametrize("name", ["x" * 200, "absent/s"])
async def test_a_socket_that_cannot_be_made_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(RefusedError, match="cannot be made"):
        await _serve(tmp_path / name)


@pytest.mark.parametrize(
    ("case", "sent"),
    [
        ("half a head", b"GET /livez HTTP/1.1\r\nHost: loc"),
        ("half a second head", b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\nGET /li"),
    ],
)
async def test_a_head_that_does_not_come_is_not_waited_for(case: str, sent: bytes) -> None:
    async with serving(read_timeout_s=0.3, keepalive_s=2.0) as site:
        answer = await site.raw(sent)

    assert answer.count(b"HTTP/1.1") == sent.count(b"\r\n\r\n")


async def test_one_byte_at_a_time_is_no_way_around_it() -> None:
    async with serving(read_timeout_s=0.3) as site:
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        reading = asyncio.ensure_future(reader.read())
        with contextlib.suppress(ConnectionError):
            async with asyncio.timeout(20):
                while not reading.done():
                    writer.write(b"X")
                    await writer.drain()
                    await asyncio.wait({reading}, timeout=0.02)
        writer.close()
        with contextlib.suppress(ConnectionError):
            await reading
            await writer.wait_closed()

        assert site.metrics.finished == []


async def test_a_connection_that_is_not_used_is_closed() -> None:
    async with serving(keepalive_s=0.2) as site:
        assert await site.raw(b"") == b""


async def test_a_connection_between_requests_is_kept_longer_than_a_head_may_take() -> None:
    async with serving(read_timeout_s=0.2, keepalive_s=20) as site:
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        for _ in range(3):
            writer.write(
                b"POST /v1/tenants/acme/execute HTTP/1.1\r\nHost: localhost\r\nContent-Length: 12\r\n"
                b"Authorization: Bearer admin-token\r\n\r\n"
            )
            writer.write(b'{"code":"x"}')
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200 ")
            await reader.readexactly(int(head.partition(b"Content-Length: ")[2].split()[0]))
            with pytest.raises(TimeoutError):  # not even an end comes
                await asyncio.wait_for(reader.read(1), 0.5)
        writer.close()
        await writer.wait_closed()


async def test_more_connections_than_the_limit_are_not_kept() -> None:
    async with serving(max_connections=2) as site:
        pairs = [await asyncio.open_connection("127.0.0.1", site.port) for _ in range(2)]
        for reader, writer in pairs:
            writer.write(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
        assert await site.raw(b"") == b""
        for _, writer in pairs:
            writer.close()
            await writer.wait_closed()


async def test_a_large_answer_arrives_whole() -> None:
    async with serving() as site:
        reply = await site.ask("POST", "/v1/tenants/acme/execute", json={"code": "print 8000000"})

    assert reply.json["stdout"] == "x" * 8_000_000


async def test_an_answer_that_is_not_taken_is_given_up() -> None:
    async with serving(stall_timeout_s=0.2) as site:
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port, limit=1000)
        body = b'{"code":"print 30000000"}'
        writer.write(
            b"POST /v1/tenants/acme/execute HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer admin-token\r\n"
            b"Content-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        await until(lambda: site.fleet.executed, "the answer was begun")
        await until(lambda: not site.server._front._server.connections, "the connection was given up")
        with contextlib.suppress(ConnectionError):
            assert len(await reader.read()) < 30_000_000
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()


async def test_closing_lets_running_requests_end() -> None:
    async with serving() as site:
        asking = asyncio.ensure_future(site.ask("POST", "/v1/tenants/acme/execute", json={"code": "wait"}))
        await until(lambda: site.fleet.begun, "the code began")
        closing = asyncio.ensure_future(site.server.close())
        await until(lambda: not site.server._listeners[0].is_serving(), "the server began to close")
        assert not closing.done()
        site.fleet.may_go_on.set()

        assert (await asking).status == 200
        await closing


async def test_closing_does_not_wait_for_ever() -> None:
    async with serving(shutdown_s=0.1) as site:
        asking = asyncio.ensure_future(site.ask("POST", "/v1/tenants/acme/execute", json={"code": "wait"}))
        await until(lambda: site.fleet.begun, "the code began")
        async with asyncio.timeout(10):
            await site.server.close()

        with pytest.raises(aiohttp.ClientError):
            await asking


async def test_nothing_is_answered_after_the_end() -> None:
    async with serving() as site:
        await site.server.close()
        with pytest.raises(aiohttp.ClientConnectorError):
            await site.ask("GET", "/livez")
