"""No descendant of a kernel outlives it, whatever session, group or parent it made for itself."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.forking import KINDS, alive, end_all, left, make_kernels_fork
from support.proc import status_of
from support.spawning import eventually, spawning

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]


@pytest.fixture
def notes(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    file = make_kernels_fork(monkeypatch, tmp_path)
    yield file
    end_all(file)


async def until_left(notes: Path, kernels: int) -> list[int]:
    await eventually(lambda: sorted(left(notes).values()) == sorted(KINDS * kernels), "everything to be started")
    return list(left(notes))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
async def test_what_a_kernel_started_ends_with_it(number: signal.Signals, notes: Path) -> None:
    async with spawning("zygote") as site:
        process = await site.start()
        descendants = await until_left(notes, 1)
        assert all(alive(pid) for pid in descendants)

        os.kill(process.pid, number)

        await site.status(process)
        await eventually(lambda: not any(map(alive, descendants)), "its descendants to end")
        assert site.told.order[-1] == ("exited", process.pid), "of what was left, nothing is told"


async def test_what_another_kernel_started_goes_on(notes: Path) -> None:
    async with spawning("zygote") as site:
        first = await site.start()
        of_first = await until_left(notes, 1)
        await site.start()
        everything = await until_left(notes, 2)

        os.kill(first.pid, signal.SIGKILL)

        await site.status(first)
        await eventually(lambda: not any(map(alive, of_first)), "its descendants to end")
        assert all(alive(pid) for pid in set(everything) - set(of_first))


async def test_double_forks_stay_below_their_kernel(notes: Path) -> None:
    async with spawning("zygote") as site:
        process = await site.start()
        descendants = await until_left(notes, 1)

        def parents() -> set[int]:
            return {int(status_of(pid)["PPid"]) for pid in descendants}

        await eventually(lambda: parents() == {process.pid}, "orphans to be the kernel's own children")


async def test_a_kernel_that_is_suspended_and_goes_on_is_told(notes: Path) -> None:
    async with spawning("zygote") as site:
        process = await site.start()
        await until_left(notes, 1)  # or what is noted too late would outlive the test
        os.kill(process.pid, signal.SIGSTOP)
        await site.told.until(lambda: ("suspended", process.pid) in site.told.order, "the suspension")
        os.kill(process.pid, signal.SIGCONT)
        await site.told.until(lambda: ("resumed", process.pid) in site.told.order, "that it goes on")

        assert await site.run(process, "return 1") == "1"
