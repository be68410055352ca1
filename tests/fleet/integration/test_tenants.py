"""Tenants of a fleet that really runs: made, changed, kept apart, gone."""

import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

from support.fleets import FleetHome, new_fleet
from support.poorer import poor_fleet
from support.tenants import Tenant, at_once, is_gone, new_tenant, wait_for

pytestmark = pytest.mark.integration

Make = Callable[..., Tenant]

_MEMBERS = {
    *("id", "replicas", "ready", "strategy", "limits", "isolation_level", "idle_timeout_s", "created_at", "kernels"),
}


def test_a_new_tenant_is_answered_with_its_kernels_and_its_token(fleet: FleetHome, make_tenant: Make) -> None:
    created = make_tenant(replicas=2, strategy="sticky", idle_timeout_s=3600, limits={"max_clients": 5}).created

    assert created.keys() >= _MEMBERS | {"token"}
    assert (created["replicas"], created["ready"], created["strategy"]) == (2, 2, "sticky")
    assert (created["isolation_level"], created["idle_timeout_s"]) == ("process", 3600)
    assert created["limits"]["max_clients"] == 5
    assert [kernel["phase"] for kernel in created["kernels"]] == ["READY", "READY"]
    shown = fleet.ask("GET", f"/v1/tenants/{created['id']}")
    assert shown.json.keys() >= _MEMBERS
    assert created["token"].encode() not in shown.body
    assert fleet.ask("POST", "/v1/tenants", {"id": created["id"]}).status == 409


def test_fifty_tenants_at_once_and_gone_at_once(fleet: FleetHome) -> None:
    tenants = at_once(50, lambda number: new_tenant(fleet, f"many-{number}", wait_s=30))
    try:
        assert all(tenant.created["ready"] == 1 for tenant in tenants)
        assert len({tenant.token for tenant in tenants}) == 50
        kernels = {tenant.created["kernels"][0]["id"]: tenant.created["kernels"][0]["pid"] for tenant in tenants}
        assert len(kernels) == 50
        values = at_once(50, lambda number: tenants[number].value(f"return {number}"))
        assert values == [str(number) for number in range(50)]
    finally:
        answers = at_once(50, lambda number: fleet.ask("DELETE", tenants[number].path))
    assert {answer.status for answer in answers} == {204}
    assert all(is_gone(pid) for pid in kernels.values())
    names = {path.name for path in fleet.home.runtime.rglob("*")}
    assert not {f"kernel-{kernel}.json" for kernel in kernels} & names
    assert not {kernel.replace("-", "")[:12] for kernel in kernels} & names


def test_one_name_asked_for_fifty_times_at_once_is_made_once(fleet: FleetHome) -> None:
    answers = at_once(50, lambda _: fleet.ask("POST", "/v1/tenants", {"id": "raced"}))
    try:
        assert Counter(answer.status for answer in answers) == {201: 1, 409: 49}
        assert len(fleet.kernels("raced")) == 1
    finally:
        fleet.ask("DELETE", "/v1/tenants/raced")


def test_who_does_not_wait_is_answered_before_the_kernels_are_ready(make_tenant: Make) -> None:
    tenant = make_tenant(replicas=8, wait_s=0)

    assert tenant.created["replicas"] == len(tenant.created["kernels"]) == 8
    assert tenant.created["ready"] < 8
    assert tenant.value("return 1") == "1"
    assert len(tenant.wait_ready()) == 8


def test_nothing_of_a_deleted_tenant_is_left(fleet: FleetHome, make_tenant: Make) -> None:
    tenant = make_tenant(replicas=2)
    tenant.execute("mark = 1", session="mine", headers={"Idempotency-Key": "k"})
    execution = tenant.begin("return 1")
    kernels = tenant.kernels()

    assert fleet.ask("DELETE", tenant.path).status == 204

    assert all(is_gone(kernel["pid"]) for kernel in kernels)
    assert {fleet.ask("GET", f"/v1/kernels/{kernel['id']}").status for kernel in kernels} == {404}
    assert fleet.ask("GET", tenant.path).status == 404
    assert fleet.ask("DELETE", tenant.path).status == 404
    assert fleet.ask("GET", "/v1/tenants", token=tenant.token).status == 401
    assert tenant.execute("return 1").status == 404
    # Another one of that name has nothing of it.
    again = new_tenant(fleet, tenant.id)
    try:
        answer = again.execute("return tostring(mark)", session="mine", headers={"Idempotency-Key": "k"})
        assert (answer.status, answer.json["result"]) == (200, "nil")
        assert "session_reset" not in answer.json
        assert fleet.ask("GET", execution).status == 404
        assert fleet.ask("GET", "/v1/tenants", token=tenant.token).status == 401
    finally:
        fleet.ask("DELETE", again.path)


