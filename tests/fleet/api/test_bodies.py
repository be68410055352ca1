"""Bodies and queries that are not what they should be: 4xx, with a message that names what is wrong."""

import asyncio
import json

import pytest

from support.fake_fleet import serving

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]

EXECUTE = "/v1/tenants/acme/execute"
NESTED = 100_000


@pytest.mark.parametrize(
    ("case", "body", "named"),
    [
        ("nothing", b"", "empty"),
        ("white space", b"  \n", "empty"),
        ("not JSON", b"code=1", "JSON"),
        ("cut short", b'{"code": "x"', "truncated"),
        ("more than one value", b'{"code": "x"} {}', "trailing"),
        ("a list", b"[]", "`object`"),
        ("a string", b'"x"', "`object`"),
        ("null", b"null", "`object`"),
        ("no code", b"{}", "`code`"),
        ("an unknown member", b'{"code": "x", "cdoe": 1}', "`cdoe`"),
        ("a wrong type", b'{"code": 1}', "$.code"),
        ("a number in quotes", b'{"code": "x", "timeout_s": "1"}', "$.timeout_s"),
        ("a boolean in quotes", b'{"code": "x", "stream": "true"}', "$.stream"),
        ("NaN", b'{"code": "x", "timeout_s": NaN}', "malformed"),
        ("infinity", b'{"code": "x", "timeout_s": 1e999}', "$.timeout_s"),
        ("below zero", b'{"code": "x", "timeout_s": -1}', "$.timeout_s"),
        ("not UTF-8", b'{"code": "\xff\xfe"}', "UTF-8"),
        ("half a surrogate pair", b'{"code": "\\ud800"}', "JSON"),
        ("a bare control character", b'{"code": "\x00"}', "JSON"),
        ("deep nesting", b"[" * NESTED + b"]" * NESTED, "`object`"),
        ("deep nesting inside", b'{"code":' + b"[" * NESTED + b"]" * NESTED + b"}", "$.code"),
        ("a byte order mark", b'\xef\xbb\xbf{"code": "x"}', "JSON"),
        ("a session that is empty", b'{"code": "x", "session": ""}', "$.session"),
        ("a session that is long", json.dumps({"code": "x", "session": "s" * 201}).encode(), "$.session"),
        ("a stream that is not waited for", b'{"code": "x", "stream": true, "wait": false}', "stream"),
    ],
)
async def test_a_body_that_cannot_be_meant(case: str, body: bytes, named: str) -> None:
    async with serving() as site:
        reply = await site.ask("POST", EXECUTE, data=body, headers={"Content-Type": "application/json"})

        assert reply.status == 400
        assert named in reply.detail
        assert site.fleet.executed == []


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"id": "Acme"}, "$.id"),
        ({"id": "acme", "warm": "maybe"}, 'Expected one of "never", "prefer", "require", found'),
        ({"id": "../etc"}, "$.id"),
        ({"id": "a" * 64}, "$.id"),
        ({"id": "\N{CYRILLIC SMALL LETTER A}cme"}, "$.id"),
        ({"id": "acme\n"}, "$.id"),
        ({"id": "x", "replicas": -1}, "$.replicas"),
        ({"id": "x", "replicas": 1.5}, "$.replicas"),
        ({"id": "x", "replicas": True}, "$.replicas"),
        ({"id": "x", "replicas": 2**70}, "$.replicas"),
        ({"id": "x", "strategy": "random"}, "$.strategy"),
        ({"id": "x", "limits": {"memory": 1}}, "`memory`"),
        ({"id": "x", "limits": {"memory_bytes": "1GB"}}, "$.limits.memory_bytes"),
        ({"id": "x", "limits": []}, "$.limits"),
        ({"id": "x", "wait_s": 1e9}, "$.wait_s"),
    ],
)
async def test_a_tenant_that_cannot_be_meant(body: dict[str, object], named: str) -> None:
    async with serving() as site:
        reply = await site.ask("POST", "/v1/tenants", json=body)

    assert reply.status == 400
    assert named in reply.detail


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        (None, 200),
        ("application/json", 200),
        ("application/json; charset=utf-8", 200),
        ('APPLICATION/JSON;charset="UTF-8"', 200),
        ("application/json; charset=latin-1", 415),
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 200),  # what `curl -d` says
        ("application/jsonx", 415),
        ("multipart/form-data; boundary=x", 415),
    ],
)
async def test_content_type(content_type: str | None, status: int) -> None:
    head = b"" if content_type is None else f"Content-Type: {content_type}\r\n".encode()
    async with serving() as site:
        answer = await site.raw(_request(b'{"code":"x"}', head))

    assert answer.startswith(b"HTTP/1.1 %d " % status)


