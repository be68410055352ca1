"""One recorded outcome for each execution with an Idempotency-Key, or that is fetched later: whatever happens."""

import asyncio
import json
from hashlib import sha256

import msgspec
import pytest
from msgspec.structs import replace

from llmspell_fleet.controller.pools.tenant import Tenant
from llmspell_fleet.controller.work.recorded import Recorded
from llmspell_fleet.errors import ConflictError, NotFoundError, TooManyError, UnavailableError
from llmspell_fleet.model.ids import KernelId, TenantId
from llmspell_fleet.model.tenant import TenantSpec
from llmspell_fleet.model.views import Executed, ExecutionView
from llmspell_fleet.store.records import Begun, Execution, Placed, TenantRecord
from llmspell_fleet.store.store import Store
from support.controllers import PATIENT, SPIN, Site, Start, begun, fleet_paths, kill, only, request, running
from support.spawning import eventually

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]

COUNT = "n = (n or 0) + 1 return n"


def recorded(site: Site) -> Recorded:
    return site.controller.service._of.recorded


async def ask(site: Site, tenant: Tenant, code: str, key: str, **members: object) -> Executed:
    return await recorded(site).execute(tenant, request(code, **members), key)


async def shown(site: Site, tenant: Tenant, execution: str) -> ExecutionView:
    """How an execution stands, once it is over."""
    while True:
        view = await recorded(site).show(tenant.id, execution)
        if view.status != "pending":
            return view
        await asyncio.sleep(0.01)


def result(executed: Executed) -> object:
    return json.loads(executed.body)["result"]


# --- one outcome


async def test_the_same_key_is_run_once_however_many_ask_at_once(controller: Start) -> None:
    async with controller() as site:
        tenant = await site.tenant()

        answers = await asyncio.gather(*(ask(site, tenant, COUNT, "k") for _ in range(20)))
        later = await ask(site, tenant, COUNT, "k")

        assert {answer.body for answer in answers} == {later.body}
        assert result(later) == "1"
        assert [answer.is_replayed for answer in answers].count(False) == 1
        assert later.is_replayed
        assert tenant.executions == 0
        assert (await site.execute(tenant, COUNT))["result"] == "2"


async def test_keys_are_a_tenant_s_own_and_mean_one_body(controller: Start) -> None:
    async with controller() as site:
        one, other = await site.tenant("one"), await site.tenant("other")
        await ask(site, one, COUNT, "k", session="s")

        assert not (await ask(site, other, COUNT, "k")).is_replayed
        assert not (await ask(site, one, COUNT, "k2", session="s")).is_replayed
        for code, members in (
            (f"{COUNT} ", {"session": "s"}),
            (COUNT, {"session": "t"}),
            (COUNT, {"session": "s", "timeout_s": 1}),
        ):
            with pytest.raises(ConflictError, match="k"):
                await ask(site, one, code, "k", **members)
        assert one.executions == other.executions == 0


async def test_an_outcome_outlives_the_controller(controller: Start) -> None:
    with fleet_paths() as paths:
        async with running(paths) as site:
            first = await ask(site, await site.tenant(), COUNT, "k")
        async with running(paths) as site:
            again = await ask(site, site.controller.tenants.get(TenantId("t")), COUNT, "k")

    assert (again.status, again.body, again.is_replayed) == (200, first.body, True)


async def test_a_script_s_error_is_an_outcome_like_any_other(controller: Start) -> None:
    async with controller() as site:
        tenant = await site.tenant()
        answers = [await ask(site, tenant, "n = (n or 0) + 1 error('no ' .. n, 0)", "k") for _ in range(2)]

        assert [answer.is_replayed for answer in answers] == [False, True]
        assert {json.loads(answer.body)["error"]["message"] for answer in answers} == {"no 1"}


# --- who asks may leave


