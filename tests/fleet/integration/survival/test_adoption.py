"""A controller or a zygote that is killed: what runs goes on, and is taken up again."""

import os
import resource
import signal
import socket
import subprocess
from typing import Any

import pytest

from support.fleets import FleetHome
from support.homes import Home, wait_until
from support.restarts import kill_controller, up_again
from support.tenants import SPIN, is_gone, new_tenant, wait_for, wait_running

pytestmark = pytest.mark.integration


@pytest.fixture
def startup_kernels() -> int:
    return 1


def _kill_and_up(fleet: FleetHome) -> None:
    kill_controller(fleet)
    up_again(fleet)


def _by_id(kernels: list[dict[str, Any]]) -> dict[str, tuple[int, int, str]]:
    return {one["id"]: (one["pid"], one["incarnation"], one["started_at"]) for one in kernels}


def test_a_controller_that_was_killed_comes_back_to_its_kernels_and_their_state(fleet: FleetHome) -> None:
    tenant = new_tenant(fleet, "acme", replicas=3)
    for number in range(3):
        tenant.run(f"mark = {number}", session=f"s{number}")
    homes = {f"s{number}": tenant.run("return mark", session=f"s{number}") for number in range(3)}
    # Who names no session is given one that finds its kernel again.
    own = tenant.run("own = 'mine'")["session"]
    before = _by_id(fleet.ask("GET", "/v1/kernels").json["items"])

    _kill_and_up(fleet)

    fleet.wait_ready()
    tenant.wait_ready(3)
    assert _by_id(fleet.ask("GET", "/v1/kernels").json["items"]) == before
    assert tenant.value("return own", session=own) == "mine"
    marks = {tenant.run("return mark")["session"] for _ in range(3)}
    values = {tenant.value("return mark", session=session) for session in marks}
    assert values == {home["result"] for home in homes.values()}
    started = [event for event in fleet.ask("GET", "/v1/events").json["items"] if event["type"] == "fleet.started"][-1]
    assert started["data"]["adopted"] == 4
    assert fleet.ask("GET", "/v1/tenants/acme", token=tenant.token).status == 200, "tokens are what they were"


def test_adopted_kernels_are_killed_noticed_certified_and_replaced(fleet: FleetHome) -> None:
    tenant = new_tenant(fleet, "acme")
    _kill_and_up(fleet)
    (kernel,) = tenant.wait_ready(1)

    os.kill(kernel["pid"], signal.SIGKILL)

    back = tenant.wait_restarted(kernel["id"])
    assert back["last_death"]["pid"] == kernel["pid"]
    assert (back["last_death"]["cause"], back["last_death"]["signal"]) in [("signal", "SIGKILL"), ("unknown", None)]
    assert tenant.value("return 1") == "1"


def test_an_adopted_kernel_that_runs_can_be_interrupted_and_used(fleet: FleetHome) -> None:
    tenant = new_tenant(fleet, "acme")
    location = tenant.begin(SPIN)
    (kernel,) = tenant.kernels()
    wait_running(kernel["pid"])

    _kill_and_up(fleet)
    wait_for(lambda: tenant.kernels()[0]["phase"] == "BUSY", "it answers although it runs")
    assert tenant.kernels()[0]["pid"] == kernel["pid"]
    fleet.ask("POST", f"/v1/kernels/{kernel['id']}/interrupt")

    assert tenant.value("return 1", timeout_s=10) == "1"
    outcome = tenant.outcome(location)
    assert (outcome["status"], outcome["outcome"]["status"]) == ("done", "interrupted")
    assert tenant.kernels()[0]["pid"] == kernel["pid"]


def test_a_key_from_before_the_kill_is_not_run_again(fleet: FleetHome) -> None:
    tenant, key = new_tenant(fleet, "acme"), {"Idempotency-Key": "before"}
    first = tenant.execute("n = (n or 0) + 1 return n", headers=key)
    _kill_and_up(fleet)
    tenant.wait_ready(1)

    again = tenant.execute("n = (n or 0) + 1 return n", headers=key)

    assert (again.status, again.body, again.headers["Idempotency-Replayed"]) == (200, first.body, "true")
    assert tenant.value("return n") == "1"


