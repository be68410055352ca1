"""`llmspell fleet down`, with controllers that end, do not end, and have died before."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from llmspell_kernel import pidfile
from support.homes import DEADLINE_S, Home, wait_until

pytestmark = pytest.mark.integration

_CONTROLLER = """
import json, os, signal, sys
from llmspell_fleet.paths import make_paths
from llmspell_kernel import pidfile, runtime_dir
needed = int(sys.argv[1])
heard = 0
def on_sigterm(number, frame):
    global heard
    heard += 1
signal.signal(signal.SIGTERM, on_sigterm)
paths = make_paths()
record = pidfile.claim(paths.pid_file, lock_path=runtime_dir.lock_path(), connection_file=paths.address_file)
address = {"pid": record.pid, "start_time": record.start_time, "url": "http://127.0.0.1:9550"}
with open(os.open(paths.address_file, os.O_WRONLY | os.O_CREAT, 0o600), "w") as file:
    json.dump({**address, "socket": paths.socket, "version": "1"}, file)
print("up", flush=True)
while heard < needed:
    signal.pause()
os.unlink(paths.address_file)
pidfile.release(paths.pid_file)
"""


@contextmanager
def _controller(home: Home, *, sigterms: int) -> Iterator["subprocess.Popen[str]"]:
    """What keeps the files of a fleet that serves, and ends at the SIGTERM of that number."""
    command = [sys.executable, "-c", _CONTROLLER, str(sigterms)]
    with subprocess.Popen(command, env=home.environ, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "up\n"
            yield process
        finally:
            process.kill()


def _killed_controller(home: Home) -> int:
    with _controller(home, sigterms=1) as process:
        process.kill()
        process.wait(DEADLINE_S)
    return process.pid


def _fleet_kernel(home: Home) -> int:
    """A kernel that answers, with what a fleet's has besides; its pid."""
    info = json.loads(home.start_kernel("--transport", "ipc").read_text())
    os.mkfifo(Path(info["ip"]).parent / "output", 0o600)
    pid = info["pid"]
    assert isinstance(pid, int)
    return pid


def _left(home: Home) -> list[str]:
    return sorted(path.name for path in home.runtime.rglob("*"))


def test_a_fleet_that_ends_is_gone_when_the_command_returns(home: Home) -> None:
    with _controller(home, sigterms=1) as controller:
        done = home.llmspell("fleet", "down")

        assert (done.returncode, done.stderr) == (0, "")
        assert done.stdout == f"fleet, process {controller.pid}, stopped\n"
        assert pidfile.process_start_time(controller.pid) is None
    assert _left(home) == []


def test_a_fleet_that_does_not_end_is_told_with_what_is_left(home: Home) -> None:
    with _controller(home, sigterms=2) as controller:
        done = home.llmspell("fleet", "down", "--timeout", "1.2s")

        assert done.returncode == 1
        waiting, failed = done.stderr.splitlines()
        assert waiting == f"waiting for the controller, process {controller.pid}, and 0 kernels"
        assert f"did not end within 1.2 s: its controller, process {controller.pid}, and 0 kernels are left" in failed
        assert "`llmspell fleet down --force` does not wait" in failed


@pytest.mark.parametrize(("case", "sigterms"), [("a second SIGTERM", 2), ("SIGKILL", 1000)])
def test_force_ends_it_all_the_same(home: Home, case: str, sigterms: int) -> None:
    with _controller(home, sigterms=sigterms) as controller:
        done = home.llmspell("fleet", "down", "--force")

        assert done.returncode == 0, case
        assert done.stdout.startswith(f"fleet, process {controller.pid}, stopped")
    assert _left(home) == []


def test_kernels_that_outlived_their_controller_are_ended(home: Home) -> None:
    kernels = [_fleet_kernel(home), _fleet_kernel(home)]
    _killed_controller(home)

    done = home.llmspell("fleet", "down")

    assert done.returncode == 3
    expected = (
        f"no fleet is running in {home.runtime}; 2 kernels and other files that its controller had left are removed"
    )
    assert expected in done.stderr
    assert all(pidfile.process_start_time(pid) is None for pid in kernels)
    assert _left(home) == []


def test_files_of_kernels_that_died_too_are_removed(home: Home) -> None:
    pid = _fleet_kernel(home)
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: pidfile.process_start_time(pid) is None, "the kernel is gone")
    _killed_controller(home)

    assert home.llmspell("fleet", "down").returncode == 3
    assert _left(home) == []


def test_kernels_of_nobody_s_fleet_stay(home: Home) -> None:
    alone = json.loads(home.start_kernel("--transport", "ipc", "--id", "alone").read_text())["pid"]
    with _controller(home, sigterms=1):
        assert home.llmspell("fleet", "down").returncode == 0

    assert pidfile.process_start_time(alone) is not None
    assert home.llmspell("exec", "--connect", "alone", "return 1").stdout == "1\n"


def test_where_no_fleet_runs_nothing_is_stopped_or_made(home: Home) -> None:
    done = home.llmspell("fleet", "down")

    assert done.returncode == 3
    assert done.stderr == f"llmspell: no fleet is running in {home.runtime}\n"
    assert not home.runtime.exists()
    assert not home.state.exists()


def test_another_fleet_s_address_stops_nothing(home: Home) -> None:
    with _controller(home, sigterms=1) as controller:
        refused = home.llmspell("fleet", "down", "--url", "http://127.0.0.1:1")

        assert refused.returncode == 4
        assert "a fleet is stopped on its own machine, by its runtime directory" in refused.stderr
        assert controller.poll() is None
        assert home.llmspell("fleet", "down", "--url", "http://127.0.0.1:9550/").returncode == 0


def test_a_second_fleet_is_refused_with_the_first_one_s_pid_and_address(home: Home) -> None:
    with _controller(home, sigterms=1) as controller:
        for place in ("--daemon", "--foreground"):
            done = home.llmspell("fleet", "up", place)

            assert done.returncode == 4
            assert (
                f"process {controller.pid} on http://127.0.0.1:9550; stop it with `llmspell fleet down`" in done.stderr
            )
