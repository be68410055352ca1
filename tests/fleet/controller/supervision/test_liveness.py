"""Hung is not busy: what a real kernel has to do to be replaced, and what does not suffice."""

import asyncio
import os
import signal
from pathlib import Path

import pytest

from llmspell_fleet.controller.kernels.entry import Entry
from llmspell_fleet.model.kernel import Death, Phase
from llmspell_fleet.policy.lifecycle import takes_work
from llmspell_fleet.policy.liveness import ProbePolicy
from llmspell_fleet.policy.restart import RestartPolicy
from llmspell_fleet.spawner import helper
from support.controllers import SPIN, Site, Start, begun, deaf, kill, only, ready_again, until
from support.forking import DEAF, patch_kernels
from support.shortage import without_descriptors
from support.spawning import eventually

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]

QUICK = ProbePolicy(interval_s=0.1, timeout_s=0.3, deadline_s=0.5)
PATIENT = ProbePolicy(interval_s=0.1, timeout_s=10, deadline_s=10)


def types(site: Site, entry: Entry) -> list[str]:
    return [event.type for event in site.events(entry)]


async def death_of(site: Site, entry: Entry) -> Death:
    await site.store.flush()
    return (await site.store.deaths(entry.id))[-1]


async def test_a_kernel_whose_loop_hangs_is_replaced_and_one_that_works_is_not(
    controller: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    patch_kernels(monkeypatch, tmp_path, DEAF)
    async with controller(probe=QUICK) as site:
        working, hung = await site.tenant("works"), await site.tenant("hangs")
        asking = site.asking(working, SPIN)
        await begun(only(working))
        entry = only(hung)

        kill(entry, signal.SIGUSR1)

        await ready_again(entry, 2)
        death = await death_of(site, entry)
        assert (death.cause, death.rung) == ("unresponsive", "kill")
        assert "it was silent for " in death.detail
        assert types(site, entry).count("kernel.silent") == 1
        assert (only(working).kernel.incarnation, asking.done()) == (1, False)
        kill(only(working), signal.SIGINT)
        assert (await asking)["status"] == "interrupted"


async def test_a_silent_kernel_that_nobody_can_look_at_is_looked_at_later(
    controller: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    patch_kernels(monkeypatch, tmp_path, DEAF)
    async with controller(probe=QUICK) as site:
        entry = only(await site.tenant())
        kill(entry, signal.SIGUSR1)
        with without_descriptors():
            await eventually(lambda: "cannot be looked at" in caplog.text, "a look in vain")
            assert entry.kernel.incarnation == 1

        await ready_again(entry, 2)


async def test_a_kernel_that_is_suspended_is_told_to_go_on_and_does(controller: Start) -> None:
    async with controller(probe=PATIENT) as site:
        tenant = await site.tenant()
        asking = site.asking(tenant, "for i = 1, 5e7 do end return 'finished'")
        entry = only(tenant)
        await begun(entry)

        kill(entry, signal.SIGSTOP)

        assert (await asking)["result"] == "finished"
        await eventually(lambda: "kernel.resumed" in types(site, entry), "to be told")
        assert entry.kernel.incarnation == 1


async def test_a_kernel_that_is_suspended_whenever_it_goes_on_is_replaced_within_two_seconds(controller: Start) -> None:
    async with controller(probe=PATIENT) as site:
        entry = only(await site.tenant())

        async with asyncio.timeout(2.0):
            with deaf(entry):
                await ready_again(entry, 2)

        death = await death_of(site, entry)
        assert (death.cause, death.detail) == ("unresponsive", "it is suspended (SIGSTOP) whenever it is told to go on")


async def test_without_resuming_a_suspended_kernel_takes_no_work_and_is_replaced(controller: Start) -> None:
    async with controller(probe=ProbePolicy(interval_s=0.1, timeout_s=0.3, deadline_s=0.5, resumes=False)) as site:
        entry = only(await site.tenant())

        kill(entry, signal.SIGSTOP)

        await until(entry, lambda kernel: not takes_work(kernel), "no more work")
        assert entry.kernel.phase is Phase.READY
        await ready_again(entry, 2)
        death = await death_of(site, entry)
        assert death.detail.startswith("it answers on no channel; it was silent for ")


async def test_a_doubted_kernel_that_answers_takes_work_again(controller: Start) -> None:
    async with controller(probe=ProbePolicy(interval_s=0.1, timeout_s=0.2, deadline_s=20, resumes=False)) as site:
        entry = only(tenant := await site.tenant())
        kill(entry, signal.SIGSTOP)
        await until(entry, lambda kernel: kernel.is_silent, "to be doubted")

        kill(entry, signal.SIGCONT)

        await until(entry, takes_work, "work again")
        assert (await site.execute(tenant, "return 1"))["result"] == "1"
        assert entry.kernel.incarnation == 1


async def test_suspensions_that_no_zygote_tells_are_seen_within_a_second_or_two(controller: Start) -> None:
    async with controller(probe=PATIENT) as site:
        entry = only(await site.tenant())
        zygote = site.spawner.pid
        assert zygote is not None
        os.kill(zygote, signal.SIGKILL)
        await eventually(lambda: site.spawner.pid not in {None, zygote}, "another zygote")

        async with asyncio.timeout(2.5):
            kill(entry, signal.SIGSTOP)
            await eventually(lambda: "kernel.resumed" in types(site, entry), "to be noticed, and to go on")

        assert entry.kernel.incarnation == 1


async def test_a_zygote_that_hangs_keeps_no_kernel_from_coming_back(
    controller: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(helper, "LOOK_S", 0.2)
    monkeypatch.setattr(helper, "ANSWER_LOOKS", 5)
    monkeypatch.setattr(helper, "is_suspended", lambda _pid: False)  # as one that hangs of itself
    async with controller(probe=PATIENT, restart=RestartPolicy(start_deadline_s=0.5, first_delay_s=0.01)) as site:
        entry = only(tenant := await site.tenant())
        zygote = site.spawner.pid
        assert zygote is not None
        os.kill(zygote, signal.SIGSTOP)

        kill(entry)
        await until(entry, lambda kernel: kernel.phase is Phase.STOPPING and kernel.pid is None, "to be given up")
        await ready_again(entry, 2)

        assert (await site.execute(tenant, "return 1"))["result"] == "1"
        assert site.spawner.pid not in {None, zygote}
        (died,) = (e for e in site.controller.events.since(0, None, 1000) if e.type == "zygote.died")
        assert died.data["reason"] == "the zygote answered nothing for 1 s, and was killed"
        await site.store.flush()
        assert "spawn_failed" in [death.cause for death in await site.store.deaths(entry.id)]