async def test_it_goes_on_when_its_asker_leaves(controller: Start) -> None:
    async with controller() as site:
        tenant = await site.tenant()
        code = f"for i = 1, 2e7 do end {COUNT}"
        asking = site.asking(tenant, code, key="k")
        await begun(only(tenant))

        asking.cancel()
        await asyncio.wait([asking])
        assert tenant.executions == 1
        after = await ask(site, tenant, code, "k")

        assert (result(after), after.is_replayed, tenant.executions) == ("1", True, 0)


async def test_the_second_asker_may_leave_too(controller: Start) -> None:
    async with controller() as site:
        tenant = await site.tenant()
        code = f"for i = 1, 2e7 do end {COUNT}"
        first, second = (site.asking(tenant, code, key="k") for _ in range(2))
        await begun(only(tenant))

        second.cancel()

        assert (await first)["result"] == "1"
        assert tenant.executions == 0


async def test_its_key_is_free_when_its_asker_left_before_it_began(controller: Start) -> None:
    async with controller() as site:
        tenant = await site.tenant()
        asking = site.asking(tenant, COUNT, key="k")
        await asyncio.sleep(0)  # it waits for the store now
        asking.cancel()
        await asyncio.wait([asking])

        after = await ask(site, tenant, COUNT, "k")

        # It was not begun: its key is free again.
        assert (after.status, after.is_replayed) == (200, False)
        assert tenant.executions == 0


# --- what fails


async def test_what_never_began_may_be_asked_again_with_its_key(controller: Start) -> None:
    async with controller() as site:
        tenant = await site.tenant("t", "hang")
        with pytest.raises(UnavailableError, match="no kernel of tenant t became READY in time"):
            await ask(site, tenant, COUNT, "k", timeout_s=0.05)
        await eventually(lambda: only(tenant).process, "a process that hangs")
        kill(only(tenant))

        answer = await ask(site, tenant, COUNT, "k", timeout_s=30)

        assert (answer.status, answer.is_replayed) == (200, False)
        assert tenant.executions == 0


async def test_what_never_began_and_nobody_waited_for_has_that_for_an_outcome(controller: Start) -> None:
    async with controller() as site:
        tenant = await site.tenant("t", "hang")
        view = await recorded(site).start(tenant, request(COUNT, timeout_s=0.05), None)

        assert (await shown(site, tenant, view.id)).http_status == 503


async def test_a_death_is_an_outcome_with_its_certificate(controller: Start) -> None:
    async with controller() as site:
        tenant = await site.tenant()
        asking = site.controller.background.run(ask(site, tenant, SPIN, "k"))
        await begun(only(tenant))
        kill(only(tenant))
        first = await asking
        again = await ask(site, tenant, SPIN, "k")

        assert (first.status, again.status, again.is_replayed) == (502, 502, True)
        problem = json.loads(first.body)
        assert json.loads(again.body) == problem
        assert problem["death"]["signal"] == "SIGKILL"
        # It is named in the certificate as it is in the interface.
        (named,) = problem["death"]["executions"]
        assert (await recorded(site).show(tenant.id, named["id"])).status == "failed"


async def test_what_is_refused_at_the_door_is_no_outcome(controller: Start) -> None:
    async with controller() as site:
        tenant = await site.tenant(limits={"max_executions": 1})
        async with site.spinning(tenant):
            with pytest.raises(TooManyError):
                await ask(site, tenant, COUNT, "k")

        assert (await ask(site, tenant, COUNT, "k")).is_replayed is False


# --- fetched later


async def test_what_was_started_is_pending_and_then_has_its_outcome(controller: Start) -> None:
    async with controller() as site:
        tenant = await site.tenant()
        view = await recorded(site).start(tenant, request(f"for i = 1, 2e7 do end {COUNT}"), None)
        assert (view.status, view.outcome, view.http_status) == ("pending", None, None)
        assert tenant.executions == 1
        over = await shown(site, tenant, view.id)

        assert (over.status, over.http_status, over.created_at <= (over.finished_at or "")) == ("done", 200, True)
        assert over.outcome is not None
        assert json.loads(bytes(over.outcome))["result"] == "1"
        assert tenant.executions == 0


