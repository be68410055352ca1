"""Real kernels are held to their limits by the strongest layer there is, from their start, and when limits change."""

import asyncio
import resource

import msgspec
import pytest
from msgspec.structs import replace

from llmspell_fleet.cgroups.tree import FleetCgroups
from llmspell_fleet.controller.kernels.entry import Entry
from llmspell_fleet.controller.kernels.hold import memory_need
from llmspell_fleet.controller.limits.holding import load_secret
from llmspell_fleet.controller.pools.tenant import Tenant
from llmspell_fleet.errors import ConflictError, KernelDiedError
from llmspell_fleet.model.ids import TenantId
from llmspell_fleet.model.kernel import Phase
from llmspell_fleet.model.requests import KernelRequest, TenantChange
from llmspell_fleet.model.tenant import Limits, TenantSpec
from llmspell_fleet.model.views import LimitView
from llmspell_kernel.limits import KernelLimits
from llmspell_kernel.zygote.confine import HEADROOM_BYTES
from support.controllers import Site, Start, fleet_paths, kill, only, ready_again, running
from support.groups import above, existing, is_private, needs_cgroups
from support.runs import Runner
from support.spawning import eventually

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]

MIB = 1024 * 1024
HOARD = "local kept = {} for i = 1, %d do kept[i] = string.rep(tostring(i), 1024 * 128) end return #kept"
"""Holds some 384 KiB a round."""


def views(site: Site, entry: Entry) -> dict[str, LimitView]:
    return site.controller.service.kernel(entry.id, None).limits


async def change(site: Site, tenant: Tenant, **limits: float) -> None:
    """As a PATCH."""
    body = msgspec.convert({"limits": limits}, TenantChange)
    await site.controller.service.update_tenant(tenant.id, body)


async def held(site: Site, entry: Entry, limit: str, value: float) -> None:
    """Wait until the kernel is held to it."""
    await eventually(lambda: views(site, entry)[limit].value == value, f"{limit} to hold")


def rlimit(entry: Entry, which: int) -> int:
    assert entry.process is not None
    return resource.prlimit(entry.process.pid, which)[0]


async def test_memory_beyond_a_kernels_cgroup_ends_it_with_a_cause_and_numbers(controller: Start) -> None:
    needs_cgroups("memory")
    async with controller() as site:
        entry = only(tenant := await site.tenant(limits={"memory_bytes": 300 * MIB}))
        assert entry.grip.cgroups is not None
        entry.grip.cgroups.bound_memory(40 * MIB)

        with pytest.raises(KernelDiedError) as died:
            await site.execute(tenant, HOARD % 400)
        kernel = await ready_again(entry, 2)

        assert died.value.death == kernel.last_death
        death = kernel.last_death
        assert death is not None
        assert (death.cause, death.signal) == ("out_of_memory", "SIGKILL")
        assert "its cgroup's bound is 40 MiB (memory_bytes 300 MiB)" in death.detail
        assert len(death.executions) == 1
        # A later end by the same signal is not the memory's again.
        kill(entry)
        kernel = await ready_again(entry, 3)
        assert kernel.last_death is not None
        assert kernel.last_death.cause == "signal"


async def test_a_script_that_takes_more_than_its_memory_sees_an_error_and_its_kernel_lives(controller: Start) -> None:
    async with controller() as site:
        entry = only(tenant := await site.tenant(limits={"memory_bytes": 20 * MIB}))
        answer = await site.execute(tenant, HOARD % 400)

        assert answer["error"]["name"] == "MemoryError"
        assert (await site.execute(tenant, "return 1"))["result"] == "1"
        assert entry.kernel.incarnation == 1


async def test_the_kernels_of_a_tenant_together_hold_no_more_than_its_total(controller: Start) -> None:
    needs_cgroups("memory")
    async with controller() as site:
        tenant = await site.tenant(limits={"memory_bytes": 300 * MIB, "total_memory_bytes": 60 * MIB})
        entry = only(tenant)
        assert views(site, entry)["total_memory_bytes"].enforced_by == "cgroup"

        with pytest.raises(KernelDiedError) as died:
            await site.execute(tenant, HOARD % 400)
        kernel = await ready_again(entry, 2)

        assert died.value.death == kernel.last_death
        assert kernel.last_death is not None
        assert kernel.last_death.cause == "out_of_memory"
        assert "its tenant's or the machine's memory" in kernel.last_death.detail


