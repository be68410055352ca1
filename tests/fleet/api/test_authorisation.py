"""Who may do what: every route, with every kind of token."""

import pytest

from llmspell_fleet.api.openapi import brief
from llmspell_fleet.api.route import Route
from llmspell_fleet.api.routes import ROUTES
from support.fake_fleet import Site, serving

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]

EVERYBODY = {"no token", "wrong token", "viewer", "tenant", "other tenant", "admin"}
WATCHERS = {"viewer", "admin"}
READERS = {"viewer", "tenant", "admin"}
OWNERS = {"tenant", "admin"}
LISTS = {"viewer", "tenant", "other tenant", "admin"}
MAY = {
    "GET /livez": EVERYBODY,
    "GET /readyz": EVERYBODY,
    "GET /health": WATCHERS,
    "GET /metrics": WATCHERS,
    "GET /openapi.json": EVERYBODY,
    "GET /docs": EVERYBODY,
    "POST /v1/upgrade": {"admin"},
    "POST /v1/apply": {"admin"},
    "POST /v1/tenants": {"admin"},
    "GET /v1/tenants": LISTS,
    "GET /v1/tenants/{tenant}": READERS,
    "PATCH /v1/tenants/{tenant}": {"admin"},
    "POST /v1/tenants/{tenant}/token": {"admin"},
    "POST /v1/tenants/{tenant}/restart": {"admin"},
    "POST /v1/tenants/{tenant}/signal": {"admin"},
    "POST /v1/tenants/{tenant}/drain": {"admin"},
    "DELETE /v1/tenants/{tenant}": {"admin"},
    "POST /v1/tenants/{tenant}/execute": OWNERS,
    "GET /v1/tenants/{tenant}/executions/{execution}": OWNERS,
    "GET /v1/tenants/{tenant}/connection": OWNERS,
    "PATCH /v1/leases/{lease}": OWNERS,
    "DELETE /v1/leases/{lease}": OWNERS,
    "POST /v1/kernels": {"admin"},
    "GET /v1/kernels": LISTS,
    "GET /v1/kernels/{kernel}": READERS,
    "DELETE /v1/kernels/{kernel}": OWNERS,
    "POST /v1/kernels/{kernel}/interrupt": OWNERS,
    "POST /v1/kernels/{kernel}/restart": OWNERS,
    "POST /v1/kernels/{kernel}/signal": OWNERS,
    "POST /v1/kernels/{kernel}/drain": OWNERS,
    "POST /v1/signal": {"admin"},
    "POST /v1/drain": {"admin"},
    "GET /v1/kernels/{kernel}/why": READERS,
    "GET /v1/kernels/{kernel}/logs": OWNERS,
    "GET /v1/events": LISTS,
}
PROBLEM = {"no token": 401, "wrong token": 401, "viewer": 403, "tenant": 403, "other tenant": 403}


def _name(route: Route) -> str:
    return f"{route.method} {route.path}"


async def _ask(site: Site, route: Route, who: str, path: str | None = None, **further: object) -> int:
    """Ask for acme's things as the route's documentation says one should."""
    await site.ask("POST", "/v1/tenants/acme/execute", json={"code": "x", "wait": False})
    await site.ask("GET", "/v1/tenants/acme/connection")
    path = path or route.path.format(tenant="acme", kernel=site.fleet.kernel_of("acme"), execution="e0", lease="l0")
    if route.example is not None and not further:
        further = {"json": brief(route.example) | ({"id": "new"} if path == "/v1/tenants" else {})}
    token = None if who == "no token" else who
    reply = await site.ask(route.method, path, who=token, **further)
    if reply.status in {401, 403, 404}:
        assert reply.detail
    assert ("WWW-Authenticate" in reply.headers) == (reply.status == 401)
    return reply.status


async def test_the_table_names_every_route() -> None:
    assert [_name(route) for route in ROUTES] == list(MAY)


