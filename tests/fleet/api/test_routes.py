"""What each route does, when it is used as it is meant to be."""

import asyncio

import pytest

from support.fake_fleet import AT, serving, until

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]

EXECUTE = "/v1/tenants/acme/execute"


async def test_liveness_and_readiness() -> None:
    async with serving() as site:
        assert (await site.ask("GET", "/livez", who=None)).json == {"status": "alive"}
        assert (await site.ask("GET", "/readyz", who=None)).status == 200
        site.fleet.is_ready = False
        assert (await site.ask("GET", "/readyz", who=None)).status == 503
        assert (await site.ask("GET", "/livez", who=None)).status == 200


@pytest.mark.parametrize(("status", "answered"), [("healthy", 200), ("degraded", 200), ("unhealthy", 503)])
async def test_health(status: str, answered: int) -> None:
    async with serving() as site:
        site.fleet.status = status  # type: ignore[assignment]
        reply = await site.ask("GET", "/health", who="viewer")

    assert (reply.status, reply.json["status"]) == (answered, status)
    assert reply.json["controller"]["pid"] == 1
    assert reply.json["zygote"]["pid"] == 2


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("*/*", "text/plain; version=0.0.4"),
        ("application/openmetrics-text; version=1.0.0", "application/openmetrics-text"),
    ],
)
async def test_metrics_come_in_the_form_that_is_asked_for(accept: str, kind: str) -> None:
    async with serving() as site:
        reply = await site.ask("GET", "/metrics", who="viewer", headers={"Accept": accept})

    assert (reply.headers["Content-Type"], reply.body) == (kind, b"llmspell_up 1\n")


async def test_the_life_of_a_tenant() -> None:
    async with serving() as site:
        created = await site.ask(
            "POST", "/v1/tenants", json={"id": "initech", "replicas": 2, "limits": {"memory_bytes": 1}}
        )
        again = await site.ask("POST", "/v1/tenants", json={"id": "initech"})
        shown = await site.ask("GET", created.headers["Location"])
        changed = await site.ask("PATCH", "/v1/tenants/initech", json={"replicas": 3})
        deleted = await site.ask("DELETE", "/v1/tenants/initech")
        gone = await site.ask("GET", "/v1/tenants/initech")

    assert created.status == 201
    assert created.headers["Location"] == "/v1/tenants/initech"
    assert created.json["token"] == "token-of-initech"
    assert [kernel["phase"] for kernel in created.json["kernels"]] == ["READY", "READY"]
    assert again.status == 409
    assert shown.json == {key: value for key, value in created.json.items() if key != "token"}
    assert changed.json["replicas"] == 3
    assert (deleted.status, deleted.body) == (204, b"")
    assert "Content-Length" not in deleted.headers
    assert gone.status == 404


@pytest.mark.parametrize(
    ("label", "found"),
    [("env=prod", ["initech"]), ("env", ["hooli", "initech"]), ("env=prod,team", []), ("zone", [])],
)
async def test_tenants_and_kernels_are_selected_by_their_labels(label: str, found: list[str]) -> None:
    async with serving() as site:
        for tenant, env in (("initech", "prod"), ("hooli", "test")):
            await site.ask("POST", "/v1/tenants", json={"id": tenant, "labels": {"env": env}})
        tenants = await site.ask("GET", "/v1/tenants", params={"label": label})
        kernels = await site.ask("GET", "/v1/kernels", params={"label": label}, who="viewer")
        foreign = await site.ask("GET", "/v1/tenants", params={"label": label}, who="tenant")

    assert [tenant["id"] for tenant in tenants.json["items"]] == found
    assert sorted(kernel["tenant"] for kernel in kernels.json["items"]) == found
    assert foreign.json["items"] == [], "what is another's stays so"


async def test_a_selector_that_cannot_be_meant_is_refused() -> None:
    async with serving() as site:
        reply = await site.ask("GET", "/v1/kernels", params={"label": "a=,b"})

    assert reply.status == 400
    assert "'a='" in reply.detail


async def test_the_life_of_a_kernel() -> None:
    async with serving() as site:
        created = await site.ask("POST", "/v1/kernels", json={"tenant": "acme"})
        path = created.headers["Location"]
        shown = await site.ask("GET", path)
        interrupted = await site.ask("POST", path + "/interrupt", who="tenant")
        restarted = await site.ask("POST", path + "/restart", who="tenant")
        deleted = await site.ask("DELETE", path, who="tenant")
        gone = await site.ask("GET", path)

        assert created.status == 201
        assert path == f"/v1/kernels/{created.json['id']}"
        assert shown.json == created.json
        assert (interrupted.status, site.fleet.interrupted) == (204, [created.json["id"]])
        assert restarted.json["restarts"] == 1
        assert deleted.status == 204
        assert gone.status == 404


async def test_a_kernel_for_a_tenant_that_is_not_there() -> None:
    async with serving() as site:
        assert (await site.ask("POST", "/v1/kernels", json={"tenant": "nobody"})).status == 404


