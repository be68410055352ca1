"""Ids in paths that nothing can have: 404, before anything is looked up."""

import pytest

from llmspell_fleet.api.routes import ROUTES
from support.fake_fleet import serving

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]

STRANGE = [
    "..",
    ".",
    "%2e%2e",
    "..%2f..%2fetc%2fpasswd",
    "acme%2f..%2fglobex",
    "a%2fb",
    "a%5cb",
    "%00",
    "acme%00",
    "acme%0a",
    "%0d%0aX-Evil:%201",
    "Acme",
    "ACME",
    "_acme",
    "-acme",
    "a" * 64,
    "a" * 300,
    "%D0%B0cme",
    "acme.",
    "acme%20",
    "%61cme",
    "acme;x",
    "*",
    "'",
    "00000000-0000-0000-0000-00000000000G",
    "%7B00000000-0000-0000-0000-000000000000%7D",
    "~",
    "$",
]


@pytest.mark.parametrize("strange", STRANGE)
async def test_an_id_that_nothing_can_have(strange: str) -> None:
    async with serving() as site:
        for route in ROUTES:
            for parameter in route.parameters:
                if parameter in {"execution", "lease"} and strange in {"Acme", "ACME", "_acme", "-acme", "a" * 64}:
                    continue  # these are opaque, and may look so
                ids = {"tenant": "acme", "kernel": site.fleet.kernel_of("acme"), "execution": "e0", "lease": "l0"}
                path = route.path.format(**ids | {parameter: strange})
                answer = await site.raw(
                    f"{route.method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer admin-token\r\n"
                    "Content-Length: 0\r\nConnection: close\r\n\r\n".encode()
                )

                head, _, body = answer.partition(b"\r\n\r\n")
                assert head.startswith(b"HTTP/1.1 404 "), (route.method, path)
                assert b"application/problem+json" in head
                assert b"X-Evil" not in head
                assert len(body) < 500


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "//",
        "/v1",
        "/v1/",
        "/v2/tenants",
        "/V1/tenants",
        "/v1/tenants/",
        "/v1//tenants",
        "/v1/tenants/acme/",
        "/v1/tenants/acme/execute/",
        "/v1/tenants/acme/../globex",
        "/v1/tenants/acme/executions",
        "/v1/tenants%2facme",
        "/./livez",
        "/livez#x",
        "/livez%00",
        "/api/kernels",
        "/favicon.ico",
        "/%",
        "/" + "x" * 7000,
        "/" + "/".join("x" * 1000),
        "http://localhost/livez",
    ],
)
async def test_a_path_that_leads_nowhere(path: str) -> None:
    async with serving() as site:
        answer = await site.raw(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())

    assert answer.startswith(b"HTTP/1.1 404 ")
    assert b"application/problem+json" in answer


async def test_a_name_with_a_line_break_is_no_name() -> None:
    """Python's `$` would take it, and the Location header would be two."""
    async with serving() as site:
        reply = await site.ask("POST", "/v1/tenants", json={"id": "acme2\n"})

    assert reply.status == 400