def test_a_tenant_is_deleted_while_it_works(make_tenant: Make) -> None:
    tenant = make_tenant()
    with ThreadPoolExecutor(2) as pool:
        with tenant.spinning():
            waiting = pool.submit(tenant.execute, "return 1")
            wait_for(lambda: tenant.kernels()[0]["usage"]["running"] == 2, "one more waits")
            begun_at = time.monotonic()
            assert tenant.fleet.ask("DELETE", tenant.path).status == 204
        answer = waiting.result()

    assert time.monotonic() - begun_at < 10
    # Whatever became of it, it was told.
    assert answer.status in (200, 502, 503), answer.body


def test_replicas_go_up_and_down(make_tenant: Make) -> None:
    tenant = make_tenant(replicas=1)
    (first,) = tenant.kernels()

    up = tenant.change(replicas=4)
    assert (up.status, up.json["ready"], len(up.json["kernels"])) == (200, 4, 4)
    assert first["pid"] in [kernel["pid"] for kernel in up.json["kernels"]]
    pids = [kernel["pid"] for kernel in up.json["kernels"]]

    assert tenant.change(replicas=1).status == 200
    wait_for(lambda: len(tenant.kernels()) == 1, "three are gone")
    (left,) = tenant.wait_ready()
    assert left["id"] == first["id"], "the newest go first"
    assert sum(not is_gone(pid) for pid in pids) == 1

    assert tenant.change(replicas=0).status == 200
    wait_for(lambda: tenant.kernels() == [], "all are gone")
    refused = tenant.execute("return 1", timeout_s=0.1)
    assert (refused.status, int(refused.headers["Retry-After"])) == (503, 1)
    assert tenant.change(replicas=1).json["ready"] == 1
    assert tenant.value("return 1") == "1"


def test_fewer_replicas_spare_the_kernel_that_works(make_tenant: Make) -> None:
    tenant = make_tenant(replicas=3)
    with tenant.spinning() as spinning:
        tenant.change(replicas=1, wait_s=0)
        wait_for(lambda: len(tenant.kernels()) == 1, "two are gone")
        assert tenant.kernels()[0]["id"] == spinning.kernel
    assert spinning.outcome()["outcome"]["status"] == "interrupted"


def test_lua_s_heap_is_bounded_and_the_kernel_lives_on(make_tenant: Make) -> None:
    tenant = make_tenant(limits={"memory_bytes": 32 * 1024**2})
    (before,) = tenant.kernels()

    view = tenant.run("local t = {} for i = 1, 1e9 do t[i] = ('x'):rep(1000) .. i end")

    assert (view["status"], "memory" in view["error"]["message"]) == ("error", True)
    assert tenant.value("return 1") == "1"
    assert tenant.kernels()[0]["pid"] == before["pid"]


def test_changed_limits_hold_from_the_next_incarnation(make_tenant: Make) -> None:
    tenant = make_tenant()
    answer = tenant.change(limits={"memory_bytes": 32 * 1024**2})
    assert answer.status == 200
    assert answer.json["limits"]["memory_bytes"] == 32 * 1024**2
    assert answer.json["limits"]["max_executions"] == 1000, "what is not named stays"
    (kernel,) = tenant.kernels()

    tenant.fleet.ask("POST", f"/v1/kernels/{kernel['id']}/restart")

    assert tenant.kernel(kernel["id"])["limits"]["memory_bytes"]["value"] == 32 * 1024**2
    assert tenant.run("return #('x'):rep(64 * 1024 * 1024)")["status"] == "error"


def test_isolation_that_cannot_be_had_is_refused() -> None:
    with poor_fleet(config="[fleet]\nstartup_kernels = 0\n") as fleet:
        tenant = new_tenant(fleet, replicas=0)
        refused = fleet.ask("POST", "/v1/tenants", {"id": "walled", "isolation_level": "strict"})

        assert refused.status == 409
        assert "becoming user" in refused.json["detail"]
        assert "--allow-weaker-isolation" in refused.json["detail"]
        assert tenant.change(isolation_level="strict").status == 409
        assert fleet.ask("GET", "/v1/tenants/walled").status == 404


