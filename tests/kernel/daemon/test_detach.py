"""Becoming a daemon: real forks, run in a process without threads, as the command line is one."""

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from llmspell_kernel import pidfile
from llmspell_kernel.daemon.detach import Outcome
from support.homes import wait_until

pytestmark = pytest.mark.integration

_STARTER = """
import os, signal, sys, time
import msgspec
from llmspell_kernel.daemon.detach import run_detached
from llmspell_kernel.errors import RefusedError

def stays(readiness):
    facts = {
        "umask": os.umask(0o077), "directory": os.getcwd(), "session": os.getsid(0), "pid": os.getpid(),
        "open": sorted(int(name) for name in os.listdir("/proc/self/fd")),
    }
    readiness.ready(msgspec.json.encode(facts).decode())
    readiness.failed("a second word is not heard", 1)
    print("after ready", flush=True)
    signal.pause()
    return 0

def refuses(readiness):
    raise RefusedError("port 5 is taken")

def breaks(readiness):
    return 1 // 0

def returns(readiness):
    return 3

def vanishes(readiness):
    print("last words", flush=True)
    os.kill(os.getpid(), signal.SIGKILL)

def hangs(readiness):
    print("thinking", flush=True)
    signal.pause()

kept_open = os.open("/dev/null", os.O_RDONLY)
os.set_inheritable(kept_open, True)
outcome = run_detached(globals()[sys.argv[1]], log_file=sys.argv[2], deadline_s=float(sys.argv[3]))
sys.stdout.write(msgspec.json.encode(outcome).decode())
"""


def _start(main: str, log: Path, deadline_s: float = 20) -> Outcome:
    done = subprocess.run(
        [sys.executable, "-c", _STARTER, main, str(log), str(deadline_s)],
        capture_output=True,
        timeout=30,
        check=True,
    )
    return msgspec.json.decode(done.stdout, type=Outcome)


def _is_gone(pid: int) -> bool:
    return pidfile.process_start_time(pid) is None


def _open_file(pid: int, descriptor: int) -> str:
    return str(Path(f"/proc/{pid}/fd/{descriptor}").readlink())


def test_a_daemon_that_is_ready_lets_its_parent_go_and_stays(tmp_path: Path) -> None:
    log = tmp_path / "log"

    outcome = _start("stays", log)

    try:
        assert outcome.exit_code == 0
        facts = msgspec.json.decode(outcome.message)
        assert facts["pid"] == outcome.pid
        assert facts["umask"] == 0o077
        assert facts["directory"] == "/"
        assert facts["session"] not in (os.getsid(0), outcome.pid), "a session's leader could get a terminal"
        wait_until(lambda: b"after ready" in log.read_bytes(), "the daemon writes to its log")
        assert stat.S_IMODE(log.stat().st_mode) == 0o600
        # 0, 1, 2, the pipe to the parent, and the listing of descriptors itself.
        assert len(facts["open"]) == 5
        assert _open_file(outcome.pid, 0) == os.devnull
        assert {_open_file(outcome.pid, number) for number in (1, 2)} == {str(log)}
    finally:
        os.kill(outcome.pid, signal.SIGKILL)
    wait_until(lambda: _is_gone(outcome.pid), "the daemon is gone")


@pytest.mark.parametrize(
    ("main", "exit_code", "message"),
    [
        ("refuses", 4, "port 5 is taken"),
        ("breaks", 1, "ZeroDivisionError: integer division or modulo by zero (this is llmspell's own fault)"),
        ("returns", 3, "the kernel ended before it was ready"),
    ],
)
def test_a_daemon_s_failure_is_its_parent_s(tmp_path: Path, main: str, exit_code: int, message: str) -> None:
    outcome = _start(main, tmp_path / "log")

    assert (outcome.exit_code, outcome.message) == (exit_code, message)
    wait_until(lambda: _is_gone(outcome.pid), "the daemon is gone")


def test_a_daemon_that_vanishes_is_noticed_at_once_with_its_last_words(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("words of an earlier start\n")

    outcome = _start("vanishes", log)

    assert outcome.exit_code == 1
    assert outcome.message == (
        f"the kernel ended before it was ready, without a word; the last lines of its log {log}:\n  last words"
    )


def test_a_silent_daemon_is_ended_at_the_deadline(tmp_path: Path) -> None:
    outcome = _start("hangs", tmp_path / "log", deadline_s=0.5)

    assert outcome.exit_code == 1
    assert outcome.message.startswith("the kernel was not ready within 0.5 s and was ended; the last lines")
    wait_until(lambda: _is_gone(outcome.pid), "the daemon is gone")


def test_a_log_that_cannot_be_written_is_told_before_anything_starts(tmp_path: Path) -> None:
    with pytest.raises(subprocess.CalledProcessError) as failure:
        _start("stays", tmp_path / "none" / "log")

    assert b"cannot be written: No such file or directory" in failure.value.stderr


_WITH_A_THREAD = """
import threading
from llmspell_kernel.daemon.detach import run_detached
threading.Thread(target=threading.Event().wait, daemon=True).start()
try:
    run_detached(lambda readiness: 0, log_file="/dev/null")
except RuntimeError as refusal:
    print(refusal)
"""


def test_a_process_with_threads_does_not_fork() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _WITH_A_THREAD], capture_output=True, timeout=30, check=True, text=True
    )

    assert "cannot become a daemon" in done.stdout