async def test_starting_with_a_key_twice_is_one_execution(controller: Start) -> None:
    async with controller() as site:
        tenant = await site.tenant()
        first = await recorded(site).start(tenant, request(COUNT), "k")
        second = await recorded(site).start(tenant, request(COUNT), "k")
        await shown(site, tenant, first.id)
        third = await recorded(site).start(tenant, request(COUNT), "k")

        assert first.id == second.id == third.id
        assert (third.status, third.http_status) == ("done", 200)
        assert (await site.execute(tenant, COUNT))["result"] == "2"


@pytest.mark.parametrize("execution", ["", "nothing", "x" * 300, "0" * 24])
async def test_what_is_not_there_or_another_s_is_not_found(execution: str, controller: Start) -> None:
    async with controller() as site:
        one, other = await site.tenant("one"), await site.tenant("other", replicas=0)
        view = await recorded(site).start(one, request(COUNT), None)
        await shown(site, one, view.id)

        for tenant, name in ((other, view.id), (one, execution)):
            with pytest.raises(NotFoundError, match="there is no execution"):
                await recorded(site).show(tenant.id, name)


# --- controllers that end


def stored(code: str, key: str | None, execution: str) -> Execution:
    body = sha256(msgspec.json.encode((code, None, None))).hexdigest()
    return Execution(id=execution, tenant=TenantId("t"), key=key, sha256=body, created_at="2026-01-01T00:00:00.000000Z")


async def test_what_a_dead_controller_left_pending_is_run_again_only_if_it_was_sent_to_nobody() -> None:
    with fleet_paths() as paths:
        store = Store.open(paths.database)
        store.save_tenant(TenantRecord(spec=TenantSpec(id=TenantId("t")), created_at="2026-01-01T00:00:00.000000Z"))
        sent, unsent, unkeyed = (
            stored(COUNT, "sent", "sent"),
            stored(COUNT, "unsent", "unsent"),
            stored(COUNT, None, "unkeyed"),
        )
        for execution in (sent, unsent, unkeyed):
            assert isinstance(await store.begin_execution(execution), Begun)
        placed = Placed(id="sent", kernel_id=KernelId("gone"), incarnation=1, after_ticket=7, head=b"{")
        store.place_execution(placed)
        store.close()

        async with running(paths) as site:
            tenant = site.controller.tenants.get(TenantId("t"))
            lost = await ask(site, tenant, COUNT, "sent")
            assert (lost.status, lost.is_replayed) == (502, True)
            problem = json.loads(lost.body)
            assert (problem["status"], problem["title"]) == (502, "Outcome unknown")
            view = await recorded(site).show(tenant.id, "unkeyed")
            assert (view.status, view.http_status, view.outcome is not None) == ("failed", 503, True)
            again = await ask(site, tenant, COUNT, "unsent")
            assert (again.status, again.is_replayed, json.loads(again.body)["result"]) == (200, False, "1")
            assert (await site.execute(tenant, COUNT))["result"] == "2"


async def test_what_runs_when_the_fleet_ends_has_an_outcome_too(controller: Start) -> None:
    with fleet_paths() as paths:
        async with running(paths, restart=replace(PATIENT, drain_deadline_s=0.05)) as site:
            tenant = await site.tenant()
            view = await recorded(site).start(tenant, request(SPIN), None)
            await begun(only(tenant))
        async with running(paths) as site:
            tenant = site.controller.tenants.get(TenantId("t"))
            over = await recorded(site).show(tenant.id, view.id)

            assert over.status in ("done", "failed")
            assert over.outcome is not None
            outcome = json.loads(bytes(over.outcome))
            assert outcome["status"] in ("interrupted", 502)
