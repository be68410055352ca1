"""What keeps a fleet from starting: told clearly, with exit code 4, and nothing is left behind."""

import contextlib
import os
import shutil
import socket
import sqlite3
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.fleets import FleetHome
from support.homes import DEADLINE_S, Home, new_home, wait_until
from support.tenants import need_root

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("unmeasured_module")]

REFUSED = 4


def _refused(home: Home, *arguments: str, said: tuple[str, ...], code: int = REFUSED) -> str:
    """What is told, in the foreground as in the background, when a fleet does not start."""
    told = ""
    for way in ("--foreground", "--daemon"):
        done = home.llmspell("fleet", "up", way, "--port", "0", *arguments)
        told = done.stderr
        assert done.returncode == code, (way, done)
        assert "Traceback" not in told
        for words in said:
            assert words in told, (way, told)
        # A daemon tells its parent why it ends, and then ends.
        wait_until(lambda: not _processes(home), "the end of every process")
    return told


def _processes(home: Home) -> list[str]:
    """Command lines of processes that have something to do with a home."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environ, line = (folder / "environ").read_bytes(), (folder / "cmdline").read_bytes()
        except OSError:
            continue
        if f"LLMSPELL_RUNTIME_DIR={home.runtime}".encode() in environ and line:
            found.append(line.replace(b"\0", b" ").decode())
    return found


def _left(home: Home) -> list[str]:
    return sorted(str(path.relative_to(home.path)) for path in home.runtime.rglob("*"))


def _recovers(home: Home) -> None:
    """Once what was in the way is gone, it starts."""
    fleet = FleetHome(home)
    fleet.up(config="[fleet]\nstartup_kernels = 1\n")
    assert fleet.execute("return 1").json["result"] == "1"
    fleet.down()


def test_a_port_that_somebody_has(home: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])

        _refused(home, "--port", port, said=(f"port {port}", "--port"))

    assert _left(home) == []
    _recovers(home)


def test_a_runtime_directory_that_is_too_long(home: Home) -> None:
    long = Home(home.path, dict(home.environ))
    path = str(home.path / ("x" * (76 - len(str(home.path)))))
    assert len(path.encode()) > 75
    long.environ["LLMSPELL_RUNTIME_DIR"] = path

    _refused(long, said=(path, "75"))

    assert not Path(path).exists() or list(Path(path).iterdir()) == []


def test_a_runtime_directory_of_the_longest_length_works(home: Home) -> None:
    longest = Home(home.path, dict(home.environ))
    path = str(home.path / "x")
    path += "x" * (75 - len(path.encode()))
    longest.environ["LLMSPELL_RUNTIME_DIR"] = path

    done = longest.llmspell("fleet", "up", "--daemon", "--port", "0")
    try:
        assert done.returncode == 0, done.stderr
        made = longest.llmspell("tenant", "create", "acme")
        assert made.returncode == 0, made.stderr
        assert longest.llmspell("tenant", "exec", "acme", "return 1").stdout == "1\n"
    finally:
        assert longest.llmspell("fleet", "down", "--force").returncode == 0
    assert list(Path(path).iterdir()) == []


@pytest.mark.parametrize(
    ("case", "make"),
    [
        ("a file", lambda path: path.write_text("")),
        ("open to others", lambda path: (path.mkdir(), path.chmod(0o777))),
        ("a link", lambda path: path.symlink_to("/tmp")),
        ("below a file", lambda path: path.parent.joinpath("file").write_text("")),
    ],
)
@pytest.mark.parametrize("which", ["runtime", "state", "logs"])
def test_a_directory_that_cannot_be_used(home: Home, case: str, make: object, which: str) -> None:
    path: Path = getattr(home, which)
    assert callable(make)
    make(path)
    environ = dict(home.environ)
    name = {"runtime": "RUNTIME", "state": "STATE", "logs": "LOG"}[which]
    if case == "below a file":
        environ[f"LLMSPELL_{name}_DIR"] = str(home.path / "file" / "x")

    told = _refused(Home(home.path, environ), said=(environ[f"LLMSPELL_{name}_DIR"],))

    assert len(told.splitlines()) <= 4, told
    with contextlib.suppress(OSError):
        path.unlink()


@contextlib.contextmanager
def _disk(*options: str) -> Iterator[Path]:
    need_root("a small disk that has to be mounted")
    where = Path(tempfile.mkdtemp(prefix="ls-disk-"))
    try:
        mounted = ("mount", "-t", "tmpfs", "-o", ",".join(("mode=0700", *options)), "llmspell-test", str(where))
        done = subprocess.run(mounted, capture_output=True, text=True, check=False)
        if done.returncode:
            (pytest.fail if os.environ.get("CI") else pytest.skip)(f"a disk cannot be mounted: {done.stderr.strip()}")
        try:
            yield where
        finally:
            subprocess.run(["umount", "--lazy", str(where)], check=True)
    finally:
        where.rmdir()


@pytest.mark.parametrize("which", ["RUNTIME", "STATE", "LOG"])
def test_a_directory_on_a_file_system_that_is_read_only(home: Home, which: str) -> None:
    with _disk("ro") as disk:
        environ = home.environ | {f"LLMSPELL_{which}_DIR": str(disk / "d")}

        _refused(Home(home.path, environ), said=(str(disk / "d"), "Read-only"))


@pytest.mark.parametrize(("which", "code"), [("RUNTIME", 1), ("STATE", REFUSED)])
def test_a_directory_on_a_file_system_that_is_full(home: Home, which: str, code: int) -> None:
    with _disk("size=64k") as disk:
        folder = disk / "d"
        folder.mkdir(mode=0o700)
        with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as filler:
            while filler.write(b"x" * 4096):
                pass
        there = Home(home.path, home.environ | {f"LLMSPELL_{which}_DIR": str(folder)})

        told = _refused(there, said=(str(folder),), code=code)

        assert "space" in told or "full" in told, told
        left = [path for path in folder.rglob("*") if path.suffix != ".lock"]
        assert left == [], "nothing is left behind"
        (disk / "filler").unlink()
        shutil.rmtree(folder)


# --- the database -------------------------------------------------------------------------------------------------


@pytest.fixture
def used(home: Home) -> Home:
    """A home with a fleet's state in it, and no fleet."""
    fleet = FleetHome(home)
    fleet.up(config="[fleet]\nstartup_kernels = 1\n")
    assert fleet.ask("POST", "/v1/tenants", {"id": "acme"}).status == 201
    fleet.down()
    return home


