"""Kernels that are ready before anybody needs them."""

import asyncio
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from llmspell_fleet.controller.kernels.entry import Entry
from llmspell_fleet.errors import ConflictError, GoneError, TooManyError, UnavailableError
from llmspell_fleet.model.ids import WARM, TenantId
from llmspell_fleet.model.kernel import Phase
from llmspell_fleet.model.requests import KernelRequest, TenantChange
from llmspell_fleet.observe.metrics import Metrics
from llmspell_kernel.connection import read_connection_file
from support.controllers import Site, Start, in_phase, kill, only, ready_again
from support.kernels import READY_S
from support.spawning import eventually

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]


def warm(site: Site) -> list[Entry]:
    return [entry for entry in site.controller.supervisor if entry.tenant == WARM]


def ready(site: Site) -> list[Entry]:
    return [entry for entry in warm(site) if entry.kernel.phase is Phase.READY]


async def filled(site: Site, number: int) -> list[Entry]:
    """The warm kernels, once there are so many."""
    await eventually(lambda: len(ready(site)) == number == len(warm(site)), f"{number} warm kernels")
    return ready(site)


def claims(metrics: Metrics, result: str) -> float:
    text = metrics.render("")[0].decode()
    found = [line for line in text.splitlines() if line.startswith("llmspell_warm_claims_total{")]
    return sum(float(line.split()[-1]) for line in found if f'result="{result}"' in line)


async def changed(site: Site, tenant: str, **members: Any) -> None:
    await site.controller.service.update_tenant(TenantId(tenant), msgspec.convert(members, TenantChange))


# --- what there is


async def test_there_is_none_unless_it_is_asked_for(controller: Start) -> None:
    async with controller() as site:
        await site.tenant()
        await asyncio.sleep(0.6)  # longer than the pool's rest: nothing is to happen

        assert warm(site) == []
        assert claims(site.controller.metrics, "miss") == 0


async def test_warm_kernels_are_nobody_s_and_shown_as_such(controller: Start) -> None:
    async with controller(warm_size=2) as site:
        await filled(site, 2)
        tenant = await site.tenant(warm="never")

        views = site.controller.service.kernels(None)
        assert sorted(view.tenant for view in views) == [WARM, WARM, "t"]
        assert [view.tenant for view in site.controller.service.kernels(tenant.id)] == ["t"]
        assert len(site.controller.tenants) == 2, "t and default"
        assert len({view.pid for view in views}) == 3
        text = site.controller.sampling.render("")[0].decode()
        assert 'llmspell_warm_kernels{phase="READY"} 2' in text
        assert "llmspell_warm_wanted 2" in text


# --- claims


async def test_a_new_tenant_is_given_warm_kernels_and_others_take_their_place(controller: Start) -> None:
    async with controller(warm_size=2) as site:
        before = {entry.id: entry.kernel.pid for entry in await filled(site, 2)}

        tenant = await site.tenant(replicas=2, wait_s=0)

        assert {entry.id: entry.kernel.pid for entry in tenant.entries.values()} == before
        assert tenant.ready == 2, "at once, without a wait"
        assert (await site.execute(tenant, "return 6*7"))["result"] == "42"
        assert not set(before) & {entry.id for entry in await filled(site, 2)}
        assert claims(site.controller.metrics, "hit") == 2
        told = [event for event in site.events(next(iter(tenant.entries.values()))) if event.type == "kernel.ready"]
        assert [event.data["warm"] for event in told] == [True]


async def test_a_claim_waits_for_nothing(controller: Start) -> None:
    async with controller(warm_size=8) as site:
        tenant = await site.tenant(replicas=0)
        await filled(site, 8)
        tenants = site.controller.tenants
        for _ in range(8):
            entry = tenants.add_kernel(tenant, tenants.new_spec(tenant))
            assert entry is not None
            assert entry.kernel.phase is Phase.READY
        tenants.change(tenant, replace(tenant.spec, replicas=8))


async def test_name_and_timeouts_are_given_at_the_claim(controller: Start) -> None:
    async with controller(warm_size=1) as site:
        (before,) = await filled(site, 1)
        await site.tenant(replicas=0, idle_timeout_s=500)
        made = await site.controller.service.create_kernel(
            KernelRequest(tenant=TenantId("t"), name="worker", labels={"a": "b"})
        )

        assert (made.id, made.name, made.tenant, made.labels) == (before.id, "worker", "t", {"a": "b"})
        assert before.kernel.spec.idle_timeout_s == 500
        path = f"{site.paths.runtime}/kernel-{made.id}.json"
        await eventually(lambda: read_connection_file(path).name == "worker", "its file has its name")
        lent = await site.controller.service.lease(TenantId("t"), None)
        assert lent.connection["name"] == "worker"