def test_kernels_that_died_while_there_was_no_controller_are_replaced(fleet: FleetHome) -> None:
    tenant = new_tenant(fleet, "acme", replicas=3)
    kernels = tenant.kernels()
    kill_controller(fleet)
    os.kill(kernels[0]["pid"], signal.SIGKILL)
    wait_until(lambda: is_gone(kernels[0]["pid"]), "it is gone")

    fleet.up("--config", str(fleet.home.path / "fleet.toml"))

    after = {kernel["id"]: kernel["pid"] for kernel in tenant.wait_ready(3)}
    assert after.keys() == {kernel["id"] for kernel in kernels}
    assert [after[kernel["id"]] == kernel["pid"] for kernel in kernels] == [False, True, True]


@pytest.mark.parametrize("case", ["the connection file is damaged", "the sockets are gone"])
def test_a_kernel_that_nobody_can_connect_to_any_more_is_replaced_at_once(fleet: FleetHome, case: str) -> None:
    tenant = new_tenant(fleet, "acme", replicas=2)
    lost, other = tenant.kernels()
    tenant.begin("return 'what is answered with 202 is recorded, and all that came before it'")
    kill_controller(fleet)
    if case == "the connection file is damaged":
        (fleet.home.runtime / f"kernel-{lost['id']}.json").write_text("{")
    else:
        for socket in (fleet.home.runtime / "k" / lost["id"].replace("-", "")[:12]).glob("s-*"):
            socket.unlink()

    fleet.up("--config", str(fleet.home.path / "fleet.toml"))

    back = tenant.wait_restarted(lost["id"])
    assert back["last_death"]["pid"] == lost["pid"]
    assert "nobody could connect" in back["last_death"]["detail"]
    assert is_gone(lost["pid"])
    assert tenant.kernel(other["id"])["pid"] == other["pid"]


