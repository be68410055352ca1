"""Executions that outlive their controller: each has one outcome, whoever asks for it, and none is run twice."""

import os
import signal
import threading
from pathlib import Path
from typing import Any

import pytest

from support.fleets import FleetHome
from support.homes import wait_until
from support.restarts import kill_controller, up_again
from support.tenants import Tenant, is_gone, new_tenant, wait_for, wait_running

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("unmeasured_module")]


def _spin(seconds: float, then: str) -> str:
    """A script that works for so long."""
    return f"n = (n or 0) + 1 local at = os.clock() while os.clock() - at < {seconds} do end {then}"


def _busy(tenant: Tenant) -> dict[str, Any]:
    """The tenant's kernel, once it runs something."""
    kernel = next(iter(wait_for(lambda: [k for k in tenant.kernels() if k["usage"]["running"]], "a busy kernel")))
    wait_running(kernel["pid"])
    return kernel


def test_an_execution_that_runs_on_has_its_outcome(fleet: FleetHome) -> None:
    tenant = new_tenant(fleet, "acme")
    location = tenant.begin(_spin(1.5, "print('out') return n"))
    kernel = _busy(tenant)
    kill_controller(fleet)
    up_again(fleet)
    assert fleet.ask("GET", location).json["status"] == "pending"
    wait_until(lambda: tenant.kernels()[0]["phase"] == "BUSY", "what it runs for others is its load")

    outcome = tenant.outcome(location)

    assert (outcome["status"], outcome["http_status"]) == ("done", 200)
    answer = outcome["outcome"]
    assert (answer["status"], answer["result"], answer["stdout"]) == ("ok", "1", "out\n")
    assert (answer["kernel_id"], answer["session"][:2]) == (kernel["id"], "k-")
    assert tenant.value("return n") == "1"
    wait_until(lambda: tenant.kernels()[0]["phase"] == "READY", "it has nothing to do any more")


def test_one_that_ended_while_there_was_no_controller_has_its_outcome(fleet: FleetHome) -> None:
    tenant = new_tenant(fleet, "acme")
    location = tenant.begin(_spin(0.4, "return n"))
    failing = tenant.begin("n = n + 1 error('on purpose')")
    kernel = _busy(tenant)
    kill_controller(fleet)
    wait_until(lambda: _cpu_still(kernel["pid"]), "the kernel has done all of it")

    up_again(fleet)

    assert tenant.outcome(location)["outcome"]["result"] == "1"
    failed = tenant.outcome(failing)
    assert (failed["http_status"], failed["outcome"]["status"]) == (200, "error")
    assert tenant.value("return n") == "2"


def test_a_long_output_is_whole_though_its_controller_was_killed_meanwhile(fleet: FleetHome) -> None:
    tenant = new_tenant(fleet, "acme")
    writes = "for i = 1, 3e5 do print(i) end"
    expected = "".join(f"{number}\n" for number in range(1, 300_001))
    running = tenant.begin(f"{writes} {_spin(1.5, 'return n')}")
    kernel = _busy(tenant)
    kill_controller(fleet)
    up_again(fleet)
    assert tenant.outcome(running)["outcome"]["stdout"] == expected

    ended = tenant.begin(f"{_spin(0.4, writes)} display(7) return n")
    _busy(tenant)
    kill_controller(fleet)
    wait_until(lambda: _cpu_still(kernel["pid"]), "the kernel has done all of it")
    up_again(fleet)

    answer = tenant.outcome(ended)["outcome"]
    assert (answer["stdout"], answer["result"], len(answer["displays"])) == (expected, "2", 1)
    assert tenant.value("return n") == "2"


def _cpu_still(pid: int) -> bool:
    """Whether a process uses no processor for a moment."""
    used = [_ticks(pid)]
    threading.Event().wait(0.3)
    return used == [_ticks(pid)]


def _ticks(pid: int) -> int:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def test_a_client_that_comes_back_with_its_key_has_the_one_outcome(fleet: FleetHome) -> None:
    tenant, key = new_tenant(fleet, "acme"), {"Idempotency-Key": "one"}
    code = _spin(1.0, "return n")
    lost: list[object] = []

    def ask() -> None:
        try:
            lost.append(tenant.execute(code, headers=key).status)
        except OSError as fault:
            lost.append(fault)

    client = threading.Thread(target=ask)
    client.start()
    _busy(tenant)
    kill_controller(fleet)
    client.join()
    assert isinstance(lost[0], OSError), lost
    up_again(fleet)

    answers = [tenant.execute(code, headers=key) for _ in range(2)]

    assert [(one.status, one.json["result"]) for one in answers] == [(200, "1")] * 2
    assert answers[0].headers["Idempotency-Replayed"] == "true"
    assert tenant.value("return n") == "1"


