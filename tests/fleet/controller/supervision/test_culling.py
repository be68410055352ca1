"""Unused kernels end, whoever used them how; whoever still names one is told why."""

import asyncio
import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest

from llmspell_fleet.controller.kernels.entry import Entry
from llmspell_fleet.controller.pools.tenant import Tenant
from llmspell_fleet.errors import GoneError, NotFoundError
from llmspell_fleet.model.ids import KernelId
from llmspell_fleet.model.kernel import Phase
from llmspell_fleet.model.requests import TenantChange
from llmspell_fleet.policy.events import StopAsked
from llmspell_kernel.client.kernel_client import KernelClient
from llmspell_kernel.connection import ConnectionInfo
from support.controllers import SPIN, Site, Start, begun, in_phase, only
from support.peers import Client
from support.spawning import eventually

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]

SHORT_S = 0.5


@contextmanager
def _client(entry: Entry) -> Iterator[KernelClient]:
    assert entry.connection is not None
    with KernelClient(entry.connection) as client:
        client.connect()
        yield client


async def _leaves(site: Site, kernel: KernelId) -> None:
    """Have a kernel leave for good, as when the pool shrinks."""
    entry = site.controller.supervisor.get(kernel)
    assert entry is not None
    site.controller.supervisor.apply(entry, StopAsked())
    await eventually(lambda: site.controller.supervisor.get(kernel) is None, "the kernel has left")


def _told(site: Site, entry: Entry) -> list[str]:
    return [event.type for event in site.events(entry)]


async def test_an_unused_kernel_is_culled_and_that_is_told_before(controller: Start) -> None:
    async with controller() as site:
        entry = only(await site.tenant(idle_timeout_s=SHORT_S))
        spawned_at = entry.kernel.spawned_at

        kernel = await in_phase(entry, Phase.STOPPED)

        assert asyncio.get_running_loop().time() - spawned_at >= SHORT_S - 0.005  # the clocks' grain
        assert kernel.last_death is not None
        assert (kernel.last_death.cause, kernel.is_wanted) == ("culled", True)
        assert _told(site, entry)[-2:] == ["kernel.culling", "kernel.stopped"]
        (culling,) = (event for event in site.events(entry) if event.type == "kernel.culling")
        assert 0 <= culling.data["in_s"] <= SHORT_S / 10
        assert "idle_timeout_s" in culling.data["reason"]


@pytest.mark.parametrize("change", [{"idle_timeout_s": 3.0}, {"cull_connected": True}])
async def test_whose_time_was_over_before_the_setting_came_has_notice_all_the_same(
    controller: Start, change: dict[str, Any]
) -> None:
    async with controller() as site:
        before_s = 3.0 if "cull_connected" in change else 600.0
        tenant = await site.tenant(idle_timeout_s=before_s)
        entry = only(tenant)
        loop = asyncio.get_running_loop()
        with contextlib.nullcontext() if before_s > 3 else _client(entry):
            await asyncio.sleep(3.2)  # nothing tells that it was unused for so long
            changed_at = loop.time()
            await site.controller.service.update_tenant(tenant.id, msgspec.convert(change, TenantChange))
            await eventually(lambda: "kernel.culling" in _told(site, entry), "the notice")
            # Looking at it does not put it off, and tells nothing twice.
            await site.controller.culling.refresh(entry)
            await in_phase(entry, Phase.STOPPED)

        assert 0.3 <= loop.time() - changed_at < 2
        (culling,) = (event for event in site.events(entry) if event.type == "kernel.culling")
        assert culling.data["in_s"] == 0.3


async def test_its_clients_hear_of_it_on_iopub(controller: Start) -> None:
    async with controller() as site:
        tenant = await site.tenant(idle_timeout_s=2 * SHORT_S, cull_connected=True)
        entry = only(tenant)
        connection: Any = entry.connection
        given = {name: getattr(connection, name) for name in ConnectionInfo.__struct_fields__}
        with Client(given, checks=False) as client:
            client.ask("kernel_info_request")
            heard: list[dict[str, Any]] = []

            def has_heard() -> bool:
                heard[:] = [m["content"] for m in client.unasked if m["msg_type"] == "kernel_culling"]
                return bool(heard)

            await asyncio.to_thread(client.until, has_heard, "the kernel's culling")
            assert 0 <= heard[0]["in_s"] <= SHORT_S / 5
            await in_phase(entry, Phase.STOPPED)


@pytest.mark.parametrize("is_used_by", ["a client", "http"])
async def test_what_uses_it_keeps_it(controller: Start, is_used_by: str) -> None:
    async with controller() as site:
        tenant = await site.tenant(idle_timeout_s=2 * SHORT_S, cull_connected=True)
        entry = only(tenant)
        loop = asyncio.get_running_loop()
        until = loop.time() + 5 * SHORT_S
        with _client(entry) as client:
            while loop.time() < until:
                if is_used_by == "http":
                    await site.execute(tenant, "return 1")
                else:
                    await asyncio.to_thread(client.execute, "return 1")
                await asyncio.sleep(SHORT_S / 4)
            assert (entry.kernel.phase, entry.kernel.incarnation) == (Phase.READY, 1)
        await in_phase(entry, Phase.STOPPED)


@pytest.mark.parametrize("cull_connected", [False, True])
async def test_a_client_that_only_looks_keeps_it_unless_told_otherwise(controller: Start, cull_connected: bool) -> None:
    async with controller() as site:
        entry = only(await site.tenant(idle_timeout_s=SHORT_S, cull_connected=cull_connected))
        with _client(entry):
            if cull_connected:
                await in_phase(entry, Phase.STOPPED)
                return
            await eventually(
                lambda: (seen := site.controller.culling.outlook(entry)) is not None and "connected" in seen.why,
                "it is kept by its client",
            )
            await asyncio.sleep(2 * SHORT_S)
            assert entry.kernel.phase is Phase.READY
        await in_phase(entry, Phase.STOPPED)