async def test_encoded_bodies_are_refused_and_never_unpacked() -> None:
    async with serving() as site:
        answer = await site.raw(_request(b"\x1f\x8b\x08\x00", b"Content-Encoding: gzip\r\n"))

    assert answer.startswith(b"HTTP/1.1 415 ")


async def test_a_body_may_be_as_long_as_the_limit_and_not_longer() -> None:
    async with serving(max_body_bytes=1000) as site:
        fits = json.dumps({"code": "x" * (1000 - len('{"code": ""}'))}).encode()
        headers = {"Content-Type": "application/json"}

        assert (await site.ask("POST", EXECUTE, data=fits, headers=headers)).status == 200
        assert (await site.ask("POST", EXECUTE, data=fits + b" ", headers=headers)).status == 413


async def test_a_long_body_without_a_length_is_bounded_too() -> None:
    async def pieces():  # type: ignore[no-untyped-def]
        for _ in range(100):
            yield b" " * 10_000

    async with serving(max_body_bytes=50_000) as site:
        reply = await site.ask("POST", EXECUTE, data=pieces(), headers={"Content-Type": "application/json"})

        assert reply.status == 413
        assert "50000" in reply.detail
        assert (await site.ask("GET", "/livez")).status == 200


async def test_a_body_in_pieces_is_put_together() -> None:
    async def pieces():  # type: ignore[no-untyped-def]
        for piece in (b'{"co', b'de"', b': "x"}'):
            yield piece

    async with serving() as site:
        assert (
            await site.ask("POST", EXECUTE, data=pieces(), headers={"Content-Type": "application/json"})
        ).status == 200


@pytest.mark.parametrize(
    ("case", "head", "body", "status"),
    [
        ("more than came", b"Content-Length: 100\r\n", b'{"code":"x"}', b"408"),
        ("far more than is taken", b"Content-Length: 99999999999\r\n", b"{}", b"413"),
        ("less than came", b"Content-Length: 5\r\n", b'{"code":"x"}', b"400"),
        ("below zero", b"Content-Length: -1\r\n", b"{}", b"400"),
        ("no number", b"Content-Length: ten\r\n", b"{}", b"400"),
        ("two lengths", b"Content-Length: 2\r\nContent-Length: 3\r\n", b"{}", b"400"),
        (
            "a length and chunks",
            b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n",
            b"2\r\n{}\r\n0\r\n\r\n",
            b"400",
        ),
        ("chunks that are none", b"Transfer-Encoding: chunked\r\n", b"zz\r\n{}\r\n", b"400"),
    ],
)
async def test_lies_about_the_length(case: str, head: bytes, body: bytes, status: bytes) -> None:
    async with serving(read_timeout_s=0.3) as site:
        answer = await site.raw(_request(body, head, has_length=False))

        assert answer.split()[1] == status
        assert (await site.ask("GET", "/livez")).status == 200
        assert site.fleet.executed == []


async def test_a_client_that_goes_in_the_middle_of_its_body_harms_nobody() -> None:
    async with serving() as site:
        _, writer = await asyncio.open_connection("127.0.0.1", site.port)
        writer.write(_request(b'{"code":', b"Content-Length: 100\r\n", has_length=False))
        await writer.drain()
        writer.transport.abort()

        assert (await site.ask("POST", EXECUTE, json={"code": "x"})).status == 200
        assert site.fleet.executed == ["x"]