async def test_a_total_below_what_is_held_is_refused_rather_than_enforced_by_killing(controller: Start) -> None:
    needs_cgroups("memory")
    async with controller() as site:
        entry = only(tenant := await site.tenant(limits={"memory_bytes": 300 * MIB}))
        await site.execute(tenant, "kept = string.rep('x', 60 * 1024 * 1024) return 1")

        with pytest.raises(ConflictError, match="stop or restart kernels first"):
            await change(site, tenant, total_memory_bytes=50 * MIB)

        assert entry.kernel.incarnation == 1
        assert tenant.spec.limits.total_memory_bytes == 0


async def test_limits_of_a_running_kernel_change_without_a_new_incarnation(controller: Start) -> None:
    needs_cgroups("memory", "cpu", "pids")
    async with controller() as site:
        entry = only(tenant := await site.tenant(limits={"memory_bytes": 100 * MIB, "files": 500}))
        grip = entry.grip
        assert grip.cgroups is not None
        before = grip.cgroups.memory_bound()
        need = memory_need(tenant.spec.limits)
        assert 0 <= before - need - HEADROOM_BYTES <= 64 * MIB

        await change(
            site,
            tenant,
            memory_bytes=30 * MIB,
            cpu_percent=40,
            processes=50,
            files=100,
            storage_bytes=MIB,
            execution_timeout_s=1.5,
            output_bytes=2000,
            max_clients=5,
            max_message_bytes=100_000,
        )
        await held(site, entry, "execution_timeout_s", 1.5)

        assert entry.kernel.incarnation == 1
        assert not [view for view in views(site, entry).values() if view.pending is not msgspec.UNSET]
        less = need - memory_need(tenant.spec.limits)
        assert before - grip.cgroups.memory_bound() == pytest.approx(less, abs=resource.getpagesize())
        assert {"memory", "cpu", "pids"} <= grip.cgroups.bounds.keys()
        assert entry.process is not None
        assert site.controller.supervisor.holder.cgroups.find(entry.process.pid, entry.id) is not None
        assert grip.cgroups.processes() == [entry.process.pid]
        assert rlimit(entry, resource.RLIMIT_FSIZE) == MIB
        assert rlimit(entry, resource.RLIMIT_NOFILE) == 100 + 5 * 5 + 64
        assert (await site.execute(tenant, HOARD % 400))["error"]["name"] == "MemoryError"
        assert (await site.execute(tenant, "while true do end"))["status"] == "timeout"
        assert (await site.execute(tenant, "print(string.rep('x', 5000))"))["error"]["name"] == "OutputLimit"
        # Its next incarnation is held to the same.
        kill(entry)
        await ready_again(entry, 2)
        assert grip.cgroups is not None
        assert {
            name: view.enforced_by for name, view in views(site, entry).items() if view.enforced_by == "cgroup"
        } == {
            "cpu_percent": "cgroup",
            "processes": "cgroup",
        }


async def test_what_only_a_new_incarnation_can_hold_is_pending_until_then(controller: Start) -> None:
    async with controller() as site:
        entry = only(tenant := await site.tenant(limits={"max_message_bytes": 100_000}))
        await change(site, tenant, max_message_bytes=200_000)

        view = views(site, entry)["max_message_bytes"]
        assert (view.value, view.pending) == (100_000, 200_000)
        assert view.detail is not msgspec.UNSET
        assert "next incarnation" in view.detail
        kill(entry)
        await ready_again(entry, 2)
        assert views(site, entry)["max_message_bytes"] == LimitView(value=200_000, enforced_by="kernel")


async def test_memory_that_is_in_use_is_not_taken_away_by_killing(controller: Start) -> None:
    async with controller() as site:
        entry = only(tenant := await site.tenant(limits={"memory_bytes": 400 * MIB, "output_bytes": MIB}))
        await site.execute(tenant, "kept = {} " + HOARD.partition("{}")[2] % 600)
        await change(site, tenant, memory_bytes=20 * MIB)

        view = views(site, entry)["memory_bytes"]
        assert (view.value, view.pending) == (400 * MIB, 20 * MIB)
        assert view.detail is not msgspec.UNSET
        assert "would" in view.detail
        # Scripts are held to it at once, and may give back what they have.
        assert (await site.execute(tenant, HOARD % 20))["error"]["name"] == "MemoryError"
        assert (await site.execute(tenant, "kept = nil collectgarbage() return 1"))["result"] == "1"
        site.controller.supervisor.holder.catch_up()
        assert views(site, entry)["memory_bytes"].pending is msgspec.UNSET
        assert views(site, entry)["memory_bytes"].value == 20 * MIB
        assert entry.kernel.incarnation == 1


