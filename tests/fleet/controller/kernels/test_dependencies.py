"""Declared kernels that wait for others: at the start, after restarts, and when what they wait for never comes."""

from typing import Any

import pytest

from llmspell_fleet.config.fleet import DeclaredKernel
from llmspell_fleet.controller.kernels.entry import Entry
from llmspell_fleet.model.kernel import Phase
from llmspell_fleet.model.requests import RollRequest
from llmspell_fleet.model.tenant import DEFAULT_TENANT
from support.controllers import Site, Start, fleet_paths, in_phase, kill, ready_again, running
from support.kernels import READY_S
from support.spawning import eventually

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]


def declared(**depends_on: dict[str, Any]) -> dict[str, Any]:
    """Kernels by name; one without dependencies ends for good when it ends well."""
    kernels = tuple(
        DeclaredKernel(name=name, depends_on=needs, restart=None if needs else "on-failure")
        for name, needs in depends_on.items()
    )
    return {"declared": kernels, "startup_kernels": len(kernels)}


def named(site: Site) -> dict[str, Entry]:
    tenant = site.controller.tenants.get(DEFAULT_TENANT)
    return {entry.kernel.spec.name: entry for entry in tenant.entries.values()}


def at(entry: Entry, kind: str, site: Site) -> int:
    return next(event.seq for event in site.events(entry) if event.type == kind)


async def test_kernels_start_in_the_order_of_what_they_wait_for(controller: Start) -> None:
    async with controller(**declared(last={"middle": "ready"}, middle={"first": "started"}, first={})) as site:
        kernels = named(site)

        for name in ("first", "middle", "last"):
            await in_phase(kernels[name], Phase.READY)

        assert at(kernels["first"], "kernel.starting", site) < at(kernels["middle"], "kernel.starting", site)
        assert at(kernels["middle"], "kernel.ready", site) < at(kernels["last"], "kernel.starting", site)


async def test_one_that_waits_for_a_good_end_starts_after_it(controller: Start) -> None:
    async with controller(**declared(loader={}, server={"loader": "exited_ok"})) as site:
        kernels = named(site)
        await in_phase(kernels["loader"], Phase.READY)
        assert kernels["server"].kernel.phase is Phase.PENDING

        kill(kernels["loader"])
        await ready_again(kernels["loader"], 2)
        assert kernels["server"].kernel.phase is Phase.PENDING, "a crash is no good end"
        site.controller.service.signal_kernel(kernels["loader"].id, None, "TERM")

        await in_phase(kernels["server"], Phase.READY)
        assert kernels["loader"].kernel.phase is Phase.STOPPED


async def test_a_restart_waits_too(controller: Start) -> None:
    async with controller(**declared(cache={}, server={"cache": "ready"})) as site:
        cache, server = named(site)["cache"], named(site)["server"]
        await in_phase(server, Phase.READY)
        site.controller.service.signal_kernel(cache.id, None, "TERM")
        await in_phase(cache, Phase.STOPPED)
        assert server.kernel.phase is Phase.READY, "what runs goes on"

        kill(server)

        await in_phase(server, Phase.PENDING)
        assert [event.type for event in site.events(server)][-1] == "kernel.waiting"
        await site.controller.service.restart_kernel(cache.id, None)
        await ready_again(server, 2)


@pytest.mark.parametrize("by", ["restart", "roll"])
async def test_a_restart_of_what_serves_does_not_wait_for_what_is_long_past(controller: Start, by: str) -> None:
    async with controller(**declared(loader={}, server={"loader": "exited_ok"})) as site:
        loader, server = named(site)["loader"], named(site)["server"]
        service = site.controller.service
        await in_phase(loader, Phase.READY)
        service.signal_kernel(loader.id, None, "TERM")
        await in_phase(server, Phase.READY)
        await service.restart_kernel(loader.id, None)
        await in_phase(loader, Phase.READY)

        if by == "restart":
            await service.restart_kernel(server.id, None)
        else:
            assert (await service.restart_tenant(DEFAULT_TENANT, RollRequest(wait_s=READY_S))).status == "done"

        await ready_again(server, 2)


async def test_who_asks_why_one_waits_is_told_whom_it_waits_for(controller: Start) -> None:
    async with controller(**declared(loader={}, server={"loader": "exited_ok"})) as site:
        server = named(site)["server"]
        await in_phase(named(site)["loader"], Phase.READY)

        told = await site.controller.service.why(server.id, None)

        assert told.because == ["Kernel loader has to be exited_ok; it is READY."]


async def test_what_waits_for_one_that_never_comes_ends_with_the_fleet() -> None:
    with fleet_paths() as paths:
        async with running(paths, **declared(first={}, second={"first": "exited_ok"})) as site:
            await in_phase(named(site)["first"], Phase.READY)
            second = named(site)["second"]
        assert (second.kernel.phase, second.kernel.incarnation) == (Phase.STOPPED, 0)


async def test_it_still_waits_for_a_later_controller() -> None:
    with fleet_paths() as paths:
        config = declared(loader={}, server={"loader": "exited_ok"})
        async with running(paths, **config) as site:
            await in_phase(named(site)["loader"], Phase.READY)
        async with running(paths, **config) as site:
            await in_phase(named(site)["loader"], Phase.READY)
            await eventually(lambda: named(site)["server"].kernel.phase is Phase.PENDING, "it to wait")
