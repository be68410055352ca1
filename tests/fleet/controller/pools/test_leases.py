"""Kernels that are lent: granted once for each session, renewed by who uses them, taken back when nobody does."""

import asyncio
import signal
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from llmspell_fleet.controller.kernels.entry import Entry
from llmspell_fleet.controller.pools.leases import Leases
from llmspell_fleet.controller.pools.tenant import Tenant
from llmspell_fleet.errors import GoneError, NotFoundError
from llmspell_fleet.model.ids import KernelId, TenantId
from llmspell_fleet.model.kernel import Phase
from llmspell_fleet.store.records import Lease
from llmspell_kernel.client.kernel_client import KernelClient
from support.controllers import Site, Start, fleet_paths, in_phase, kill, only, ready_again, running
from support.kernels import READY_S
from support.spawning import eventually

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]

LONG_S = 600.0
SHORT_S = 0.05


def lent(tenant: Tenant, entry: Entry) -> tuple[int, int]:
    """How often a kernel is lent, as is shown and as is balanced by."""
    return entry.leases, tenant.pool.load(entry.id)


@contextmanager
def client_of(entry: Entry) -> Iterator[KernelClient]:
    """An ordinary client, connected."""
    assert entry.connection is not None
    with KernelClient(entry.connection) as client:
        yield client


async def gone(leases: Leases) -> None:
    await eventually(lambda: not len(leases), "the leases have ended")


# --- granted


async def test_a_lease_counts_as_load_until_it_ends(controller: Start) -> None:
    async with controller(lease_ttl_s=LONG_S) as site:
        tenant, leases = await site.tenant(), site.controller.leases
        entry = only(tenant)

        one = leases.grant(tenant, "one", entry)
        other = leases.grant(tenant, "other", entry)

        assert lent(tenant, entry) == (2, 2)
        assert len({one.id, other.id}) == len(leases) == 2
        assert (one.tenant, one.session, one.kernel_id) == (tenant.id, "one", entry.id)
        assert leases.get(one.id, tenant.id) == leases.get(one.id, None) == one
        leases.end(one.id, tenant.id)
        assert lent(tenant, entry) == (1, 1)
        assert len(leases) == 1
        with pytest.raises(NotFoundError, match="ask for a connection again"):
            leases.end(one.id, None)
        assert lent(tenant, entry) == (1, 1)


async def test_a_session_has_one_lease_which_asking_again_renews(controller: Start) -> None:
    async with controller(lease_ttl_s=LONG_S) as site:
        tenant, leases = await site.tenant(), site.controller.leases
        entry = only(tenant)
        first = leases.grant(tenant, "mine", entry)

        again = leases.grant(tenant, "mine", entry)

        assert again.id == first.id
        assert again.expires_at > first.expires_at
        assert lent(tenant, entry) == (1, 1)


async def test_sessions_of_one_name_in_two_tenants_are_two(controller: Start) -> None:
    async with controller(lease_ttl_s=LONG_S) as site:
        one, other, leases = await site.tenant("one"), await site.tenant("other"), site.controller.leases
        first, second = (leases.grant(tenant, "mine", only(tenant)) for tenant in (one, other))

        assert first.id != second.id
        for ask in (
            lambda: leases.get(first.id, other.id),
            lambda: leases.renew(first.id, other.id, 1.0),
            lambda: leases.end(first.id, other.id),
            lambda: leases.get("", None),
        ):
            with pytest.raises(NotFoundError):
                ask()
        assert len(leases) == 2


# --- ended by time


async def test_a_lease_that_nobody_uses_ends_at_its_time(controller: Start) -> None:
    async with controller(lease_ttl_s=SHORT_S) as site:
        tenant, leases = await site.tenant(), site.controller.leases
        lease = leases.grant(tenant, "mine", only(tenant))

        await gone(leases)

        assert lent(tenant, only(tenant)) == (0, 0)
        await site.store.flush()
        assert site.store.load().leases == []
        with pytest.raises(NotFoundError):
            leases.renew(lease.id, None, None)


async def test_the_controller_s_own_traffic_does_not_renew_it(controller: Start) -> None:
    async with controller(lease_ttl_s=0.3) as site:
        tenant, leases = await site.tenant(), site.controller.leases
        leases.grant(tenant, "mine", only(tenant))

        async with asyncio.timeout(READY_S):
            while len(leases):
                await site.execute(tenant, "return 1")


async def test_a_client_s_traffic_renews_it_until_it_ends(controller: Start) -> None:
    async with controller(lease_ttl_s=0.5) as site:
        tenant, leases = await site.tenant(), site.controller.leases
        entry = only(tenant)
        lease = leases.grant(tenant, "mine", entry)
        with client_of(entry) as client:
            await asyncio.to_thread(client.connect, READY_S)
            async with asyncio.timeout(READY_S):
                while leases.get(lease.id, None).expires_at == lease.expires_at:
                    await asyncio.to_thread(client.execute, "return 1", timeout_s=READY_S)
        assert lent(tenant, entry) == (1, 1)

        await gone(leases)
        assert lent(tenant, entry) == (0, 0)


async def test_renewing_says_for_how_long_and_that_holds_on(controller: Start) -> None:
    async with controller(lease_ttl_s=SHORT_S) as site:
        tenant, leases = await site.tenant(), site.controller.leases
        lease = leases.grant(tenant, "mine", only(tenant))
        renewed = leases.renew(lease.id, tenant.id, LONG_S)
        assert renewed.expires_at > lease.expires_at
        assert leases._held[lease.id].timer.when() > asyncio.get_running_loop().time() + LONG_S / 2

        again = leases.renew(lease.id, None, None)

        assert again.expires_at >= renewed.expires_at
        leases.renew(lease.id, None, SHORT_S)
        await gone(leases)


