"""What a killed controller leaves that its state does not tell: found, adopted when wanted, else ended; never doubled."""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator

import pytest

from llmspell_fleet.spawner.remains import Remnant, find_remnants
from llmspell_kernel.pidfile import process_start_time
from support.broken import need_root
from support.fleets import FleetHome
from support.homes import wait_until
from support.restarts import kill_controller, up_again
from support.tenants import is_gone, new_tenant, wait_for

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("unmeasured_module")]


def _remnants(fleet: FleetHome) -> list[Remnant]:
    return find_remnants(str(fleet.home.runtime))


def _kernels_of(fleet: FleetHome) -> list[int]:
    return [one.pid for one in _remnants(fleet) if one.kernel is not None]


def _log(fleet: FleetHome) -> str:
    return (fleet.home.logs / "fleet.log").read_text()


@contextlib.contextmanager
def _nothing_recorded(fleet: FleetHome) -> Iterator[None]:
    """Hold the database so that the controller can write nothing."""
    with contextlib.closing(sqlite3.connect(fleet.home.state / "fleet.db", isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        yield
        database.execute("ROLLBACK")


def test_a_process_says_whose_it_is_and_what_it_is(fleet: FleetHome) -> None:
    (kernel,) = new_tenant(fleet, "acme").kernels()
    zygote = fleet.ask("GET", "/health").json["zygote"]["pid"]

    found = {one.pid: one for one in _remnants(fleet)}

    assert found.keys() == {kernel["pid"], zygote}
    assert found[kernel["pid"]].kernel == kernel["id"].replace("-", "")[:12]
    assert found[kernel["pid"]].start_time == process_start_time(kernel["pid"])
    assert found[zygote].kernel is None
    assert find_remnants(str(fleet.home.runtime) + "x") == []


def test_a_kernel_that_was_forked_and_not_recorded_is_adopted(fleet: FleetHome) -> None:
    tenant = new_tenant(fleet, "acme", replicas=2)
    victim, other = tenant.kernels()
    with _nothing_recorded(fleet):
        os.kill(victim["pid"], signal.SIGKILL)
        unrecorded = tenant.wait_restarted(victim["id"])
        kill_controller(fleet)

    up_again(fleet)

    after = {one["id"]: one["pid"] for one in tenant.wait_ready(2)}
    assert after == {victim["id"]: unrecorded["pid"], other["id"]: other["pid"]}
    assert sorted(_kernels_of(fleet)) == sorted(after.values())


def test_a_first_process_whose_record_says_that_there_was_none_yet_is_its_first(fleet: FleetHome) -> None:
    tenant = new_tenant(fleet, "acme")
    (kernel,) = tenant.kernels()
    kill_controller(fleet)
    with contextlib.closing(sqlite3.connect(fleet.home.state / "fleet.db")) as database, database:
        database.execute(
            "UPDATE kernels_observed SET phase = 'PENDING', incarnation = 0, pid = NULL, start_time = NULL"
        )

    up_again(fleet)

    (after,) = tenant.wait_ready(1)
    assert (after["pid"], after["incarnation"]) == (kernel["pid"], 1)


def test_what_cannot_be_recorded_is_refused_and_gone_again(fleet: FleetHome) -> None:
    tenant = new_tenant(fleet, "acme")
    before = sorted(_kernels_of(fleet))
    with _nothing_recorded(fleet):
        refused = [
            fleet.ask("POST", "/v1/kernels", {"tenant": "acme"}),
            fleet.ask("POST", "/v1/tenants", {"id": "late", "replicas": 2}),
        ]
        assert [one.status for one in refused] == [503, 503], [one.body for one in refused]
        wait_until(lambda: sorted(_kernels_of(fleet)) == before, "nothing is left of it")
    wait_until(lambda: fleet.ask("GET", "/health").status == 200, "the store writes again")
    assert new_tenant(fleet, "late").value("return 1") == "1"
    assert len(tenant.kernels()) == 1


def test_controllers_killed_around_their_forks_leave_each_kernel_one_process(fleet: FleetHome) -> None:
    for number in range(8):
        tenant_id = f"t{number}"
        fleet.ask("POST", "/v1/tenants", {"id": tenant_id, "replicas": 8, "wait_s": 0})
        before = 8 * number
        # At another moment each time: before the first fork of these, after some, after all.
        wait_until(lambda at=before + number: len(_kernels_of(fleet)) >= at, "so many have been forked")
        kill_controller(fleet)
        up_again(fleet)
        wait_until(
            lambda: all(k["phase"] == "READY" for k in fleet.ask("GET", "/v1/kernels").json["items"]), "all are READY"
        )
        kernels = fleet.ask("GET", "/v1/kernels").json["items"]
        assert len(kernels) == 8 * (number + 1)
        assert sorted(_kernels_of(fleet)) == sorted(kernel["pid"] for kernel in kernels)
        fleet.execute("return 1", tenant_id)


def test_a_fork_whose_controller_was_killed_before_it_served_is_adopted_when_it_does(fleet: FleetHome) -> None:
    tenant = new_tenant(fleet, "acme", replicas=0)
    zygote = fleet.ask("GET", "/health").json["zygote"]["pid"]
    fleet.ask("PATCH", tenant.path, {"replicas": 1, "wait_s": 0})
    (pid,) = wait_for(lambda: _kernels_of(fleet), "a fork")
    os.kill(pid, signal.SIGSTOP)
    kill_controller(fleet)
    wait_until(lambda: is_gone(zygote), "the zygote ends with its controller")

    up_again(fleet)
    os.kill(pid, signal.SIGCONT)

    (kernel,) = tenant.wait_ready(1)
    assert _kernels_of(fleet) == [kernel["pid"]]


def test_kernels_of_a_lost_state_are_ended_and_the_log_says_so(fleet: FleetHome) -> None:
    lost = [kernel["pid"] for kernel in new_tenant(fleet, "acme", replicas=3).kernels()]
    kill_controller(fleet)
    for path in fleet.home.state.glob("fleet.db*"):
        path.unlink()

    up_again(fleet)

    assert all(is_gone(pid) for pid in lost)
    assert _kernels_of(fleet) == []
    assert sorted(path.name for path in fleet.home.runtime.rglob("kernel*")) == []
    assert "this fleet's state knows nothing of 3 processes and the files of 3 kernels" in _log(fleet)
    assert new_tenant(fleet, "acme").value("return 1") == "1"


def test_a_zygote_that_cannot_end_by_itself_is_ended(fleet: FleetHome) -> None:
    tenant = new_tenant(fleet, "acme")
    zygote = fleet.ask("GET", "/health").json["zygote"]["pid"]
    os.kill(zygote, signal.SIGSTOP)
    kill_controller(fleet)

    up_again(fleet)

    assert is_gone(zygote)
    (kernel,) = tenant.wait_ready(1)
    assert kernel["pid"] == tenant.created["kernels"][0]["pid"]


@pytest.mark.parametrize("content", ["", "12", "not\na number\n", "1\n2\n3\n4" * 5000, "-5\n-5\n"])
def test_broken_pid_files_lose_no_kernel_and_hinder_no_later_one(fleet: FleetHome, content: str) -> None:
    tenant = new_tenant(fleet, "acme")
    (kernel,) = tenant.kernels()
    pid_file = fleet.home.runtime / f"kernel-{kernel['id']}.pid"
    pid_file.write_text(content)
    kill_controller(fleet)

    up_again(fleet)

    assert [one["pid"] for one in tenant.wait_ready(1)] == [kernel["pid"]]
    os.kill(kernel["pid"], signal.SIGKILL)
    assert tenant.wait_restarted(kernel["id"])["restarts"] == 1
    assert tenant.value("return 1") == "1"


def test_a_damaged_address_file_hinders_no_command_and_no_later_controller(fleet: FleetHome) -> None:
    tenant = new_tenant(fleet, "acme")
    (kernel,) = tenant.kernels()
    address, pid_file = fleet.home.runtime / "fleet.json", fleet.home.runtime / "fleet.pid"
    address.write_text("garbage")

    assert fleet.home.llmspell("fleet", "status").returncode == 0
    assert kernel["id"][:8] in fleet.home.llmspell("fleet", "list").stdout
    refused = fleet.home.llmspell("fleet", "up")
    assert (refused.returncode, f"process {fleet.pid} on unix:" in refused.stderr) == (4, True)

    kill_controller(fleet)
    up_again(fleet)
    assert [one["pid"] for one in tenant.wait_ready(1)] == [kernel["pid"]]

    url = json.loads(address.read_text())["url"]
    address.write_text("garbage")
    pid_file.write_text("garbage")
    elsewhere = fleet.home.llmspell("fleet", "down", "--url", "http://127.0.0.1:1")
    assert (elsewhere.returncode, "a fleet is stopped on its own machine" in elsewhere.stderr) == (4, True)
    down = fleet.home.llmspell("fleet", "down", "--url", url)
    assert (down.returncode, down.stderr) == (0, "")
    assert list(fleet.home.runtime.glob("fleet.*")) == []


def test_a_process_that_has_a_recorded_number_by_chance_is_left_alone(fleet: FleetHome) -> None:
    tenant = new_tenant(fleet, "acme")
    (kernel,) = tenant.kernels()
    kill_controller(fleet)
    os.kill(kernel["pid"], signal.SIGKILL)
    wait_until(lambda: is_gone(kernel["pid"]), "it is gone")
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as foreigner:
        with contextlib.closing(sqlite3.connect(fleet.home.state / "fleet.db", isolation_level=None)) as database:
            database.execute("UPDATE kernels_observed SET pid = ? WHERE id = ?", (foreigner.pid, kernel["id"]))
        pid_file = fleet.home.runtime / f"kernel-{kernel['id']}.pid"
        pid_file.write_text(f"{foreigner.pid}\n7\n\n")

        up_again(fleet)

        (after,) = tenant.wait_ready(1)
        assert after["pid"] != foreigner.pid
        assert foreigner.poll() is None
        assert foreigner.stdin is not None
        foreigner.stdin.close()


def test_another_users_process_that_calls_itself_ours_is_left_alone(fleet: FleetHome) -> None:
    need_root("another user's process")
    runtime = str(fleet.home.runtime)
    pretender = subprocess.Popen(["sh", "-c", "read _", "--fleet", runtime], stdin=subprocess.PIPE, user=65534)
    try:
        tenant = new_tenant(fleet, "acme")
        assert pretender.pid in {one.pid for one in find_remnants(runtime, lambda uid: uid == 65534)}
        assert pretender.pid not in {one.pid for one in _remnants(fleet)}
        kill_controller(fleet)

        up_again(fleet)

        assert tenant.wait_ready(1)[0]["pid"] == tenant.created["kernels"][0]["pid"]
        assert pretender.poll() is None
    finally:
        pretender.kill()
        pretender.communicate()


def test_kernels_that_are_no_fleets_are_left_alone(fleet: FleetHome) -> None:
    own = fleet.home.start_kernel("--id", "mine")
    new_tenant(fleet, "acme")
    kill_controller(fleet)
    for path in fleet.home.state.glob("fleet.db*"):
        path.unlink()

    up_again(fleet)

    listed = fleet.home.llmspell("kernel", "list")
    assert own.exists()
    assert str(json.loads(own.read_text())["pid"]) in listed.stdout, listed.stdout


def test_an_end_that_no_controller_saw_has_a_certificate(fleet: FleetHome) -> None:
    tenant = new_tenant(fleet, "acme", replicas=2)
    kernels = tenant.kernels()
    kill_controller(fleet)
    for kernel in kernels:
        os.kill(kernel["pid"], signal.SIGKILL)
        wait_until(lambda pid=kernel["pid"]: is_gone(pid), "it is gone")

    up_again(fleet)

    for kernel in kernels:
        death = tenant.wait_restarted(kernel["id"])["last_death"]
        assert (death["pid"], death["incarnation"]) == (kernel["pid"], 1)
        assert (death["cause"], death["detail"]) == ("unknown", "it ended while there was no controller") or (
            death["cause"],
            death["signal"],
        ) == ("signal", "SIGKILL")


def test_a_scale_down_that_was_interrupted_by_a_kill_is_finished(fleet: FleetHome) -> None:
    tenant = new_tenant(fleet, "acme", replicas=6)
    everyone = {kernel["id"]: kernel["pid"] for kernel in tenant.kernels()}
    answer = tenant.change(replicas=2, wait_s=0)
    assert answer.status == 200
    kill_controller(fleet)

    up_again(fleet)

    after = {kernel["id"]: kernel["pid"] for kernel in tenant.wait_ready(2)}
    assert after.items() <= everyone.items(), "those that stay are those that were there"
    wait_until(lambda: sorted(_kernels_of(fleet)) == sorted(after.values()), "the others are gone")