async def test_code_that_fails_is_an_answer() -> None:
    async with serving() as site:
        good = await site.ask("POST", EXECUTE, who="tenant", json={"code": "x", "session": "mine"})
        bad = await site.ask("POST", EXECUTE, who="tenant", json={"code": "error"})

        assert (good.status, good.json["status"], good.json["session"]) == (200, "ok", "mine")
        assert (bad.status, bad.json["status"], bad.json["error"]["message"]) == (200, "error", "no")


@pytest.mark.parametrize(("query", "body"), [("?wait=false", {}), ("?wait=0", {}), ("", {"wait": False})])
async def test_code_that_is_not_waited_for(query: str, body: dict[str, object]) -> None:
    async with serving() as site:
        begun = await site.ask("POST", EXECUTE + query, who="tenant", json={"code": "x", **body})
        fetched = await site.ask("GET", begun.headers["Location"], who="tenant")

    assert begun.status == 202
    assert begun.headers["Location"] == "/v1/tenants/acme/executions/e0"
    assert (fetched.status, fetched.json["status"], fetched.json["http_status"]) == (200, "done", 200)
    assert fetched.json["outcome"]["status"] == "ok"


@pytest.mark.parametrize(("code", "status"), [("x", 200), ("die", 502)])
async def test_an_idempotency_key_gives_one_outcome(code: str, status: int) -> None:
    async with serving() as site:
        replies = [
            await site.ask("POST", EXECUTE, json={"code": code}, headers={"Idempotency-Key": "k"}) for _ in range(2)
        ]

        assert [reply.status for reply in replies] == [status, status]
        assert replies[0].body == replies[1].body
        assert [reply.headers.get("Idempotency-Replayed") for reply in replies] == [None, "true"]
        assert len(site.fleet.executed) <= 1
    assert ("problem" in replies[1].headers["Content-Type"]) == (status == 502)


async def test_a_client_that_goes_does_not_stop_what_it_had_executed() -> None:
    async with serving() as site:
        asking = asyncio.ensure_future(site.ask("POST", EXECUTE, json={"code": "wait"}))
        await until(lambda: site.fleet.begun, "the code began")
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        site.fleet.may_go_on.set()
        await until(lambda: site.fleet.executed == ["wait"], "the code ended")


async def test_the_life_of_a_lease() -> None:
    async with serving() as site:
        lent = await site.ask("GET", "/v1/tenants/acme/connection?session=mine", who="tenant")
        path = f"/v1/leases/{lent.json['lease']['id']}"
        renewed = await site.ask("PATCH", path, who="tenant", json={"ttl_s": 60})
        renewed_plainly = await site.ask("PATCH", path, who="tenant")
        wrong = await site.ask("PATCH", path, who="tenant", json={"ttl_s": 0})
        ended = await site.ask("DELETE", path, who="tenant")
        gone = await site.ask("DELETE", path, who="tenant")

    assert (lent.status, lent.json["session"], lent.json["connection"]) == (200, "mine", {"key": "k"})
    assert renewed.json == renewed_plainly.json == lent.json
    assert [wrong.status, ended.status, gone.status] == [400, 204, 404]


@pytest.mark.parametrize(
    ("query", "lines"),
    [
        ("", [f"1 {AT} one", f"2 {AT} a.b", f"3 {AT} two"]),
        ("?since=1", [f"2 {AT} a.b", f"3 {AT} two"]),
        ("?since=99", []),
        ("?grep=o", [f"1 {AT} one", f"3 {AT} two"]),
        ("?grep=a.b", [f"2 {AT} a.b"]),
        ("?grep=.", [f"2 {AT} a.b"]),
        ("?grep=o%24", []),
        ("?follow=false&since=2", [f"3 {AT} two"]),
    ],
)
async def test_logs_as_lines(query: str, lines: list[str]) -> None:
    async with serving() as site:
        reply = await site.ask("GET", f"/v1/kernels/{site.fleet.kernel_of('acme')}/logs{query}", who="tenant")

    assert reply.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert reply.body.decode().splitlines() == lines


async def test_logs_as_events() -> None:
    async with serving() as site:
        path = f"/v1/kernels/{site.fleet.kernel_of('acme')}/logs?since=2"
        reply = await site.ask("GET", path, headers={"Accept": "text/event-stream"})

    assert reply.headers["Content-Type"] == "text/event-stream"
    assert reply.body.decode() == f'id: 3\nevent: log\ndata: {{"seq":3,"at":"{AT}","text":"two","incarnation":0}}\n\n'


async def test_events_in_pages() -> None:
    async with serving() as site:
        for _ in range(1500):
            await site.fleet.happen()
        first = (await site.ask("GET", "/v1/events?since=1")).json
        second = (await site.ask("GET", f"/v1/events?since={first['next']}")).json

    assert [event["seq"] for event in first["items"]] == list(range(2, 1002))
    assert [event["seq"] for event in second["items"]] == list(range(1002, 1503))
    assert "next" not in second
