"""Spares: processes that wait to become kernels, and what becomes of them and of starts when something dies."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from llmspell_fleet.spawner.remains import find_remnants
from llmspell_fleet.spawner.spawner import Process
from llmspell_kernel.connection import new_key
from llmspell_kernel.pidfile import process_start_time
from llmspell_kernel.zygote.marks import SPARE_NAME
from llmspell_kernel.zygote.protocol import Spares
from llmspell_kernel.zygote.spares import REST_S
from support.forking import patch_kernels
from support.proc import files_of, status_of, threads_of
from support.spawning import Spawning, eventually, spawning
from support.tenants import need_root

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]


@pytest_asyncio.fixture
async def site() -> AsyncIterator[Spawning]:
    async with spawning("zygote") as site:
        yield site


BROKEN = """
from llmspell_kernel.zygote import spares

def fail():
    with open({note!r}, "a") as note:
        note.write("x")
    raise RuntimeError("can't start new thread")

spares.rehearse_strict = fail
"""


def spares_of(site: Spawning) -> list[int]:
    """Their pids."""
    return [one.pid for one in find_remnants(str(site.folder / "runtime")) if name_of(one.pid) == SPARE_NAME]


def name_of(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/comm").read_bytes().rstrip()
    except OSError:
        return b""


def namespaces_of(pid: int) -> list[str]:
    return [str(entry.readlink()) for entry in sorted(Path(f"/proc/{pid}/ns").iterdir())]


async def ready(site: Spawning, number: int) -> list[int]:
    """Have so many, and wait until they are."""
    await eventually(lambda: site.spawner.pid, "a zygote")  # between two of them nobody hears it
    site.spawner.have_spares(number)
    await eventually(lambda: site.spawner.spares == Spares(number), f"{number} spares")
    return spares_of(site)


def holds(pid: int, text: str) -> bool:
    """Whether a process has it anywhere in its memory."""
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            first, _, rest = line.partition("-")
            last, rights = rest.split()[:2]
            if not rights.startswith("rw"):
                continue
            memory.seek(int(first, 16))
            with contextlib.suppress(OSError):
                if text.encode() in memory.read(int(last, 16) - int(first, 16)):
                    return True
    return False


async def gone(*pids: int) -> None:
    await eventually(lambda: not any(process_start_time(pid) for pid in pids), f"the end of {pids}")


async def start(site: Spawning) -> Process:
    return await site.start(may_be_spare=True)


async def test_a_start_takes_the_one_that_is_there_and_no_other_takes_its_place(site: Spawning) -> None:
    (spare,) = await ready(site, 1)

    first, second = await start(site), await start(site)

    assert (first.pid, first.was_spare) == (spare, True)
    assert not second.was_spare
    assert site.spawner.spares == Spares()
    assert [await site.run(process, "return 6*7") for process in (first, second)] == ["42", "42"]
    assert name_of(first.pid).startswith(b"k-")
    os.kill(first.pid, signal.SIGTERM)
    assert await site.status(first) == 0


async def test_a_start_that_asks_for_none_takes_none(site: Spawning) -> None:
    (spare,) = await ready(site, 1)

    assert (await site.start()).pid != spare
    assert site.spawner.spares == Spares(1)


async def test_it_is_nobody_with_one_thread_and_two_sockets(site: Spawning) -> None:
    first, second = await ready(site, 2)

    for spare in (first, second):
        assert threads_of(spare) == 1
        beyond = [name.partition(":")[0] for number, name in files_of(spare).items() if number > 2]
        assert beyond == ["socket", "socket"], "where it reports, and what it waits for; nothing of the other one"


async def test_what_it_has_played_took_no_right_from_it_and_left_no_file(site: Spawning) -> None:
    runtime = site.folder / "runtime"
    before = sorted(runtime.rglob("*"))

    (spare,) = await ready(site, 1)

    assert sorted(runtime.rglob("*")) == before
    assert site.spawner.pid is not None
    rights = ("Uid", "Gid", "CapEff", "CapPrm", "CapBnd", "NoNewPrivs", "Seccomp", "Seccomp_filters")
    mine, zygotes = status_of(spare), status_of(site.spawner.pid)
    assert [mine[right] for right in rights] == [zygotes[right] for right in rights]
    assert namespaces_of(spare) == namespaces_of(site.spawner.pid)


async def test_two_random_generators_differ(site: Spawning) -> None:
    await ready(site, 2)

    drawn = {await site.run(await start(site), "return math.random(1 << 60)") for _ in range(2)}

    assert len(drawn) == 2


async def test_a_key_is_known_to_nobody_but_its_kernel(site: Spawning) -> None:
    need_root("another process's memory")
    spares = await ready(site, 2)
    key = new_key()

    kernel = await site.start(may_be_spare=True, key=key)

    (other,) = set(spares) - {kernel.pid}
    assert holds(kernel.pid, key)
    assert not holds(other, key)
    assert site.spawner.pid is not None
    assert not holds(site.spawner.pid, key)


async def test_fewer_are_wanted(site: Spawning) -> None:
    before = await ready(site, 3)

    after = await ready(site, 1)

    assert set(after) < set(before)
    await gone(*set(before) - set(after))


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM], ids=lambda number: number.name)
async def test_one_that_is_killed_or_suspended_is_missed_at_once(site: Spawning, number: signal.Signals) -> None:
    first, second = await ready(site, 2)

    os.kill(first, number)

    await eventually(lambda: site.spawner.spares == Spares(1), "one less")
    await gone(first)
    assert (await start(site)).pid == second


async def test_a_start_outlives_the_death_of_the_spare_that_it_would_have_taken(site: Spawning) -> None:
    spares = await ready(site, 3)
    for spare in spares:
        os.kill(spare, signal.SIGKILL)
    while any(process_start_time(spare) for spare in spares):  # the zygote may have heard of it by then, or not
        pass

    kernel = await start(site)

    assert await site.run(kernel, "return 1") == "1"
    assert not kernel.was_spare


async def test_signals_for_a_whole_session_do_not_reach_it(site: Spawning) -> None:
    (spare,) = await ready(site, 1)

    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        os.kill(spare, number)

    assert (await start(site)).pid == spare


async def test_those_that_cannot_get_ready_are_made_once_in_a_while_and_starts_fork(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    note = tmp_path / "note"
    patch_kernels(monkeypatch, tmp_path, BROKEN.format(note=str(note)))
    async with spawning("zygote") as site:
        await eventually(lambda: site.spawner.pid, "a zygote")
        deadline = time.monotonic() + 2.5 * REST_S
        while time.monotonic() < deadline:
            site.spawner.have_spares(2)
            await asyncio.sleep(0.02)

        assert 2 <= len(note.read_text()) <= 8, "two each time"
        assert not (await start(site)).was_spare


async def test_it_goes_with_its_zygote_and_the_next_one_has_none(site: Spawning) -> None:
    spares = await ready(site, 2)
    kernel = await start(site)
    assert site.spawner.pid is not None

    os.kill(site.spawner.pid, signal.SIGKILL)

    await site.told.until(lambda: site.told.losses, "the loss of the zygote")
    await gone(*set(spares) - {kernel.pid})
    assert site.spawner.spares == Spares()
    assert await site.run(kernel, "return 1") == "1"
    await ready(site, 1)


async def test_none_outlives_the_end_of_the_spawner(site: Spawning) -> None:
    spares = await ready(site, 2)

    await site.close()

    assert [pid for pid in spares if process_start_time(pid)] == []


async def test_many_starts_at_once_take_all_and_fork_the_rest(site: Spawning) -> None:
    spares = await ready(site, 3)

    kernels = [site.ask(may_be_spare=True) for _ in range(8)]
    await site.served(*kernels)

    taken = [process.pid for process in site.told.processes.values() if process.was_spare]
    assert sorted(taken) == sorted(spares)
    assert len({process.pid for process in site.told.processes.values()}) == 8


async def test_they_are_renewed_with_their_zygote() -> None:
    async with spawning("zygote", forks=3) as site:
        before = site.spawner.pid
        spares = await ready(site, 2)
        await site.start()

        await eventually(lambda: site.spawner.pid not in (None, before), "the next zygote")
        await gone(*spares)
        await ready(site, 1)
