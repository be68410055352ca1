"""Rolling restarts of real kernels: one after the other, one roll at a time, stopped by a kernel that fails, gone on with."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from msgspec.structs import replace

from llmspell_fleet.controller.pools.tenant import Tenant
from llmspell_fleet.errors import BadRequestError, ConflictError, TooManyError
from llmspell_fleet.model.ids import TenantId
from llmspell_fleet.model.requests import DrainRequest, RollRequest, TenantChange
from llmspell_fleet.model.views import RollView
from llmspell_fleet.policy.lifecycle import TAKES_WORK
from support.controllers import PATIENT, Site, Start, fleet_paths, running
from support.kernels import READY_S
from support.spawning import eventually

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]


async def restart(site: Site, tenant: Tenant, **asked: Any) -> RollView:
    return await site.controller.service.restart_tenant(tenant.id, RollRequest(**{"wait_s": READY_S, **asked}))


def incarnations(tenant: Tenant) -> dict[str, int]:
    return {entry.id: entry.kernel.incarnation for entry in tenant.entries.values()}


def roll_notes(site: Site) -> list[str]:
    return [name for name in site.store.load().notes if name.startswith("roll ")]


def watched(site: Site, tenant: Tenant, look: Callable[[], int]) -> list[int]:
    """What `look` sees after each change of the tenant's kernels."""
    seen: list[int] = []
    before = site.controller.tenants.on_change

    def changed(one: Tenant) -> None:
        if one is tenant:
            seen.append(look())
        before(one)

    site.controller.tenants.on_change = changed
    return seen


async def test_kernels_that_a_person_drained_are_started_by_a_persons_restart(controller: Start) -> None:
    async with controller() as site:
        tenant = await site.tenant(replicas=3)
        await site.controller.service.drain_tenant(tenant.id, DrainRequest())

        roll = await restart(site, tenant)

        assert (roll.status, roll.done) == ("done", 3)
        assert set(incarnations(tenant).values()) == {2}
        assert all(entry.kernel.phase in TAKES_WORK for entry in tenant.entries.values())


@pytest.mark.parametrize(
    ("asked", "fewest", "most"),
    [
        ({}, 3, 4),
        ({"max_unavailable": 2}, 2, 4),
        ({"max_unavailable": 0, "max_surge": 1}, 4, 5),
        ({"max_unavailable": "25%", "max_surge": "25%"}, 3, 5),
        ({"max_unavailable": "1%"}, 3, 4),
    ],
)
async def test_every_kernel_is_new_and_never_too_few_are_ready(
    controller: Start, asked: dict[str, Any], fewest: int, most: int
) -> None:
    async with controller() as site:
        tenant = await site.tenant(replicas=4)
        before = incarnations(tenant)
        ready = watched(site, tenant, lambda: tenant.ready)
        kernels = watched(site, tenant, lambda: len(tenant.entries))

        roll = await restart(site, tenant, **asked)

        assert (roll.status, roll.done, roll.total, roll.reason) == ("done", 4, 4, "")
        assert min(ready) >= fewest
        assert max(kernels) <= most
        await eventually(lambda: len(tenant.entries) == 4, "those that stood in have left")
        assert incarnations(tenant) == {kernel: incarnation + 1 for kernel, incarnation in before.items()}
        assert site.controller.tenants.promised == 4
        assert site.controller.service.tenant(tenant.id).roll == roll


async def test_a_tenant_has_one_roll_at_a_time(controller: Start) -> None:
    async with controller() as site:
        tenant = await site.tenant(replicas=2)
        other = await site.tenant("other")
        async with site.spinning(other):
            first = site.controller.background.run(restart(site, other))
            await asyncio.sleep(0)
            with pytest.raises(ConflictError, match="already"):
                await restart(site, other)
            assert (await restart(site, tenant)).status == "done", "others' are their own"
            view = await restart_view(site, other)
            assert (view.status, view.done, view.total) == ("rolling", 0, 1)
        assert (await first).status == "done"


async def restart_view(site: Site, tenant: Tenant) -> RollView:
    view = site.controller.service.tenant(tenant.id).roll
    assert view is not None
    return view


