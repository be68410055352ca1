"""The end of a fleet: work is let finish, unless it takes too long or somebody insists."""

import asyncio
import signal
from collections.abc import Awaitable
from pathlib import Path

import pytest
from msgspec.structs import replace

from llmspell_fleet.controller.pools.tenant import Tenant
from llmspell_fleet.errors import UnavailableError
from llmspell_fleet.model.kernel import Death, Phase
from llmspell_fleet.model.requests import ApplyRequest, KernelRequest, RollRequest, TenantChange, TenantRequest
from llmspell_fleet.policy.events import RestartAsked, TerminateAsked
from support.controllers import PATIENT, Site, Start, begun, in_phase, kill, only
from support.forking import DEAF, patch_kernels
from support.kernels import READY_S

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]

SOON_S = 15.0
"""Half of what a kernel is given to drain, and to stop, here."""


def causes(tenant: Tenant) -> list[str]:
    """Why its kernels ended."""
    return [entry.kernel.last_death.cause for entry in tenant.entries.values() if entry.kernel.last_death is not None]


async def stop(site: Site, *, is_forced: bool = False) -> None:
    async with asyncio.timeout(SOON_S):
        await site.controller.stop(is_forced=lambda: is_forced)


async def test_what_runs_is_let_finish(controller: Start) -> None:
    async with controller() as site:
        tenant = await site.tenant(replicas=2)
        asking = site.asking(tenant, "for i = 1, 2e7 do end return 'finished'")
        working = next(iter(tenant.entries.values()))
        await begun(working)

        await stop(site)

        assert (await asking)["result"] == "finished"
        assert causes(tenant) == ["stopped", "stopped"]
        assert {entry.kernel.phase for entry in tenant.entries.values()} == {Phase.STOPPED}


async def test_what_runs_too_long_is_interrupted_and_answered(controller: Start) -> None:
    async with controller(restart=replace(PATIENT, drain_deadline_s=0.1)) as site:
        tenant = await site.tenant()
        asking = site.asking(tenant, "while true do end")
        await begun(only(tenant))

        await stop(site)

        assert (await asking)["status"] == "interrupted"
        assert causes(tenant) == ["stopped"]


def death_of(tenant: Tenant) -> Death:
    death = only(tenant).kernel.last_death
    assert death is not None
    return death


async def test_who_is_suspended_goes_on_to_stop(controller: Start) -> None:
    async with controller() as site:
        tenant = await site.tenant()
        kill(only(tenant), signal.SIGSTOP)

        await stop(site)

        death = death_of(tenant)
        assert (death.cause, death.rung, death.exit_code) == ("stopped", "shutdown", 0)


async def test_who_does_not_stop_is_killed(controller: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    patch_kernels(monkeypatch, tmp_path, DEAF)
    patience = {f"{rung}_deadline_s": 0.1 for rung in ("interrupt", "shutdown", "stop")}
    async with controller(restart=replace(PATIENT, **patience)) as site:
        tenant = await site.tenant()
        kill(only(tenant), signal.SIGUSR1)
        await stop(site)

        death = death_of(tenant)
        assert (death.cause, death.rung, death.signal) == ("stopped", "kill", "SIGKILL")


@pytest.mark.parametrize(
    ("code", "rung"), [("for i = 1, 2e7 do end", "drain"), ("while true do end", "interrupt"), (None, "shutdown")]
)
async def test_the_certificate_names_the_rung_that_worked(code: str | None, rung: str, controller: Start) -> None:
    drain_deadline_s = 0.1 if rung == "interrupt" else READY_S
    async with controller(restart=replace(PATIENT, drain_deadline_s=drain_deadline_s)) as site:
        tenant = await site.tenant()
        if code is not None:
            site.asking(tenant, code)
            await begun(only(tenant))

        await stop(site)

        death = death_of(tenant)
        assert (death.cause, death.rung, death.exit_code) == ("stopped", rung, 0)
        told = [event.data["rung"] for event in site.events(only(tenant)) if event.type == "kernel.stopped"]
        assert told == [rung]


@pytest.mark.parametrize("insists", ["from the start", "later"])
async def test_who_insists_does_not_wait_for_what_runs(insists: str, controller: Start) -> None:
    async with controller() as site:
        tenant, other = await site.tenant("t"), await site.tenant("other")
        kill(only(other), signal.SIGSTOP)
        async with site.spinning(tenant) as working:
            is_forced = insists == "from the start"

            async def insist() -> None:
                nonlocal is_forced
                await in_phase(working, Phase.DRAINING)
                is_forced = True

            async with asyncio.timeout(SOON_S), asyncio.TaskGroup() as tasks:
                tasks.create_task(site.controller.stop(is_forced=lambda: is_forced))
                if not is_forced:
                    tasks.create_task(insist())

        assert causes(tenant) + causes(other) == ["stopped", "stopped"]


async def test_starts_that_are_under_way_end_too(controller: Start) -> None:
    async with controller() as site:
        tenant = await site.tenant("t", "hang", "fail", "fail", replicas=2)

        await stop(site)

        assert {entry.kernel.phase for entry in tenant.entries.values()} == {Phase.STOPPED}
        assert not any(entry.process for entry in tenant.entries.values())


async def test_what_should_be_is_left_as_it_is(controller: Start) -> None:
    async with controller() as site:
        await site.tenant(replicas=2)
        await site.store.flush()
        before = site.store.load()

        await stop(site)
        await site.store.flush()

        after = site.store.load()
        assert after.tenants == before.tenants
        assert [kernel.spec for kernel in after.kernels] == [kernel.spec for kernel in before.kernels]
        for kernel in after.kernels:
            assert (kernel.is_wanted, kernel.phase, kernel.pid, kernel.ending) == (True, Phase.PENDING, None, None)
            assert kernel.last_death is not None
            assert kernel.last_death.cause == "stopped"


async def test_what_is_asked_for_meanwhile_is_refused_and_begins_nothing(controller: Start) -> None:
    async with controller() as site:
        tenant = await site.tenant()
        service = site.controller.service
        async with site.spinning(tenant) as entry:
            stopping = asyncio.ensure_future(stop(site))
            await in_phase(entry, Phase.DRAINING)
            asked: list[Awaitable[object]] = [
                service.create_kernel(KernelRequest(tenant=tenant.id)),
                service.create_tenant(TenantRequest(id="late")),
                service.update_tenant(tenant.id, TenantChange(replicas=3)),
                service.restart_kernel(entry.id, None),
                service.restart_tenant(tenant.id, RollRequest()),
                service.apply(ApplyRequest(config="")),
            ]
            for request in asked:
                with pytest.raises(UnavailableError, match="shutting down"):
                    await request
        await stopping

        assert causes(tenant) == ["stopped"]
        assert [one.process for one in site.controller.supervisor] == [None]


async def test_what_would_be_started_again_is_not_when_the_fleet_ends(controller: Start) -> None:
    async with controller() as site:
        tenant = await site.tenant()
        async with site.spinning(tenant) as entry:
            stopping = asyncio.ensure_future(stop(site))
            await in_phase(entry, Phase.DRAINING)
            site.controller.supervisor.apply(entry, RestartAsked())
            site.controller.supervisor.apply(entry, TerminateAsked())
        await stopping

        assert (entry.process, entry.kernel.incarnation) == (None, 1)
        assert entry.kernel.is_wanted, "by the next controller"


async def test_stopping_twice_is_stopping_once(controller: Start) -> None:
    async with controller() as site:
        await site.tenant()
        await stop(site)
        await stop(site)

        types = [event.type for event in site.controller.events.since(0, None, 100)]
        assert types.count("fleet.stopping") == 1