def test_weaker_isolation_is_allowed_by_who_says_so_and_health_shows_it() -> None:
    config = '[fleet]\nstartup_kernels = 0\n[multi_tenant]\nisolation_level = "strict"\n'
    with poor_fleet("--allow-weaker-isolation", config=config) as fleet:
        tenant = new_tenant(fleet, isolation_level="strict")

        assert tenant.created["isolation_level"] == "process"
        health = fleet.ask("GET", "/health").json
        assert (health["status"], health["checks"]["isolation"]["status"]) == ("degraded", "degraded")
        assert "strict" in health["checks"]["isolation"]["detail"]


def test_the_option_alone_allows_it_too_and_health_shows_it() -> None:
    with poor_fleet("--allow-weaker-isolation", config="[fleet]\nstartup_kernels = 0\n") as fleet:
        tenant = new_tenant(fleet, isolation_level="strict")

        assert tenant.created["isolation_level"] == "process"
        assert fleet.ask("GET", "/health").json["checks"]["isolation"]["status"] == "degraded"


# --- tokens -------------------------------------------------------------------------------------------------------


def test_a_tenant_s_token_opens_what_is_its_own(make_tenant: Make) -> None:
    one, other = make_tenant(), make_tenant()
    fleet, theirs = one.fleet, other.kernels()[0]["id"]

    def ask(method: str, path: str, body: object = None) -> int:
        return fleet.ask(method, path, body, token=one.token).status

    assert [item["id"] for item in fleet.ask("GET", "/v1/tenants", token=one.token).json["items"]] == [one.id]
    listed = fleet.ask("GET", "/v1/kernels", token=one.token).json["items"]
    assert [kernel["id"] for kernel in listed] == [one.kernels()[0]["id"]]
    assert ask("GET", one.path) == 200
    assert ask("POST", f"{one.path}/execute", {"code": "return 1"}) == 200
    for method, path, body in (
        ("GET", other.path, None),
        ("GET", "/v1/tenants/default", None),
        ("GET", "/v1/tenants/nobody", None),
        ("POST", f"{other.path}/execute", {"code": "return 1"}),
        ("GET", f"{other.path}/connection", None),
        ("GET", f"/v1/kernels/{theirs}", None),
        ("GET", f"/v1/kernels/{theirs}/logs", None),
        ("POST", f"/v1/kernels/{theirs}/interrupt", None),
        ("POST", f"/v1/kernels/{theirs}/restart", None),
        ("DELETE", f"/v1/kernels/{theirs}", None),
    ):
        assert ask(method, path, body) == 404, (method, path)
    for method, path, body in (
        ("POST", "/v1/tenants", {"id": "mine-too"}),
        ("DELETE", one.path, None),
        ("PATCH", one.path, {"replicas": 9}),
        ("POST", "/v1/kernels", {"tenant": one.id}),
        ("GET", "/metrics", None),
        ("GET", "/health", None),
    ):
        assert ask(method, path, body) == 403, (method, path)


def test_a_viewer_sees_and_does_nothing(fleet: FleetHome, tenant: Tenant) -> None:
    viewer = (fleet.home.state / "viewer.token").read_text().strip()

    for path in ("/health", "/metrics", "/v1/tenants", "/v1/kernels", "/v1/events", tenant.path):
        assert fleet.ask("GET", path, token=viewer).status == 200, path
    assert fleet.ask("POST", f"{tenant.path}/execute", {"code": ""}, token=viewer).status == 403
    assert fleet.ask("DELETE", tenant.path, token=viewer).status == 403
    assert fleet.ask("GET", f"{tenant.path}/connection", token=viewer).status == 403


@pytest.mark.parametrize("path", ["/livez", "/readyz", "/openapi.json", "/docs"])
def test_what_is_open_needs_no_token(fleet: FleetHome, path: str) -> None:
    assert fleet.ask("GET", path, token="").status == 200


