"""What processes use, read from real processes."""

import asyncio
import itertools
import os
import subprocess
import sys
from collections.abc import Iterator

import psutil
import pytest

from llmspell_fleet.model.ids import KernelId
from llmspell_fleet.observe.usage import PSS_EVERY, SLICE, UsageSampler, own_usage, pss_of, usage_of
from support.homes import wait_until

pytestmark = pytest.mark.integration

ONE = KernelId("00000000-0000-0000-0000-000000000001")
TWO = KernelId("00000000-0000-0000-0000-000000000002")

# A command whose name looks like the end of a field, with threads, descriptors and memory of a known size.
PROGRAM = """
import os, sys, threading
with open("/proc/self/comm", "w") as comm:
    comm.write("a) Z 1 (b")
held = bytearray(os.urandom(1)) * (32 << 20)
files = [os.open("/dev/null", os.O_RDONLY) for _ in range(10)]
for _ in range(3):
    threading.Thread(target=threading.Event().wait, daemon=True).start()
print("up", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def process() -> Iterator[subprocess.Popen[str]]:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    command = [sys.executable, "-c", PROGRAM]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        try:
            yield process
        finally:
            process.kill()


def test_a_process_is_measured_as_psutil_measures_it(process: subprocess.Popen[str]) -> None:
    usage = usage_of(process.pid)
    expected = psutil.Process(process.pid)

    assert usage is not None
    assert usage.memory_bytes == pytest.approx(expected.memory_info().rss, rel=0.05)
    assert usage.memory_bytes > 32 << 20
    assert usage.cpu_s == pytest.approx(sum(expected.cpu_times()[:2]), abs=0.1)
    assert usage.threads == expected.num_threads() == 4
    assert usage.files == expected.num_fds() >= 13


def test_proportional_memory_is_read_on_its_own(process: subprocess.Popen[str]) -> None:
    usage = usage_of(process.pid)
    pss_bytes = pss_of(process.pid)

    assert usage is not None
    assert usage.pss_bytes is None
    assert pss_bytes is not None
    assert 32 << 20 < pss_bytes <= usage.memory_bytes * 1.05


def test_processes_that_are_gone_are_left_out(process: subprocess.Popen[str]) -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        gone.wait()

    assert UsageSampler().sample({ONE: gone.pid, TWO: process.pid}).keys() == {TWO}
    assert pss_of(gone.pid) is None


def test_a_process_that_nobody_reaped_is_gone() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as zombie:
        wait_until(lambda: psutil.Process(zombie.pid).status() == psutil.STATUS_ZOMBIE, "the process ends")

        assert usage_of(zombie.pid) is None
        assert pss_of(zombie.pid) is None


def test_a_sweep_gets_round_to_everybody_s_proportional_memory(process: subprocess.Popen[str]) -> None:
    sampler = UsageSampler()
    pids = {ONE: process.pid, TWO: os.getpid()}

    async def sweeps(count: int) -> list[set[KernelId]]:
        found = [await sampler.sweep(pids) for _ in range(count)]
        return [{kernel for kernel, usage in usages.items() if usage.pss_bytes is not None} for usages in found]

    seen = asyncio.run(sweeps(PSS_EVERY))

    assert seen[-1] == {ONE, TWO}
    assert all(before <= after for before, after in itertools.pairwise(seen)), "what was seen is remembered"


def test_a_new_incarnation_does_not_inherit_what_was_seen_of_the_last(process: subprocess.Popen[str]) -> None:
    sampler = UsageSampler()

    async def replaced() -> int | None:
        for _ in range(PSS_EVERY):
            await sampler.sweep({ONE: process.pid})
        return (await sampler.sweep({ONE: os.getpid()}))[ONE].pss_bytes

    assert asyncio.run(replaced()) is None


def test_a_long_sweep_lets_the_loop_have_its_turns() -> None:
    pids = {KernelId(str(number)): os.getpid() for number in range(SLICE * 5)}
    turns = 0

    async def main() -> int:
        async def count_turns() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        async with asyncio.TaskGroup() as group:
            counter = group.create_task(count_turns())
            found = await UsageSampler().sweep(pids)
            counter.cancel()
        return len(found)

    assert asyncio.run(main()) == SLICE * 5
    assert turns >= 5


def test_a_process_that_ends_during_a_sweep_harms_nobody(process: subprocess.Popen[str]) -> None:
    sampler = UsageSampler()

    async def main() -> list[int]:
        counts = [len(await sampler.sweep({ONE: process.pid, TWO: os.getpid()}))]
        process.kill()
        process.wait()
        return [*counts, len(await sampler.sweep({ONE: process.pid, TWO: os.getpid()}))]

    assert asyncio.run(main()) == [2, 1]


def test_the_controller_measures_itself() -> None:
    own = own_usage()
    expected = psutil.Process()

    assert own.memory_bytes == pytest.approx(expected.memory_info().rss, rel=0.1)
    assert own.cpu_s == pytest.approx(sum(expected.cpu_times()[:2]), abs=0.5)
    assert own.files == pytest.approx(expected.num_fds(), abs=3)
    assert own.max_files == expected.rlimit(psutil.RLIMIT_NOFILE)[0]
