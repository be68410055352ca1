"""Warm kernels at `strict`: processes that wait, and become a tenant's kernel at the claim."""

import os
import signal
from collections.abc import Iterator

import pytest

from llmspell_fleet.controller.kernels.entry import Entry
from llmspell_fleet.controller.pools.tenant import Tenant
from llmspell_fleet.errors import UnavailableError
from llmspell_fleet.model.ids import WARM, TenantId
from llmspell_fleet.model.kernel import Phase
from llmspell_fleet.model.requests import KernelRequest
from llmspell_fleet.observe.metrics import Metrics
from llmspell_fleet.spawner.remains import find_remnants
from llmspell_kernel.pidfile import process_start_time
from llmspell_kernel.zygote.protocol import Spares
from support.controllers import Site, Start, fleet_paths, in_phase, kill, only, ready_again, running
from support.kernels import READY_S
from support.proc import status_of
from support.spawning import eventually
from support.tenants import need_root

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]

FIRST, LAST = 720_000_000, 720_000_009


@pytest.fixture(autouse=True)
def _root() -> Iterator[None]:
    need_root("a user for each tenant")
    return


UIDS = {"uids": (FIRST, LAST)}


def claims(metrics: Metrics, result: str) -> float:
    text = metrics.render("")[0].decode()
    found = [line for line in text.splitlines() if line.startswith("llmspell_warm_claims_total{")]
    return sum(float(line.split()[-1]) for line in found if f'result="{result}"' in line)


async def strict(site: Site, name: str = "t", **members: object) -> Tenant:
    return await site.tenant(name, isolation_level="strict", **members)


async def waiting(site: Site, number: int) -> list[int]:
    """The pids of the processes that wait, once there are so many."""
    await eventually(lambda: site.spawner.spares == Spares(number), f"{number} spares")
    return spares_of(site)


def spares_of(site: Site) -> list[int]:
    kernels = {site.spawner.pid, *(entry.kernel.pid for entry in site.controller.supervisor)}
    return [one.pid for one in find_remnants(site.paths.runtime) if one.pid not in kernels]


async def one_more(site: Site) -> Entry:
    view = await site.controller.service.create_kernel(KernelRequest(tenant=TenantId("t"), wait_s=READY_S))
    entry = site.controller.supervisor.get(view.id)
    assert entry is not None
    return entry


async def test_there_is_none_where_nobody_wants_any(controller: Start) -> None:
    async with controller(**UIDS, warm_size=1) as site:
        await strict(site)
        await eventually(lambda: site.controller.warm.phases() == {Phase.READY: 1}, "the default's own warm kernel")

        assert site.spawner.spares == Spares()


async def test_a_claim_makes_it_the_tenants_and_another_one_takes_its_place(controller: Start) -> None:
    async with controller(**UIDS) as site:
        tenant = await strict(site, replicas=0, warm_size=2)
        before = await waiting(site, 2)

        made = await one_more(site)

        assert made.kernel.pid in before
        assert (await site.execute(tenant, "return 6*7"))["result"] == "42"
        status = status_of(made.kernel.pid or 0)
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
        assert {int(uid) for uid in status["Uid"].split()} == {made.kernel.spec.uid}
        assert claims(site.controller.metrics, "hit") == 1
        after = await waiting(site, 2)
        assert len(set(before) & set(after)) == 1


async def test_it_is_no_kernel_and_is_counted_with_the_warm_ones(controller: Start) -> None:
    async with controller(**UIDS) as site:
        await strict(site, warm_size=2)
        await waiting(site, 2)

        assert [view.tenant for view in site.controller.service.kernels(None)] == ["t"]
        text = site.controller.sampling.render("")[0].decode()
        assert 'llmspell_warm_kernels{phase="READY"} 2' in text
        assert "llmspell_warm_wanted 2" in text


async def test_a_repair_takes_one_too(controller: Start) -> None:
    async with controller(**UIDS) as site:
        tenant = await strict(site, warm_size=1)
        (spare,) = await waiting(site, 1)

        kill(only(tenant))
        kernel = await ready_again(only(tenant), 2)

        assert kernel.pid == spare
        assert claims(site.controller.metrics, "hit") == 0, "it was no new kernel"


async def test_who_wants_none_takes_none(controller: Start) -> None:
    async with controller(**UIDS) as site:
        await strict(site, "keeper", replicas=0, warm_size=1)
        (spare,) = await waiting(site, 1)

        tenant = await strict(site, warm="never")
        assert only(tenant).kernel.pid != spare
        kill(only(tenant))
        assert (await ready_again(only(tenant), 2)).pid != spare
        assert site.spawner.spares == Spares(1)


async def test_who_takes_no_other_waits_for_one(controller: Start) -> None:
    async with controller(**UIDS) as site:
        tenant = await strict(site, replicas=2, warm="require")

        assert [entry.process.was_spare for entry in tenant.entries.values() if entry.process] == [True, True]
        assert claims(site.controller.metrics, "waited") == 2
        with pytest.raises(UnavailableError, match="0 of 1 were ready"):
            await site.controller.service.create_kernel(KernelRequest(tenant=TenantId("t"), wait_s=0.0))
        assert claims(site.controller.metrics, "timeout") == 1


async def test_a_claim_that_finds_it_killed_is_a_kernel_all_the_same(controller: Start) -> None:
    async with controller(**UIDS) as site:
        tenant = await strict(site, replicas=0, warm_size=1)
        (spare,) = await waiting(site, 1)

        os.kill(spare, signal.SIGKILL)
        made = await one_more(site)

        await in_phase(made, Phase.READY)
        assert (await site.execute(tenant, "return 1"))["result"] == "1"


async def test_the_zygote_is_killed_and_the_next_one_has_as_many(controller: Start) -> None:
    async with controller(**UIDS) as site:
        await strict(site, replicas=0, warm_size=2)
        before = await waiting(site, 2)
        assert site.spawner.pid is not None

        os.kill(site.spawner.pid, signal.SIGKILL)

        await eventually(lambda: not any(map(process_start_time, before)), "their end")
        await eventually(lambda: site.spawner.spares == Spares(2), "others")
        assert not set(before) & set(spares_of(site))
        await eventually(lambda: not any(status(pid) for pid in before), "their zombies to be gone")


def status(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")  # noqa: PTH110


async def test_fewer_are_wanted(controller: Start) -> None:
    async with controller(**UIDS) as site:
        await strict(site, replicas=0, warm_size=3)
        before = await waiting(site, 3)

        await site.controller.service.delete_tenant(TenantId("t"))

        await eventually(lambda: site.spawner.spares == Spares(), "none")
        await eventually(lambda: not any(map(process_start_time, before)), "their end")


async def test_none_is_adopted_and_none_is_left() -> None:
    with fleet_paths() as paths:
        async with running(paths, **UIDS) as site:
            tenant = await strict(site, warm_size=2)
            assert only(tenant).tenant != WARM
            pids = await waiting(site, 2)
        assert [pid for pid in pids if process_start_time(pid)] == []
        async with running(paths, **UIDS) as site:
            await waiting(site, 2)
            assert [entry.tenant for entry in site.controller.supervisor] == ["t"]


async def test_the_default_pool_may_be_strict(controller: Start) -> None:
    async with controller(**UIDS, warm_size=2, isolation_level="strict") as site:
        pids = await waiting(site, 2)

        tenant = await strict(site, replicas=2)

        assert sorted(entry.kernel.pid or 0 for entry in tenant.entries.values()) == sorted(pids)
        assert claims(site.controller.metrics, "hit") == 2