@pytest.mark.parametrize("case", ["the port is taken", "the socket's place is taken", "it may open few files"])
def test_a_successor_that_cannot_start_costs_no_kernel(fleet: FleetHome, case: str) -> None:
    tenant = new_tenant(fleet, "acme", replicas=3)
    before = _by_id(tenant.kernels())
    kill_controller(fleet)
    in_the_way, command = fleet.home.runtime / "fleet.sock", fleet.home.command("fleet", "up", "--foreground", "--port")
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1]) if case == "the port is taken" else "0"
        if case == "the socket's place is taken":
            in_the_way.unlink()
            in_the_way.mkdir()
        prefix = ["prlimit", "--nofile=40:40"] if case == "it may open few files" else []
        done = subprocess.run(
            [*prefix, *command, port],
            env=fleet.home.environ,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode not in {0, 130}, done
    assert "Traceback" not in done.stderr
    if in_the_way.is_dir():
        in_the_way.rmdir()

    up_again(fleet)

    assert _by_id(tenant.wait_ready(3)) == before


def test_a_controller_that_has_no_descriptors_for_a_while_gives_no_kernel_up(fleet: FleetHome) -> None:
    tenant = new_tenant(fleet, "acme", replicas=2)
    kernels = tenant.kernels()
    limits = resource.prlimit(fleet.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(fleet.pid, resource.RLIMIT_NOFILE, (16, limits[1]))
    for kernel in kernels:
        os.kill(kernel["pid"], signal.SIGKILL)
    log = fleet.home.logs / "fleet.log"
    wait_until(lambda: log.read_text().count("kernel.backoff") >= 2, "starts that fail for want of a descriptor")
    resource.prlimit(fleet.pid, resource.RLIMIT_NOFILE, limits)

    after = tenant.wait_ready(2)

    assert {kernel["id"] for kernel in after} == {kernel["id"] for kernel in kernels}
    assert tenant.value("return 6 * 7") == "42"


def test_a_lease_outlives_the_controller(fleet: FleetHome) -> None:
    tenant = new_tenant(fleet, "acme")
    lent = fleet.ask("GET", f"{tenant.path}/connection?session=mine").json
    _kill_and_up(fleet)
    tenant.wait_ready(1)

    renewed = fleet.ask("PATCH", f"/v1/leases/{lent['lease']['id']}", {}, token=tenant.token)

    assert renewed.status == 200, renewed.body
    assert renewed.json["connection"] == lent["connection"]


def test_what_is_desired_outlives_down_and_numbers_of_events_go_on(fleet: FleetHome) -> None:
    tenant = new_tenant(fleet, "acme", replicas=2, strategy="sticky", limits={"max_clients": 7})
    before = fleet.ask("GET", "/v1/events").json["items"]
    ids = {kernel["id"] for kernel in tenant.kernels()}
    fleet.down()
    assert list(fleet.home.runtime.rglob("*")) == []

    fleet.up("--config", str(fleet.home.path / "fleet.toml"))

    shown = tenant.show()
    assert (shown["replicas"], shown["strategy"], shown["limits"]["max_clients"]) == (2, "sticky", 7)
    assert {kernel["id"] for kernel in tenant.wait_ready(2)} == ids
    assert fleet.ask("GET", tenant.path, token=tenant.token).status == 200
    events = fleet.ask("GET", "/v1/events").json["items"]
    numbers = [event["seq"] for event in events]
    assert numbers == sorted(set(numbers))
    assert [event["seq"] for event in events[: len(before)]] == [event["seq"] for event in before]
    later = fleet.ask("GET", f"/v1/events?since={before[-1]['seq']}").json["items"]
    assert {"fleet.stopping", "fleet.started"} <= {event["type"] for event in later}
    assert min(event["seq"] for event in later) == before[-1]["seq"] + 1


def test_an_orderly_end_is_nobody_s_death_and_nobody_s_wish(fleet: FleetHome) -> None:
    tenant = new_tenant(fleet, "acme", replicas=2, restart="never")
    (drained, kept) = (kernel["id"] for kernel in tenant.kernels())
    assert fleet.ask("POST", f"/v1/kernels/{drained}/drain").status == 200
    wait_for(lambda: tenant.kernel(drained)["phase"] == "STOPPED", "it is drained")

    fleet.down()
    fleet.up("--config", str(fleet.home.path / "fleet.toml"))

    wait_for(lambda: tenant.kernel(kept)["phase"] == "READY", "what served serves again")
    assert tenant.kernel(drained)["phase"] == "STOPPED", "stopped stays stopped"
    (death,) = fleet.ask("GET", f"/v1/kernels/{kept}/why").json["deaths"]
    assert death["cause"] == "stopped"
    assert fleet.ask("GET", "/health").json["status"] == "healthy"


def test_what_has_failed_stays_so_until_a_person_restarts_it(home: Home) -> None:
    fleet = FleetHome(home)
    fleet.up(config="[fleet]\nstartup_kernels = 1\n[fleet.restart]\nmax_restarts = 0\n")
    try:
        (kernel,) = fleet.wait_ready()
        os.kill(kernel["pid"], signal.SIGKILL)
        wait_for(lambda: fleet.kernels()[0]["phase"] == "FAILED", "it has failed")

        _kill_and_up(fleet)

        assert fleet.kernels()[0]["phase"] == "FAILED"
        assert fleet.ask("POST", f"/v1/kernels/{kernel['id']}/restart").json["phase"] == "READY"
    finally:
        home.end_all()


def test_sessions_live_where_they_lived_and_are_told_what_they_lost(fleet: FleetHome) -> None:
    tenant = new_tenant(fleet, "acme", replicas=3, strategy="sticky")
    names = [f"s{number}" for number in range(9)]
    homes = {name: tenant.run(f"mark = (mark or '') .. '{name}'", session=name)["kernel_id"] for name in names}
    kernels = {kernel["id"]: kernel["pid"] for kernel in tenant.kernels()}
    assert set(homes.values()) == set(kernels)
    before, with_it, _kept = kernels
    # One dies before its controller, and its sessions have not come since; one dies together with it.
    os.kill(kernels[before], signal.SIGKILL)
    tenant.wait_restarted(before)
    os.kill(kernels[with_it], signal.SIGKILL)
    _kill_and_up(fleet)
    tenant.wait_ready(3)

    for name in names:
        first, second = (tenant.run("return mark", session=name) for _ in range(2))
        assert first["kernel_id"] == second["kernel_id"] == homes[name]
        is_lost = homes[name] in (before, with_it)
        assert first.get("session_reset", False) is is_lost, (name, first)
        assert "session_reset" not in second
        assert ("nil" if is_lost else name) in first["result"]


def test_a_session_whose_state_is_gone_is_told_so_after_down_and_up(fleet: FleetHome) -> None:
    tenant = new_tenant(fleet, "acme")
    tenant.run("mark = 1", session="mine")
    fleet.down()
    fleet.up("--config", str(fleet.home.path / "fleet.toml"))
    assert tenant.run("return mark", session="mine")["session_reset"] is True
    assert "session_reset" not in tenant.run("return mark", session="new")


# --- the zygote ---------------------------------------------------------------------------------------------------


def test_kernels_outlive_their_zygote_and_their_later_deaths_are_certified(fleet: FleetHome) -> None:
    tenant = new_tenant(fleet, "acme", replicas=2)
    tenant.run("mark = 'kept'", session="mine")
    before = _by_id(tenant.kernels())
    zygote = fleet.ask("GET", "/health").json["zygote"]["pid"]

    os.kill(zygote, signal.SIGKILL)

    def is_new() -> bool:
        health = fleet.ask("GET", "/health").json
        return health["zygote"]["pid"] not in (None, zygote) and health["status"] == "healthy"

    wait_until(is_new, "there is another zygote")
    assert _by_id(tenant.kernels()) == before
    assert tenant.value("return mark", session="mine") == "kept"
    types = [event["type"] for event in fleet.ask("GET", "/v1/events").json["items"]]
    assert "zygote.died" in types
    # New ones can be started.
    assert new_tenant(fleet, "later").value("return 1") == "1"
    # And the old ones are still watched.
    victim = tenant.kernels()[0]
    os.kill(victim["pid"], signal.SIGKILL)
    back = tenant.wait_restarted(victim["id"])
    death = back["last_death"]
    assert (death["pid"], death["cause"], death["signal"]) == (victim["pid"], "signal", "SIGKILL")


def test_a_zygote_killed_at_once_again_is_replaced_all_the_same(fleet: FleetHome) -> None:
    pids = set()
    for _ in range(2):
        pid = wait_for(lambda: fleet.ask("GET", "/health").json["zygote"]["pid"], "a zygote")
        pids.add(pid)
        os.kill(pid, signal.SIGKILL)
        wait_until(lambda old=pid: fleet.ask("GET", "/health").json["zygote"]["pid"] != old, "it is noticed")

    tenant = new_tenant(fleet, "acme", wait_s=20)

    assert len(pids) == 2
    assert tenant.value("return 1") == "1"


def test_both_killed_together_lose_no_kernel(fleet: FleetHome) -> None:
    tenant = new_tenant(fleet, "acme", replicas=2)
    before = _by_id(tenant.kernels())
    os.kill(fleet.ask("GET", "/health").json["zygote"]["pid"], signal.SIGKILL)
    _kill_and_up(fleet)

    assert _by_id(tenant.wait_ready(2)) == before


def test_a_tenant_that_was_answered_is_there_after_a_kill(fleet: FleetHome) -> None:
    tenants = [new_tenant(fleet, f"acme-{number}", replicas=0) for number in range(3)]
    assert fleet.ask("DELETE", tenants[0].path).status == 204
    _kill_and_up(fleet)

    assert fleet.ask("GET", tenants[0].path).status == 404
    for tenant in tenants[1:]:
        assert fleet.ask("GET", tenant.path, token=tenant.token).status == 200
