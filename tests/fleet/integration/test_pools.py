"""Pools that change while clients work with them: more kernels, fewer kernels, and nobody is failed for it."""

import os
import signal
from collections.abc import Callable
from typing import Any

import pytest

from support.fleets import new_fleet
from support.homes import wait_until
from support.load import loaded
from support.tenants import SPIN, Tenant, is_gone, new_tenant, wait_for, wait_running

pytestmark = pytest.mark.integration


def _pids(kernels: list[dict[str, object]]) -> dict[object, object]:
    return {kernel["id"]: kernel["pid"] for kernel in kernels}


@pytest.mark.slow  # sixty kernels
def test_fifty_kernels_stay_when_ten_more_come_and_ten_go(make_tenant: Callable[..., Tenant]) -> None:
    tenant = make_tenant(replicas=50, wait_s=60)
    fifty = _pids(tenant.wait_ready(50))

    assert tenant.change(replicas=60, wait_s=60).status == 200
    sixty = _pids(tenant.wait_ready(60))
    assert fifty.items() <= sixty.items(), "50 of 50 kept, process by process"
    assert tenant.change(replicas=50).status == 200
    wait_for(lambda: len(tenant.kernels()) == 50, "ten have left")

    assert _pids(tenant.wait_ready(50)) == fifty, "the newest leave first"


def test_nobody_s_request_fails_while_a_pool_grows_and_shrinks(make_tenant: Callable[..., Tenant]) -> None:
    tenant = make_tenant(replicas=4)
    with loaded(tenant, clients=8, sessions=4) as load:
        for replicas in (8, 2, 6, 1, 4):
            assert tenant.change(replicas=replicas).status == 200
            load.more(30)
            wait_for(lambda replicas=replicas: len(tenant.kernels()) == replicas, f"{replicas} kernels")

    assert load.wrong == []
    assert set(load.statuses) == {200}


def test_a_busy_kernel_leaves_only_when_no_idle_one_would_do_and_ends_what_it_runs(
    make_tenant: Callable[..., Tenant],
) -> None:
    tenant = make_tenant(replicas=3)
    tenant.wait_ready(3)
    location = tenant.begin("local n = 0 for i = 1, 1.5e8 do n = n + 1 end return n")
    (busy,) = wait_for(lambda: [k for k in tenant.kernels() if k["usage"]["running"]], "a busy kernel")
    wait_running(busy["pid"])

    tenant.change(replicas=1, wait_s=0)
    wait_for(lambda: len(tenant.kernels()) == 1, "the idle have left")
    assert tenant.kernels()[0]["pid"] == busy["pid"]
    tenant.change(replicas=0, wait_s=0)

    assert tenant.kernel(busy["id"])["phase"] == "DRAINING"
    assert tenant.outcome(location)["outcome"]["result"] == "150000000"
    wait_for(lambda: not tenant.kernels(), "it has left as well")


# --- rolling restarts


@pytest.mark.parametrize(
    "asked",
    [{}, {"max_unavailable": "50%"}, {"max_unavailable": 0, "max_surge": 1}],
    ids=["one after the other", "half of them", "one stands in"],
)
def test_nobody_s_request_fails_while_every_kernel_is_restarted(
    make_tenant: Callable[..., Tenant], asked: dict[str, Any]
) -> None:
    tenant = make_tenant(replicas=4)
    before = {kernel["id"]: kernel["pid"] for kernel in tenant.wait_ready(4)}
    with loaded(tenant, clients=8, sessions=4) as load:
        answer = tenant.fleet.ask("POST", f"{tenant.path}/restart", {**asked, "wait_s": 60})
        load.more(30)

    assert (answer.status, answer.json["status"], answer.json["done"]) == (200, "done", 4)
    assert load.wrong == [], "nothing failed, and no session lost its state untold"
    assert set(load.statuses) == {200}
    assert load.resets >= 4, "every session was told once or more"
    wait_for(lambda: len(tenant.kernels()) == 4, "who stood in has left")
    after = {kernel["id"]: kernel["pid"] for kernel in tenant.wait_ready(4)}
    # Whoever is idle leaves in the end: that need not be the one that stood in.
    assert len(set(before) - set(after)) <= asked.get("max_surge", 0)
    assert not set(after.values()) & set(before.values())


def test_a_restart_that_nobody_waits_for_is_told_by_the_tenant(make_tenant: Callable[..., Tenant]) -> None:
    tenant = make_tenant(replicas=2)
    with tenant.spinning() as spinning:
        answer = tenant.fleet.ask("POST", f"{tenant.path}/restart", {"wait_s": 0})
        assert (answer.status, answer.json["status"]) == (202, "rolling")
        assert tenant.fleet.ask("POST", f"{tenant.path}/restart", {}).status == 409
        wait_for(lambda: tenant.show()["roll"]["done"] == 1, "the idle one goes first")
        wait_for(lambda: tenant.kernel(spinning.kernel)["phase"] == "DRAINING", "the busy one finishes what it runs")
        spinning.interrupt()
    wait_for(lambda: tenant.show()["roll"]["status"] == "done", "it has ended")
    assert spinning.outcome()["outcome"]["status"] == "interrupted"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"max_unavailable": 0}, "both 0"),
        ({"max_unavailable": "0%", "max_surge": "0%"}, "both 0"),
        ({"max_unavailable": -1}, "max_unavailable"),
        ({"max_unavailable": "half"}, "max_unavailable"),
        ({"max_surge": "1000%0"}, "max_surge"),
        ({"wait_s": 601}, "wait_s"),
        ({"wait": 1}, "wait"),
    ],
)
def test_a_restart_that_cannot_be_meant_is_refused(tenant: Tenant, body: dict[str, object], said: str) -> None:
    answer = tenant.fleet.ask("POST", f"{tenant.path}/restart", body)

    assert answer.status == 400
    assert said in answer.json["detail"]
    assert tenant.show()["roll"] is None


def test_a_tenant_s_own_token_restarts_no_pool(tenant: Tenant) -> None:
    assert tenant.fleet.ask("POST", f"{tenant.path}/restart", {}, token=tenant.token).status == 403


def test_a_controller_that_is_killed_is_followed_by_one_that_goes_on_with_the_restart() -> None:
    with new_fleet(config="[fleet]\nstartup_kernels = 0\n") as fleet:
        tenant = new_tenant(fleet, replicas=3)
        before = _pids(tenant.wait_ready(3))
        spinning = tenant.begin(SPIN)
        (busy,) = wait_for(lambda: [k for k in tenant.kernels() if k["usage"]["running"]], "a busy kernel")
        wait_running(busy["pid"])
        fleet.ask("POST", f"{tenant.path}/restart", {"wait_s": 0})
        wait_for(lambda: tenant.show()["roll"]["done"] == 2, "the idle ones are new")

        os.kill(fleet.pid, signal.SIGKILL)
        wait_until(lambda: is_gone(fleet.pid), "the controller is gone")
        fleet.up()

        wait_for(lambda: tenant.show()["roll"], "the roll is known")
        os.kill(busy["pid"], signal.SIGINT)
        wait_for(lambda: tenant.show()["roll"]["status"] == "done", "it goes on to its end")
        after = _pids(tenant.wait_ready(3))
        assert set(after) == set(before)
        assert not set(after.values()) & set(before.values())
        assert tenant.kernel(busy["id"])["incarnation"] == 2
        tenant.outcome(spinning)
