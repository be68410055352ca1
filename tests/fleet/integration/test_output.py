"""Output within its limit, on kernels whose scripts may hold little: it arrives whole, and ends no kernel."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from llmspell_fleet.controller.limits.rlimits import may_raise
from llmspell_kernel.limits import output_room
from llmspell_kernel.zygote.confine import HEADROOM_BYTES
from support.fleets import FleetHome
from support.groups import needs_cgroups
from support.poorer import WITHOUT_CGROUPS, poor_fleet
from support.proc import limits_of, status_of
from support.tenants import Tenant, need_root, new_tenant

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("unmeasured_module")]

MIB = 1024 * 1024
CONFIG = '[fleet]\nstartup_kernels = 0\n[fleet.restart]\nfirst_delay = "10ms"\n'
LIMITS = {"memory_bytes": 16 * MIB, "execution_timeout_s": 60}

WAYS = {
    "letters": ("s = ('x'):rep(65536) for i = 1, 60 * 16 do io.write(s) end", 60 * MIB),
    "lines": ("s = ('x'):rep(79) for i = 1, 20 * 13107 do print(s) end", 20 * 13107 * 80),
    "what JSON writes as six bytes": ("s = ('\\1'):rep(65536) for i = 1, 12 * 16 do io.write(s) end", 12 * MIB),
    "both streams": (
        "s = ('\\xff'):rep(65536) for i = 1, 6 * 16 do io.write(s) io.stderr:write(s) end",
        12 * MIB,
    ),
    "a few long strings": ("s = ('x'):rep(3 << 20) for i = 1, 8 do io.write(s) end", 24 * MIB),
    "displays": ("s = ('x'):rep(2 << 20) for i = 1, 12 do display{html = s} end", 12),
    "a result": ("return ('\\1'):rep(3 << 20)", 0),
    "an error": ("error(('\\1'):rep(3 << 20))", 0),
}
"""Scripts, and how much is to arrive: characters of both streams, or displays."""


@pytest.fixture(scope="module")
def fleet(unmeasured_module: None) -> Iterator[FleetHome]:
    """rlimits hold its kernels: they refuse at once what a cgroup would let pass while nobody counts."""
    need_root("hiding the cgroups of this machine")
    with poor_fleet(config=CONFIG, prefix=WITHOUT_CGROUPS) as made:
        yield made


def _arrives(tenant: Tenant, way: str, number: int, *, is_recorded: bool) -> None:
    code, expected = WAYS[way]
    (before,) = tenant.kernels()
    answer = tenant.execute(
        code, headers={"Idempotency-Key": f"{way}-{number}".replace(" ", "-")} if is_recorded else None
    )

    assert answer.status == 200, answer.body[:1000]
    view = answer.json
    assert view["status"] == ("error" if way == "an error" else "ok"), view["error"]
    assert len(view["stdout"]) + len(view["stderr"]) + len(view.get("displays", ())) == expected
    (after,) = tenant.kernels()
    assert (after["pid"], after["last_death"]) == (before["pid"], None)


@pytest.mark.parametrize("is_recorded", [False, True], ids=["answered", "recorded"])
@pytest.mark.parametrize("level", ["process", "strict"])
def test_output_within_its_limit_arrives_and_ends_no_kernel(fleet: FleetHome, level: str, is_recorded: bool) -> None:
    tenant = new_tenant(fleet, limits=LIMITS, isolation_level=level)
    for number in range(1 + is_recorded):  # what is kept of the first is held while the second runs
        for way in WAYS:
            _arrives(tenant, way, number, is_recorded=is_recorded)


def test_what_has_not_to_be_asked_for_again_is_held_by_nobody(fleet: FleetHome) -> None:
    tenant = new_tenant(fleet, limits=LIMITS)
    (kernel,) = tenant.kernels()
    before = _peak(kernel["pid"])

    _arrives(tenant, "lines", 0, is_recorded=False)
    _arrives(tenant, "what JSON writes as six bytes", 0, is_recorded=False)

    assert _peak(kernel["pid"]) - before < 100 * MIB, "far less than the JSON of it"


def _peak(pid: int) -> int:
    return int(status_of(pid)["VmHWM"].split()[0]) * 1024


def test_a_cgroup_has_room_for_it_too() -> None:
    needs_cgroups("memory")
    with poor_fleet(config=CONFIG, prefix=()) as fleet:
        tenant = new_tenant(fleet, limits=LIMITS)
        for is_recorded in (False, True):
            for way in ("letters", "what JSON writes as six bytes", "displays"):
                _arrives(tenant, way, 0, is_recorded=is_recorded)


def test_many_long_answers_at_once_arrive(fleet: FleetHome) -> None:
    tenant = new_tenant(fleet, limits=LIMITS)
    with ThreadPoolExecutor(4) as clients:
        list(clients.map(lambda number: _arrives(tenant, "letters", number, is_recorded=number % 2 == 0), range(4)))


def test_the_room_for_output_follows_a_limit_that_is_changed(fleet: FleetHome) -> None:
    tenant = new_tenant(fleet, limits={**LIMITS, "output_bytes": MIB})
    (kernel,) = tenant.kernels()
    before = int(limits_of(kernel["pid"])["data size"])
    small, large = (output_room(16 * MIB, output) for output in (MIB, 100 * MIB))
    assert before > 16 * MIB + small + HEADROOM_BYTES

    assert tenant.change(limits={**LIMITS, "output_bytes": 100 * MIB}).status == 200

    if may_raise():
        assert int(limits_of(kernel["pid"])["data size"]) - before == large - small
    else:
        # Who may not raise the bound does not let scripts write more than there is room for.
        view = tenant.kernel(kernel["id"])["limits"]["output_bytes"]
        assert (view["value"], view["pending"]) == (MIB, 100 * MIB)
        assert tenant.run("s = ('x'):rep(65536) for i = 1, 90 * 16 do io.write(s) end")["status"] == "error"
        assert fleet.ask("POST", f"/v1/kernels/{kernel['id']}/restart").status < 300
        kernel = tenant.wait_restarted(kernel["id"])
    code = "s = ('x'):rep(65536) for i = 1, 90 * 16 do io.write(s) end"
    for number in range(2):
        answer = tenant.execute(code, headers={"Idempotency-Key": f"much-{number}"})
        assert (answer.status, len(answer.json["stdout"])) == (200, 90 * MIB)
    assert tenant.change(limits=LIMITS).status == 200
    (after,) = tenant.kernels()
    assert after["pid"] == kernel["pid"]