async def test_what_could_never_begin_is_refused(controller: Start) -> None:
    async with controller(max_kernels=2) as site:
        tenant = await site.tenant(replicas=2)

        with pytest.raises(BadRequestError, match="max_unavailable and max_surge are both 0"):
            await restart(site, tenant, max_unavailable=0)
        with pytest.raises(TooManyError):
            await restart(site, tenant, max_surge=1)

        assert site.controller.service.tenant(tenant.id).roll is None
        assert site.controller.tenants.promised == 2


async def test_a_kernel_that_does_not_become_ready_ends_it_and_the_rest_goes_on(controller: Start) -> None:
    async with controller(restart=replace(PATIENT, first_delay_s=READY_S)) as site:
        tenant = await site.tenant(replicas=3)
        before = incarnations(tenant)
        site.spawner.script += ["fail", "fail"]

        roll = await restart(site, tenant)

        assert (roll.status, roll.done, roll.total) == ("failed", 0, 3)
        assert "spawn_failed, scripted: no process" in roll.reason
        after = incarnations(tenant)
        assert sum(after[kernel] == before[kernel] for kernel in before) == 2
        assert tenant.ready == 2
        assert (await site.execute(tenant, "return 1"))["result"] == "1"
        types = [event.type for event in site.controller.events.since(0, tenant.id, 10_000)]
        assert types.count("tenant.rolling") == types.count("tenant.roll_failed") == 1
        assert (await restart(site, tenant)).status == "done", "what was down goes first, and comes back"


async def test_a_tenant_that_is_deleted_or_scaled_meanwhile_ends_it(controller: Start) -> None:
    async with controller() as site:
        service = site.controller.service
        doomed, scaled = await site.tenant("doomed", replicas=2), await site.tenant("scaled", replicas=4)
        rolls = [site.controller.background.run(restart(site, one)) for one in (doomed, scaled)]
        await asyncio.sleep(0.01)

        await service.delete_tenant(doomed.id)
        await service.update_tenant(scaled.id, TenantChange(replicas=2))

        _gone, fewer = await asyncio.gather(*rolls, return_exceptions=True)
        assert isinstance(fewer, RollView)
        assert fewer.status == "done"
        await eventually(lambda: len(scaled.entries) == 2, "two have left")
        assert not site.controller.rolls.is_rolling(doomed.id)
        await site.store.flush()
        assert roll_notes(site) == []


async def test_a_tenant_without_kernels_has_nothing_to_restart(controller: Start) -> None:
    async with controller() as site:
        tenant = await site.tenant(replicas=0)

        roll = await restart(site, tenant)

        assert (roll.status, roll.total) == ("done", 0)


async def test_the_next_controller_goes_on_with_what_is_left() -> None:
    with fleet_paths() as paths:
        async with running(paths) as site:
            tenant = await site.tenant(replicas=3)
            site.controller.rolls.start(tenant, max_unavailable=1, max_surge=1)
            await eventually(lambda: (tenant.roll or None) and tenant.roll.done >= 1, "one is restarted")  # type: ignore[union-attr]
        async with running(paths) as site:
            tenant = site.controller.tenants.get(TenantId("t"))
            await site.controller.rolls.ended(tenant.id, READY_S)

            assert tenant.roll is not None
            assert tenant.roll.status == "done"
            assert not site.controller.rolls.is_rolling(tenant.id)
            await eventually(
                lambda: [e.kernel.phase in TAKES_WORK for e in tenant.entries.values()] == [True] * 3, "three are ready"
            )
            await site.store.flush()
            assert roll_notes(site) == []


async def test_a_note_that_cannot_be_read_is_told_and_forgotten(caplog: pytest.LogCaptureFixture) -> None:
    with fleet_paths() as paths:
        async with running(paths) as site:
            await site.tenant()
            site.store.save_note("roll t", '{"targets": 7}')
            site.store.save_note("roll gone", "{}")
        async with running(paths) as site:
            assert not site.controller.rolls.is_rolling(TenantId("t"))
            await site.store.flush()
            assert roll_notes(site) == []
    assert "the rolling restart of tenant t cannot be read" in caplog.text
