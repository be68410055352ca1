"""A zygote is renewed after so many forks; kernels, and their ends, are none the worse for it."""

import contextlib
import os
import signal

import pytest

from llmspell_fleet.model.ids import KernelId
from llmspell_fleet.spawner.zygote import ZygoteSpawner
from llmspell_kernel.pidfile import process_start_time
from support.kernels import READY_S
from support.spawning import Spawning, eventually, has_ended, spawning

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]


async def _renewed(site: Spawning, before: int | None) -> None:
    await eventually(lambda: site.spawner.pid not in (None, before), "the next zygote")
    assert before is not None
    await eventually(lambda: process_start_time(before) is None, "the end of the last one")


async def test_after_so_many_forks_another_one_takes_its_place_and_kernels_live_on() -> None:
    async with spawning("zygote", forks=3) as site:
        first = site.spawner.pid
        kernels = [await site.start() for _ in range(3)]
        await _renewed(site, first)

        after = await site.start()
        assert [await site.run(process, "return 1") for process in (*kernels, after)] == ["1"] * 4
        assert site.told.losses == [], "nobody was lost"
        os.kill(after.pid, signal.SIGKILL)
        assert await site.status(after) == signal.SIGKILL
        os.kill(kernels[0].pid, signal.SIGKILL)
        assert has_ended(kernels[0])


async def test_starts_go_on_while_it_is_renewed() -> None:
    async with spawning("zygote", forks=2) as site:
        kernels = [site.ask() for _ in range(12)]
        await site.served(*kernels)

        assert site.told.failures == {}
        assert len({process.pid for process in site.told.processes.values()}) == 12


async def renewed_with_one_unanswered(site: Spawning) -> tuple[int, KernelId]:
    """The zygote that was there, which is suspended, and a kernel that it was asked for; another one is in its place."""
    first = site.spawner.pid
    assert first is not None
    await site.start()
    os.kill(first, signal.SIGSTOP)
    kernel = site.ask()
    await eventually(lambda: site.spawner.pid not in (None, first), "the next zygote")
    return first, kernel


async def test_one_that_is_killed_while_it_is_renewed_is_replaced() -> None:
    async with spawning("zygote", forks=1) as site:
        first = site.spawner.pid
        assert first is not None
        await site.start()
        with contextlib.suppress(ProcessLookupError):  # the next one was quicker
            os.kill(first, signal.SIGKILL)

        await eventually(lambda: site.spawner.pid not in (None, first), "another zygote")
        assert await site.run(await site.start(), "return 2") == "2"


async def test_the_last_one_is_ours_until_it_has_answered_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmspell_fleet.spawner.helper.LOOK_S", READY_S)
    async with spawning("zygote", forks=2) as site:
        first, kernel = await renewed_with_one_unanswered(site)
        assert site.spawner.pids == (first, site.spawner.pid)

        os.kill(first, signal.SIGCONT)
        await site.served(kernel)
        assert site.spawner.pids == (site.spawner.pid,)


async def test_the_end_of_the_last_one_does_not_cost_the_one_in_its_place() -> None:
    async with spawning("zygote", forks=2) as site:
        first, kernel = await renewed_with_one_unanswered(site)
        second = site.spawner.pid

        os.kill(first, signal.SIGKILL)
        await site.told.until(lambda: kernel in site.told.failures, "its failure")

        assert site.spawner.pid == second
        assert await site.run(await site.start(), "return 2") == "2"


async def test_zero_never_renews_it() -> None:
    async with spawning("zygote", forks=0) as site:
        first = site.spawner.pid
        for _ in range(5):
            await site.start()

        assert isinstance(site.spawner, ZygoteSpawner)
        assert site.spawner.pids == (first,)