def test_one_that_had_begun_when_both_were_killed_has_the_certificate(fleet: FleetHome) -> None:
    tenant = new_tenant(fleet, "acme")
    running = tenant.begin(_spin(60, "return n"))
    kernel = _busy(tenant)
    waiting = tenant.begin("return 'never'")
    kill_controller(fleet)
    os.kill(kernel["pid"], signal.SIGKILL)
    wait_until(lambda: is_gone(kernel["pid"]), "it is gone")

    up_again(fleet)

    died = tenant.outcome(running)
    assert (died["status"], died["http_status"]) == ("failed", 502)
    assert died["outcome"]["death"]["pid"] == kernel["pid"]
    assert "which is not run again" in died["outcome"]["detail"]
    never = tenant.outcome(waiting)
    assert (never["status"], never["http_status"]) == ("failed", 503)
    assert "it did not run, and can be sent again" in never["outcome"]["detail"]
    assert tenant.value("return n or 'fresh'") == "fresh"


def test_a_key_of_what_never_began_is_free_again(fleet: FleetHome) -> None:
    tenant, key = new_tenant(fleet, "acme"), {"Idempotency-Key": "one"}
    tenant.begin(_spin(60, "return n"))
    kernel = _busy(tenant)
    client = threading.Thread(target=lambda: _refused(tenant, key))
    client.start()
    wait_until(lambda: tenant.kernels()[0]["usage"]["running"] == 2, "the second one waits in line")
    kill_controller(fleet)
    os.kill(kernel["pid"], signal.SIGKILL)
    client.join()

    up_again(fleet)

    again = tenant.execute("m = (m or 0) + 1 return m", headers=key)
    assert (again.status, again.json["result"]) == (200, "1")
    assert "Idempotency-Replayed" not in again.headers


def _refused(tenant: Tenant, key: dict[str, str]) -> None:
    try:
        tenant.execute("m = (m or 0) + 1 return m", headers=key)
    except OSError:
        return


def test_a_kernel_that_drains_when_its_controller_is_killed_ends_what_it_runs(fleet: FleetHome) -> None:
    tenant = new_tenant(fleet, "acme", replicas=2)
    location = tenant.begin(_spin(1.5, "return n"))
    busy = _busy(tenant)
    assert tenant.change(replicas=0, wait_s=0).status == 200
    kill_controller(fleet)
    up_again(fleet)

    outcome = tenant.outcome(location)

    assert outcome["outcome"]["kernel_id"] == busy["id"]
    assert outcome["outcome"]["result"] == "1", outcome
    wait_until(lambda: tenant.kernels() == [], "it leaves when it has nothing to do")


@pytest.mark.parametrize("how", ["killed", "upgraded"])
@pytest.mark.parametrize("restart", [False, True])
def test_an_operators_drain_outlives_the_controller(fleet: FleetHome, how: str, restart: bool) -> None:
    tenant = new_tenant(fleet, "acme", replicas=1)
    location = tenant.begin(_spin(3, "return n"))
    busy = _busy(tenant)
    drain = {"restart": restart, "wait_s": 0}
    assert fleet.ask("POST", f"/v1/kernels/{busy['id']}/drain", drain).json["phase"] == "DRAINING"
    if how == "killed":
        kill_controller(fleet)
        up_again(fleet)
    else:
        assert fleet.ask("POST", "/v1/upgrade", {}).status in (200, 202)

    assert tenant.kernel(busy["id"])["phase"] == "DRAINING"
    assert tenant.outcome(location)["outcome"]["result"] == "1"
    if restart:
        assert tenant.wait_restarted(busy["id"])["last_death"]["cause"] == "restarted"
        return
    wait_until(lambda: tenant.kernel(busy["id"])["phase"] == "STOPPED", "it is drained")
    kill_controller(fleet)
    up_again(fleet)
    assert tenant.kernel(busy["id"])["phase"] == "STOPPED"
    assert tenant.kernel(busy["id"])["last_death"]["cause"] == "drained"
