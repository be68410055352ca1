"""Streams: events, logs and executions as they happen."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import aiohttp
import msgspec
import pytest

from llmspell_fleet.api.followers import BACKLOG_BYTES
from support.fake_fleet import AT, TOKENS, Site, serving

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]

EXECUTE = "/v1/tenants/acme/execute"
SSE = {"Accept": "text/event-stream"}


@contextlib.asynccontextmanager
async def streaming(
    site: Site, method: str, path: str, *, who: str = "admin", headers: dict[str, str] | None = None, **further: Any
) -> AsyncIterator[aiohttp.ClientResponse]:
    headers = {"Authorization": f"Bearer {TOKENS[who]}", **(headers or {})}
    async with site.client.request(method, site.server.url + path, headers=headers, **further) as response:
        yield response


async def _event(response: aiohttp.ClientResponse) -> dict[str, str]:
    """The next event; a comment is an event of its own."""
    fields: dict[str, str] = {}
    async with asyncio.timeout(20):
        while line := (await response.content.readline()).decode().rstrip("\n"):
            name, _, value = line.partition(": ")
            fields[name or "comment"] = value
    return fields


async def _settle(site: Site, streams: int) -> None:
    async with asyncio.timeout(20):
        while site.fleet.streams != streams:
            await site.ask("GET", "/livez")


async def test_events_come_as_they_happen() -> None:
    async with serving() as site, streaming(site, "GET", "/v1/events?since=1", headers=SSE) as response:
        assert response.status == 200
        assert response.headers["Content-Type"] == "text/event-stream"
        assert response.headers["Cache-Control"] == "no-store"
        assert await _event(response) == {
            "id": "2",
            "event": "tenant.created",
            "data": f'{{"seq":2,"at":"{AT}","type":"tenant.created","tenant":"globex"}}',
        }
        await site.fleet.happen()
        assert (await _event(response))["id"] == "3"


async def test_a_client_comes_back_with_the_last_event_it_saw() -> None:
    async with serving() as site:
        for _ in range(5):
            await site.fleet.happen()
        async with streaming(site, "GET", "/v1/events?since=1", headers={**SSE, "Last-Event-ID": "4"}) as response:
            assert (await _event(response))["id"] == "5"


@pytest.mark.parametrize("last", ["x", "-1", "1.5", "9" * 30, "\N{ARABIC-INDIC DIGIT ONE}"])
async def test_a_last_event_that_is_no_number(last: str) -> None:
    async with serving() as site:
        reply = await site.ask("GET", "/v1/events", headers={**SSE, "Last-Event-ID": last})

    assert reply.status == 400
    assert "Last-Event-ID" in reply.detail


async def test_a_tenant_sees_its_own_events() -> None:
    async with serving() as site, streaming(site, "GET", "/v1/events", who="tenant", headers=SSE) as response:
        assert msgspec.json.decode((await _event(response))["data"])["tenant"] == "acme"
        await site.fleet.happen("tenant.updated", "globex")  # type: ignore[arg-type]
        await site.fleet.happen("tenant.updated", "acme")  # type: ignore[arg-type]
        assert (await _event(response))["id"] == "4"


async def test_logs_are_followed_as_lines() -> None:
    async with serving() as site:
        kernel = site.fleet.kernel_of("acme")
        async with streaming(
            site, "GET", f"/v1/kernels/{kernel}/logs?follow=1&since=2&grep=o", who="tenant"
        ) as response:
            assert response.headers["Content-Type"] == "text/plain; charset=utf-8"
            assert await response.content.readline() == f"3 {AT} two\n".encode()
            await site.fleet.write(kernel, "neither")
            await site.fleet.write(kernel, "more")
            assert await response.content.readline() == f"5 {AT} more\n".encode()


async def test_logs_are_followed_as_events() -> None:
    async with serving() as site:
        kernel = site.fleet.kernel_of("acme")
        async with streaming(site, "GET", f"/v1/kernels/{kernel}/logs?follow=true&since=3", headers=SSE) as response:
            await site.fleet.write(kernel, "line\rbreak")
            event = await _event(response)

    assert (event["id"], event["event"]) == ("4", "log")
    assert msgspec.json.decode(event["data"])["text"] == "line\rbreak"


@pytest.mark.parametrize("query", ["follow=true", "follow=false"])
async def test_logs_of_a_kernel_that_is_not_there(query: str) -> None:
    async with serving() as site:
        absent = "00000000-0000-0000-0000-000000000000"
        assert (await site.ask("GET", f"/v1/kernels/{absent}/logs?{query}", headers=SSE)).status == 404


async def test_lines_that_were_dropped_are_told_of() -> None:
    async with serving() as site:
        kernel = site.fleet.kernel_of("acme")
        lines = site.fleet._logs[kernel]
        lines[1] = msgspec.structs.replace(lines[1], seq=7)
        events = (await site.ask("GET", f"/v1/kernels/{kernel}/logs?since=1", headers=SSE)).body.decode()
        text = (await site.ask("GET", f"/v1/kernels/{kernel}/logs?since=1")).body.decode()

    assert events.startswith('event: gap\ndata: {"missed":5}\n\nid: 7\n')
    assert text.startswith("gap: 5 lines were lost")


async def test_a_silent_stream_has_a_heartbeat() -> None:
    async with serving(heartbeat_s=0.05) as site, streaming(site, "GET", "/v1/events?since=2", headers=SSE) as response:
        assert await _event(response) == {"comment": "still here"}
        await site.fleet.happen()
        while (event := await _event(response)) == {"comment": "still here"}:
            pass
        assert event["id"] == "3"


async def test_followers_are_bounded_in_number() -> None:
    async with serving(max_followers=2) as site:
        async with streaming(site, "GET", "/v1/events", headers=SSE), streaming(site, "GET", "/v1/events", headers=SSE):
            third = await site.ask("GET", "/v1/events", headers=SSE)
            assert third.status == 503
            assert "2 clients" in third.detail
            assert third.headers["Retry-After"]
        await _settle(site, streams=0)
        async with streaming(site, "GET", "/v1/events", headers=SSE) as response:
            assert response.status == 200


async def test_a_follower_that_goes_is_forgotten_at_once() -> None:
    async with serving() as site:
        async with streaming(site, "GET", "/v1/events?since=2", headers=SSE) as response:
            assert response.status == 200
            await _settle(site, streams=1)
            response.close()
        await _settle(site, streams=0)


async def test_a_follower_that_reads_too_slowly_loses_the_oldest_and_is_told() -> None:
    async with serving() as site:
        kernel = site.fleet.kernel_of("acme")
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port, limit=1000)
        writer.write(
            f"GET /v1/kernels/{kernel}/logs?follow=true&since=3 HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n"
            "Authorization: Bearer admin-token\r\n\r\n".encode()
        )
        assert await reader.readline() == b"HTTP/1.1 200 OK\r\n"
        for _ in range(30 * BACKLOG_BYTES // 100_000):
            await site.fleet.write(kernel, "x" * 100_000)
        await site.fleet.write(kernel, "the last")
        gap = None
        async with asyncio.timeout(30):
            tail = b""
            while b"the last" not in tail:
                tail = tail[-300_000:] + await reader.read(65536)
                if b"event: gap" in tail:
                    gap = tail[tail.index(b"event: gap") :].split(b"\n")[1]
        writer.close()
        await writer.wait_closed()

    assert gap is not None
    assert gap.startswith(b'data: {"missed":')


async def test_a_client_that_takes_nothing_is_let_go() -> None:
    async with serving(stall_timeout_s=0.2) as site:
        kernel = site.fleet.kernel_of("acme")
        _, writer = await asyncio.open_connection("127.0.0.1", site.port, limit=1000)
        writer.write(
            f"GET /v1/kernels/{kernel}/logs?follow=true HTTP/1.1\r\nHost: localhost\r\n"
            "Authorization: Bearer admin-token\r\n\r\n".encode()
        )
        await _settle(site, streams=1)
        async with asyncio.timeout(20):
            while site.fleet.streams:
                await site.fleet.write(kernel, "x" * 100_000)
                await site.ask("GET", "/livez")
        writer.transport.abort()


async def test_streams_end_when_the_server_closes() -> None:
    async with serving() as site, streaming(site, "GET", "/v1/events?since=2", headers=SSE) as response:
        closing = asyncio.ensure_future(site.server.close())
        async with asyncio.timeout(10):
            assert await response.content.read() == b""
            await closing
        assert site.fleet.streams == 0


async def test_an_execution_in_pieces() -> None:
    async with serving() as site:
        reply = await site.ask("POST", EXECUTE, who="tenant", json={"code": "x 2", "stream": True})
        events = [piece.split("\n") for piece in reply.body.decode().rstrip("\n").split("\n\n")]

    assert reply.headers["Content-Type"] == "text/event-stream"
    assert [event[0] for event in events] == ["event: output"] * 3 + ["event: result"]
    assert msgspec.json.decode(events[-1][1].removeprefix("data: "))["status"] == "ok"


async def test_the_pieces_come_as_they_are_made() -> None:
    async with serving() as site, streaming(site, "POST", EXECUTE, json={"code": "wait", "stream": True}) as response:
        assert (await _event(response))["data"] == '{"name":"stdout","text":"first"}'
        site.fleet.may_go_on.set()
        assert (await _event(response))["event"] == "result"
        assert await response.content.read() == b""


async def test_a_kernel_that_dies_ends_its_stream_with_a_problem() -> None:
    async with serving() as site:
        reply = await site.ask("POST", EXECUTE, json={"code": "die", "stream": True})

    assert reply.status == 200
    assert "event: problem\ndata: {" in reply.body.decode()
    assert '"death":{' in reply.body.decode()


async def test_a_fault_in_a_stream_is_logged_and_told(caplog: pytest.LogCaptureFixture) -> None:
    async with serving() as site:
        reply = await site.ask("POST", EXECUTE, json={"code": "fault", "stream": True})
        assert site.fleet.streams == 0

    assert '"type":"urn:llmspell:problem:internal-error"' in reply.body.decode()
    assert "secret" not in reply.body.decode()
    assert "a fault with a secret in it" in caplog.text


async def test_nothing_of_an_execution_is_lost_on_a_slow_client() -> None:
    async with serving() as site:
        count = 5 * BACKLOG_BYTES // 1000
        async with streaming(site, "POST", EXECUTE, json={"code": f"x {count}", "stream": True}) as response:
            body = await response.read()

    assert body.count(b"event: output") == count + 1
    assert body.count(b"event: result") == 1
    assert b"event: gap" not in body


async def test_an_execution_in_pieces_is_left_when_its_client_goes() -> None:
    async with serving() as site:
        async with streaming(site, "POST", EXECUTE, json={"code": "wait", "stream": True}) as response:
            await _event(response)
            response.close()
        await _settle(site, streams=0)