async def test_a_kernel_that_does_not_answer_keeps_no_lease(controller: Start) -> None:
    async with controller(lease_ttl_s=SHORT_S) as site:
        tenant, leases = await site.tenant(), site.controller.leases
        kill(only(tenant), signal.SIGSTOP)
        leases.grant(tenant, "mine", only(tenant))

        await gone(leases)
        kill(only(tenant), signal.SIGCONT)


async def test_a_lease_that_is_taken_back_while_it_is_looked_at_stays_taken_back(controller: Start) -> None:
    async with controller(lease_ttl_s=LONG_S) as site:
        tenant, leases = await site.tenant(), site.controller.leases
        entry = only(tenant)
        lease = leases.grant(tenant, "mine", entry)
        looking = site.controller.background.run(leases._look(lease.id))
        await asyncio.sleep(0)
        assert not looking.done()

        leases.end(lease.id, None)
        await looking

        assert (len(leases), lent(tenant, entry)) == (0, (0, 0))


# --- kernels that come and go


async def test_a_lease_holds_over_its_kernel_s_incarnations(controller: Start) -> None:
    async with controller(lease_ttl_s=LONG_S) as site:
        tenant, leases = await site.tenant(), site.controller.leases
        entry = only(tenant)
        lease = leases.grant(tenant, "mine", entry)
        before = entry.connection
        kill(entry)
        await ready_again(entry, 2)

        assert leases.get(lease.id, None) == lease
        assert lent(tenant, entry) == (1, 1)
        assert before is not None
        assert entry.connection is not None
        assert (entry.connection.key, entry.connection.endpoint("shell")) == (before.key, before.endpoint("shell"))


async def test_a_lease_of_a_kernel_between_two_incarnations_ends_at_its_time(controller: Start) -> None:
    async with controller(lease_ttl_s=SHORT_S) as site:
        tenant, leases = await site.tenant(), site.controller.leases
        entry = only(tenant)
        site.spawner.script.append("hang")
        kill(entry)
        await in_phase(entry, Phase.STARTING)
        leases.grant(tenant, "mine", entry)

        await gone(leases)


async def test_a_lease_of_a_kernel_that_left_ends_with_it(controller: Start) -> None:
    async with controller(lease_ttl_s=LONG_S) as site:
        tenant, leases = await site.tenant(), site.controller.leases
        lease = leases.grant(tenant, "mine", only(tenant))
        await site.controller.service.delete_kernel(only(tenant).id, None)
        await eventually(lambda: not tenant.entries, "its kernel has left")

        assert not len(leases)
        with pytest.raises(GoneError, match="was stopped"):
            leases.end(lease.id, tenant.id)


# --- restarts of the controller


async def test_the_next_controller_takes_them_up_each_for_a_full_term() -> None:
    with fleet_paths() as paths:
        async with running(paths, lease_ttl_s=LONG_S) as site:
            tenant = await site.tenant()
            lease = site.controller.leases.grant(tenant, "mine", only(tenant))
        async with running(paths, lease_ttl_s=LONG_S) as site:
            tenant, leases = site.controller.tenants.get(TenantId("t")), site.controller.leases

            assert leases.get(lease.id, tenant.id) == lease
            assert lent(tenant, only(tenant)) == (1, 1)
            assert leases._held[lease.id].timer.when() > asyncio.get_running_loop().time() + LONG_S / 2
            leases.end(lease.id, None)
        async with running(paths) as site:
            assert len(site.controller.leases) == 0


async def test_of_those_whose_kernel_or_tenant_is_no_more_nothing_is_kept(controller: Start) -> None:
    async with controller() as site:
        tenant, leases = await site.tenant(), site.controller.leases
        there = only(tenant).id
        elsewhere = KernelId("00000000-0000-4000-8000-000000000001")
        for name, owner, kernel in (("1", "t", elsewhere), ("2", "nobody", there)):
            lease = Lease(id=name, tenant=TenantId(owner), session="mine", kernel_id=kernel, expires_at="")
            leases.restore([lease])

        assert len(leases) == 0
        assert lent(tenant, only(tenant)) == (0, 0)


async def test_the_end_of_the_fleet_takes_none_back() -> None:
    with fleet_paths() as paths:
        async with running(paths, lease_ttl_s=LONG_S) as site:
            await _lend(site)
        async with running(paths) as site:
            assert len(site.controller.leases) == 1


async def _lend(site: Site) -> None:
    tenant = await site.tenant()
    site.controller.leases.grant(tenant, "mine", only(tenant))


async def test_one_that_is_renewed_while_its_kernel_is_asked_who_uses_it_holds(controller: Start) -> None:
    async with controller(lease_ttl_s=SHORT_S) as site:
        tenant = await site.tenant()
        entry, leases = only(tenant), site.controller.leases
        assert entry.channel is not None
        lease = leases.grant(tenant, "mine", entry)
        kill(entry, signal.SIGSTOP)
        asked = entry.channel._asked
        await eventually(lambda: asked, "its kernel to be asked")
        leases.renew(lease.id, tenant.id, LONG_S)

        await eventually(lambda: all(answer.done() for answer in asked.values()), "nobody to wait for its answer")
        await asyncio.sleep(0)  # whoever waited is told

        assert leases.get(lease.id, tenant.id).id == lease.id
        assert entry.leases == 1
        kill(entry, signal.SIGCONT)
