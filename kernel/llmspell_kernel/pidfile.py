"""Pid files that can be trusted: pid and start time name a process, so a reused pid deceives nobody.

Three lines: pid, start time in clock ticks since boot, connection file (may be empty). The pid comes first
because service managers and ``kill $(head -1 FILE)`` read that line. Whoever claims a file holds one lock,
in the state directory, while it looks and writes; afterwards the living process is the claim. So no lock
file per kernel is left behind, and the one that exists is never unlinked (a lock on an unlinked file
excludes nobody).
"""

import fcntl
import os

import msgspec

from llmspell_kernel.errors import MisuseError, RefusedError
from llmspell_kernel.safe_files import read_private, write_private

_LONGEST_BYTES = 8192
_STATE_AND_AFTER = 2
_START_TIME = 21  # field 22 of proc_pid_stat(5), counted from 0


class PidRecord(msgspec.Struct, frozen=True):
    """What a pid file says."""

    pid: int
    start_time: int
    """Clock ticks since boot, field 22 of proc_pid_stat(5)."""
    connection_file: str = ""


class DamagedPidFileError(MisuseError):
    """The file does not hold what a pid file does."""


class AlreadyRunningError(RefusedError):
    """The pid file belongs to a process that lives."""

    def __init__(self, path: str, pid: int) -> None:
        super().__init__(
            f"a kernel with the pid file {path} is already running as process {pid}: "
            "stop it with `llmspell kernel stop`, or name another pid file"
        )
        self.path = path
        self.pid = pid


def process_start_time(pid: int) -> int | None:
    """When process `pid` started, in clock ticks since boot; None when there is none, or only its zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stream:
            content = stream.read()
    except (FileNotFoundError, ProcessLookupError):
        return None if os.path.exists("/proc/self/stat") else start_time_without_proc(pid)
    # The second field is the command in parentheses and may itself hold spaces and parentheses.
    fields = content[content.rindex(b")") + 2 :].split()
    if fields[0] in (b"Z", b"X"):
        return None
    return int(fields[_START_TIME - _STATE_AND_AFTER])


def start_time_without_proc(pid: int) -> int | None:
    """As `process_start_time`, in hundredths of a second since 1970, for systems without /proc."""
    import psutil

    try:
        process = psutil.Process(pid)
        return None if process.status() == psutil.STATUS_ZOMBIE else int(process.create_time() * 100)
    except psutil.NoSuchProcess:
        return None


def is_running(record: PidRecord) -> bool:
    """Whether the very process that wrote `record` is alive."""
    return process_start_time(record.pid) == record.start_time


def own_record(connection_file: str = "") -> PidRecord:
    """The record of this process."""
    pid = os.getpid()
    start_time = process_start_time(pid)
    if start_time is None:
        raise RefusedError(f"the start time of process {pid} cannot be read: is /proc mounted?")
    return PidRecord(pid, start_time, connection_file)


def read(path: str) -> PidRecord:
    """Read a pid file of ours. FileNotFoundError when there is none; wrong owner, mode or content say so."""
    try:
        content = read_private(path, what="pid file", limit_bytes=_LONGEST_BYTES)
    except MisuseError as fault:
        raise DamagedPidFileError(str(fault)) from None
    lines = content.decode("utf-8", "surrogateescape").split("\n")
    try:
        pid, start_time = int(lines[0]), int(lines[1])
        if pid < 1 or start_time < 0:
            raise ValueError
    except (ValueError, IndexError):
        raise DamagedPidFileError(
            f"the pid file {path} should hold a pid and a start time on two lines and does not: "
            "if no kernel of yours uses it, remove it"
        ) from None
    return PidRecord(pid, start_time, lines[2] if len(lines) > 2 else "")


def claim(path: str, *, lock_path: str, connection_file: str = "", replaces_damaged: bool = False) -> PidRecord:
    """Make `path` this process's pid file.

    A file of a process that is gone is replaced, our own is rewritten, that of another living one raises
    AlreadyRunningError with its pid. `lock_path` names the lock file (`runtime_dir.lock_path`). A file that holds
    something else raises DamagedPidFileError, unless `replaces_damaged`: for paths that are nobody's but ours.
    """
    record = own_record(connection_file)
    with open(_lock(lock_path), "rb") as lock:
        # Held only while looking and writing, so waiting here is waiting for another's microseconds.
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            holder = read(path)
        except FileNotFoundError:
            holder = None
        except DamagedPidFileError:
            if not replaces_damaged:
                raise
            holder = None
        if holder is not None and holder.pid != record.pid and is_running(holder):
            raise AlreadyRunningError(path, holder.pid)
        text = f"{record.pid}\n{record.start_time}\n{connection_file}\n"
        write_private(path, os.fsencode(text), what="pid file")
    return record


def _lock(path: str) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise RefusedError(f"the lock file {path} cannot be opened for writing: {error.strerror}") from error


def release(path: str) -> None:
    """Remove `path` if it is this process's; somebody else's, or none, is left as it is."""
    try:
        if read(path).pid == os.getpid():
            os.unlink(path)
    except (FileNotFoundError, MisuseError, RefusedError):
        return


def remove_stale(path: str) -> bool:
    """Remove a pid file whose process is gone; False when it lives, or there is no such file."""
    try:
        if is_running(read(path)):
            return False
        os.unlink(path)
    except FileNotFoundError:
        return False
    return True


def process_age_s(pid: int) -> float | None:
    """How long process `pid` has been there; None when there is none, or no telling here."""
    start_time = process_start_time(pid)
    try:
        with open("/proc/uptime", "rb") as stream:
            up_s = float(stream.read().split()[0])
    except FileNotFoundError:
        return None
    return None if start_time is None else max(0.0, up_s - start_time / os.sysconf("SC_CLK_TCK"))
