"""The state database newer than us, damaged, or not to be written: it is said, kernels live on, nothing is lost."""

import os
import shutil
import signal
import sqlite3
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.broken import broken_fleet, health, keyed, need_root, pids, running, say, value, wait_whole
from support.homes import wait_until
from support.restarted import RestartedFleet

pytestmark = [pytest.mark.slow, pytest.mark.integration]  # each has a fleet of its own

REFUSED = 4


@pytest.fixture
def fleet() -> Iterator[RestartedFleet]:
    with broken_fleet() as made:
        yield made


def _database(fleet: RestartedFleet) -> Path:
    return fleet.home.state / "fleet.db"


def _newer(file: Path) -> None:
    connection = sqlite3.connect(file)
    connection.execute("PRAGMA user_version = 9999")
    connection.close()


def _cut(file: Path, size: int) -> None:
    _without_log(file)
    os.truncate(file, size)


def _without_log(file: Path) -> None:
    """What it holds is in the write-ahead log until that is full: as a disk that lost both."""
    for name in ("fleet.db-wal", "fleet.db-shm"):
        file.with_name(name).unlink(missing_ok=True)


def _garbage(file: Path) -> None:
    _without_log(file)
    file.write_bytes(os.urandom(file.stat().st_size))


def _without_a_name(file: Path) -> None:
    _without_log(file)
    file.unlink()
    file.mkdir()


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "from a newer version": (_newer, "schema version 9999"),
    "cut to half": (lambda file: _cut(file, file.stat().st_size // 2), ""),
    "cut to nothing": (lambda file: _cut(file, 0), "damaged"),
    "overwritten": (_garbage, ""),
    "a directory": (_without_a_name, "fleet.db"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_database_that_cannot_be_used_is_refused_and_left_and_kernels_live_on(
    fleet: RestartedFleet, case: str
) -> None:
    damage, says = DAMAGE[case]
    session = fleet.execute("mark = 'kept'").json["session"]
    outcome = keyed(fleet, "before")
    before = pids(fleet)
    fleet.kill_controller()
    kept = _copy(fleet)
    damage(_database(fleet))
    broken = _database(fleet).read_bytes() if _database(fleet).is_file() else b""

    fleet.begin()
    code, said = fleet.wait_refused()

    assert (code, says in said) == (REFUSED, True), (code, said)
    assert sorted(running(fleet)) == sorted(before.values()), "kernels need no controller"
    assert not _database(fleet).is_file() or _database(fleet).read_bytes() == broken, "nothing was changed in it"

    _restore(fleet, kept)
    took_s = fleet.serve()
    say(f"database {case}: refused with {code}; whole {took_s:.3f} s after exec, {wait_whole(fleet):.3f} s after that")
    assert pids(fleet) == before
    assert value(fleet, "return mark", session=session) == "kept"
    assert keyed(fleet, "before") == outcome


def _copy(fleet: RestartedFleet) -> Path:
    kept = fleet.home.path / "kept"
    shutil.copytree(fleet.home.state, kept)
    return kept


def _restore(fleet: RestartedFleet, kept: Path) -> None:
    if _database(fleet).is_dir():
        _database(fleet).rmdir()
    for file in kept.glob("fleet.db*"):
        shutil.copy2(file, fleet.home.state / file.name)


def test_a_database_that_is_cut_while_it_is_used_stops_no_execution_and_no_repair(fleet: RestartedFleet) -> None:
    before = pids(fleet)
    os.truncate(_database(fleet), 4096)
    (fleet.home.state / "fleet.db-wal").write_bytes(b"")

    victim = next(iter(before.values()))
    os.kill(victim, signal.SIGKILL)
    wait_whole(fleet)
    assert value(fleet, "return 1") == "1"
    statuses = {keyed(fleet, f"key-{number}")[0] for number in range(5)}
    say(
        f"database cut while it is used: keyed executions were answered {statuses}, health is {health(fleet)['checks']}"
    )
    assert statuses <= {200, 503}
    assert {pid for pid in pids(fleet).values() if pid in before.values()} == set(before.values()) - {victim}
    # Its successor may not be able to use what is left; it says so, and kernels live on.
    now = pids(fleet)
    fleet.kill_controller()
    fleet.begin()
    assert fleet.process is not None
    process = fleet.process
    wait_until(lambda: process.poll() is not None or fleet.is_serving(), "it serves, or says why not")
    assert process.poll() in (None, REFUSED), fleet.said()
    assert sorted(running(fleet)) == sorted(now.values())


def test_a_database_on_a_read_only_disk_is_refused_and_kernels_live_on(fleet: RestartedFleet) -> None:
    need_root("a read-only mount")
    before = pids(fleet)
    fleet.kill_controller()
    state = str(fleet.home.state)
    subprocess.run(["mount", "--bind", state, state], check=True)
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", state], check=True)
        fleet.begin()
        code, said = fleet.wait_refused()
        assert (code, "Read-only file system" in said) == (REFUSED, True), said
        assert sorted(running(fleet)) == sorted(before.values())
    finally:
        subprocess.run(["umount", "-l", state], check=True)

    fleet.serve()
    wait_whole(fleet)
    assert pids(fleet) == before


def test_a_database_that_is_locked_for_long_is_said_to_be_and_work_goes_on(fleet: RestartedFleet) -> None:
    before = pids(fleet)
    holder = sqlite3.connect(_database(fleet), timeout=5, isolation_level=None)
    holder.execute("BEGIN IMMEDIATE")
    try:
        os.kill(next(iter(before.values())), signal.SIGKILL)
        took_s = wait_whole(fleet)
        assert value(fleet, "return 1") == "1"
        assert fleet.execute("return 1", wait=False).status == 503, "nothing is begun that cannot be recorded"
        wait_until(lambda: health(fleet)["status"] != "healthy", "health tells of the store")
    finally:
        holder.execute("ROLLBACK")
        holder.close()
    at = time.monotonic()
    wait_until(lambda: keyed(fleet, "after")[0] == 200, "it is recorded again")
    wait_until(lambda: health(fleet)["status"] == "healthy", "health is well again")
    say(f"database locked: a kernel repaired in {took_s:.3f} s; recorded again {time.monotonic() - at:.3f} s after")