async def test_a_warm_kernel_was_not_idle_before_it_was_anybody_s(controller: Start) -> None:
    async with controller(warm_size=1) as site:
        await filled(site, 1)
        await asyncio.sleep(1.0)  # it is older than the timeout
        tenant = await site.tenant(idle_timeout_s=0.8)
        claimed_at = asyncio.get_running_loop().time()

        await in_phase(only(tenant), Phase.STOPPED)

        assert asyncio.get_running_loop().time() - claimed_at >= 0.75


@pytest.mark.parametrize(
    "members", [{"limits": {"memory_bytes": 77_000_000}}, {"isolation_level": "none"}, {"warm": "never"}], ids=str
)
async def test_one_that_is_made_otherwise_is_not_claimed(controller: Start, members: dict[str, Any]) -> None:
    async with controller(warm_size=1) as site:
        (before,) = await filled(site, 1)

        tenant = await site.tenant(**members)

        assert only(tenant).id != before.id
        assert before.kernel.spec.tenant == WARM
        assert claims(site.controller.metrics, "miss") == (0 if "warm" in members else 1)


async def test_one_that_is_too_old_for_a_tenant_is_renewed_and_not_claimed(controller: Start) -> None:
    async with controller(warm_size=1) as site:
        (before,) = await filled(site, 1)
        before.kernel = replace(before.kernel, spawned_at=before.kernel.spawned_at - 400.0)

        young = await site.tenant("young", max_age_s=600.0)
        assert before.id not in young.entries

        await eventually(lambda: before not in warm(site), "the old one has left")
        (after,) = await filled(site, 1)
        site.controller.tenants.change(young, replace(young.spec, replicas=2))
        site.controller.tenants.reconcile(young)
        assert after.id in young.entries
        assert after.timer is not None, "its age is counted"


async def test_a_tenant_may_have_kernels_of_its_own_spec_kept_warm(controller: Start) -> None:
    async with controller() as site:
        tenant = await site.tenant(limits={"memory_bytes": 77_000_000}, warm_size=1)
        (before,) = await filled(site, 1)
        assert before.kernel.spec.limits.memory_bytes == 77_000_000

        await changed(site, "t", replicas=2)
        assert before.id in tenant.entries
        await filled(site, 1)
        await changed(site, "t", warm_size=0)
        await filled(site, 0)


async def test_every_way_to_more_kernels_claims(controller: Start) -> None:
    async with controller(warm_size=3) as site:
        free = {entry.id for entry in await filled(site, 3)}
        tenant = await site.tenant(replicas=1)
        await changed(site, "t", replicas=2)
        made = await site.controller.service.create_kernel(KernelRequest(tenant=tenant.id))

        assert claims(site.controller.metrics, "hit") == 3
        assert len(free & set(tenant.entries)) >= 1
        assert made.phase == "READY"


async def test_a_used_kernel_never_comes_back(controller: Start) -> None:
    async with controller(warm_size=1) as site:
        await filled(site, 1)
        tenant = await site.tenant()
        (used,) = tenant.entries
        await site.execute(tenant, "secret = 42")
        await site.controller.service.delete_tenant(tenant.id)

        (fresh,) = await filled(site, 1)
        assert fresh.id != used
        other = await site.tenant("u")
        assert (await site.execute(other, "return tostring(secret)"))["result"] == "nil"


async def test_a_crash_keeps_the_kernel_s_id_and_takes_no_warm_one(controller: Start) -> None:
    async with controller(warm_size=1) as site:
        tenant = await site.tenant(warm="never")
        (free,) = await filled(site, 1)
        entry = only(tenant)
        kill(entry)
        await ready_again(entry, 2)

        assert (list(tenant.entries), [one.id for one in ready(site)]) == ([entry.id], [free.id])


# --- require


