"""Sessions and where they live; what tenants are promised, and that they get as many kernels and no more."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from llmspell_fleet.config.fleet import DeclaredKernel
from llmspell_fleet.controller.kernels.entry import Entry
from llmspell_fleet.controller.kernels.output import Output
from llmspell_fleet.controller.pools import tenant as module
from llmspell_fleet.controller.pools.tenant import Tenant, own_session
from llmspell_fleet.errors import NotFoundError, TooManyError
from llmspell_fleet.model.ids import KernelId, TenantId
from llmspell_fleet.model.kernel import Kernel, KernelSpec, Phase
from llmspell_fleet.model.requests import KernelRequest, TenantChange, TenantRequest
from llmspell_fleet.model.tenant import DEFAULT_TENANT, Limits, TenantSpec
from llmspell_fleet.store.records import TenantRecord
from support.controllers import PATIENT, Site, Start, in_phase, kill, only, ready_again
from support.kernels import READY_S
from support.spawning import eventually

ONE, TWO = (KernelId(f"{n}{n}{n}{n}{n}{n}{n}{n}-0000-4000-8000-000000000000") for n in (1, 2))


def new_tenant(*kernels: KernelId) -> Tenant:
    """A tenant with kernels that are ready, and have no processes."""
    made = Tenant(TenantRecord(spec=TenantSpec(id=TenantId("t")), created_at=""))
    for kernel in kernels:
        spec = KernelSpec(id=kernel, tenant=made.id)
        made.entries[kernel] = Entry(Kernel(spec=spec, phase=Phase.READY, incarnation=1), Output("/nowhere", []))
        made.pool.add(kernel)
        made.pool.set_ready(kernel, True)
    return made


def homes_of(tenant: Tenant, *sessions: str) -> list[KernelId | None]:
    """Where new requests of sessions go."""
    return [tenant.pool.choose("sticky", session, tenant.homes) for session in sessions]


# --- sessions


@pytest.mark.parametrize(
    ("case", "visits", "resets"),
    [
        ("the first visit", [(ONE, 1)], [False]),
        ("the same incarnation", [(ONE, 1), (ONE, 1)], [False, False]),
        ("the next incarnation", [(ONE, 1), (ONE, 2), (ONE, 2)], [False, True, False]),
        ("another kernel", [(ONE, 1), (TWO, 1), (TWO, 1)], [False, True, False]),
        ("another kernel and back", [(ONE, 1), (TWO, 1), (ONE, 1)], [False, True, True]),
    ],
)
def test_a_session_is_told_once_that_its_state_is_gone(
    case: str, visits: list[tuple[KernelId, int]], resets: list[bool]
) -> None:
    tenant = new_tenant(ONE, TWO)

    assert [tenant.settle("s", kernel, incarnation) for kernel, incarnation in visits] == resets
    assert tenant.homes == {"s": visits[-1][0]}


def test_sessions_weigh_where_they_live_and_only_there() -> None:
    tenant = new_tenant(ONE, TWO)
    for session in ("a", "b"):
        tenant.settle(session, ONE, 1)
    assert homes_of(tenant, "c") == [TWO]

    for session in ("a", "b"):
        tenant.settle(session, TWO, 1)

    assert homes_of(tenant, "a", "b", "c") == [TWO, TWO, ONE]


def test_who_leaves_home_is_placed_anew_and_still_told() -> None:
    tenant = new_tenant(ONE, TWO)
    tenant.settle("s", ONE, 1)

    tenant.leave_home("s")

    assert tenant.homes == {}
    assert tenant.settle("s", TWO, 1) is True


def test_a_home_that_was_removed_is_no_home() -> None:
    tenant = new_tenant(ONE, TWO)
    tenant.settle("s", ONE, 1)
    tenant.pool.remove(ONE)

    assert homes_of(tenant, "s") == [TWO]
    assert tenant.settle("s", TWO, 1) is True


def test_the_oldest_sessions_are_forgotten_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_SESSIONS", 3)
    tenant = new_tenant(ONE, TWO)
    for session in "abcd":
        tenant.settle(session, ONE, 1)
    assert list(tenant.homes) == ["b", "c", "d"]
    tenant.settle("b", ONE, 1)  # known: nobody is forgotten for it
    tenant.settle("c", TWO, 1)  # moved: nor for this
    assert list(tenant.homes) == ["b", "c", "d"]

    assert tenant.settle("a", TWO, 1) is False, "whoever was forgotten is new"
    assert list(tenant.homes) == ["c", "d", "a"]


@given(
    st.lists(
        st.tuples(st.sampled_from("abcde"), st.sampled_from([ONE, TWO]), st.integers(1, 2), st.booleans()), max_size=40
    )
)
def test_the_pool_counts_exactly_the_sessions_that_live_there(
    visits: list[tuple[str, KernelId, int, bool]],
) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MOST_SESSIONS", 3)
        tenant = new_tenant(ONE, TWO)
        for session, kernel, incarnation, leaves in visits:
            tenant.settle(session, kernel, incarnation)
            if leaves:
                tenant.leave_home(session)

        assert len(tenant.homes) <= 3
        weights = {kernel: tenant.pool._weights[tenant.pool._slots[kernel]] >> 32 for kernel in (ONE, TWO)}
        living = list(tenant.homes.values())
        assert weights == {kernel: living.count(kernel) for kernel in (ONE, TWO)}


def test_those_without_a_home_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_SESSIONS", 3)
    tenant = new_tenant(ONE)
    for number in range(20):
        tenant.settle(f"s{number}", ONE, 1)
        tenant.leave_home(f"s{number}")

    assert len(tenant._seen) <= 3


def test_a_session_of_our_own_making_has_its_home_in_its_name() -> None:
    tenant = new_tenant(ONE, TWO)
    name = own_session(tenant.entries[TWO])
    assert name == "k-222222220000-1"

    tenant.recognise(name)

    assert tenant.homes == {name: TWO}
    assert tenant.settle(name, TWO, 1) is False
    assert tenant.settle(name, TWO, 2) is True


@pytest.mark.parametrize(
    ("case", "session"),
    [
        ("a client's own", "mine"),
        ("a kernel that is not there", "k-333333330000-1"),
        ("not a kernel's beginning", "k-11111111-1"),
        ("capitals", "K-111111110000-1"),
        ("no incarnation", "k-111111110000"),
        ("an incarnation beyond all", "k-111111110000-1000000000"),
        ("digits of another script", "k-111111110000-\u0661"),
        ("a line after it", "k-111111110000-1\n"),
        ("more after it", "k-111111110000-1x"),
    ],
)
def test_other_sessions_are_nobody_s_yet(case: str, session: str) -> None:
    tenant = new_tenant(ONE, TWO)

    tenant.recognise(session)

    assert tenant.homes == {}


def test_a_session_that_lives_somewhere_is_not_moved_by_its_name() -> None:
    tenant = new_tenant(ONE, TWO)
    name = own_session(tenant.entries[ONE])
    tenant.settle(name, TWO, 1)

    tenant.recognise(name)

    assert tenant.homes == {name: TWO}


# --- kernels


def change(site: Site, tenant: Tenant, **changed: object) -> None:
    """What a tenant should have, and all that follows from it at once."""
    site.controller.tenants.change(tenant, replace(tenant.spec, **changed))
    site.controller.tenants.reconcile(tenant)


@pytest.mark.integration
@pytest.mark.asyncio
async def test_there_are_as_many_kernels_as_should_be(controller: Start) -> None:
    async with controller() as site:
        tenant = await site.tenant(replicas=2)
        before = list(tenant.entries)
        for replicas in (4, 1, 0, 3):
            change(site, tenant, replicas=replicas)
            wanted = [entry for entry in tenant.entries.values() if entry.kernel.is_wanted]
            assert len(wanted) == replicas
            await eventually(lambda: len(tenant.entries) == tenant.ready == tenant.spec.replicas, "as many are ready")
            if replicas == 1:
                assert next(iter(tenant.entries)) == before[0], "the newest leave first"

        assert len(tenant.pool) == 3
        assert len(site.controller.supervisor) == 3
        site.controller.tenants.reconcile(tenant)
        assert len(tenant.entries) == 3, "nothing is to be done twice"


@pytest.mark.integration
@pytest.mark.asyncio
async def test_fewer_kernels_spare_the_busy_and_those_that_are_lent(controller: Start) -> None:
    async with controller() as site:
        tenant = await site.tenant(replicas=3)
        _first, lent, _last = tenant.entries.values()
        site.controller.leases.grant(tenant, "mine", lent)

        change(site, tenant, replicas=1)

        await eventually(lambda: list(tenant.entries) == [lent.id], "the others have left")


@pytest.mark.integration
@pytest.mark.asyncio
async def test_declared_kernels_stay_and_keep_their_own_limits(controller: Start) -> None:
    declared = (DeclaredKernel(name="kept", idle_timeout_s=500.0),)
    async with controller(startup_kernels=2, declared=declared) as site:
        tenant = site.controller.tenants.get(DEFAULT_TENANT)
        (kept,) = (entry for entry in tenant.entries.values() if entry.kernel.spec.name == "kept")
        (other,) = (entry for entry in tenant.entries.values() if entry is not kept)
        fewer = Limits(max_clients=7)

        change(site, tenant, limits=fewer, idle_timeout_s=900.0)
        assert (other.kernel.spec.limits, other.kernel.spec.idle_timeout_s) == (fewer, 900.0)
        assert (kept.kernel.spec.limits, kept.kernel.spec.idle_timeout_s) == (Limits(), 500.0)
        change(site, tenant, replicas=1)

        await eventually(lambda: list(tenant.entries) == [kept.id], "the other one has left")


@pytest.mark.integration
@pytest.mark.asyncio
async def test_kernels_are_promised_before_they_are_there(controller: Start) -> None:
    async with controller(max_kernels=5) as site:
        tenants, service = site.controller.tenants, site.controller.service
        assert tenants.promised == 0
        one = await site.tenant("one", replicas=2, wait_s=0)
        assert tenants.promised == 2
        tenants.promise(3, one.spec)
        assert tenants.promised == 2, "to be taken in the same step, by the caller"

        with pytest.raises(TooManyError, match="4 more kernels were asked for, 2 are promised already"):
            await service.create_tenant(TenantRequest(id="two", replicas=4, wait_s=0))
        with pytest.raises(NotFoundError):
            tenants.get(TenantId("two"))
        with pytest.raises(TooManyError):
            await service.update_tenant(one.id, TenantChange(replicas=6, wait_s=0))
        assert one.spec.replicas == 2
        await service.update_tenant(one.id, TenantChange(replicas=5, wait_s=0))
        assert tenants.promised == 5
        with pytest.raises(TooManyError):
            await service.create_tenant(TenantRequest(id="two", replicas=1, wait_s=0))
        await service.create_tenant(TenantRequest(id="two", replicas=0, wait_s=0))


@pytest.mark.integration
@pytest.mark.asyncio
async def test_a_kernel_that_leaves_is_counted_until_it_has_left(controller: Start) -> None:
    async with controller(max_kernels=3) as site:
        tenant = await site.tenant(replicas=3)
        change(site, tenant, replicas=0)
        assert site.controller.tenants.promised == 3

        with pytest.raises(TooManyError):
            await site.tenant("other", replicas=1)
        await eventually(lambda: not tenant.entries, "they have left")

        await site.tenant("other", replicas=3)
        assert site.controller.tenants.promised == 3


@pytest.mark.integration
@pytest.mark.asyncio
async def test_fewer_and_at_once_more_kernels_are_never_more_than_the_fleet_may_have(controller: Start) -> None:
    async with controller(max_kernels=3) as site:
        tenant = await site.tenant(replicas=3)
        service = site.controller.service
        change(site, tenant, replicas=0)

        with pytest.raises(TooManyError):
            await service.update_tenant(tenant.id, TenantChange(replicas=3, wait_s=0))

        assert len(tenant.entries) <= 3
        await eventually(lambda: not tenant.entries, "they have left")
        await service.update_tenant(tenant.id, TenantChange(replicas=3))
        assert tenant.ready == 3


@pytest.mark.integration
@pytest.mark.asyncio
async def test_a_kernel_that_died_or_failed_is_still_a_tenant_s(controller: Start) -> None:
    async with controller(restart=replace(PATIENT, max_restarts=0)) as site:
        tenant = await site.tenant(replicas=2)
        one, other = tenant.entries.values()
        kill(one)
        await in_phase(one, Phase.FAILED)

        site.controller.tenants.reconcile(tenant)

        assert list(tenant.entries) == [one.id, other.id]
        assert (tenant.ready, site.controller.tenants.promised) == (1, 2)
        change(site, tenant, replicas=1)
        await eventually(lambda: list(tenant.entries) == [other.id], "the one that is down has left")
        change(site, tenant, replicas=2)
        assert len(tenant.entries) == 2


@pytest.mark.integration
@pytest.mark.asyncio
async def test_a_busy_kernel_that_leaves_finishes_first(controller: Start) -> None:
    async with controller() as site:
        tenant = await site.tenant(replicas=3)
        running = site.asking(tenant, "local n = 0 for i = 1, 3e7 do n = n + 1 end return n")
        await eventually(lambda: any(entry.load for entry in tenant.entries.values()), "one is busy")
        (busy,) = (entry for entry in tenant.entries.values() if entry.load)
        idle = [entry for entry in tenant.entries.values() if entry is not busy]

        change(site, tenant, replicas=1)
        assert [entry.kernel.phase for entry in idle] == [Phase.STOPPING] * 2, "the idle go, and at once"
        assert busy.kernel.phase is Phase.READY
        change(site, tenant, replicas=0)
        assert busy.kernel.phase is Phase.DRAINING

        assert (await running)["result"] == "30000000"
        await eventually(lambda: not tenant.entries, "they have left")


@pytest.mark.integration
@pytest.mark.asyncio
async def test_a_tenant_that_is_deleted_waits_for_no_script(controller: Start) -> None:
    async with controller() as site:
        tenant = await site.tenant()
        async with site.spinning(tenant):
            await asyncio.wait_for(site.controller.service.delete_tenant(tenant.id), READY_S)

        assert tenant.id not in site.controller.tenants


@pytest.mark.integration
@pytest.mark.asyncio
async def test_a_kernel_has_its_tenant_s_labels_and_its_own(controller: Start) -> None:
    async with controller() as site:
        service = site.controller.service
        tenant = await site.tenant(labels={"env": "test", "team": "x"})
        entry = only(tenant)
        own = await service.create_kernel(KernelRequest(tenant=tenant.id, name="own", labels={"team": "y", "a": "b"}))
        assert own.labels == {"env": "test", "team": "y", "a": "b"}
        records = {entry.id: entry.kernel for entry in tenant.entries.values()}

        changed = await service.update_tenant(tenant.id, TenantChange(labels={"env": "prod", "team": ""}))

        assert changed.labels == {"env": "prod"}
        assert service.kernel(entry.id, None).labels == {"env": "prod"}
        assert service.kernel(own.id, None).labels == {"env": "prod", "team": "y", "a": "b"}
        assert {entry.id: entry.kernel for entry in tenant.entries.values()} == records, "no kernel was touched"
        await site.store.flush()
        (stored,) = (record for record in site.store.load().tenants if record.spec.id == tenant.id)
        assert stored.spec.labels == {"env": "prod"}


@pytest.mark.integration
@pytest.mark.asyncio
async def test_changed_limits_hold_at_once_and_in_the_next_incarnation(controller: Start) -> None:
    async with controller() as site:
        tenant = await site.tenant()
        entry = only(tenant)
        print_it = "print(('x'):rep(100))"
        assert len((await site.execute(tenant, print_it))["stdout"]) == 101
        change(site, tenant, limits=replace(tenant.spec.limits, output_bytes=10))
        assert len((await site.execute(tenant, print_it))["stdout"]) <= 10

        kill(entry)
        await ready_again(entry, 2)

        assert len((await site.execute(tenant, print_it))["stdout"]) <= 10


@pytest.mark.integration
@pytest.mark.asyncio
async def test_what_a_tenant_should_have_outlives_the_controller_and_what_was_deleted_does_not(
    controller: Start,
) -> None:
    async with controller() as site:
        tenant = await site.tenant(replicas=2)
        await site.tenant("gone")
        await site.controller.service.delete_tenant(TenantId("gone"))
        await site.store.flush()

        loaded = site.store.load()

        assert {record.spec.id for record in loaded.tenants} == {"default", "t"}
        assert {kernel.id for kernel in loaded.kernels} == set(tenant.entries)
        assert TenantId("gone") not in site.controller.tenants
