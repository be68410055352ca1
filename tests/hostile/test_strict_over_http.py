"""A tenant at isolation level `strict`, from its creation to its end, as clients see it."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmspell_kernel.client.kernel_client import KernelClient
from llmspell_kernel.connection import ConnectionInfo
from support.fleets import FleetHome, new_fleet
from support.homes import DEADLINE_S, new_home, wait_until
from support.proc import status_of
from support.tenants import Tenant, is_gone, need_root, new_tenant, sse

pytestmark = pytest.mark.integration

MIB = 1024 * 1024
FIRST, LAST = 710_000_000, 710_000_009
CONFIG = f"""
[fleet]
startup_kernels = 0
[fleet.restart]
first_delay = "10ms"
[security]
uid_range = "{FIRST}-{LAST}"
"""


@pytest.fixture(scope="module")
def fleet() -> Iterator[FleetHome]:
    need_root("a user for each tenant")
    with new_fleet(config=CONFIG) as made:
        yield made
        log = (made.home.logs / "fleet.log").read_text()
        assert "Traceback" not in log, log[-8000:]


@pytest.fixture
def tenant(fleet: FleetHome) -> Iterator[Tenant]:
    made = new_tenant(fleet, isolation_level="strict", replicas=2)
    yield made
    assert fleet.ask("DELETE", made.path).status in (204, 404)


def uids(tenant: Tenant) -> set[int]:
    """Whose processes a tenant's kernels are."""
    return {int(number) for kernel in tenant.kernels() for number in status_of(kernel["pid"])["Uid"].split()}


def test_a_strict_tenant_executes_and_streams(tenant: Tenant) -> None:
    assert tenant.created["isolation_level"] == "strict"
    assert [kernel["isolation_level"] for kernel in tenant.kernels()] == ["strict"] * 2
    assert tenant.value("return 6 * 7") == "42"
    assert tenant.run("error('no')")["status"] == "error"
    streamed = sse(tenant.execute("print('a') return 1", stream=True).body)
    assert [event for event, _number, _data in streamed][-1] == "result", streamed


def test_each_tenant_has_a_user_of_its_own(fleet: FleetHome, tenant: Tenant) -> None:
    other = new_tenant(fleet, isolation_level="strict")
    own, theirs = uids(tenant), uids(other)

    assert (len(own), len(theirs)) == (1, 1)
    assert own != theirs
    assert own | theirs <= set(range(FIRST, LAST + 1))
    fleet.ask("DELETE", other.path)


def test_its_processes_have_given_everything_up(tenant: Tenant) -> None:
    for kernel in tenant.kernels():
        status = status_of(kernel["pid"])
        assert (status["NoNewPrivs"], status["Seccomp"], status["Groups"]) == ("1", "2", "")
        assert {int(status[name], 16) for name in ("CapPrm", "CapEff", "CapInh", "CapAmb")} == {0}
        assert list(Path(f"/proc/{kernel['pid']}/root").iterdir()) == []


def test_usage_and_health_are_told(fleet: FleetHome, tenant: Tenant) -> None:
    strength = fleet.ask("GET", "/health").json["isolation"]["strict"]

    assert {"user", "own_root", "landlock", "seccomp"} <= set(strength["layers"])
    assert strength["open"] == []
    wait_until(lambda: tenant.kernels()[0]["usage"]["memory_bytes"], "usage")


def test_a_lease_is_served_to_a_jupyter_client(tenant: Tenant) -> None:
    leased = tenant.fleet.ask("GET", f"{tenant.path}/connection").json
    connection = ConnectionInfo(
        **{
            name: leased["connection"][name]
            for name in ConnectionInfo.__struct_fields__
            if name in leased["connection"]
        }
    )
    with KernelClient(connection) as client:
        client.connect(DEADLINE_S)
        outcome = client.execute("return 'leased'", timeout_s=DEADLINE_S)

    assert outcome.result is not None
    assert outcome.result["text/plain"] == "leased"


def test_what_it_writes_is_in_its_log(tenant: Tenant) -> None:
    kernel = tenant.kernels()[0]
    os.kill(kernel["pid"], signal.SIGUSR1)

    def logged() -> bool:
        return b"statistics" in tenant.fleet.ask("GET", f"/v1/kernels/{kernel['id']}/logs").body

    wait_until(logged, "a line of statistics")


def test_a_running_script_is_interrupted(tenant: Tenant) -> None:
    with tenant.spinning() as spinning:
        spinning.interrupt()
        assert spinning.outcome()["outcome"]["status"] == "interrupted"


def test_it_is_restarted_and_replaced_under_the_same_user(tenant: Tenant) -> None:
    before = uids(tenant)
    first, second = tenant.kernels()
    assert tenant.fleet.ask("POST", f"/v1/kernels/{first['id']}/restart").status == 200
    os.kill(second["pid"], signal.SIGKILL)
    tenant.wait_restarted(second["id"])

    tenant.wait_ready(2)
    assert uids(tenant) == before
    assert tenant.value("return 1") == "1"
    assert tenant.kernel(second["id"])["last_death"]["signal"] == "SIGKILL"


def test_a_local_time_is_as_the_machines(tenant: Tenant) -> None:
    assert tenant.value("return os.date('!%H', 0)") == "00"
    assert tenant.value("return os.date('%Y', 0)") in ("1969", "1970")


