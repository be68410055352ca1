"""The zygote as a process: what it is before it forks, and what becomes of requests and kernels when it dies."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from llmspell_fleet.spawner import helper
from llmspell_fleet.spawner.processes import exit_status
from llmspell_fleet.spawner.zygote import SHORTEST_LIFE_S
from llmspell_kernel.limits import MIB, KernelLimits
from llmspell_kernel.pidfile import process_start_time
from support.proc import environ_of, files_of, signals_of, status_of, threads_of
from support.spawning import Spawning, eventually, has_ended, spawning

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]


@pytest_asyncio.fixture
async def site() -> AsyncIterator[Spawning]:
    async with spawning("zygote") as site:
        yield site


def zygote_of(site: Spawning) -> int:
    pid = site.spawner.pid
    assert pid is not None
    return pid


async def test_it_has_one_thread_and_nothing_of_ours_open(site: Spawning) -> None:
    os.set_inheritable(reader := os.open(os.devnull, os.O_RDONLY), True)
    try:
        await site.start()
    finally:
        os.close(reader)
    zygote = zygote_of(site)

    assert threads_of(zygote) == 1
    assert files_of(zygote)[0] == os.devnull
    # Two sockets that it was given, and its own pipe of ended children.
    beyond = [name.partition(":")[0] for number, name in files_of(zygote).items() if number > 2]
    assert sorted(beyond) == ["pipe", "pipe", "socket", "socket"]
    assert os.getsid(zygote) == zygote
    assert "PYTHONPATH" not in environ_of(zygote)


async def test_signals_for_a_whole_session_do_not_reach_it(site: Spawning) -> None:
    await site.start()
    zygote = zygote_of(site)
    heedless = {signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}
    assert heedless <= signals_of(status_of(zygote)["SigIgn"])

    for number in heedless:
        os.kill(zygote, number)

    assert await site.run(await site.start(), "return 1") == "1"
    assert zygote_of(site) == zygote


async def test_its_kernels_heed_the_signals_that_it_ignores(site: Spawning) -> None:
    process = await site.start()
    running = asyncio.ensure_future(site.execute(process, "while true do end"))
    while not running.done():
        # Nothing says that the script has begun; an interrupt before is one for nothing.
        os.kill(process.pid, signal.SIGINT)
        await asyncio.wait([running], timeout=0.05)

    assert (await running).ename == "Interrupted"


async def test_when_it_is_killed_another_one_serves_and_the_old_ones_kernels_live(site: Spawning) -> None:
    before = await site.start()
    first = zygote_of(site)

    os.kill(first, signal.SIGKILL)
    await site.told.until(lambda: site.told.losses, "the loss of the zygote")
    after = await site.start()

    assert site.told.losses == ["the zygote ended (signal 9)"]
    assert zygote_of(site) != first
    assert await site.run(before, "return 'old'") == "old"
    assert await site.run(after, "return 'new'") == "new"


@pytest.mark.skipif(tuple(map(int, os.uname().release.split(".")[:2])) < (6, 15), reason="PIDFD_INFO_EXIT: Linux 6.15")
async def test_the_end_of_an_orphan_is_seen_and_explained_by_its_pidfd(site: Spawning) -> None:
    process = await site.start()
    os.kill(zygote_of(site), signal.SIGKILL)
    await site.told.until(lambda: site.told.losses, "the loss of the zygote")

    os.kill(process.pid, signal.SIGKILL)

    assert has_ended(process)
    # Whoever is its parent now reaps it; then the system tells.
    await eventually(lambda: exit_status(process) is not None, "its status")
    assert exit_status(process) == signal.SIGKILL
    assert site.told.of(process.pid) == []


async def test_what_it_had_not_answered_fails_and_nothing_is_asked_twice(site: Spawning) -> None:
    await site.start()
    os.kill(zygote_of(site), signal.SIGSTOP)
    kernels = [site.ask() for _ in range(5)]
    os.kill(zygote_of(site), signal.SIGKILL)
    await site.told.until(lambda: len(site.told.failures) == 5, "five failures")

    assert set(site.told.failures.values()) == {"the zygote ended before it could fork"}
    assert [site.told.of(kernel) for kernel in kernels] == [["start_failed"]] * 5
    first_failure = site.told.order.index(("start_failed", kernels[0]))
    assert ("lost", site.told.losses[0]) in site.told.order[:first_failure]

    # The next one is not given them again.
    await site.start()
    assert [site.told.of(kernel) for kernel in kernels] == [["start_failed"]] * 5


async def test_starts_that_are_asked_for_while_there_is_none_wait_for_the_next_one(site: Spawning) -> None:
    first = zygote_of(site)
    os.kill(first, signal.SIGKILL)
    await site.told.until(lambda: site.told.losses, "the loss of the zygote")
    assert site.spawner.pid is None, "one that lived so shortly is not replaced at once"

    kernel = site.ask()
    await site.served(kernel)

    assert site.told.of(kernel).count("started") == 1


async def test_one_that_always_dies_is_made_again_at_most_once_a_second(site: Spawning) -> None:
    loop = asyncio.get_running_loop()
    began = loop.time()
    for number in range(1, 3):
        os.kill(zygote_of(site), signal.SIGKILL)
        await site.told.until(lambda number=number: len(site.told.losses) == number, "its loss")
        await eventually(lambda: site.spawner.pid is not None, "the next zygote")

    assert loop.time() - began >= 2 * SHORTEST_LIFE_S - 0.1


async def test_more_requests_than_a_socket_holds_are_all_answered(site: Spawning) -> None:
    await site.start()
    os.kill(zygote_of(site), signal.SIGSTOP)
    # A unix socket holds 200 KiB; each of these has some.
    paths = tuple("/" + "x" * 200 for _ in range(100))
    kernels = [site.ask(limits=KernelLimits(module_paths=paths, memory_bytes=16 * MIB)) for _ in range(20)]
    os.kill(zygote_of(site), signal.SIGCONT)

    await site.served(*kernels)


@pytest.mark.parametrize(
    ("case", "reason"),
    [("suspended", "was suspended"), ("hung, as far as is seen", "answered nothing for 1 s")],
)
async def test_one_that_hangs_is_killed_and_another_one_serves(
    site: Spawning, monkeypatch: pytest.MonkeyPatch, case: str, reason: str
) -> None:
    monkeypatch.setattr(helper, "LOOK_S", 0.2)
    monkeypatch.setattr(helper, "ANSWER_LOOKS", 5)
    if case != "suspended":
        monkeypatch.setattr(helper, "is_suspended", lambda _pid: False)
    before = await site.start()
    first = zygote_of(site)
    os.kill(first, signal.SIGSTOP)
    assert not site.spawner.is_late
    kernels = [site.ask() for _ in range(3)]

    await eventually(lambda: site.spawner.is_late, "the zygote to be late")
    assert not site.told.failures, "it is said before it is killed"
    await site.told.until(lambda: len(site.told.failures) == 3, "three failures")
    assert not site.spawner.is_late
    after = await site.start()

    assert site.told.losses == [f"the zygote {reason}, and was killed"]
    assert set(site.told.failures) == set(kernels)
    assert process_start_time(first) is None, "killed and reaped: it forks nothing any more"
    assert zygote_of(site) != first
    assert await site.run(before, "return 'old'") == "old"
    assert await site.run(after, "return 'new'") == "new"
    assert [site.told.of(kernel) for kernel in kernels] == [["start_failed"]] * 3


async def test_one_that_hangs_before_it_is_ready_is_killed_too(site: Spawning, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(helper, "LOOK_S", 0.05)
    monkeypatch.setattr(helper, "START_LOOKS", 200)
    os.kill(zygote_of(site), signal.SIGKILL)
    await site.told.until(lambda: site.told.losses, "the loss of the zygote")
    kernel = site.ask()
    await eventually(lambda: site.spawner.pid is not None, "the next zygote")
    monkeypatch.setattr(helper, "START_LOOKS", 20)
    monkeypatch.setattr(helper, "is_suspended", lambda _pid: False)  # as one that hangs of itself
    os.kill(zygote_of(site), signal.SIGSTOP)

    await site.told.until(lambda: kernel in site.told.failures, "its failure")
    monkeypatch.setattr(helper, "START_LOOKS", 600)

    assert site.told.losses[1] == "the zygote did not become ready for 1 s, and was killed"
    await site.start()


async def test_one_that_nobody_waits_for_is_left_alone(site: Spawning, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(helper, "LOOK_S", 0.01)
    monkeypatch.setattr(helper, "START_LOOKS", 3000)
    monkeypatch.setattr(helper, "ANSWER_LOOKS", 3000)
    await site.start()
    first = zygote_of(site)
    os.kill(first, signal.SIGSTOP)
    monkeypatch.setattr(helper, "ANSWER_LOOKS", 5)
    await asyncio.sleep(0.2)  # nothing tells that nothing happens
    monkeypatch.setattr(helper, "ANSWER_LOOKS", 3000)
    os.kill(first, signal.SIGCONT)

    await site.start()

    assert zygote_of(site) == first
    assert site.told.losses == []
