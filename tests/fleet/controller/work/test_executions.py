"""The balanced route over real kernels whose starts go wrong as a script says: nobody waits longer than their time."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from llmspell_fleet.controller.pools.tenant import Tenant, own_session
from llmspell_fleet.controller.work import executions
from llmspell_fleet.errors import KernelDiedError, TooManyError, UnavailableError
from llmspell_fleet.model.kernel import Phase
from llmspell_fleet.router import link
from llmspell_fleet.spawner.scripted import Step
from support.controllers import (
    PATIENT,
    SPIN,
    Site,
    Start,
    begun,
    in_phase,
    kill,
    only,
    ready_again,
)
from support.spawning import eventually

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]


def is_at_rest(site: Site, tenant: Tenant) -> bool:
    """Nothing is counted that has ended."""
    entries = list(tenant.entries.values())
    loads = [tenant.pool.load(entry.id) for entry in entries]
    return not (tenant.executions or tenant.waiters or any(loads) or any(entry.load for entry in entries))


@contextlib.contextmanager
def occupied(path: Path) -> Iterator[None]:
    """A file where a directory should be."""
    path.touch()
    yield
    path.unlink()


# --- starts that go wrong


@pytest.mark.parametrize(
    ("step", "cause", "signal_name", "detail"),
    [
        ("fail", "spawn_failed", None, "scripted: no process"),
        ("crash_early", "signal", "SIGKILL", ""),
        ("crash_late", "signal", "SIGKILL", ""),
        ("refuse", "signal", "SIGKILL", "scripted: it cannot serve"),
    ],
)
async def test_a_start_that_goes_wrong_is_recorded_with_its_cause_and_tried_again(
    step: Step, cause: str, signal_name: str | None, detail: str, controller: Start
) -> None:
    async with controller() as site:
        tenant = await site.tenant("t", step)
        entry = only(tenant)
        await ready_again(entry, 2)

        deaths = await site.store.deaths(entry.id)
        assert [(death.incarnation, death.cause, death.signal, death.detail) for death in deaths] == [
            (1, cause, signal_name, detail)
        ]
        assert entry.kernel.last_death == deaths[0]
        assert (await site.execute(tenant, "return 1"))["result"] == "1"


async def test_a_start_that_hangs_is_ended_at_its_deadline(controller: Start) -> None:
    async with controller(restart=replace(PATIENT, start_deadline_s=1.0)) as site:
        tenant = await site.tenant("t", "hang")
        entry = only(tenant)
        await ready_again(entry, 2)

        first = (await site.store.deaths(entry.id))[0]
        assert (first.incarnation, first.cause, first.signal) == (1, "not_ready", "SIGKILL")
        assert first.detail == "no answer within 1 s"
        assert first.uptime_s > 0.5


async def test_a_start_that_fails_again_waits_a_while(controller: Start) -> None:
    async with controller(restart=replace(PATIENT, first_delay_s=0.2)) as site:
        tenant = await site.tenant("t", "fail", "fail")
        entry = only(tenant)
        await in_phase(entry, Phase.BACKOFF)
        # Whoever asks meanwhile waits for it.
        assert (await site.execute(tenant, "return 1"))["result"] == "1"

        assert entry.kernel.incarnation == 3
        types = [event.type for event in site.events(entry)]
        assert types == [
            *("kernel.starting", "kernel.died", "kernel.starting", "kernel.died", "kernel.backoff"),
            *("kernel.starting", "kernel.ready"),
        ]


async def test_a_start_that_fails_too_often_is_left_to_a_person_and_requests_say_so(controller: Start) -> None:
    async with controller(restart=replace(PATIENT, max_restarts=1)) as site:
        tenant = await site.tenant("t", "fail", "refuse")
        await in_phase(only(tenant), Phase.FAILED)

        async with asyncio.timeout(10):  # at once, and not when its time is over
            with pytest.raises(UnavailableError, match="no kernel that could become READY: they are FAILED; restart"):
                await site.execute(tenant, "return 1", timeout_s=300)
        assert is_at_rest(site, tenant)


async def test_a_directory_that_cannot_be_made_fails_that_start_and_no_other(controller: Start) -> None:
    async with controller(restart=replace(PATIENT, first_delay_s=0.05)) as site:
        in_the_way = Path(site.paths.logs, "kernels")
        with occupied(in_the_way):
            tenant = await site.tenant("t", "pass")
            entry = only(tenant)
            await in_phase(entry, Phase.BACKOFF)
        await ready_again(entry, 3)

        first = (await site.store.deaths(entry.id))[0]
        assert first.cause == "spawn_failed"
        assert str(in_the_way) in first.detail


# --- waiting for a kernel


async def test_a_request_waits_for_a_kernel_that_starts(controller: Start) -> None:
    async with controller() as site:
        tenant = await site.tenant(wait_s=0)
        assert only(tenant).kernel.phase is Phase.STARTING

        assert (await site.execute(tenant, "return 1"))["result"] == "1"
        assert is_at_rest(site, tenant)


async def test_a_request_whose_time_is_over_while_it_waits_is_answered_503(controller: Start) -> None:
    async with controller() as site:
        tenant = await site.tenant("t", "hang")

        with pytest.raises(UnavailableError, match=r"READY in time: they are STARTING") as unavailable:
            await site.execute(tenant, "return 1", timeout_s=0.05)

        assert (unavailable.value.status, unavailable.value.retry_after_s) == (503, 1.0)
        assert is_at_rest(site, tenant)


async def test_who_waits_is_answered_when_no_kernel_can_come_any_more(controller: Start) -> None:
    async with controller(restart=replace(PATIENT, max_restarts=0)) as site:
        tenant = await site.tenant("t", "hang")
        waiting = site.asking(tenant, "return 1", timeout_s=300)
        await eventually(lambda: tenant.waiters and only(tenant).process, "a request that waits for a process")
        kill(only(tenant))

        async with asyncio.timeout(10):
            with pytest.raises(UnavailableError, match="they are FAILED"):
                await waiting
        assert is_at_rest(site, tenant)


async def test_a_tenant_without_kernels_refuses_at_once(controller: Start) -> None:
    async with controller() as site:
        tenant = await site.tenant(replicas=0)

        async with asyncio.timeout(10):
            with pytest.raises(UnavailableError, match=r"become READY: it has none; .* raise the replicas"):
                await site.execute(tenant, "return 1", timeout_s=300)


async def test_a_kernel_that_takes_no_more_is_sent_no_more(controller: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "MOST_UNSENT_BYTES", 4_000_000)
    async with controller() as site:
        tenant = await site.tenant()
        assert (await site.execute(tenant, "return 1"))["result"] == "1"
        entry = only(tenant)
        assert entry.kernel.pid
        os.kill(entry.kernel.pid, signal.SIGSTOP)
        waiting = [site.asking(tenant, f"return 7 --{'x' * 3_000_000}") for _ in range(2)]
        await eventually(lambda: entry.channel is not None and entry.channel.is_full, "a connection that is full")
        with pytest.raises(UnavailableError, match=r"not begun: .* has not taken yet"):
            await site.execute(tenant, "return 1")
        os.kill(entry.kernel.pid, signal.SIGCONT)

        assert [(await one)["result"] for one in waiting] == ["7", "7"]
        assert (await site.execute(tenant, "return 1"))["result"] == "1"
        assert is_at_rest(site, tenant)


async def test_those_who_gave_up_waiting_leave_nothing(controller: Start) -> None:
    async with controller() as site:
        tenant = await site.tenant("t", "hang")
        waiting = [site.asking(tenant, "return 1", timeout_s=timeout_s) for timeout_s in (0.01, 0.02, 60)]
        await asyncio.wait(waiting[:2])
        waiting[2].cancel()
        await asyncio.wait(waiting)

        assert [type(task.exception()) for task in waiting[:2]] == [UnavailableError] * 2
        assert is_at_rest(site, tenant)


async def test_who_waits_is_answered_when_the_tenant_is_deleted(controller: Start) -> None:
    async with controller() as site:
        tenant = await site.tenant("t", "hang")
        waiting = site.asking(tenant, "return 1", timeout_s=60)
        await eventually(lambda: tenant.waiters, "a request that waits")

        await site.controller.service.delete_tenant(tenant.id)

        with pytest.raises(UnavailableError, match="tenant t is being deleted"):
            await waiting


async def test_who_waits_is_answered_when_the_fleet_ends(controller: Start) -> None:
    async with controller() as site:
        tenant = await site.tenant("t", "hang")
        waiting = site.asking(tenant, "return 1", timeout_s=60)
        await eventually(lambda: tenant.waiters, "a request that waits")

        await site.controller.stop(is_forced=lambda: False)

        with pytest.raises(UnavailableError, match="the fleet is shutting down"):
            await asyncio.wait_for(waiting, 10)
        with pytest.raises(UnavailableError, match="the fleet is shutting down"):
            await site.execute(tenant, "return 1")


# --- time


async def test_what_waits_behind_another_until_its_time_is_over_is_never_begun(controller: Start) -> None:
    async with controller() as site:
        tenant = await site.tenant()
        async with site.spinning(tenant):
            answer = await site.execute(tenant, "ran = true", timeout_s=0.1)

        assert (answer["status"], answer["error"]["name"], answer["result"]) == ("timeout", "ExecutionTimeout", None)
        assert "not begun" in answer["error"]["message"]
        assert (await site.execute(tenant, "return tostring(ran)"))["result"] == "nil"
        assert only(tenant).kernel.incarnation == 1
        await eventually(lambda: is_at_rest(site, tenant), "nothing is counted any more")


async def test_what_is_stopped_in_time_is_answered_by_the_kernel_itself(controller: Start) -> None:
    async with controller() as site:
        tenant = await site.tenant()

        answer = await site.execute(tenant, SPIN, timeout_s=0.2)

        assert answer["status"] == "timeout"
        assert "did not answer" not in answer["error"]["message"]
        assert only(tenant).kernel.incarnation == 1


async def test_a_kernel_that_does_not_answer_is_replaced_and_its_caller_is_answered(
    controller: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executions, "EXPIRY_S", 0.02)
    monkeypatch.setattr(executions, "LADDER_S", 0.1)
    async with controller() as site:
        tenant = await site.tenant()
        entry = only(tenant)
        pid = entry.kernel.pid
        asking = site.asking(tenant, SPIN, timeout_s=1.0)
        await begun(entry)
        kill(entry, signal.SIGSTOP)

        answer = await asking
        await ready_again(entry, 2)

        assert (answer["status"], answer["kernel_id"], answer["execution_count"]) == ("timeout", entry.id, None)
        assert "the kernel did not answer an execution whose time was over" in answer["error"]["message"]
        death = entry.kernel.last_death
        assert death is not None
        assert (death.cause, death.signal, death.pid, len(death.executions)) == ("unresponsive", "SIGKILL", pid, 1)
        assert (await site.execute(tenant, "return 1"))["result"] == "1"
        await eventually(lambda: is_at_rest(site, tenant), "nothing is counted any more")


# --- sleeping kernels


async def test_a_culled_kernel_is_woken_and_no_more_than_are_needed(controller: Start) -> None:
    async with controller() as site:
        tenant = await site.tenant(replicas=2, idle_timeout_s=0.2)
        one, other = tenant.entries.values()
        for entry in (one, other):
            await in_phase(entry, Phase.STOPPED)

        answer = await site.execute(tenant, "return 1")

        assert (answer["kernel_id"], one.kernel.incarnation, other.kernel.incarnation) == (one.id, 2, 1)
        assert other.kernel.phase is Phase.STOPPED


async def test_a_session_wakes_its_own_kernel_though_another_is_awake(controller: Start) -> None:
    async with controller() as site:
        tenant = await site.tenant(replicas=2)
        home = (await site.execute(tenant, "mark = 1", session="mine"))["kernel_id"]
        entry = tenant.entries[home]
        kernel = replace(entry.kernel.spec, idle_timeout_s=0.2)
        site.controller.supervisor.change_spec(entry, kernel)
        await site.controller.service.restart_kernel(entry.id, None)
        await in_phase(entry, Phase.STOPPED)
        assert tenant.ready == 1

        answer = await site.execute(tenant, "return tostring(mark)", session="mine")

        assert (answer["kernel_id"], answer["result"], answer["session_reset"]) == (home, "nil", True)
        assert entry.kernel.incarnation == 3


# --- sessions


async def test_a_session_waits_while_its_kernel_is_between_two_incarnations(controller: Start) -> None:
    async with controller(restart=replace(PATIENT, first_delay_s=0.2)) as site:
        tenant = await site.tenant(replicas=2)
        first = await site.execute(tenant, "mark = 1", session="mine")
        assert "session_reset" not in first
        home = tenant.entries[first["kernel_id"]]
        site.spawner.script.append("fail")
        kill(home)
        await in_phase(home, Phase.BACKOFF)

        second = await site.execute(tenant, "return tostring(mark)", session="mine")
        third = await site.execute(tenant, "return 1", session="mine")

        assert (second["kernel_id"], second["result"], second["session_reset"]) == (home.id, "nil", True)
        assert home.kernel.incarnation == 3
        assert "session_reset" not in third, "it is told once"


async def test_others_do_not_wait_for_that_kernel(controller: Start) -> None:
    async with controller(restart=replace(PATIENT, first_delay_s=30)) as site:
        tenant = await site.tenant(replicas=2)
        one, other = tenant.entries.values()
        site.spawner.script.append("fail")
        kill(one)
        await in_phase(one, Phase.BACKOFF)

        assert {(await site.execute(tenant, "return 1"))["kernel_id"] for _ in range(4)} == {other.id}


async def test_a_session_leaves_a_kernel_that_will_not_come_back(controller: Start) -> None:
    async with controller(restart=replace(PATIENT, max_restarts=0)) as site:
        tenant = await site.tenant(replicas=2)
        home = tenant.entries[(await site.execute(tenant, "mark = 1", session="mine"))["kernel_id"]]
        kill(home)
        await in_phase(home, Phase.FAILED)

        first = await site.execute(tenant, "return tostring(mark)", session="mine")
        second = await site.execute(tenant, "return 1", session="mine")

        (other,) = (entry for entry in tenant.entries.values() if entry is not home)
        assert (first["kernel_id"], first["result"], first["session_reset"]) == (other.id, "nil", True)
        assert second["kernel_id"] == other.id
        assert "session_reset" not in second


async def test_a_session_of_nobody_s_making_is_its_kernel_s_and_says_when_that_is_another(controller: Start) -> None:
    async with controller() as site:
        tenant = await site.tenant(replicas=2)
        first = await site.execute(tenant, "mark = 1")
        home = tenant.entries[first["kernel_id"]]
        assert first["session"] == own_session(home)

        same = [await site.execute(tenant, "return mark", session=first["session"]) for _ in range(3)]
        assert {(answer["kernel_id"], answer["result"]) for answer in same} == {(home.id, "1")}
        kill(home)
        await ready_again(home, 2)
        after = await site.execute(tenant, "return tostring(mark)", session=first["session"])

        assert (after["kernel_id"], after["result"], after["session_reset"]) == (home.id, "nil", True)
        assert not tenant.homes.keys() - {first["session"]}, "those who name no session leave none"


# --- deaths


async def test_what_had_not_begun_is_run_by_the_next_incarnation(controller: Start) -> None:
    async with controller() as site:
        tenant = await site.tenant()
        entry = only(tenant)
        async with site.spinning(tenant):
            queued = [site.asking(tenant, f"return {n}") for n in range(5)]
            await eventually(lambda: entry.load == 6, "all are in the kernel")
            kill(entry)
            answers = await asyncio.gather(*queued)

            assert [answer["result"] for answer in answers] == list("01234")
            assert entry.kernel.incarnation == 2


async def test_without_failover_what_had_not_begun_is_answered_502(controller: Start) -> None:
    async with controller(failover_enabled=False) as site:
        tenant = await site.tenant()
        entry = only(tenant)
        async with site.spinning(tenant):
            queued = site.asking(tenant, "return 1")
            await eventually(lambda: entry.load == 2, "both are in the kernel")
            kill(entry)

            with pytest.raises(
                KernelDiedError, match=rf"kernel {entry.id} died before it ran this code: SIGKILL"
            ) as died:
                await queued
        assert died.value.status == 502
        assert [execution.id for execution in died.value.death.executions] == ["e1"]


async def test_who_leaves_disturbs_nobody(controller: Start) -> None:
    async with controller() as site:
        tenant = await site.tenant()
        entry = only(tenant)
        asking = site.asking(tenant, "for i = 1, 2e7 do end ran = true")
        await begun(entry)

        asking.cancel()
        await asyncio.wait([asking])

        assert tenant.executions == 0
        assert (await site.execute(tenant, "return tostring(ran)"))["result"] == "true"
        assert is_at_rest(site, tenant)


# --- admission


@pytest.mark.parametrize(
    ("limits", "detail"),
    [
        ({"max_executions": 1}, "its limit max_executions is 1"),
        ({"executions_per_s": 0.01}, "executions_per_s"),
    ],
)
async def test_more_than_a_tenant_may_are_refused_unless_there_are_no_quotas(
    limits: dict[str, float], detail: str, controller: Start
) -> None:
    async with controller() as site:
        tenant = await site.tenant(limits=limits)
        async with site.spinning(tenant):
            with pytest.raises(TooManyError, match=detail) as refused:
                await site.execute(tenant, "return 1")
            assert refused.value.status == 429
            assert (refused.value.retry_after_s or 0) > 0

            site.controller.executions.has_quotas = False
            assert (await site.execute(tenant, "return 1", timeout_s=0.05))["status"] == "timeout"


async def test_a_place_is_given_back_once_and_however_it_ends(controller: Start) -> None:
    async with controller() as site:
        tenant = await site.tenant(limits={"max_executions": 1})
        assert (await site.execute(tenant, "return 1"))["status"] == "ok"
        assert (await site.execute(tenant, "error('no')"))["status"] == "error"
        assert (await site.execute(tenant, SPIN, timeout_s=0.1))["status"] == "timeout"
        async with site.spinning(tenant) as entry:
            kill(entry)
            await ready_again(entry, 2)
        assert (await site.execute(tenant, "return 1"))["status"] == "ok"
        assert is_at_rest(site, tenant)


async def test_an_idle_kernel_that_does_not_answer_is_replaced_too(
    controller: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executions, "LADDER_S", 0.1)
    async with controller() as site:
        tenant = await site.tenant()
        kill(only(tenant), signal.SIGSTOP)

        answer = await site.execute(tenant, "return 1", timeout_s=0.2)
        assert answer["status"] == "timeout"
        await ready_again(only(tenant), 2)
