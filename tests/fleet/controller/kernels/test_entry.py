"""Waiting for a kernel's record to become something."""

import asyncio

import pytest
from msgspec.structs import replace

from llmspell_fleet.controller.kernels.entry import Entry
from llmspell_fleet.controller.kernels.output import Output
from llmspell_fleet.model.ids import KernelId, TenantId
from llmspell_fleet.model.kernel import Kernel, KernelSpec, Phase

pytestmark = pytest.mark.asyncio


@pytest.fixture
def entry() -> Entry:
    spec = KernelSpec(id=KernelId("00000000-0000-4000-8000-000000000001"), tenant=TenantId("t"))
    return Entry(Kernel(spec=spec), Output("/nowhere", []))


def enter(entry: Entry, phase: Phase) -> None:
    entry.kernel = replace(entry.kernel, phase=phase)
    entry.changed()


def is_ready(kernel: Kernel) -> bool:
    return kernel.phase is Phase.READY


@pytest.mark.parametrize("timeout_s", [None, 10.0, 0.0, -1.0])
async def test_what_is_so_already_is_not_waited_for(entry: Entry, timeout_s: float | None) -> None:
    enter(entry, Phase.READY)

    assert await entry.wait_until(is_ready, timeout_s) is True


@pytest.mark.parametrize("timeout_s", [0.01, 0.0, -1.0])
async def test_what_does_not_come_in_time_is_false(entry: Entry, timeout_s: float) -> None:
    assert await entry.wait_until(is_ready, timeout_s) is False
    assert not entry._waiters


async def test_every_change_is_looked_at_and_all_who_wait_are_woken(entry: Entry) -> None:
    async with asyncio.TaskGroup() as tasks:
        waiting = [tasks.create_task(entry.wait_until(is_ready, 10.0)) for _ in range(3)]
        for phase in (Phase.STARTING, Phase.BACKOFF, Phase.READY):
            await asyncio.sleep(0)
            assert not any(task.done() for task in waiting)
            enter(entry, phase)

    assert [task.result() for task in waiting] == [True] * 3
    assert not entry._waiters


async def test_what_was_so_for_a_moment_is_not_waited_for_again_by_mistake(entry: Entry) -> None:
    """Two changes within one step of the loop: what counts is how it is when the waiter looks."""
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(entry.wait_until(is_ready, 0.05))
        await asyncio.sleep(0)
        enter(entry, Phase.READY)
        enter(entry, Phase.STOPPING)

    assert waiting.result() is False


async def test_who_stops_waiting_leaves_nothing(entry: Entry) -> None:
    async with asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(entry.wait_until(is_ready, None))
        await asyncio.sleep(0)
        assert len(entry._waiters) == 1
        waiting.cancel()

    assert waiting.cancelled()
    assert not entry._waiters
    enter(entry, Phase.READY)


async def test_a_kernel_without_a_connection_has_no_load(entry: Entry) -> None:
    assert (entry.load, entry.id, entry.tenant) == (0, entry.kernel.spec.id, "t")
