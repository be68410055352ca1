"""A change of the isolation level: kernels are replaced, and until then everybody is told what their processes are."""

import pytest
from msgspec.structs import replace

from llmspell_fleet.controller.pools.tenant import Tenant
from llmspell_fleet.model.requests import TenantChange
from llmspell_fleet.model.tenant import IsolationLevel
from llmspell_fleet.model.views import CheckView
from support.controllers import Site, Start, only, ready_again
from support.kernels import READY_S

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]

WEAKER = CheckView(status="degraded", detail="1 kernel runs at none until restarted, and should at process")


async def change(site: Site, tenant: Tenant, level: IsolationLevel, wait_s: float = READY_S) -> None:
    """As a PATCH."""
    await site.controller.service.update_tenant(tenant.id, TenantChange(isolation_level=level, wait_s=wait_s))


def shown(site: Site, tenant: Tenant) -> list[str]:
    return [kernel.isolation_level for kernel in site.controller.service.tenant(tenant.id).kernels]


async def test_its_kernels_are_replaced_at_once(controller: Start) -> None:
    async with controller() as site:
        tenant = await site.tenant(replicas=2, isolation_level="none")
        assert shown(site, tenant) == ["none"] * 2

        await change(site, tenant, "process")

        assert [entry.kernel.incarnation for entry in tenant.entries.values()] == [2, 2]
        assert shown(site, tenant) == ["process"] * 2
        assert site.controller.health.view().checks["isolation"].status == "healthy"
        await change(site, tenant, "process")
        assert [entry.kernel.incarnation for entry in tenant.entries.values()] == [2, 2], "they are what they should be"


async def test_until_then_the_level_is_that_of_the_process(controller: Start) -> None:
    async with controller() as site:
        tenant = await site.tenant(isolation_level="none")
        async with site.spinning(tenant) as entry:
            await change(site, tenant, "process", wait_s=0)

            view = site.controller.health.view()
            assert shown(site, tenant) == ["none"]
            assert (view.status, view.checks["isolation"]) == ("degraded", WEAKER)
            assert list(view.isolation) == ["none"]
            assert site.controller.service.kernel(entry.id, None).limits["memory_bytes"].enforced_by == "lua"
        await ready_again(entry, 2)
        assert shown(site, tenant) == ["process"]
        assert site.controller.health.view().checks["isolation"].status == "healthy"


@pytest.mark.parametrize(
    ("recorded", "wanted", "told"),
    [
        ("none", "process", "none"),
        ("strict", "strict", "strict"),
        (None, "strict", "process"),
        (None, "none", "none"),
    ],
)
async def test_who_adopts_a_process_goes_by_what_was_recorded_of_it(
    controller: Start, recorded: IsolationLevel | None, wanted: IsolationLevel, told: str
) -> None:
    async with controller() as site:
        entry = only(tenant := await site.tenant())
        assert entry.kernel.isolation_level == "process"
        wants = replace(entry.kernel.spec, isolation_level=wanted)
        entry.kernel = replace(entry.kernel, spec=wants, isolation_level=recorded)

        site.controller.supervisor.holder.adopt(entry)

        assert shown(site, tenant) == [told]
        check = site.controller.health.view().checks["isolation"]
        assert check.status == ("healthy" if told == wanted else "degraded")
