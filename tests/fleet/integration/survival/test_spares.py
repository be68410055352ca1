"""Processes that wait to become kernels at `strict`: they end with who made them, and what became of them is kept."""

import os
import signal

import pytest

from llmspell_fleet.spawner.remains import find_remnants
from support.fleets import FleetHome
from support.homes import wait_until
from support.restarts import kill_controller, up_again
from support.tenants import Tenant, is_gone, need_root, new_tenant

pytestmark = pytest.mark.integration


@pytest.fixture
def tenant(fleet: FleetHome) -> Tenant:
    """With one kernel that was a spare."""
    need_root("a user for each tenant")
    made = new_tenant(fleet, isolation_level="strict", warm_size=2, replicas=0)
    before = spares(fleet, 2)
    kernel = fleet.ask("POST", "/v1/kernels", {"tenant": made.id}).json
    assert kernel["pid"] in before
    assert kernel["phase"] == "READY"
    spares(fleet, 2)
    return made


def spares(fleet: FleetHome, number: int) -> list[int]:
    """The pids of so many, once they are there and ready."""
    ready = f'llmspell_warm_kernels{{phase="READY"}} {number}\n'.encode()
    wait_until(lambda: ready in fleet.ask("GET", "/metrics").body, f"{number} spares")
    zygote = fleet.ask("GET", "/health").json["zygote"]["pid"]
    return [one.pid for one in find_remnants(str(fleet.home.runtime)) if one.kernel is None and one.pid != zygote]


def test_when_the_controller_is_killed_its_kernel_is_adopted_and_others_wait(fleet: FleetHome, tenant: Tenant) -> None:
    before = tenant.kernels()
    waiting = spares(fleet, 2)

    kill_controller(fleet)
    up_again(fleet)

    assert [kernel["pid"] for kernel in tenant.kernels()] == [before[0]["pid"]]
    assert all(is_gone(pid) for pid in waiting)
    assert tenant.value("return 6 * 7") == "42"
    assert not set(waiting) & set(spares(fleet, 2))


def test_when_all_are_killed_or_suspended_at_once_nothing_is_left_of_them(fleet: FleetHome, tenant: Tenant) -> None:
    first, second = spares(fleet, 2)
    zygote = fleet.ask("GET", "/health").json["zygote"]["pid"]

    os.kill(zygote, signal.SIGSTOP)  # so that it hears of nothing
    os.kill(first, signal.SIGSTOP)
    os.kill(second, signal.SIGKILL)
    kill_controller(fleet)
    os.kill(zygote, signal.SIGKILL)
    up_again(fleet)

    assert is_gone(first), "it could not end by itself"
    assert tenant.value("return 6 * 7") == "42"
    spares(fleet, 2)


def test_a_kernel_is_repaired_by_one_when_its_zygote_dies_too(fleet: FleetHome, tenant: Tenant) -> None:
    (kernel,) = tenant.kernels()
    zygote = fleet.ask("GET", "/health").json["zygote"]["pid"]

    os.kill(zygote, signal.SIGKILL)
    os.kill(kernel["pid"], signal.SIGKILL)
    tenant.wait_restarted(kernel["id"])

    tenant.wait_ready(1)
    assert tenant.value("return 1") == "1"
    spares(fleet, 2)
