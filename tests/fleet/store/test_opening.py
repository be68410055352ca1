"""What is in the way of opening the database is said, and nothing is changed by finding out."""

import contextlib
import fcntl
import os
import re
import socket
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llmspell_fleet.errors import StoreError
from llmspell_fleet.model.ids import KernelId, TenantId
from llmspell_fleet.model.kernel import Kernel, KernelSpec, Phase
from llmspell_fleet.model.tenant import TenantSpec
from llmspell_fleet.store.records import TenantRecord
from llmspell_fleet.store.schema import APPLICATION_ID, VERSION
from llmspell_fleet.store.store import Store
from llmspell_kernel.errors import RefusedError
from support.foreign import foreign_file

pytestmark = pytest.mark.integration

KERNEL = Kernel(
    spec=KernelSpec(id=KernelId("11111111-2222-3333-4444-555555555555"), tenant=TenantId("a")),
    phase=Phase.READY,
    incarnation=3,
    pid=4242,
    start_time=99,
    spawned_at=12.5,
    ready_at=13.5,
    crashes=(1.5, 2.5),
    started_at="2031-04-05T06:07:08.000009Z",
)


def _filled(path: Path, *, tenants: int = 200) -> None:
    store = Store.open(str(path))
    for number in range(tenants):
        spec = TenantSpec(id=TenantId(f"tenant-{number}"))
        store.save_tenant(TenantRecord(spec=spec, created_at="2031-04-05T06:07:08.000009Z"))
    store.save_kernel(KERNEL)
    store.close()