def test_its_storage_is_changed_while_it_runs(fleet: FleetHome) -> None:
    tenant = new_tenant(fleet, isolation_level="strict", limits={"storage_bytes": 2 * MIB})
    (kernel,) = tenant.kernels()

    for size in (8 * MIB, MIB):
        assert tenant.change(limits={"storage_bytes": size}).status == 200
        (after,) = tenant.kernels()
        assert (after["pid"], after["incarnation"]) == (kernel["pid"], 1)
        assert after["limits"]["storage_bytes"] == {"value": size, "enforced_by": "tmpfs"}
        own_root = os.statvfs(f"/proc/{kernel['pid']}/root")
        assert own_root.f_frsize * own_root.f_blocks == size

    assert fleet.ask("DELETE", tenant.path).status == 204


def test_more_storage_takes_no_new_process_when_it_is_applied(fleet: FleetHome) -> None:
    tenant = new_tenant(fleet, isolation_level="strict", limits={"storage_bytes": 2 * MIB})
    text = f'{CONFIG}\n[[fleet.tenants]]\nid = "{tenant.id}"\n[fleet.tenants.limits]\nstorage_bytes = "4MiB"\n'
    answer = fleet.ask("POST", "/v1/apply", {"config": text, "dry_run": True})

    how = {change["key"]: change["how"] for change in answer.json["changes"]}
    assert how["limits.storage_bytes"] == "live", answer.body
    assert fleet.ask("DELETE", tenant.path).status == 204


def test_deleted_it_leaves_nothing(fleet: FleetHome) -> None:
    mounts = Path("/proc/self/mountinfo").read_text()
    tenant = new_tenant(fleet, isolation_level="strict", replicas=3)
    pids = [kernel["pid"] for kernel in tenant.kernels()]
    tenant.execute("return 1")
    files = set(fleet.home.runtime.rglob("*"))

    assert fleet.ask("DELETE", tenant.path).status == 204

    assert all(is_gone(pid) for pid in pids)
    left = {path.name for path in fleet.home.runtime.rglob("*")}
    assert not any(kernel["id"] in name for name in left for kernel in tenant.created["kernels"]), files
    assert not list((fleet.home.runtime / "k").glob("*")) if (fleet.home.runtime / "k").exists() else True
    assert Path("/proc/self/mountinfo").read_text() == mounts


def test_users_that_are_all_taken_are_said(fleet: FleetHome) -> None:
    made = [new_tenant(fleet, isolation_level="strict") for _ in range(LAST - FIRST + 1)]
    answer = fleet.ask("POST", "/v1/tenants", {"id": "one-more", "isolation_level": "strict"})

    assert answer.status == 409
    assert "uid_range" in answer.json["detail"]
    assert fleet.ask("GET", "/v1/tenants/one-more").status == 404
    for tenant in made:
        assert fleet.ask("DELETE", tenant.path).status == 204


def test_a_tenant_is_made_strict_while_it_runs(fleet: FleetHome) -> None:
    tenant = new_tenant(fleet)
    (before,) = tenant.kernels()
    assert tenant.change(isolation_level="strict").status == 200
    (kernel,) = tenant.kernels()

    assert (kernel["isolation_level"], kernel["incarnation"]) == ("strict", before["incarnation"] + 1)
    assert status_of(kernel["pid"])["Seccomp"] == "2"
    assert uids(tenant) <= set(range(FIRST, LAST + 1))
    assert tenant.value("return 1") == "1"
    fleet.ask("DELETE", tenant.path)


def test_a_user_is_its_tenants_for_as_long_as_that_exists(fleet: FleetHome) -> None:
    tenant = new_tenant(fleet, isolation_level="strict")
    own = uids(tenant)
    with tenant.spinning() as spinning:
        assert tenant.change(isolation_level="process", wait_s=0).status == 200
        assert tenant.kernel(spinning.kernel)["isolation_level"] == "strict", "its process still is"
        other = new_tenant(fleet, isolation_level="strict")
        assert uids(tenant) == own
        assert uids(other).isdisjoint(own)
    tenant.wait_restarted(spinning.kernel)
    assert uids(tenant) == {os.geteuid()}

    assert tenant.change(replicas=0, isolation_level="strict").status == 200
    wait_until(lambda: not tenant.kernels(), "no kernel is left")
    assert tenant.change(replicas=1).status == 200
    tenant.wait_ready(1)
    assert uids(tenant) == own
    for one in (tenant, other):
        assert fleet.ask("DELETE", one.path).status == 204
    later = new_tenant(fleet, isolation_level="strict")
    assert uids(later).isdisjoint(own)
    assert fleet.ask("DELETE", later.path).status == 204


def test_strict_kernels_are_adopted_by_the_next_controller(fleet: FleetHome) -> None:
    with new_home() as home:
        one = FleetHome(home)
        try:
            one.up(config=CONFIG)
            tenant = new_tenant(one, isolation_level="strict")
            tenant.run("x = 41")
            (before,) = tenant.kernels()
            os.kill(one.pid, signal.SIGKILL)
            wait_until(lambda: is_gone(one.pid), "the controller's end")
            one.up(config=CONFIG)
            (after,) = tenant.wait_ready(1)

            assert (after["pid"], after["incarnation"]) == (before["pid"], before["incarnation"])
            assert after["isolation_level"] == "strict"
            assert tenant.value("return x + 1") == "42"
            other = new_tenant(one, isolation_level="strict")
            assert uids(other).isdisjoint(uids(tenant))
        finally:
            home.end_all()
        assert sorted(path.name for path in home.runtime.rglob("*")) == []


def test_a_port_is_listened_on_before_the_rights_are_given_up(fleet: FleetHome, tenant: Tenant) -> None:
    answer = fleet.ask("POST", "/v1/kernels", {"tenant": tenant.id, "name": "with-port", "port": 18_941})
    assert answer.status == 201, answer.body
    kernel = answer.json["id"]
    assert tenant.kernel(kernel)["phase"] == "READY"
    assert tenant.value("return 1") == "1"