@pytest.mark.parametrize("path", ["/health", "/metrics", "/v1/tenants", "/v1/tenants/default", "/v1/events"])
def test_what_is_not_needs_one(fleet: FleetHome, path: str) -> None:
    refused = fleet.ask("GET", path, token="")

    assert refused.status == 401
    assert refused.headers["WWW-Authenticate"].startswith("Bearer")
    assert fleet.ask("GET", path, token="lsa_" + "x" * 43).status == 401


# --- room ---------------------------------------------------------------------------------------------------------


def test_max_kernels_cannot_be_raced_past() -> None:
    with new_fleet(config="[fleet]\nstartup_kernels = 1\nmax_kernels = 6\n") as fleet:
        new_tenant(fleet, "pool", replicas=0)

        def ask(number: int) -> int:
            if number % 3 == 0:
                return fleet.ask("POST", "/v1/kernels", {"tenant": "pool", "wait_s": 0}).status
            if number % 3 == 1:
                return fleet.ask("PATCH", "/v1/tenants/pool", {"replicas": 4, "wait_s": 0}).status
            answer = fleet.ask("POST", "/v1/tenants", {"id": f"r{number}", "wait_s": 0})
            if answer.status == 429:
                assert int(answer.headers["Retry-After"]) >= 1
            return answer.status

        statuses = at_once(60, ask)

        kernels = fleet.ask("GET", "/v1/kernels").json["items"]
        assert len(kernels) <= 6
        assert set(statuses) <= {200, 201, 429}
        assert 429 in statuses
        # Places are given back when their kernels are gone, and then all can be had.
        fleet.ask("PATCH", "/v1/tenants/pool", {"replicas": 0})
        wait_for(lambda: fleet.kernels("pool") == [], "the pool is empty")
        at_once(8, lambda _: fleet.ask("POST", "/v1/kernels", {"tenant": "pool"}))
        kernels = fleet.ask("GET", "/v1/kernels").json["items"]
        assert len(kernels) == 6
        victim = next(kernel for kernel in kernels if kernel["tenant"] != "default")
        assert fleet.ask("DELETE", f"/v1/kernels/{victim['id']}").status == 204
        last = at_once(8, lambda _: fleet.ask("POST", "/v1/kernels", {"tenant": "pool"}).status)
        assert Counter(last) == {201: 1, 429: 7}


# --- idleness -----------------------------------------------------------------------------------------------------


def test_an_unused_kernel_is_culled_and_woken_by_the_next_request(make_tenant: Make) -> None:
    tenant = make_tenant(idle_timeout_s=0.5)
    tenant.run("mark = 1", session="mine")
    (before,) = tenant.kernels()

    wait_for(lambda: tenant.kernels()[0]["phase"] == "STOPPED", "it is culled")

    (culled,) = tenant.kernels()
    assert (culled["id"], culled["pid"], culled["last_death"]["cause"]) == (before["id"], None, "culled")
    assert is_gone(before["pid"])
    assert tenant.show()["replicas"] == 1
    types = [event["type"] for event in tenant.fleet.ask("GET", "/v1/events", token=tenant.token).json["items"]]
    assert types[-1] == "kernel.stopped"
    woken = tenant.run("return tostring(mark)", session="mine")
    assert (woken["kernel_id"], woken["result"], woken["session_reset"]) == (before["id"], "nil", True)
    assert tenant.kernels()[0]["incarnation"] == 2


def test_a_kernel_that_works_is_not_culled(make_tenant: Make) -> None:
    tenant = make_tenant(replicas=2, idle_timeout_s=0.5)
    with tenant.spinning() as spinning:
        wait_for(lambda: sum(k["phase"] == "STOPPED" for k in tenant.kernels()) == 1, "the other is culled")
        wait_for(lambda: tenant.kernel(spinning.kernel)["uptime_s"] > 1.5, "three times as long has passed")
        assert tenant.kernel(spinning.kernel)["phase"] == "BUSY"


def test_a_kernel_that_is_lent_is_not_culled(make_tenant: Make) -> None:
    tenant = make_tenant(replicas=2, idle_timeout_s=0.5)
    lent = tenant.fleet.ask("GET", f"{tenant.path}/connection").json["kernel_id"]

    wait_for(lambda: any(k["phase"] == "STOPPED" for k in tenant.kernels()), "the other is culled")
    begun_at = time.monotonic()
    wait_for(lambda: time.monotonic() - begun_at > 1, "twice as long has passed")

    assert tenant.kernel(lent)["phase"] == "READY"