@pytest.mark.parametrize("cull_busy", [False, True])
async def test_what_runs_keeps_it_unless_told_otherwise(controller: Start, cull_busy: bool) -> None:
    async with controller() as site:
        tenant = await site.tenant(idle_timeout_s=SHORT_S, cull_busy=cull_busy)
        entry = only(tenant)
        running = site.asking(tenant, SPIN, timeout_s=4 * SHORT_S)
        await begun(entry)

        answer = (await asyncio.gather(running, return_exceptions=True))[0]

        if cull_busy:
            assert isinstance(answer, dict)
            assert answer["status"] == "interrupted"
            death = (await in_phase(entry, Phase.STOPPED)).last_death
            assert death is not None
            assert (death.cause, death.detail) == (
                "culled",
                f"its execution began longer ago than its idle_timeout_s, {SHORT_S:g}",
            )
        else:
            assert isinstance(answer, dict)
            assert (answer["status"], entry.kernel.incarnation) == ("timeout", 1)
            await in_phase(entry, Phase.STOPPED)


async def test_a_timeout_that_is_set_later_holds_at_once_and_one_that_is_taken_back_no_more(controller: Start) -> None:
    async with controller() as site:
        tenant = await site.tenant()
        entry = only(tenant)
        change = site.controller.tenants.change

        change(tenant, _with(tenant, idle_timeout_s=600.0))
        await eventually(lambda: site.controller.culling.outlook(entry) is not None, "it is looked at")
        change(tenant, _with(tenant, idle_timeout_s=SHORT_S))
        await in_phase(entry, Phase.STOPPED)
        change(tenant, _with(tenant, idle_timeout_s=0.0))
        await site.execute(tenant, "return 1")
        await asyncio.sleep(2 * SHORT_S)
        assert entry.kernel.phase is Phase.READY


def _with(tenant: Tenant, **members: Any) -> Any:
    from msgspec.structs import replace

    return replace(tenant.spec, **members)


# --- 410


async def test_a_lease_of_a_culled_kernel_is_gone_and_says_why(controller: Start) -> None:
    async with controller(lease_ttl_s=600.0) as site:
        tenant = await site.tenant(idle_timeout_s=SHORT_S, cull_connected=True)
        service = site.controller.service
        lent = await service.lease(tenant.id, "mine")
        await in_phase(only(tenant), Phase.STOPPED)

        with pytest.raises(GoneError, match="was culled") as told:
            service.renew_lease(lent.lease.id, tenant.id, None)
        assert told.value.death is not None
        assert (told.value.death.cause, only(tenant).leases) == ("culled", 0)
        with pytest.raises(NotFoundError):
            service.renew_lease(lent.lease.id, "other", None)  # type: ignore[arg-type]
        with pytest.raises(GoneError, match="ask again for another"):
            await service.lease(tenant.id, "mine")
        again = await service.lease(tenant.id, "mine")
        assert (again.kernel_id, again.lease.id != lent.lease.id) == (lent.kernel_id, True)


async def test_a_kernel_that_left_is_gone_and_says_why(controller: Start) -> None:
    async with controller() as site:
        tenant = await site.tenant(replicas=2)
        service = site.controller.service
        lent = await service.lease(tenant.id, "mine")

        await _leaves(site, lent.kernel_id)

        for owner in (None, tenant.id):
            with pytest.raises(GoneError, match="was stopped") as told:
                service.kernel(lent.kernel_id, owner)
            assert told.value.death is not None
            assert told.value.death.kernel_id == lent.kernel_id
        with pytest.raises(GoneError):
            service.renew_lease(lent.lease.id, None, None)
        other = await site.tenant("other")
        with pytest.raises(NotFoundError):
            service.kernel(lent.kernel_id, other.id)
        await service.delete_tenant(tenant.id)
        again = await site.tenant()
        with pytest.raises(NotFoundError):
            service.kernel(lent.kernel_id, again.id)
        with pytest.raises(NotFoundError):
            service.kernel(lent.kernel_id, None)


async def test_a_kernel_that_somebody_deleted_is_not_there(controller: Start) -> None:
    async with controller() as site:
        tenant = await site.tenant()
        entry = only(tenant)

        await site.controller.service.delete_kernel(entry.id, None)

        with pytest.raises(NotFoundError):
            site.controller.service.kernel(entry.id, None)
        assert (await site.controller.service.why(entry.id, None)).deaths


async def test_a_crash_takes_no_lease_away(controller: Start) -> None:
    from support.controllers import kill, ready_again

    async with controller(lease_ttl_s=600.0) as site:
        tenant = await site.tenant()
        lent = await site.controller.service.lease(tenant.id, "mine")
        kill(only(tenant))
        await ready_again(only(tenant), 2)

        assert site.controller.service.renew_lease(lent.lease.id, tenant.id, None).kernel_id == lent.kernel_id


async def test_what_is_remembered_of_the_ended_is_bounded(controller: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmspell_fleet.controller.pools.ended.KEPT", 2)
    async with controller() as site:
        tenant = await site.tenant(replicas=3)
        ids = list(tenant.entries)
        for kernel in ids:
            await _leaves(site, kernel)

        with pytest.raises(NotFoundError):
            site.controller.service.kernel(ids[0], None)
        for kernel in ids[1:]:
            with pytest.raises(GoneError):
                site.controller.service.kernel(kernel, None)
        monkeypatch.setattr("llmspell_fleet.controller.pools.ended.FOR_S", 0.0)
        with pytest.raises(NotFoundError):
            site.controller.service.kernel(ids[2], None)
