"""Which kernel of a tenant runs what, seen from outside."""

from collections import Counter
from collections.abc import Callable

import pytest

from support.tenants import SPIN, Tenant, wait_running

pytestmark = pytest.mark.integration

Make = Callable[..., Tenant]


def _homes(tenant: Tenant, number: int, **members: object) -> list[str]:
    return [str(tenant.run("return 1", **members)["kernel_id"]) for _ in range(number)]


def test_round_robin_visits_every_kernel_in_strict_order(make_tenant: Make) -> None:
    tenant = make_tenant(replicas=3, strategy="round_robin")

    homes = _homes(tenant, 9)

    assert len(set(homes[:3])) == 3
    assert homes == homes[:3] * 3


def test_round_robin_does_not_spare_the_busy(make_tenant: Make) -> None:
    tenant = make_tenant(replicas=3, strategy="round_robin")
    order = _homes(tenant, 3)
    with tenant.spinning() as spinning:
        assert spinning.kernel == order[0]
        waiting = [tenant.begin("return 1") for _ in range(6)]
    homes = [tenant.outcome(location)["outcome"]["kernel_id"] for location in waiting]

    assert homes == [order[1], order[2], order[0]] * 2


def test_least_loaded_spares_the_busy(make_tenant: Make) -> None:
    tenant = make_tenant(replicas=3, strategy="least_loaded")
    with tenant.spinning() as one:
        tenant.begin(SPIN)
        (other,) = (k for k in tenant.kernels() if k["usage"]["running"] and k["id"] != one.kernel)
        wait_running(other["pid"])

        homes = set(_homes(tenant, 6))

        assert len(homes) == 1
        assert not homes & {one.kernel, other["id"]}
        tenant.fleet.ask("POST", f"/v1/kernels/{other['id']}/interrupt")


def test_least_loaded_uses_all_that_are_idle(make_tenant: Make) -> None:
    tenant = make_tenant(replicas=3, strategy="least_loaded")

    assert set(Counter(_homes(tenant, 9)).values()) == {3}


def test_least_loaded_counts_kernels_that_are_lent(make_tenant: Make) -> None:
    tenant = make_tenant(replicas=2, strategy="least_loaded")
    lease = tenant.fleet.ask("GET", f"{tenant.path}/connection").json

    homes = set(_homes(tenant, 4))

    assert homes == {kernel["id"] for kernel in tenant.kernels()} - {lease["kernel_id"]}
    tenant.fleet.ask("DELETE", f"/v1/leases/{lease['lease']['id']}")
    assert len(set(_homes(tenant, 4))) == 2


def test_sticky_spreads_sessions_evenly_and_keeps_them(make_tenant: Make) -> None:
    tenant = make_tenant(replicas=3, strategy="sticky")
    sessions = [f"s{number}" for number in range(9)]

    first = {session: _homes(tenant, 1, session=session) for session in sessions}
    second = {session: _homes(tenant, 1, session=session) for session in reversed(sessions)}

    assert first == second
    assert set(Counter(home for (home,) in first.values()).values()) == {3}


@pytest.mark.parametrize("strategy", ["round_robin", "least_loaded", "sticky"])
def test_a_session_stays_under_every_strategy(make_tenant: Make, strategy: str) -> None:
    tenant = make_tenant(replicas=3, strategy=strategy)
    (home,) = set(_homes(tenant, 4, session="mine"))
    with tenant.spinning(session="mine") as spinning:
        assert spinning.kernel == home
        waiting = tenant.begin("return 1", session="mine")
    assert tenant.outcome(waiting)["outcome"]["kernel_id"] == home


def test_a_strategy_can_be_changed(make_tenant: Make) -> None:
    tenant = make_tenant(replicas=2, strategy="round_robin")

    answer = tenant.change(strategy="least_loaded")

    assert (answer.status, answer.json["strategy"]) == (200, "least_loaded")
    with tenant.spinning() as spinning:
        assert spinning.kernel not in _homes(tenant, 4)
