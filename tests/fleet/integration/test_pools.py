"""Pools that change while clients work with them: more kernels, fewer kernels, and nobody is failed for it."""

from collections.abc import Callable

import pytest

from support.load import loaded
from support.tenants import Tenant, wait_for, wait_running

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
