"""Quotas of tenants, held by a real controller, however many ask at once."""

import asyncio

import msgspec
import pytest

from llmspell_fleet.controller.pools.tenant import Tenant
from llmspell_fleet.errors import ConflictError, TooManyError
from llmspell_fleet.model.requests import KernelRequest, TenantChange
from support.controllers import Site, Start

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]


async def change(site: Site, tenant: Tenant, **members: object) -> None:
    await site.controller.service.update_tenant(tenant.id, msgspec.convert({"wait_s": 0, **members}, TenantChange))


async def more(site: Site, tenant: Tenant) -> None:
    await site.controller.service.create_kernel(KernelRequest(tenant=tenant.id, wait_s=0))


async def test_of_many_who_ask_at_once_as_many_get_a_kernel_as_the_quota_has(controller: Start) -> None:
    async with controller() as site:
        tenant = await site.tenant(replicas=0, limits={"max_kernels": 3})
        asked = await asyncio.gather(*(more(site, tenant) for _ in range(8)), return_exceptions=True)

        denied = [answer for answer in asked if isinstance(answer, TooManyError)]
        assert (len(tenant.entries), len(denied)) == (3, 5)
        assert {(error.limit, error.retry_after_s) for error in denied} == {("max_kernels", 1.0)}
        assert "its limit max_kernels is 3" in str(denied[0])


async def test_replicas_beyond_the_quota_are_refused_and_nothing_is_changed(controller: Start) -> None:
    async with controller() as site:
        with pytest.raises(TooManyError, match="max_kernels is 2"):
            await site.tenant("big", replicas=3, limits={"max_kernels": 2})
        assert "big" not in site.controller.tenants

        tenant = await site.tenant(replicas=2, limits={"max_kernels": 2})
        with pytest.raises(TooManyError):
            await change(site, tenant, replicas=3)
        assert tenant.spec.replicas == 2
        await change(site, tenant, replicas=3, limits={"max_kernels": 3})
        with pytest.raises(TooManyError):
            await more(site, tenant)


async def test_without_cgroups_the_sum_of_the_limits_is_held_to_the_total(controller: Start) -> None:
    async with controller() as site:
        limits = {"memory_bytes": 2**20, "total_memory_bytes": 2 * 2**20}
        tenant = await site.tenant(replicas=2, limits=limits, isolation_level="none")
        with pytest.raises(TooManyError, match="total_memory_bytes"):
            await more(site, tenant)
        with pytest.raises(TooManyError, match="total_memory_bytes"):
            await change(site, tenant, limits={"memory_bytes": 2 * 2**20})
        (view, _) = site.controller.service.kernels(tenant.id)
        assert view.limits["total_memory_bytes"].enforced_by == "controller"


async def test_a_quota_is_not_lowered_below_what_there_is(controller: Start) -> None:
    async with controller() as site:
        tenant = await site.tenant(replicas=2, limits={"storage_bytes": 65536}, isolation_level="none")
        before = tenant.spec

        with pytest.raises(ConflictError, match=r"max_kernels: expected 0 .* at least 2, .* found 1: .* delete"):
            await change(site, tenant, limits={"max_kernels": 1})
        with pytest.raises(
            ConflictError, match=r"total_storage_bytes: expected 0 .* at least 131072, .* found 65536: "
        ):
            await change(site, tenant, limits={"total_storage_bytes": 65536})
        with pytest.raises(ConflictError, match=r"total_memory_bytes: expected 0 .* at least 1073741824, .* found"):
            await change(site, tenant, limits={"total_memory_bytes": 2**20})
        assert tenant.spec == before, "nothing is changed"

        await change(site, tenant, replicas=1, limits={"max_kernels": 1, "total_storage_bytes": 65536})
        assert tenant.spec.replicas == 1, "what is in one change is looked at as a whole"


async def test_quotas_can_be_switched_off(controller: Start) -> None:
    async with controller(resource_quotas=False) as site:
        tenant = await site.tenant(replicas=0, limits={"max_kernels": 1})
        await more(site, tenant)
        await more(site, tenant)
        assert len(tenant.entries) == 2