async def test_a_client_with_a_kernels_key_cannot_lift_its_limits(controller: Start) -> None:
    async with controller() as site:
        entry = only(tenant := await site.tenant(limits={"execution_timeout_s": 0.2}))
        assert entry.connection is not None
        other = entry.id.replace(entry.id[0], "f" if entry.id[0] != "f" else "0")
        for proof in ("", site.controller.supervisor.holder.proof(other)):
            with Runner(msgspec.structs.asdict(entry.connection), proof=proof) as client:
                asked = client.ask("limits_request", {"limits": msgspec.to_builtins(KernelLimits())})
                refused = await asyncio.to_thread(client.reply, asked)
            assert refused["evalue"] == "only this kernel's supervisor may send a limits_request"

        assert (await site.execute(tenant, "while true do end"))["status"] == "timeout"


async def test_a_warm_kernel_that_is_claimed_is_counted_with_its_tenants(controller: Start) -> None:
    needs_cgroups("memory")
    async with controller() as site:
        tenant = await site.tenant(replicas=0, warm_size=1)
        await eventually(lambda: site.controller.warm.phases()[Phase.READY], "a warm kernel")
        (warm,) = site.controller.supervisor
        assert warm.process is not None
        assert warm.grip.tenant == "_warm"

        await site.controller.service.create_kernel(KernelRequest(tenant=tenant.id))
        await change(site, tenant, total_memory_bytes=500 * MIB)

        assert only(tenant) is warm
        found = site.controller.supervisor.holder.cgroups.find(warm.process.pid, warm.id)
        assert found is not None
        assert found.tenant == "t"
        assert warm.grip.cgroups is not None
        assert found.paths == warm.grip.cgroups.paths
        assert found.processes() == [warm.process.pid]


async def test_a_kernels_cgroups_are_gone_with_it(controller: Start) -> None:
    needs_cgroups("memory")
    async with controller() as site:
        entry = only(tenant := await site.tenant())
        assert entry.grip.cgroups is not None
        paths = entry.grip.cgroups.paths
        assert existing(paths) == list(paths)
        await site.controller.service.delete_tenant(tenant.id)
        await eventually(lambda: not existing(paths), "the directories to be gone")
        assert not existing(map(above, paths))


async def test_what_a_kernels_process_leaves_behind_ends_with_it(controller: Start) -> None:
    """A process of a kernel's cgroup that left its session: here one of ours that was moved there."""
    needs_cgroups("memory")
    async with controller() as site:
        entry = only(await site.tenant())
        assert entry.grip.cgroups is not None
        straggler = await asyncio.create_subprocess_exec("sleep", "1000", start_new_session=True)
        for path in entry.grip.cgroups.paths:
            entry.grip.cgroups.move(straggler.pid, path)
        kill(entry)
        await ready_again(entry, 2)
        assert await asyncio.wait_for(straggler.wait(), 10) == -9


async def test_an_adopted_kernel_is_held_as_before_and_what_is_left_of_others_is_removed() -> None:
    needs_cgroups("memory", "cpu")
    with fleet_paths() as paths:
        left = FleetCgroups(paths.runtime, paths.cgroups).make(
            "gone", "00000000-9999-4000-8000-000000000001", ["memory"]
        )
        assert left is not None
        async with running(paths) as site:
            assert not existing(left.paths)
            entry = only(await site.tenant(limits={"memory_bytes": 100 * MIB, "cpu_percent": 50}))
            before = views(site, entry)
            entry.grip.cgroups, entry.grip.baseline_bytes = None, 0
            site.controller.supervisor.holder.adopt(entry)  # as by a controller that comes back
            assert views(site, entry) == before
            assert entry.grip.cgroups is not None
            assert 0 < entry.grip.baseline_bytes < 64 * MIB


async def test_the_fleets_key_is_made_once_and_private() -> None:
    with fleet_paths() as paths:
        first = load_secret(paths.secret)
        assert len(first) == 32
        assert load_secret(paths.secret) == first
        assert is_private(paths.secret)


async def test_at_strict_a_limit_that_nobody_can_enforce_refuses_the_tenant(controller: Start) -> None:
    async with controller() as site:
        holder = site.controller.supervisor.holder
        spec = TenantSpec(id=TenantId("t"), isolation_level="strict", limits=Limits(total_storage_bytes=2**30))
        holder.require_enforced(replace(spec, limits=Limits()))
        holder.require_enforced(replace(spec, isolation_level="process", limits=Limits(cpu_percent=5)))
        holder.cgroups.parts.clear()
        with pytest.raises(ConflictError, match="nobody can enforce cpu_percent here"):
            holder.require_enforced(replace(spec, limits=Limits(cpu_percent=5)))
