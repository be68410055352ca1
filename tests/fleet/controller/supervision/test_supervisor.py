"""What is left of processes that ended, and that one kernel's trouble is no other's."""

import asyncio
import contextlib
import select
import signal
import threading
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from llmspell_fleet.controller.kernels.entry import Entry
from llmspell_fleet.model.kernel import Phase
from llmspell_fleet.model.requests import KernelRequest
from llmspell_kernel.zygote.protocol import Confinement
from support.controllers import Site, Start, in_phase, kill, only, ready_again, until
from support.kernels import READY_S
from support.spawning import eventually

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]


def touch(folder: str, name: str) -> None:
    Path(folder, name).touch()


def names_in(folder: str) -> list[str]:
    return [path.name for path in Path(folder).iterdir()]


def say(entry: Entry, words: bytes) -> None:
    """Write what a kernel's process could."""
    with Path(entry.output._fifo).open("wb", buffering=0) as fifo:
        fifo.write(words)


async def test_what_a_killed_kernel_was_writing_is_removed(controller: Start) -> None:
    async with controller() as site:
        entry = only(await site.tenant())
        unfinished = f"kernel-{entry.id}.json.{entry.kernel.pid}.tmp"
        touch(site.paths.runtime, unfinished)

        kill(entry)
        await ready_again(entry, 2)

        assert unfinished not in names_in(site.paths.runtime)


async def test_starts_that_go_wrong_hold_up_no_others(controller: Start) -> None:
    async with controller() as site:
        troubled = await site.tenant("troubled", "hang", "fail", "refuse", "crash_early", replicas=4)
        well = await site.tenant("well", replicas=2)

        assert well.ready == 2
        assert (await site.execute(well, "return 1"))["result"] == "1"
        hanging = next(iter(troubled.entries.values()))
        for entry in troubled.entries.values():
            if entry is not hanging:
                await ready_again(entry, 2)
        assert (hanging.kernel.phase, hanging.kernel.incarnation) == (Phase.STARTING, 1)


@contextlib.asynccontextmanager
async def unwritten(site: Site) -> AsyncIterator[None]:
    """Nothing is written meanwhile: the thread that does is busy."""
    is_busy, is_over = threading.Event(), threading.Event()

    def wait(_connection: object) -> None:
        is_busy.set()
        is_over.wait(READY_S)

    busy = asyncio.ensure_future(site.store._read(wait))
    await asyncio.to_thread(is_busy.wait, READY_S)
    try:
        yield
    finally:
        is_over.set()
        await busy


async def test_a_first_process_may_come_before_its_record_and_is_greeted_after_it(controller: Start) -> None:
    async with controller() as site:
        tenant = await site.tenant(replicas=0)
        async with unwritten(site):
            wanted = KernelRequest(tenant=tenant.id, wait_s=READY_S)
            asking = asyncio.ensure_future(site.controller.service.create_kernel(wanted))
            await eventually(lambda: tenant.entries, "a kernel")
            entry = only(tenant)
            await eventually(lambda: entry.written is not None and entry.written._callbacks, "it to say that it serves")

            assert (entry.kernel.phase, entry.channel) == (Phase.STARTING, None)
        assert (await asking).phase == "READY"


async def test_a_later_process_comes_after_its_record(controller: Start) -> None:
    async with controller() as site:
        entry = only(await site.tenant())
        async with unwritten(site):
            site.spawner.script.append("fail")
            kill(entry)
            await until(entry, lambda kernel: kernel.incarnation == 2, "its next start")
            for _turn in range(10):
                await asyncio.sleep(0)

            assert list(site.spawner.script) == ["fail"], "no process was asked for"
        await ready_again(entry, 3)


async def test_a_report_that_is_read_when_its_process_has_ended_is_not_taken_for_the_next_one_s(
    controller: Start,
) -> None:
    async with controller() as site:
        tenant = await site.tenant()
        entry = only(tenant)
        ended, connection = entry.kernel.pid, entry.connection
        assert ended is not None
        assert connection is not None
        kill(entry)
        await until(entry, lambda k: k.incarnation == 2 and entry.process is None, "the next incarnation")

        site.controller.supervisor.serving(entry.id, ended, connection)
        await ready_again(entry, 2)

        assert (await site.execute(tenant, "return 1", timeout_s=10))["result"] == "1"


async def test_what_was_answered_before_the_end_is_no_part_of_it(controller: Start) -> None:
    async with controller() as site:
        entry = only(await site.tenant())
        assert entry.channel is not None
        assert entry.process is not None
        answer = entry.channel.send("e", "return 1", timeout_s=READY_S)
        # Nothing of it is heard meanwhile: this is the controller's loop.
        assert select.select([entry.channel._link._connection._socket], [], [], READY_S)[0]
        kill(entry)
        assert select.select([entry.process.pidfd], [], [], READY_S)[0]
        site.controller.supervisor.exited(entry.process.pid, signal.SIGKILL)

        assert b'"result":"1"' in await answer
        assert entry.kernel.last_death is not None
        assert entry.kernel.last_death.executions == ()


async def test_a_start_that_fails_by_our_fault_has_failed_and_costs_no_other(
    controller: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with controller() as site:
        starts = site.controller.supervisor.starts
        isolate, faults = starts.isolate, [ZeroDivisionError()]

        def once(entry: Entry, confinement: Confinement) -> Confinement:
            if faults:
                raise faults.pop()
            return isolate(entry, confinement)

        monkeypatch.setattr(starts, "isolate", once)
        tenant = await site.tenant(replicas=2)

        assert tenant.ready == 2
        deaths = [entry.kernel.last_death for entry in tenant.entries.values() if entry.kernel.last_death is not None]
        assert [death.cause for death in deaths] == ["spawn_failed"]


async def test_lines_and_numbers_of_its_output_go_on_in_the_next_incarnation(controller: Start) -> None:
    async with controller() as site:
        entry = only(await site.tenant())
        for incarnation in (1, 2):
            say(entry, b"words\nlast words without an end")
            kill(entry)
            await ready_again(entry, incarnation + 1)

        found = [(line.incarnation, line.seq, line.text) for line in entry.output.since(0)]
        last = "last words without an end"
        assert found == [(1, 1, "words"), (1, 2, last), (2, 3, "words"), (2, 4, last)]
        deaths = await site.store.deaths(entry.id)
        assert [death.stderr for death in deaths] == [("words", last)] * 2


async def test_a_restart_that_is_asked_for_is_one_incarnation_however_often_it_is_asked(controller: Start) -> None:
    async with controller() as site:
        entry = only(await site.tenant())

        await asyncio.gather(*(site.controller.service.restart_kernel(entry.id, None) for _ in range(5)))

        assert (entry.kernel.incarnation, entry.kernel.phase) == (2, Phase.READY)
        assert entry.kernel.last_death is not None
        assert entry.kernel.last_death.cause == "restarted"


async def test_what_is_ended_before_it_began_has_no_process(controller: Start) -> None:
    async with controller() as site:
        tenant = await site.tenant("t", "hang")
        entry = only(tenant)

        await site.controller.service.delete_kernel(entry.id, None)

        await in_phase(entry, Phase.STOPPED)
        assert entry.process is None
        await eventually(lambda: not names_in(site.paths.runtime), "its files are gone")
