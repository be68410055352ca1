"""Each step of a script goes wrong as it says, with a real process; afterwards all is well."""

import asyncio
import signal
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from llmspell_fleet.spawner.scripted import ScriptedSpawner, Step
from llmspell_kernel.client.kernel_client import KernelClient
from llmspell_kernel.errors import NotRunningError
from support.spawning import Spawning, has_ended, spawning

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]


@pytest_asyncio.fixture
async def site() -> AsyncIterator[Spawning]:
    async with spawning("scripted") as site:
        yield site


def script(site: Spawning, *steps: Step) -> None:
    assert isinstance(site.spawner, ScriptedSpawner)
    site.spawner.script.extend(steps)


async def test_fail_gives_no_process(site: Spawning) -> None:
    script(site, "fail")
    kernel = site.ask()

    assert site.told.of(kernel) == ["start_failed"]
    assert site.told.failures[kernel] == "scripted: no process"
    await site.start()
    assert len(site.told.processes) == 1


async def test_hang_gives_a_process_that_never_reports(site: Spawning) -> None:
    script(site, "hang")
    kernel = site.ask()
    await site.told.until(lambda: kernel in site.told.processes, "its process")
    # Forked later and served: the first one has had its chance.
    await site.start()
    await site.start()

    assert site.told.of(kernel) == ["started"]
    assert not has_ended(site.told.processes[kernel], 0)


CRASHES: dict[Step, list[str]] = {
    "crash_early": ["started"],
    "crash_late": ["serving", "started"],
    "refuse": ["refused", "started"],
}


@pytest.mark.parametrize("step", CRASHES)
async def test_crashes_are_kills_of_real_processes(step: Step, site: Spawning) -> None:
    script(site, step)
    kernel = site.ask()
    await site.told.until(lambda: kernel in site.told.processes, "its process")
    process = site.told.processes[kernel]

    assert await site.status(process) == signal.SIGKILL
    assert has_ended(process)
    assert sorted(site.told.of(kernel)) == CRASHES[step]
    assert site.told.refusals.get(kernel) == ("scripted: it cannot serve" if step == "refuse" else None)


async def test_what_never_binds_lives_and_says_nothing(site: Spawning) -> None:
    script(site, "never_binds")
    kernel = site.ask()
    await site.told.until(lambda: kernel in site.told.processes, "its process")
    await site.start()
    await site.start()

    assert site.told.of(kernel) == ["started"]
    assert not has_ended(site.told.processes[kernel], 0)


@pytest.mark.parametrize("step", ["never_answers", "answers_garbage"])
async def test_what_only_says_that_it_serves_answers_no_client(step: Step, site: Spawning) -> None:
    script(site, step)
    await site.reported(kernel := site.ask())
    process = site.told.processes[kernel]

    with KernelClient(site.connection(process)) as client, pytest.raises(NotRunningError):
        await asyncio.to_thread(client.connect, 0.5)
    assert not has_ended(process, 0)
    signal.pidfd_send_signal(process.pidfd, signal.SIGTERM)
    assert await site.status(process) == signal.SIGTERM


async def test_steps_are_played_in_turn_and_then_all_pass(site: Spawning) -> None:
    script(site, "fail", "pass", "fail")
    kernels = [site.ask() for _ in range(5)]
    passed = [kernels[number] for number in (1, 3, 4)]
    await site.served(*passed)

    assert list(site.told.failures) == [kernels[0], kernels[2]]
    assert [await site.run(site.told.processes[kernel], "return 1") for kernel in passed] == ["1"] * 3
