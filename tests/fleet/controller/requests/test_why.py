"""Real kernels explained."""

import asyncio
import signal

import pytest

from llmspell_fleet.errors import NotFoundError
from llmspell_fleet.model.ids import WARM, KernelId
from llmspell_fleet.model.kernel import Phase
from llmspell_fleet.model.why import Coming, WhyView
from support.controllers import SPIN, Start, begun, fleet_paths, in_phase, kill, only, ready_again, running
from support.spawning import eventually

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]


def coming(view: WhyView, what: str) -> Coming:
    return next(one for one in view.next if one.what == what)


async def test_when_it_is_culled_follows_its_last_use(controller: Start) -> None:
    async with controller() as site:
        tenant = await site.tenant(idle_timeout_s=100.0)
        why = site.controller.service.why
        await eventually(lambda: site.controller.culling.outlook(only(tenant)) is not None, "it is looked at")
        await asyncio.sleep(0.5)
        before = coming(await why(only(tenant).id, None), "culled").in_s
        await site.execute(tenant, "return 1")
        after = coming(await why(only(tenant).id, tenant.id), "culled")

        assert before is not None
        assert after.in_s is not None
        assert before < after.in_s <= 100.0
        assert after.at is not None


async def test_a_crash_is_explained_with_what_ran_and_its_certificates(controller: Start) -> None:
    async with controller() as site:
        tenant = await site.tenant()
        entry = only(tenant)
        asked = site.asking(tenant, SPIN)
        await begun(entry)
        kill(entry)
        await asyncio.wait([asked])
        asked.exception()
        await ready_again(entry, 2)

        view = await site.controller.service.why(entry.id, None)

        assert (view.phase, view.deaths[0].signal) == ("READY", signal.SIGKILL.name)
        assert "incarnation 2" in view.because[0]
        assert "code with the hash" in view.because[2]


async def test_leases_and_a_pool_that_will_shrink_are_told(controller: Start) -> None:
    async with controller(lease_ttl_s=50.0) as site:
        tenant = await site.tenant(replicas=2, autoscale={"min": 1, "max": 2, "busy_share": 1.0, "down_after_s": 90.0})
        lent = await site.controller.service.lease(tenant.id, "mine")
        await eventually(lambda: site.controller.autoscaling.shrinks_at(tenant) is not None, "its load is known")
        idle = next(entry for entry in tenant.entries.values() if entry.id != lent.kernel_id)

        views = [await site.controller.service.why(kernel, None) for kernel in (lent.kernel_id, idle.id)]

        assert 40 < (coming(views[0], "given back").in_s or 0) <= 50
        assert "stopped" not in [one.what for one in views[0].next]
        assert 80 < (coming(views[1], "stopped").in_s or 0) <= 90


async def test_a_warm_kernel_is_nobody_s(controller: Start) -> None:
    async with controller(warm_size=1) as site:
        await eventually(lambda: len(site.controller.supervisor) == 1, "a warm kernel")
        (entry,) = site.controller.supervisor
        await in_phase(entry, Phase.READY)

        view = await site.controller.service.why(entry.id, None)

        assert (view.tenant, coming(view, "claimed").setting) == (WARM, "")


async def test_a_kernel_that_left_is_explained_also_by_the_next_controller() -> None:
    with fleet_paths() as paths:
        async with running(paths) as site:
            tenant = await site.tenant(replicas=2)
            kernel = next(iter(tenant.entries))
            await site.controller.service.delete_kernel(kernel, None)
            view = await site.controller.service.why(kernel, tenant.id)
            assert (view.phase, view.deaths[0].cause) == ("GONE", "stopped")
        async with running(paths) as site:
            again = await site.controller.service.why(kernel, None)
            assert again.summary == view.summary == "It has left for good: it was stopped."
            with pytest.raises(NotFoundError):
                await site.controller.service.why(KernelId("00000000-0000-4000-8000-000000000000"), None)
