"""Opening the database: nothing is changed in a file before it is known to be ours, whole and of a known version."""

import contextlib
import math
import os
import sqlite3
import stat
from typing import Final
from urllib.parse import quote

from llmspell_fleet.store.schema import APPLICATION_ID, MIGRATIONS, VERSION
from llmspell_kernel.errors import RefusedError
from llmspell_kernel.safe_files import require_private

WHAT: Final = "the fleet's database"
_SMALLEST_BYTES: Final = 512
"""SQLite's smallest page, and there is no database without one."""
_BUSY_S: Final = 0.25
"""How long another program's lock is waited for: the writer tries again anyway."""


def open_database(path: str) -> sqlite3.Connection:
    """A connection for the one thread that writes, with today's tables. RefusedError says what is in the way."""
    is_new = _create_or_check_file(path)
    try:
        if not is_new:
            _check_content(path)
        return _prepared(path)
    except sqlite3.Error as error:
        if is_new:
            # An empty file would be taken for a damaged database the next time.
            _remove(path)
        raise RefusedError(explain(error, path)) from error


def _create_or_check_file(path: str) -> bool:
    """Whether the file was made just now; it is ours alone in either case."""
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    try:
        try:
            descriptor, is_new = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600), True
        except FileExistsError:
            descriptor, is_new = os.open(path, flags), False
    except OSError as error:
        raise RefusedError(f"{WHAT} {path} cannot be opened for writing: {error.strerror}") from error
    # Closed before SQLite opens the file: closing a descriptor later would drop SQLite's own locks on it.
    try:
        status = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    if not stat.S_ISREG(status.st_mode):
        raise RefusedError(f"{WHAT} {path} is not a regular file: move it away")
    require_private(path, status)
    if status.st_size < _SMALLEST_BYTES and not is_new:
        # SQLite takes that for a new database: all tenants would be gone without a word.
        raise RefusedError(
            f"{WHAT} {path} is damaged (only {status.st_size} bytes are left of it): "
            f"{_DAMAGED_ADVICE.format(path=path)}"
        )
    return is_new


def _connect(path: str, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(
        f"file:{quote(path)}?mode={mode}",
        uri=True,
        timeout=_BUSY_S,
        isolation_level=None,
        # Made by whoever opens the store and then handed to the writer thread, before that begins.
        check_same_thread=False,
    )


def _check_content(path: str) -> None:
    """Read only: not even the write-ahead log of a damaged database is touched, nor one made that is not there."""
    mode = "ro" if os.path.exists(f"{path}-wal") else "ro&immutable=1"
    with contextlib.closing(_connect(path, mode)) as connection:
        _check_version(connection, path)
        findings = [" ".join(str(row[0]).split()) for row in connection.execute("PRAGMA quick_check(3)")]
        if findings != ["ok"]:
            raise RefusedError(
                f"{WHAT} {path} is damaged ({'; '.join(findings)[:300]}): {_DAMAGED_ADVICE.format(path=path)}"
            )


def check_version(path: str) -> None:
    """RefusedError when the database at `path`, which another process may have open, is not one that we can use."""
    try:
        with contextlib.closing(_connect(path, "ro")) as connection:
            _check_version(connection, path)
    except sqlite3.Error as error:
        raise RefusedError(explain(error, path)) from error


def _check_version(connection: sqlite3.Connection, path: str) -> None:
    application_id = _pragma(connection, "application_id")
    version = _pragma(connection, "user_version")
    if application_id != APPLICATION_ID:
        raise RefusedError(
            f"{path} should be {WHAT} and is another program's (application id {application_id:#x}, expected "
            f"{APPLICATION_ID:#x}): nothing was changed. Move it away, or name another directory with --state-dir"
        )
    if version > VERSION:
        raise RefusedError(
            f"{WHAT} {path} has schema version {version}, and this llmspell knows versions up to {VERSION}: "
            "nothing was changed. Use the newer llmspell that made it, or name another directory with --state-dir"
        )


def _prepared(path: str) -> sqlite3.Connection:
    connection = _connect(path, "rw")
    try:
        _prepare(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def _prepare(connection: sqlite3.Connection) -> None:
    connection.execute("PRAGMA journal_mode = WAL")
    # A commit survives the end of the process, not that of the machine's power; the database survives both.
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA temp_store = MEMORY")
    connection.execute("PRAGMA journal_size_limit = 16777216")
    connection.execute("BEGIN IMMEDIATE")
    try:
        for statements in MIGRATIONS[_pragma(connection, "user_version") :]:
            for statement in statements:
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {VERSION}")
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        _forget_other_boots(connection)
        connection.execute("COMMIT")
    except BaseException:
        roll_back(connection)
        raise


def _forget_other_boots(connection: sqlite3.Connection) -> None:
    """Pids, start times and monotonic times are those of one boot: after it they would name strangers."""
    boot = _boot_id()
    found = connection.execute("SELECT value FROM meta WHERE name = 'boot'").fetchone()
    if found is None or found[0] != boot:
        connection.execute(
            "UPDATE kernels_observed SET pid = NULL, start_time = NULL, spawned_at = 0, ready_at = 0, crashes = '[]'"
        )
        connection.execute("REPLACE INTO meta (name, value) VALUES ('boot', ?)", (boot,))


def _boot_id() -> str:
    """Empty where there is no telling: start times are dates there, and stay true (`llmspell_kernel.pidfile`)."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as stream:
            return stream.read().strip()
    except FileNotFoundError:
        return ""


def roll_back(connection: sqlite3.Connection) -> None:
    """End the transaction, unless SQLite has done so on the error itself."""
    if connection.in_transaction:
        connection.execute("ROLLBACK")


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


def _remove(path: str) -> None:
    for suffix in ("", "-wal", "-shm"):
        with contextlib.suppress(OSError):
            os.unlink(path + suffix)


_DAMAGED_ADVICE: Final = (
    "nothing was changed. Put a copy of it back; or move it away, with {path}-wal if that is there, to start with no "
    "tenants (kernels that still run are ended then, since nobody knows whose they are)"
)


def explain(error: sqlite3.Error, path: str) -> str:
    """What SQLite met at `path`, and what to do about it."""
    name = getattr(error, "sqlite_errorname", "")
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return f"{WHAT} {path} is locked by another program: close what has it open, such as a sqlite3 shell"
    if name.startswith(("SQLITE_NOTADB", "SQLITE_CORRUPT")):
        return f"{WHAT} {path} is damaged ({error}): {_DAMAGED_ADVICE.format(path=path)}"
    # SQLite calls it an I/O error when the index of the write-ahead log has no room; what is free is asked afterwards.
    if name.startswith("SQLITE_FULL") or (name.startswith("SQLITE_IOERR") and _free_bytes(path) < 256 * 1024):
        return f"{WHAT} {path} cannot grow: the disk is full. Free some space there"
    kind = name or type(error).__name__
    return f"{WHAT} {path} cannot be read or written: {error} ({kind}). Look at the disk that it is on"


def _free_bytes(path: str) -> float:
    try:
        status = os.statvfs(os.path.dirname(path) or ".")
    except OSError:
        return math.inf
    return status.f_bavail * status.f_frsize