def _sql(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in statements:
        connection.execute(statement)
    connection.close()


def test_it_is_made_with_its_directory_for_us_alone(path: Path) -> None:
    store = Store.open(str(path))
    modes = {file.name: stat.S_IMODE(file.stat().st_mode) for file in path.parent.iterdir()}
    store.close()

    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert set(modes) >= {"fleet.db", "fleet.db-wal", "fleet.db.lock"}
    assert set(modes.values()) == {0o600}


def test_after_closing_there_are_the_database_and_its_lock_and_it_says_whose_it_is(path: Path) -> None:
    _filled(path)

    assert sorted(file.name for file in path.parent.iterdir()) == ["fleet.db", "fleet.db.lock"]
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA application_id").fetchone() == (APPLICATION_ID,)
    assert connection.execute("PRAGMA user_version").fetchone() == (VERSION,)
    connection.close()


def test_closing_twice_does_nothing(path: Path) -> None:
    store = Store.open(str(path))

    store.close()
    store.close()


# --- who else has it

_HOLDER = """
import sys
from llmspell_fleet.store.store import Store
store = Store.open(sys.argv[1])
print("open", flush=True)
sys.stdin.read()
store.close()
"""


def test_a_second_controller_is_refused_with_the_first_one_s_number(path: Path) -> None:
    command = [sys.executable, "-c", _HOLDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "open\n"
        with pytest.raises(RefusedError, match=rf"{path} is locked by process {holder.pid}, .* `llmspell fleet down`"):
            Store.open(str(path))
        holder.kill()

    Store.open(str(path)).close()


def test_a_child_of_the_holder_does_not_inherit_the_lock(path: Path) -> None:
    store = Store.open(str(path))
    with subprocess.Popen(["sleep", "60"], close_fds=False) as child:
        store.close()
        try:
            Store.open(str(path)).close()
        finally:
            child.kill()


def test_a_lock_without_a_readable_number_is_a_lock(path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    with (path.parent / "fleet.db.lock").open("wb") as lock:
        lock.write(b"\xff\x00what")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)

        with pytest.raises(RefusedError, match="is locked by process"):
            Store.open(str(path))


def test_a_program_that_locks_the_tables_is_named_as_what_it_is(path: Path) -> None:
    _filled(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("PRAGMA locking_mode = EXCLUSIVE")
    other.execute("BEGIN EXCLUSIVE")
    other.execute("DELETE FROM leases")
    try:
        with pytest.raises(RefusedError, match=r"is locked by another program: close what has it open"):
            Store.open(str(path))
    finally:
        other.close()

    Store.open(str(path)).close()


# --- what is there instead


def _garbage(path: Path) -> None:
    path.write_bytes(os.urandom(5000))


def _text(path: Path) -> None:
    path.write_text("this is not a database, and longer than its header would be\n" * 50)


def _half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2 // 4096 * 4096)


def _within_the_header(path: Path) -> None:
    os.truncate(path, 60)


def _emptied(path: Path) -> None:
    os.truncate(path, 0)


def _overwritten_in_the_middle(path: Path) -> None:
    with path.open("r+b") as stream:
        stream.seek(4096)
        stream.write(os.urandom(4096 * 4))


def _another_program_s(path: Path) -> None:
    path.unlink()
    _sql(path, "CREATE TABLE recipes (name TEXT)", "PRAGMA application_id = 7")


def _nobody_s(path: Path) -> None:
    path.unlink()
    _sql(path, "CREATE TABLE recipes (name TEXT)")


def _ours_without_tables(path: Path) -> None:
    path.unlink()
    _sql(path, "CREATE TABLE recipes (name TEXT)", f"PRAGMA application_id = {APPLICATION_ID}", f"PRAGMA user_version = {VERSION}")  # fmt: skip


def _newer(path: Path) -> None:
    _sql(path, f"PRAGMA user_version = {VERSION + 41}")


@pytest.mark.parametrize(
    ("case", "spoil", "message"),
    [
        ("random bytes", _garbage, r"is damaged \(file is not a database\): nothing was changed\. Put a copy"),
        ("a text", _text, r"is damaged \(file is not a database\)"),
        ("cut in half", _half, r"is damaged \(.*\): nothing was changed"),
        ("cut within its header", _within_the_header, r"is damaged \(only 60 bytes are left of it\)"),
        ("emptied", _emptied, r"is damaged \(only 0 bytes are left of it\): nothing was changed\. Put a copy of it back; or move it away"),
        ("pages overwritten", _overwritten_in_the_middle, r"is damaged \(.*\): nothing was changed"),
        ("another program's", _another_program_s, r"is another program's \(application id 0x7, expected 0x4c535046\)"),
        ("of no program", _nobody_s, r"is another program's \(application id 0x0"),
        ("newer", _newer, rf"has schema version {VERSION + 41}, and this llmspell knows versions up to {VERSION}: nothing was changed\. Use the newer llmspell"),
    ],
)  # fmt: skip
def test_what_is_not_our_database_is_refused_and_left_as_it_is(
    path: Path, case: str, spoil: Callable[[Path], None], message: str
) -> None:
    _filled(path)
    spoil(path)
    path.chmod(0o600)
    before = path.read_bytes()
    files = sorted(path.parent.iterdir())

    with pytest.raises(RefusedError, match=message) as refused:
        Store.open(str(path))

    assert str(path) in str(refused.value)
    assert path.read_bytes() == before
    assert sorted(path.parent.iterdir()) == files
    path.unlink()
    Store.open(str(path)).close()


def test_a_row_that_cannot_be_meant_is_named(path: Path) -> None:
    _filled(path)
    _sql(path, """UPDATE tenants SET spec = '{"id": "a", "colour": 1}' WHERE id = 'tenant-7'""")
    store = Store.open(str(path))
    try:
        with pytest.raises(
            RefusedError, match=r"a row of `SELECT \* FROM tenants .*` is not what llmspell writes: .*colour"
        ):
            store.load()
    finally:
        store.close()


@pytest.mark.parametrize("mode", [0o604, 0o660, 0o644])
def test_a_database_that_others_may_touch_is_refused(path: Path, mode: int) -> None:
    _filled(path)
    path.chmod(mode)

    with pytest.raises(RefusedError, match=f"has mode {mode:04o}"):
        Store.open(str(path))


def test_another_user_s_database_is_refused(path: Path) -> None:
    path.parent.mkdir(mode=0o700)
    theirs = foreign_file(path.parent)

    with pytest.raises(RefusedError, match=r"belongs to user|cannot be opened|has mode|is not a directory of its own"):
        Store.open(str(theirs))


def test_a_directory_that_others_may_enter_is_refused(path: Path) -> None:
    path.parent.mkdir(mode=0o755)

    with pytest.raises(RefusedError, match="has mode 0755"):
        Store.open(str(path))


@pytest.mark.parametrize("which", ["fleet.db", "fleet.db.lock"])
def test_a_link_is_not_followed(path: Path, tmp_path: Path, which: str) -> None:
    path.parent.mkdir(mode=0o700)
    elsewhere = tmp_path / "elsewhere"
    (path.parent / which).symlink_to(elsewhere)

    with pytest.raises(RefusedError, match="Too many levels of symbolic links"):
        Store.open(str(path))

    assert not elsewhere.exists()


def test_a_fifo_a_socket_and_a_directory_are_refused_at_once(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path.parent.mkdir(mode=0o700)
    os.mkfifo(path, 0o600)
    with pytest.raises(RefusedError, match="is not a regular file"):
        Store.open(str(path))
    path.unlink()

    with socket.socket(socket.AF_UNIX) as listener:
        with monkeypatch.context() as there:
            there.chdir(path.parent)
            listener.bind("fleet.db")
        with pytest.raises(RefusedError, match="cannot be opened for writing"):
            Store.open(str(path))
    path.unlink()

    path.mkdir(mode=0o700)
    with pytest.raises(RefusedError, match="cannot be opened for writing: Is a directory"):
        Store.open(str(path))


def test_a_name_with_every_special_character_is_a_name(tmp_path: Path) -> None:
    path = tmp_path / "a ?mode=memory&x=%41#'é" / "fleet.db"

    _filled(path)
    store = Store.open(str(path))
    found = store.load().kernels
    store.close()

    assert found == [KERNEL]
    assert path.stat().st_size > 0


def test_a_read_only_file_system_is_said(read_only_disk: Path) -> None:
    with pytest.raises(
        RefusedError, match=r"fleet\.db\.lock cannot be opened for writing: Read-only file system\. Name a"
    ):
        Store.open(str(read_only_disk / "fleet.db"))


def test_a_full_disk_is_said_however_full_it_is_and_no_half_database_stays(small_disk: Path) -> None:
    path, filler = small_disk / "fleet.db", small_disk / "filler"
    refused = []
    for free_kib in range(0, 400, 4):
        filler.write_bytes(b"x" * ((1024 - free_kib) * 1024))
        try:
            Store.open(str(path)).close()
        except (RefusedError, StoreError) as error:
            refused.append(str(error))
        filler.unlink()
        assert not path.exists() or path.stat().st_size > 0
        Store.open(str(path)).close()
        path.unlink()

    assert 5 <= len(refused) <= 95
    wrong = [text for text in refused if not re.search(r"fleet\.db cannot grow: the disk is full\. Free some", text)]
    assert not wrong


@pytest.mark.parametrize("free_kib", [0, 4, 16, 32, 40, 64])
def test_a_database_on_a_full_disk_is_opened_or_refused_and_keeps_what_it_holds(
    small_disk: Path, free_kib: int
) -> None:
    path, filler = small_disk / "fleet.db", small_disk / "filler"
    _filled(path)
    used = path.stat().st_size // 1024 + 4
    filler.write_bytes(b"x" * ((1024 - used - free_kib) * 1024))

    with contextlib.suppress(RefusedError, StoreError):
        Store.open(str(path)).close()

    filler.unlink()
    store = Store.open(str(path))
    assert store.load().kernels == [KERNEL]
    store.close()


def test_the_right_numbers_on_the_wrong_tables_are_not_ours(path: Path) -> None:
    _filled(path)
    _ours_without_tables(path)
    path.chmod(0o600)

    with pytest.raises(RefusedError, match=r"fleet\.db cannot be read or written: no such table: meta"):
        Store.open(str(path))


# --- another boot


def test_after_another_boot_a_kernel_has_neither_process_nor_times(path: Path) -> None:
    _filled(path)
    store = Store.open(str(path))
    (same,) = store.load().kernels
    store.close()
    _sql(path, "UPDATE meta SET value = 'an earlier one' WHERE name = 'boot'")

    store = Store.open(str(path))
    (other,) = store.load().kernels
    store.close()

    assert same == KERNEL
    assert (other.pid, other.start_time, other.spawned_at, other.ready_at, other.crashes) == (None, None, 0.0, 0.0, ())
    assert (other.spec, other.phase, other.incarnation) == (KERNEL.spec, KERNEL.phase, KERNEL.incarnation)