@pytest.mark.parametrize("who", sorted(EVERYBODY))
@pytest.mark.parametrize("route", ROUTES, ids=_name)
async def test_a_token_opens_what_it_should_and_nothing_else(route: Route, who: str) -> None:
    async with serving() as site:
        status = await _ask(site, route, who)

    if who in MAY[_name(route)]:
        assert status in route.replies
    elif who == "other tenant" and ("{tenant}" in route.path or "tenant" in MAY[_name(route)]):
        assert status == 404
    else:
        assert status == PROBLEM[who]


@pytest.mark.parametrize("who", ["no token", "wrong token", "viewer"])
@pytest.mark.parametrize("route", [route for route in ROUTES if "viewer" not in MAY[_name(route)]], ids=_name)
async def test_authorisation_comes_before_validation(route: Route, who: str) -> None:
    path = route.path.format(tenant="..%2f", kernel="%00", execution="%", lease="a.b") + "?nonsense=1"
    async with serving() as site:
        status = await _ask(site, route, who, path, data=b"{", headers={"Content-Type": "text/html"})

    assert status == PROBLEM[who]


@pytest.mark.parametrize("path", ["/v1/tenants", "/v1/kernels", "/v1/events"])
async def test_lists_hold_what_is_the_caller_s(path: str) -> None:
    async with serving() as site:
        lists = {who: (await site.ask("GET", path, who=who)).json["items"] for who in sorted(LISTS)}

    owners = {
        who: {item.get("tenant", item["id"] if path == "/v1/tenants" else None) for item in items}
        for who, items in lists.items()
    }
    assert owners == {
        "admin": {"acme", "globex"},
        "viewer": {"acme", "globex"},
        "tenant": {"acme"},
        "other tenant": {"globex"},
    }


@pytest.mark.parametrize("path", ["/health", "/metrics"])
async def test_metrics_may_be_made_public(path: str) -> None:
    async with serving(is_metrics_public=True) as site:
        assert (await site.ask("GET", path, who=None)).status == 200
        assert (await site.ask("GET", "/v1/tenants", who=None)).status == 401


async def test_a_tenant_s_answer_does_not_tell_whether_another_exists() -> None:
    async with serving() as site:
        there = await site.ask("GET", "/v1/tenants/globex", who="tenant")
        absent = await site.ask("GET", "/v1/tenants/initech", who="tenant")

    assert there.status == absent.status == 404
    assert there.detail.replace("globex", "initech") == absent.detail


@pytest.mark.parametrize(
    ("case", "header", "status"),
    [
        ("as a bearer", "Bearer admin-token", 200),
        ("as Jupyter says it", "token admin-token", 200),
        ("in another case", "bEARER admin-token", 200),
        ("without a scheme", "admin-token", 401),
        ("with another scheme", "Basic YWRtaW4tdG9rZW4=", 401),
        ("empty", "", 401),
        ("of a scheme alone", "Bearer ", 401),
        ("with a space after it", "Bearer admin-token x", 401),
        ("not ASCII", "Bearer admin-tok€n", 401),
        ("very long", "Bearer " + "x" * 5000, 401),
    ],
)
async def test_the_authorisation_header(case: str, header: str, status: int) -> None:
    async with serving() as site:
        reply = await site.ask("GET", "/v1/tenants", who=None, headers={"Authorization": header})

    assert reply.status == status
    assert b"admin-token" not in reply.body


@pytest.mark.parametrize("query", ["token=admin-token", "access_token=admin-token"])
async def test_a_token_in_a_url_opens_nothing(query: str) -> None:
    async with serving() as site:
        assert (await site.ask("GET", f"/v1/tenants?{query}", who=None)).status == 401


async def test_bytes_that_are_no_text_are_no_token() -> None:
    async with serving() as site:
        answer = await site.raw(
            b"GET /v1/tenants HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer \xff\xfe\r\nConnection: close\r\n\r\n"
        )

    assert answer.startswith(b"HTTP/1.1 401 ")
