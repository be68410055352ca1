"""A full disk, somebody else's lock, kill -9: nothing that was promised is lost, and what is not promised is said."""

import asyncio
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path
from uuid import uuid4

import pytest

from llmspell_fleet.errors import StoreError
from llmspell_fleet.model.event import Event
from llmspell_fleet.model.ids import KernelId, TenantId
from llmspell_fleet.model.kernel import Kernel, KernelSpec, Phase
from llmspell_fleet.store import writer
from llmspell_fleet.store.records import Begun, Execution
from llmspell_fleet.store.store import Store
from support.homes import DEADLINE_S

pytestmark = pytest.mark.integration

NOW = "2031-04-05T06:07:08.000009Z"


def kernel() -> Kernel:
    return Kernel(spec=KernelSpec(id=KernelId(str(uuid4())), tenant=TenantId("a")), phase=Phase.READY)


def execution(key: str) -> Execution:
    return Execution(id=str(uuid4()), tenant=TenantId("a"), key=key, sha256="a" * 64, created_at=NOW)


@pytest.mark.asyncio
async def test_a_question_that_fails_by_our_fault_costs_no_other(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "state" / "fleet.db"))
    with pytest.raises(StoreError, match="ZeroDivisionError"):
        await asyncio.wait_for(store._read(lambda _connection: 1 // 0), DEADLINE_S)

    store.save_kernel(kernel())
    await asyncio.wait_for(store.flush(), DEADLINE_S)
    store.close()


async def _until_it_writes_again(store: Store) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while store.fault is not None:  # noqa: ASYNC110  another thread tells nobody of it
            await asyncio.sleep(0.01)


async def _until_it_fails(store: Store) -> StoreError:
    """Fill the disk with kernels, in commits."""
    for _ in range(10_000):
        store.save_kernel(kernel())
        try:
            await store.flush()
        except StoreError as error:
            return error
    raise AssertionError("the disk was never full")


@pytest.mark.asyncio
async def test_on_a_full_disk_nothing_is_lost_and_it_goes_on_when_there_is_room(small_disk: Path) -> None:
    path = str(small_disk / "fleet.db")
    filler = small_disk / "filler"
    store = Store.open(path)
    try:
        await store.begin_execution(before := execution("before"))
        filler.write_bytes(b"x" * 500_000)
        error = await _until_it_fails(store)
        assert "nothing can be recorded" in str(error)
        assert "the disk is full" in str(error)
        assert error.status == 503
        assert store.fault is not None

        late = [kernel() for _ in range(50)]
        for one in late:
            store.save_kernel(one)
        store.record_event(Event(seq=1, at=NOW, type="kernel.ready"))
        with pytest.raises(StoreError):
            await store.begin_execution(execution("k"))
        assert 50 <= store.waiting < 1000
        # What is stored can be read all the while.
        assert await store.execution(TenantId("a"), before.id) == before

        filler.unlink()
        await _until_it_writes_again(store)
        await store.flush()
        assert store.waiting == 0
        assert isinstance(await store.begin_execution(execution("k")), Begun)
    finally:
        filler.unlink(missing_ok=True)
        store.close()

    store = Store.open(path)
    try:
        found = {one.id for one in store.load().kernels}
        assert {one.id for one in late} <= found
        assert len(await store.recent_events(since=0, limit=9, tenant=None)) == 1
    finally:
        store.close()


@pytest.mark.asyncio
async def test_a_store_that_is_closed_on_a_full_disk_says_what_is_lost_and_lets_go(small_disk: Path) -> None:
    path = str(small_disk / "fleet.db")
    filler = small_disk / "filler"
    store = Store.open(path)
    store.save_kernel(first := kernel())
    await store.flush()
    filler.write_bytes(b"x" * 500_000)
    await _until_it_fails(store)

    with pytest.raises(StoreError, match=r"not everything was recorded: .*fleet\.db cannot grow: the disk is full"):
        store.close()

    filler.unlink()
    store = Store.open(path)
    assert first in store.load().kernels
    store.close()


@pytest.mark.asyncio
async def test_what_another_program_s_lock_kept_back_is_written_after(path: Path) -> None:
    store = Store.open(str(path))
    other = sqlite3.connect(path, isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        store.save_kernel(one := kernel())
        with pytest.raises(StoreError, match=r"is locked by another program"):
            await store.flush()

        other.execute("ROLLBACK")
        await _until_it_writes_again(store)
        await store.flush()

        assert store.load().kernels == [one]
    finally:
        other.close()
        store.close()


@pytest.mark.asyncio
async def test_between_attempts_nobody_is_kept_waiting(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(writer, "RETRY_AFTER_S", 3600.0)
    store = Store.open(str(path))
    other = sqlite3.connect(path, isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        store.save_kernel(one := kernel())
        for _ in range(2):
            with pytest.raises(StoreError, match=r"is locked by another program"):
                await store.flush()
            with pytest.raises(StoreError, match=r"is locked by another program"):
                await store.begin_execution(execution("k"))
            assert await store.execution(TenantId("a"), "any") is None
        other.execute("ROLLBACK")

        store._writer._retry_at = 0.0
        await store.flush()

        assert store.fault is None
        assert store.load().kernels == [one]
    finally:
        other.close()
        store.close()


@pytest.mark.asyncio
async def test_a_refused_beginning_did_not_begin(path: Path) -> None:
    store = Store.open(str(path))
    other = sqlite3.connect(path, isolation_level=None)
    try:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError):
            await store.begin_execution(execution("k"))
        other.execute("ROLLBACK")
        await _until_it_writes_again(store)

        assert isinstance(await store.begin_execution(execution("k")), Begun)
    finally:
        other.close()
        store.close()


@pytest.mark.asyncio
async def test_a_fault_of_our_own_is_told_and_nothing_is_lost(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    store = Store.open(str(path))
    try:
        with monkeypatch.context() as broken:
            broken.setattr(store._writer._database, "_write", lambda _: 1 / 0)
            store.save_kernel(one := kernel())
            with pytest.raises(StoreError, match="a fault of its own: ZeroDivisionError"):
                await store.flush()
            assert "a fault of the store's own" in caplog.text
        await _until_it_writes_again(store)

        assert store.load().kernels == [one]
    finally:
        store.close()


# --- kill -9

_WRITER = """
import asyncio, sys
from uuid import UUID
from llmspell_fleet.model.event import Event
from llmspell_fleet.model.kernel import Kernel, KernelSpec
from llmspell_fleet.store import writer
from llmspell_fleet.store.records import Execution
from llmspell_fleet.store.store import Store

async def main():
    store = Store.open(sys.argv[1])
    first = store.load().next_event_seq
    for number in range(10**9):
        store.save_kernel(Kernel(spec=KernelSpec(id=str(UUID(int=number)), tenant="a"), incarnation=number))
        store.record_event(Event(seq=first + number, at="2031-04-05T06:07:08.000009Z", type="kernel.ready"))
        print("told", first + number, flush=True)
        if number % 3 == 0:
            await store.begin_execution(Execution(id=str(number), tenant="a", key=str(number), sha256="", created_at="~"))
            print("begun", number, flush=True)
        await store.flush()
        print("flushed", number, flush=True)

asyncio.run(main())
"""


def _write_and_die(path: Path, lines: int) -> list[tuple[str, int]]:
    """What it told, up to some moment in the middle of writing."""
    with subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        told = [process.stdout.readline() for _ in range(lines)]
        process.send_signal(signal.SIGKILL)
        told += process.stdout.readlines()
        assert process.stderr.read() == ""
    return [(words[0], int(words[1])) for line in told if line.endswith("\n") and (words := line.split())]


@pytest.mark.parametrize("lines", [20, 111, 500])
def test_after_kill_9_everything_flushed_is_there_and_no_number_is_given_twice(path: Path, lines: int) -> None:
    for _ in range(3):
        told = _write_and_die(path, lines)
        flushed = max(number for what, number in told if what == "flushed")
        begun = {str(number) for what, number in told if what == "begun"}

        store = Store.open(str(path))
        loaded = store.load()
        pending = {row.id for row in store.pending_executions()}
        store.close()

        assert len(loaded.kernels) > flushed
        assert begun <= pending
        assert loaded.next_event_seq > max(number for what, number in told if what == "told")
