"""A script that takes too much memory, at each layer that bounds it: how it ends over HTTP, and which cause is told."""

import resource
from collections.abc import Iterator

import pytest

from support.fleets import FleetHome, new_fleet
from support.groups import needs_cgroups
from support.poorer import WITHOUT_CGROUPS, poor_fleet
from support.proc import status_of
from support.tenants import Tenant, need_root, new_tenant

pytestmark = pytest.mark.integration

MIB = 1024 * 1024
CONFIG = '[fleet]\nstartup_kernels = 0\n[fleet.restart]\nfirst_delay = "10ms"\n'
HOARD = "t = {} for i = 1, 1e9 do t[i] = ('x'):rep(65536) .. i end"


@pytest.fixture(scope="module")
def fleet() -> Iterator[FleetHome]:
    need_root("hiding the cgroups of this machine")
    with poor_fleet(config=CONFIG, prefix=WITHOUT_CGROUPS) as made:
        yield made


def narrow(pid: int, room: int) -> None:
    """Bound a process's data to little more than it has: as if it had come to its bound otherwise."""
    held = int(status_of(pid)["VmData"].split()[0]) * 1024
    resource.prlimit(pid, resource.RLIMIT_DATA, (held + room, held + room))


def test_luas_own_limit_is_an_error_and_the_kernel_lives(fleet: FleetHome) -> None:
    tenant = new_tenant(fleet, limits={"memory_bytes": 16 * MIB})
    (before,) = tenant.kernels()
    assert before["limits"]["memory_bytes"]["enforced_by"] == "lua+rlimit"

    answer = tenant.run(HOARD)

    assert (answer["status"], answer["error"]["name"]) == ("error", "MemoryError")
    assert tenant.value("t = nil return 1") == "1"
    (after,) = tenant.kernels()
    assert (after["pid"], after["last_death"]) == (before["pid"], None)


WAYS = {
    "strings": HOARD,
    "tables": "t = {} for i = 1, 1e9 do t[i] = {i} end",
    "output": "for i = 1, 3e5 do print(('x'):rep(1000)) end",
    "a result": "return ('x'):rep(40 * 1024 * 1024)",
    "what is caught and kept": "t = {} pcall(function() for i = 1, 1e9 do t[i] = ('x'):rep(4096) .. i end end) "
    "pcall(function() for i = 1, 1e9 do t[#t + 1] = i end end) return 1",
    "what is caught again and again": "t = {} for n = 1, 20 do print(pcall(function() "
    "for i = 1, 1e9 do t[#t + 1] = {i} end end)) end",
}


@pytest.mark.parametrize("room", [MIB // 4, 2 * MIB, 12 * MIB])
@pytest.mark.parametrize("way", WAYS)
def test_at_the_processs_bound_it_is_an_error_or_an_end_that_says_so(fleet: FleetHome, way: str, room: int) -> None:
    """Never a hang, nor a fall at address 0."""
    tenant = new_tenant(fleet, limits={"memory_bytes": 0, "output_bytes": 0, "execution_timeout_s": 10})
    (kernel,) = tenant.kernels()
    narrow(kernel["pid"], room)

    answer = tenant.execute(WAYS[way])

    if answer.status == 502:
        assert answer.json["death"]["cause"] == "memory_limit", answer.body
    else:
        assert answer.status == 200, answer.body
        error = answer.json["error"]
        assert error is None or error["name"] in {"MemoryError", "KernelError"}, error
    _works_again(tenant, kernel)
    assert fleet.ask("DELETE", tenant.path).status == 204


def _works_again(tenant: Tenant, before: dict[str, object]) -> None:
    """What its script holds may end it later too: by the same cause, and once."""
    answer = tenant.execute("t = nil collectgarbage() return 1")
    if answer.status != 200:
        assert answer.json["death"]["cause"] == "memory_limit", answer.body
    tenant.wait_ready()
    assert tenant.value("return 6 * 7") == "42"
    (after,) = tenant.kernels()
    if after["pid"] != before["pid"]:
        assert after["last_death"]["cause"] == "memory_limit", after["last_death"]
        assert "memory" in after["last_death"]["detail"]


def test_beyond_its_cgroup_the_system_ends_it_and_the_certificate_says_so() -> None:
    needs_cgroups("memory")
    with new_fleet(config=CONFIG) as fleet:
        tenant = new_tenant(fleet, limits={"memory_bytes": 0, "total_memory_bytes": 64 * MIB})

        answer = tenant.execute(HOARD)

        assert (answer.status, answer.json["death"]["cause"]) == (502, "out_of_memory"), answer.body
        assert answer.json["death"]["signal"] == "SIGKILL"
        assert "out of memory: it held up to" in answer.json["death"]["detail"]
        tenant.wait_ready()
        assert tenant.value("return 1") == "1"
