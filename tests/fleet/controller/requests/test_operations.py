"""Signals and draining of real kernels: one, a tenant's, all; and what follows by the restart rule."""

import asyncio
from typing import Any

import pytest

from llmspell_fleet.controller.kernels.entry import Entry
from llmspell_fleet.errors import ConflictError, UnavailableError
from llmspell_fleet.model.kernel import Death, Phase
from llmspell_fleet.model.requests import DrainRequest, ForwardedSignal, TenantChange
from support.controllers import SPIN, Site, Start, begun, in_phase, only, ready_again
from support.kernels import READY_S
from support.spawning import eventually

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]

SHORT = "for i = 1, 2e7 do end return 'finished'"


def drained(**asked: Any) -> DrainRequest:
    return DrainRequest(**{"wait_s": READY_S, **asked})


def death_of(entry: Entry) -> Death:
    assert entry.kernel.last_death is not None
    return entry.kernel.last_death


async def test_int_interrupts_what_runs(controller: Start) -> None:
    async with controller() as site:
        tenant = await site.tenant()
        asking = site.asking(tenant, SPIN)
        await begun(only(tenant))

        site.controller.service.signal_kernel(only(tenant).id, None, "INT")

        assert (await asking)["status"] == "interrupted"
        assert only(tenant).kernel.incarnation == 1


@pytest.mark.parametrize(("name", "words"), [("USR1", "statistics: "), ("USR2", "SIGUSR2: the log level is now debug")])
async def test_others_have_the_kernels_own_meaning(name: ForwardedSignal, words: str, controller: Start) -> None:
    async with controller() as site:
        tenant = await site.tenant(replicas=2)

        site.controller.service.signal_tenant(tenant.id, name)

        for entry in tenant.entries.values():
            await eventually(lambda e=entry: any(words in line for line in e.output.last(20)), words)  # type: ignore[misc]
            signalled = [event.data["signal"] for event in site.events(entry) if event.type == "kernel.signalled"]
            assert signalled == [f"SIG{name}"]


@pytest.mark.parametrize(("rule", "comes_back"), [("always", True), ("on-failure", False), ("never", False)])
async def test_term_is_a_stop_that_the_restart_rule_answers(rule: str, comes_back: bool, controller: Start) -> None:
    async with controller() as site:
        entry = only(await site.tenant(restart=rule))

        site.controller.service.signal_all("TERM")

        if comes_back:
            await ready_again(entry, 2)
        else:
            await in_phase(entry, Phase.STOPPED)
            assert entry.kernel.is_wanted
        death = death_of(entry)
        assert (death.cause, death.rung, death.exit_code) == ("stopped", "terminate", 0)


async def test_a_kernel_without_a_process_cannot_be_signalled(controller: Start) -> None:
    async with controller() as site:
        entry = only(await site.tenant())
        await site.controller.service.drain_kernel(entry.id, None, drained())

        with pytest.raises(ConflictError, match="has no process: it is STOPPED"):
            site.controller.service.signal_kernel(entry.id, None, "USR1")
        site.controller.service.signal_all("USR1")


async def test_a_drained_kernel_finishes_its_work_and_stays_down_until_somebody_restarts_it(controller: Start) -> None:
    async with controller() as site:
        tenant = await site.tenant()
        entry = only(tenant)
        asking = site.asking(tenant, SHORT)
        await begun(entry)

        view = await site.controller.service.drain_kernel(entry.id, None, drained())

        assert (await asking)["result"] == "finished"
        death = death_of(entry)
        assert (view.phase, death.cause, death.rung) == ("STOPPED", "drained", "drain")
        with pytest.raises(UnavailableError, match="they are STOPPED"):
            await site.execute(tenant, "return 1", timeout_s=5)
        site.controller.tenants.reconcile(tenant)
        assert (len(tenant.entries), entry.kernel.phase) == (1, Phase.STOPPED)
        await site.controller.service.restart_kernel(entry.id, None)
        assert (await site.execute(tenant, "return 1"))["result"] == "1"


async def test_a_tenant_drains_for_new_processes_while_it_works(controller: Start) -> None:
    async with controller() as site:
        tenant = await site.tenant(replicas=2)
        asking = [site.asking(tenant, SHORT) for _ in range(2)]
        for entry in tenant.entries.values():
            await begun(entry)

        view = await site.controller.service.drain_tenant(tenant.id, drained(restart=True))

        assert [answer["result"] for answer in await asyncio.gather(*asking)] == ["finished"] * 2
        assert [(kernel.phase, kernel.incarnation) for kernel in view.kernels] == [("READY", 2)] * 2
        assert {death_of(entry).cause for entry in tenant.entries.values()} == {"restarted"}


async def test_everything_drains_and_comes_back(controller: Start) -> None:
    async with controller() as site:
        for name in ("a", "b"):
            await site.tenant(name)
        service = site.controller.service

        down = await service.drain_all(drained())
        up = await service.drain_all(drained(restart=True))

        assert [kernel.phase for tenant in down for kernel in tenant.kernels] == ["STOPPED"] * 2
        assert [(kernel.phase, kernel.incarnation) for tenant in up for kernel in tenant.kernels] == [("READY", 2)] * 2


async def test_a_kernel_past_its_age_finishes_what_it_runs_and_is_followed_by_another(controller: Start) -> None:
    async with controller() as site:
        tenant = await site.tenant()
        entry = only(tenant)
        asking = site.asking(tenant, SHORT)
        await begun(entry)

        await site.controller.service.update_tenant(tenant.id, TenantChange(max_age_s=0.01, max_age_variance=0))
        assert (await asking)["result"] == "finished"
        await site.controller.service.update_tenant(tenant.id, TenantChange(max_age_s=0))

        await ready_again(entry, 2)
        first = (await deaths(site, entry))[0]
        assert (first.cause, first.rung, first.detail) == ("max_age", "drain", "max_age_s is 0.01")


async def deaths(site: Site, entry: Entry) -> list[Death]:
    await site.store.flush()
    return await site.store.deaths(entry.id)