async def test_who_requires_a_warm_kernel_waits_until_there_is_one(controller: Start) -> None:
    async with controller() as site:
        tenant = await site.tenant(warm="require", replicas=2)

        assert tenant.ready == 2
        assert (claims(site.controller.metrics, "hit"), claims(site.controller.metrics, "waited")) == (0, 2)
        starts = [event for event in site.controller.events.since(0, None, 1000) if event.type == "kernel.starting"]
        assert {event.tenant for event in starts} == {WARM}
        await filled(site, 0)


async def test_only_those_that_were_not_there_yet_count_as_waited_for(controller: Start) -> None:
    async with controller(warm_size=1) as site:
        await filled(site, 1)
        await site.tenant(warm="require", replicas=3)
        assert (claims(site.controller.metrics, "hit"), claims(site.controller.metrics, "waited")) == (1, 2)

        await filled(site, 1)
        await changed(site, "t", replicas=4)
        assert (claims(site.controller.metrics, "hit"), claims(site.controller.metrics, "waited")) == (2, 2)
        assert claims(site.controller.metrics, "miss") == 0


async def test_who_requires_one_and_does_not_get_it_is_told_when_to_ask_again(controller: Start) -> None:
    async with controller() as site:
        with pytest.raises(UnavailableError, match="warm is require") as refused:
            await site.tenant("t", warm="require", wait_s=0)
        assert refused.value.retry_after_s == 1.0
        assert TenantId("t") not in site.controller.tenants
        assert claims(site.controller.metrics, "timeout") == 1

        tenant = await site.tenant("u", warm="require")
        with pytest.raises(UnavailableError):
            await changed(site, "u", replicas=2, wait_s=0)
        with pytest.raises(UnavailableError):
            await site.controller.service.create_kernel(KernelRequest(tenant=tenant.id, wait_s=0))
        assert (tenant.spec.replicas, len(tenant.entries)) == (1, 1)
        await filled(site, 0)


async def test_one_name_is_given_once_to_those_who_wait_for_a_warm_kernel(controller: Start) -> None:
    async with controller() as site:
        tenant = await site.tenant(warm="require")
        asked = KernelRequest(tenant=tenant.id, name="one", wait_s=READY_S)
        made = await asyncio.gather(
            *(site.controller.service.create_kernel(asked) for _ in range(2)), return_exceptions=True
        )

        assert sorted(type(one).__name__ for one in made) == ["ConflictError", "KernelView"]
        assert tenant.spec.replicas == 2


async def test_who_requires_what_cannot_be_is_told_why(controller: Start) -> None:
    async with controller() as site:
        tenant = await site.tenant(warm="require")

        with pytest.raises(ConflictError, match="a port of its own"):
            await site.controller.service.create_kernel(KernelRequest(tenant=tenant.id, port=0))


async def test_what_the_fleet_itself_adds_waits_for_warm_ones_too(controller: Start) -> None:
    async with controller(startup_kernels=2, warm="require") as site:
        tenant = site.controller.tenants.get(TenantId("default"))

        await eventually(lambda: tenant.ready == 2, "two kernels that were warm")
        assert (claims(site.controller.metrics, "hit"), claims(site.controller.metrics, "waited")) == (0, 2)


# --- bounds


async def test_tenants_come_first_when_there_is_no_room_for_both(controller: Start) -> None:
    async with controller(warm_size=3, max_kernels=3) as site:
        await filled(site, 3)

        tenant = await site.tenant(replicas=2, warm="never")

        assert tenant.ready == 2
        await filled(site, 1)
        with pytest.raises(TooManyError):
            await site.tenant("u", replicas=2, wait_s=0)
        await site.tenant("v")
        await filled(site, 0)


async def test_a_warm_kernel_that_dies_is_replaced_and_one_that_is_deleted_too(controller: Start) -> None:
    async with controller(warm_size=1) as site:
        (first,) = await filled(site, 1)
        kill(first)
        await ready_again(first, 2)

        await site.controller.service.delete_kernel(first.id, None)

        (second,) = await filled(site, 1)
        assert second.id != first.id
        with pytest.raises(GoneError):
            site.controller.service.kernel(first.id, None)


async def test_other_limits_make_other_warm_kernels(controller: Start) -> None:
    async with controller(warm_size=1) as site:
        (before,) = await filled(site, 1)
        config = site.controller._config
        site.controller.hold(replace(config, limits=replace(config.limits, memory_bytes=99_000_000)))

        await eventually(lambda: before not in warm(site), "the old one has left")
        (after,) = await filled(site, 1)
        assert after.kernel.spec.limits.memory_bytes == 99_000_000
