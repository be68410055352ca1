"""Pid files: a process is its pid and its start time."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmspell_kernel import pidfile
from llmspell_kernel.errors import MisuseError, RefusedError
from llmspell_kernel.pidfile import AlreadyRunningError, PidRecord
from support.foreign import foreign_file
from support.homes import wait_until


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        yield process
        process.kill()


def _claim(directory: Path, connection_file: str = "") -> PidRecord:
    return pidfile.claim(
        str(directory / "k.pid"), lock_path=str(directory / "pid.lock"), connection_file=connection_file
    )


def _write(path: Path, text: str) -> Path:
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_a_claim_says_who_and_where(tmp_path: Path) -> None:
    record = _claim(tmp_path, "/run/k.json")

    assert pidfile.read(str(tmp_path / "k.pid")) == record
    assert record.pid == os.getpid()
    assert record.connection_file == "/run/k.json"
    assert pidfile.is_running(record)


def test_the_first_line_is_the_pid_alone_for_service_managers(tmp_path: Path) -> None:
    _claim(tmp_path)

    assert (tmp_path / "k.pid").read_text().splitlines()[0] == str(os.getpid())


def test_a_second_claim_is_refused_with_the_running_one_s_pid(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    started = pidfile.process_start_time(sleeper.pid)
    _write(tmp_path / "k.pid", f"{sleeper.pid}\n{started}\n\n")

    with pytest.raises(AlreadyRunningError, match=f"already running as process {sleeper.pid}") as refusal:
        _claim(tmp_path)

    assert refusal.value.pid == sleeper.pid


def test_the_file_of_a_process_that_is_gone_is_replaced(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    started = pidfile.process_start_time(sleeper.pid)
    _write(tmp_path / "k.pid", f"{sleeper.pid}\n{started}\n\n")
    sleeper.kill()
    sleeper.wait()

    assert _claim(tmp_path).pid == os.getpid()


def test_a_pid_that_was_given_to_another_process_deceives_nobody(
    tmp_path: Path, sleeper: subprocess.Popen[bytes]
) -> None:
    _write(tmp_path / "k.pid", f"{sleeper.pid}\n1\n\n")

    assert not pidfile.is_running(pidfile.read(str(tmp_path / "k.pid")))
    assert _claim(tmp_path).pid == os.getpid()


def test_our_own_file_may_be_claimed_again(tmp_path: Path) -> None:
    _claim(tmp_path)

    assert _claim(tmp_path, "new").connection_file == "new"


def test_a_zombie_is_gone(sleeper: subprocess.Popen[bytes]) -> None:
    os.kill(sleeper.pid, signal.SIGKILL)

    wait_until(lambda: pidfile.process_start_time(sleeper.pid) is None, "the zombie counts as gone")
    assert pidfile.process_age_s(sleeper.pid) is None


def test_a_process_s_age_is_that_of_the_process(sleeper: subprocess.Popen[bytes]) -> None:
    age_s = pidfile.process_age_s(sleeper.pid)

    assert age_s is not None
    assert 0 <= age_s < 60


def test_the_start_time_is_read_past_a_command_with_parentheses(tmp_path: Path) -> None:
    script = tmp_path / "a) b (c"
    script.symlink_to("/bin/sleep")
    with subprocess.Popen([str(script), "60"]) as process:
        try:
            started = pidfile.process_start_time(process.pid)
            assert started is not None
            assert started >= (pidfile.process_start_time(os.getpid()) or 0)
        finally:
            process.kill()


def test_where_there_is_no_proc_a_process_has_a_start_time_all_the_same(sleeper: subprocess.Popen[bytes]) -> None:
    started = pidfile.start_time_without_proc(sleeper.pid)

    assert started is not None
    assert pidfile.start_time_without_proc(sleeper.pid) == started
    sleeper.kill()
    wait_until(lambda: pidfile.start_time_without_proc(sleeper.pid) is None, "the zombie counts as gone")
    sleeper.wait()
    assert pidfile.start_time_without_proc(sleeper.pid) is None


@pytest.mark.parametrize(
    ("case", "text"),
    [
        ("empty", ""),
        ("a pid alone", "17\n"),
        ("words", "kernel\nrunning\n"),
        ("no process has pid 0", "0\n5\n"),
        ("a negative time", "17\n-5\n"),
        ("bytes", "\udc80\n1\n"),
    ],
)
def test_a_file_that_is_no_pid_file_says_so(tmp_path: Path, case: str, text: str) -> None:
    path = tmp_path / "k.pid"
    path.write_bytes(text.encode(errors="surrogateescape"))
    path.chmod(0o600)

    with pytest.raises(MisuseError, match="should hold a pid and a start time on two lines"):
        pidfile.read(str(path))
    assert case


def test_a_damaged_file_is_replaced_only_where_nobody_else_can_have_one(tmp_path: Path) -> None:
    path = _write(tmp_path / "k.pid", "garbage")
    lock = str(tmp_path / "lock")

    with pytest.raises(pidfile.DamagedPidFileError):
        pidfile.claim(str(path), lock_path=lock)
    assert path.read_text() == "garbage"

    record = pidfile.claim(str(path), lock_path=lock, replaces_damaged=True)
    assert pidfile.read(str(path)) == record


def test_a_pid_file_with_the_wrong_owner_or_mode_is_refused(tmp_path: Path) -> None:
    path = _write(tmp_path / "k.pid", "1\n1\n")
    path.chmod(0o644)

    with pytest.raises(RefusedError, match="has mode 0644"):
        pidfile.read(str(path))
    with pytest.raises(RefusedError, match="has mode 0644"):
        _claim(tmp_path)
    with pytest.raises(RefusedError, match="belongs to user"):
        pidfile.read(str(foreign_file(tmp_path)))


def test_a_release_removes_only_our_own_file(tmp_path: Path, sleeper: subprocess.Popen[bytes]) -> None:
    _claim(tmp_path)
    theirs = _write(tmp_path / "theirs.pid", f"{sleeper.pid}\n1\n")
    broken = _write(tmp_path / "broken.pid", "nonsense")

    for name in ("k.pid", "theirs.pid", "broken.pid", "none.pid"):
        pidfile.release(str(tmp_path / name))

    assert not (tmp_path / "k.pid").exists()
    assert theirs.exists()
    assert broken.exists()
    assert (tmp_path / "pid.lock").exists(), "a lock file that is removed excludes nobody"


def test_only_a_stale_file_is_removed_as_stale(tmp_path: Path) -> None:
    _claim(tmp_path)
    stale = _write(tmp_path / "stale.pid", f"{os.getpid()}\n1\n")

    assert not pidfile.remove_stale(str(tmp_path / "k.pid"))
    assert pidfile.remove_stale(str(stale))
    assert not pidfile.remove_stale(str(stale))


_RACER = """
import os, sys
from llmspell_kernel import pidfile
directory = sys.argv[1]
sys.stdin.readline()
try:
    pidfile.claim(directory + "/k.pid", lock_path=directory + "/pid.lock")
    print(os.getpid(), flush=True)
except pidfile.AlreadyRunningError as refusal:
    print(-refusal.pid, flush=True)
sys.stdin.readline()  # the winner must be alive while the others look
"""


def test_of_several_at_once_one_wins_and_the_others_learn_who(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        racers = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-c", _RACER, str(tmp_path)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    bufsize=1,
                )
            )
            for _ in range(4)
        ]
        for racer in racers:
            assert racer.stdin is not None
            racer.stdin.write("go\n")
        told = [int(racer.stdout.readline()) for racer in racers if racer.stdout is not None]

    (winner,) = (pid for pid in told if pid > 0)
    assert [pid for pid in told if pid < 0] == [-winner] * 3
