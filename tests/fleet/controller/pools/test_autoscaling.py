"""Pools that grow and shrink with what they have to do."""

import asyncio

import msgspec
import pytest
from msgspec.structs import replace

from llmspell_fleet.controller.pools.tenant import Tenant
from llmspell_fleet.errors import ConflictError, TooManyError
from llmspell_fleet.model.ids import TenantId
from llmspell_fleet.model.requests import KernelRequest, TenantChange
from support.controllers import SPIN, Site, Start
from support.spawning import eventually

pytestmark = [pytest.mark.asyncio, pytest.mark.integration]

QUICK = {"min": 1, "max": 3, "busy_share": 1.0, "up_after_s": 0.1, "down_after_s": 0.5}


async def _changed(site: Site, tenant: Tenant, **members: object) -> None:
    await site.controller.service.update_tenant(tenant.id, msgspec.convert(members, TenantChange))


def _scaled(site: Site, tenant: Tenant) -> list[tuple[int, int]]:
    told = [event for event in site.controller.events.since(0, tenant.id, 1000) if event.type == "tenant.scaled"]
    assert all(event.data["reason"] for event in told)
    return [(event.data["from"], event.data["to"]) for event in told]


async def test_a_queue_gets_kernels_and_a_quiet_time_takes_them_away(controller: Start) -> None:
    async with controller() as site:
        tenant = await site.tenant(autoscale=QUICK)
        assert len(tenant.entries) == 1

        asked = [site.asking(tenant, SPIN, timeout_s=1.5) for _ in range(3)]
        began = asyncio.get_running_loop().time()
        await eventually(lambda: tenant.ready == 3, "three kernels")
        grown_s = asyncio.get_running_loop().time() - began
        await asyncio.gather(*asked)
        assert _scaled(site, tenant) == [(1, 3)]

        await eventually(lambda: len(tenant.entries) == 1, "one kernel again")
        assert _scaled(site, tenant) == [(1, 3), (3, 1)]
        assert grown_s < 2.0
        assert (await site.execute(tenant, "return 1"))["result"] == "1"


async def test_who_may_not_grow_since_nobody_could_hold_it_keeps_nobody_else_from_growing(controller: Start) -> None:
    async with controller() as site:
        lax = await site.tenant("lax", autoscale=QUICK)
        held = await site.tenant("held", autoscale=QUICK)
        # As after a start where there are no cgroups, which held it until then.
        limits = replace(held.spec.limits, cpu_percent=50)
        held.record = replace(held.record, spec=replace(held.spec, isolation_level="strict", limits=limits))
        site.controller.supervisor.holder.cgroups.parts.clear()

        asked = [site.asking(tenant, SPIN, timeout_s=1.5) for tenant in (held, lax) for _ in range(3)]
        await eventually(lambda: lax.ready == 3, "three kernels")
        await asyncio.gather(*asked)

        assert _scaled(site, held) == []


async def test_it_grows_into_what_room_there_is(controller: Start) -> None:
    async with controller(max_kernels=2) as site:
        tenant = await site.tenant(autoscale=QUICK)

        asked = [site.asking(tenant, SPIN, timeout_s=1.0) for _ in range(4)]
        await eventually(lambda: tenant.ready == 2, "the kernels there is room for")
        await asyncio.gather(*asked)

        assert _scaled(site, tenant)[0] == (1, 2)
        with pytest.raises(TooManyError):
            await site.tenant("other", wait_s=0)


async def test_nobody_chooses_what_the_load_chooses(controller: Start) -> None:
    async with controller() as site:
        tenant = await site.tenant(autoscale=QUICK)

        with pytest.raises(ConflictError, match="from 1 to 3"):
            await _changed(site, tenant, replicas=2)
        with pytest.raises(ConflictError, match="set autoscale to null"):
            await site.controller.service.create_kernel(KernelRequest(tenant=TenantId("t")))
        await _changed(site, tenant, autoscale=None, replicas=2)
        assert tenant.ready == 2


async def test_bounds_hold_from_the_beginning_and_when_they_change(controller: Start) -> None:
    async with controller() as site:
        tenant = await site.tenant(replicas=9, autoscale=QUICK)
        assert tenant.spec.replicas == 3

        await _changed(site, tenant, autoscale={**QUICK, "max": 2})
        assert tenant.spec.replicas == 2
        await eventually(lambda: len(tenant.entries) == 1, "one kernel")
        await _changed(site, tenant, autoscale={**QUICK, "min": 2})
        assert tenant.ready == 2


async def test_a_kernel_that_is_deleted_is_replaced_when_there_would_be_too_few(controller: Start) -> None:
    async with controller() as site:
        tenant = await site.tenant(autoscale=QUICK)
        (first,) = tenant.entries

        await site.controller.service.delete_kernel(first, None)
        await eventually(lambda: tenant.ready == 1 and first not in tenant.entries, "another kernel")


async def test_a_lent_kernel_counts_as_busy(controller: Start) -> None:
    async with controller() as site:
        tenant = await site.tenant(replicas=2, autoscale=QUICK)
        for session in ("a", "b"):
            await site.controller.service.lease(tenant.id, session)

        await asyncio.sleep(0.8)  # longer than down_after_s: nothing is to happen
        assert (tenant.ready, _scaled(site, tenant)) == (2, [])