def _tenants(home: Home) -> list[str]:
    fleet = FleetHome(home)
    fleet.up()
    try:
        return [item["id"] for item in fleet.ask("GET", "/v1/tenants").json["items"]]
    finally:
        fleet.down()


def test_a_database_that_another_controller_holds(used: Home) -> None:
    with new_home() as other:
        there = FleetHome(used)
        there.up()
        sharing = Home(other.path, other.environ | {"LLMSPELL_STATE_DIR": str(used.state)})

        _refused(sharing, said=("locked", str(there.pid), "--state-dir"))

        assert _left(other) == []
        assert there.execute("return 1").status == 200
        there.down()


def test_a_database_that_another_program_has_locked(used: Home) -> None:
    with contextlib.closing(sqlite3.connect(used.state / "fleet.db", isolation_level=None)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("BEGIN EXCLUSIVE")

        _refused(used, said=("locked", "fleet.db"))

        other.execute("ROLLBACK")
    assert _left(used) == []
    assert _tenants(used) == ["acme", "default"]


def test_a_database_of_a_newer_version(used: Home) -> None:
    with contextlib.closing(sqlite3.connect(used.state / "fleet.db", isolation_level=None)) as database:
        (version,) = database.execute("PRAGMA user_version").fetchone()
        database.execute("PRAGMA user_version = 999")
    before = (used.state / "fleet.db").read_bytes()

    _refused(used, said=("version 999", "nothing was changed", "fleet.db"))

    assert (used.state / "fleet.db").read_bytes() == before
    assert _left(used) == []
    with contextlib.closing(sqlite3.connect(used.state / "fleet.db", isolation_level=None)) as database:
        database.execute(f"PRAGMA user_version = {version}")
    assert _tenants(used) == ["acme", "default"]


@pytest.mark.parametrize(
    ("case", "content"),
    [
        ("garbage", b"this is no database\n" * 100),
        ("empty", b""),
        ("half of one", b"SQLite format 3\0" + b"\xff" * 2000),
    ],
)
def test_a_database_that_is_none(used: Home, case: str, content: bytes) -> None:
    database = used.state / "fleet.db"
    kept = database.read_bytes()
    database.write_bytes(content)

    _refused(used, said=("fleet.db", "damaged"))

    assert database.read_bytes() == content, case
    assert _left(used) == []
    database.write_bytes(kept)
    assert _tenants(used) == ["acme", "default"]


# --- tokens -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "content", "mode", "code"),
    [("short", "abc", 0o600, 2), ("open to others", "x" * 43, 0o644, 4), ("binary", "\x00" * 50, 0o600, 2)],
)
def test_an_admin_token_that_cannot_be_one(home: Home, case: str, content: str, mode: int, code: int) -> None:
    home.state.mkdir(mode=0o700)
    token = home.state / "admin.token"
    token.write_text(content)
    token.chmod(mode)

    done = home.llmspell("fleet", "up", "--daemon", "--port", "0")

    assert done.returncode == code, (case, done.stderr)
    assert "admin.token" in done.stderr
    assert "Traceback" not in done.stderr
    assert content not in done.stderr
    assert _left(home) == []


def test_a_fleet_that_runs_is_told_with_its_pid_and_address(home: Home) -> None:
    fleet = FleetHome(home)
    fleet.up(config="[fleet]\nstartup_kernels = 1\n")

    told = home.llmspell("fleet", "up", "--daemon", "--port", "0")

    assert told.returncode == REFUSED
    assert str(fleet.pid) in told.stderr
    assert fleet.url in told.stderr
    assert fleet.execute("return 1").status == 200


def test_two_that_start_at_one_moment_are_one(home: Home) -> None:
    command = home.command("fleet", "up", "--daemon", "--port", "0")
    both = [
        subprocess.Popen(command, env=home.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    told = [one.communicate(timeout=DEADLINE_S * 2) for one in both]

    assert sorted(one.returncode for one in both) == [0, REFUSED, REFUSED, REFUSED], told
    assert not any("Traceback" in err for _, err in told)
    fleet = FleetHome(home)
    fleet.find()
    assert fleet.execute("return 1").status == 200