async def test_an_expectation_is_met() -> None:
    async with serving() as site:
        reader, writer = await asyncio.open_connection("127.0.0.1", site.port)
        writer.write(_request(b"", b"Content-Length: 12\r\nExpect: 100-continue\r\n", has_length=False))
        assert await reader.readline() == b"HTTP/1.1 100 Continue\r\n"
        writer.write(b'{"code":"x"}')

        assert b"HTTP/1.1 200 OK\r\n" in await reader.read()
        writer.close()
        await writer.wait_closed()


@pytest.mark.parametrize(
    ("length", "expectation", "status"), [(12, b"miracles", b"417"), (99_999_999, b"100-continue", b"413")]
)
async def test_an_expectation_that_is_not_met(length: int, expectation: bytes, status: bytes) -> None:
    async with serving(read_timeout_s=0.3) as site:
        head = b"Content-Length: %d\r\nExpect: %b\r\n" % (length, expectation)
        answer = await site.raw(_request(b"", head, has_length=False))

    assert answer.split()[1] == status


@pytest.mark.parametrize("path", ["/v1/kernels/{kernel}/interrupt", "/v1/kernels/{kernel}/restart"])
@pytest.mark.parametrize(("body", "is_fine"), [(b"", True), (b"{}", True), (b'{"force": true}', False), (b"[", False)])
async def test_what_takes_no_body_is_given_none(path: str, body: bytes, is_fine: bool) -> None:
    async with serving() as site:
        path = path.format(kernel=site.fleet.kernel_of("acme"))
        reply = await site.ask("POST", path, data=body, headers={"Content-Type": "application/json"})

    assert (reply.status < 300) == is_fine


@pytest.mark.parametrize(
    ("path", "named"),
    [
        ("/v1/events?since=x", "since"),
        ("/v1/events?since=-1", "since"),
        ("/v1/events?since=1.5", "since"),
        ("/v1/events?since=", "since"),
        ("/v1/events?since=%D9%A1", "since"),
        ("/v1/events?since=99999999999999999999", "since"),
        ("/v1/events?since=1&since=2", "twice"),
        ("/v1/events?sinse=1", "sinse"),
        ("/v1/events?since", "name=value"),
        ("/v1/events?since=%ff", "UTF-8"),
        ("/v1/events?" + "&".join(f"a{n}=1" for n in range(50)), "name=value"),
        ("/v1/tenants?page=2", "page"),
        ("/livez?x=1", "x"),
        ("LOGS?follow=yes", "follow"),
        ("LOGS?follow=", "follow"),
        ("LOGS?grep=" + "x" * 201, "grep"),
        ("/v1/tenants/acme/connection?session=", "session"),
    ],
)
async def test_a_query_that_cannot_be_meant(path: str, named: str) -> None:
    async with serving() as site:
        path = path.replace("LOGS", f"/v1/kernels/{site.fleet.kernel_of('acme')}/logs")
        answer = await site.raw(
            f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer admin-token\r\nConnection: close\r\n\r\n".encode()
        )

    assert answer.startswith(b"HTTP/1.1 400 ")
    assert named.encode() in answer


@pytest.mark.parametrize(
    ("key", "status"),
    [
        ("k", 200),
        ("k" * 255, 200),
        ("~!@#", 200),
        ("k" * 256, 400),
        ("", 400),
        ("two words", 400),
        ("ü", 400),
    ],
)
async def test_an_idempotency_key_is_visible_ascii(key: str, status: int) -> None:
    async with serving() as site:
        reply = await site.ask("POST", EXECUTE, json={"code": "x"}, headers={"Idempotency-Key": key})

    assert reply.status == status


def _request(body: bytes, head: bytes, *, has_length: bool = True) -> bytes:
    length = b"Content-Length: %d\r\n" % len(body) if has_length else b""
    return (
        b"POST /v1/tenants/acme/execute HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer admin-token\r\n"
        b"Connection: close\r\n" + head + length + b"\r\n" + body
    )
