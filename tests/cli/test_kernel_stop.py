"""`llmspell kernel stop`: which kernels, by which rung, and what is left."""

import json
import os
import signal
from pathlib import Path

import pytest

from llmspell_kernel import pidfile
from support.homes import Home, wait_until

pytestmark = pytest.mark.integration


def _pid(connection_file: Path) -> int:
    pid = json.loads(connection_file.read_text())["pid"]
    assert isinstance(pid, int)
    return pid


def _left(home: Home) -> list[str]:
    return sorted(path.name for path in home.runtime.rglob("*") if not path.is_dir())


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: pidfile.process_start_time(pid) is None, "the kernel is gone")


def test_the_only_kernel_need_not_be_named(home: Home) -> None:
    pid = _pid(home.start_kernel())

    done = home.llmspell("kernel", "stop")

    assert done.returncode == 0
    assert done.stdout.endswith(f"process {pid}, stopped by shutdown_request\n")
    assert pidfile.process_start_time(pid) is None
    assert _left(home) == []


def test_one_of_several_must_be_named(home: Home) -> None:
    first, second = _pid(home.start_kernel("--id", "one")), _pid(home.start_kernel("--id", "two"))

    undecided = home.llmspell("kernel", "stop")
    done = home.llmspell("kernel", "stop", "--id", "one")

    assert undecided.returncode == 2
    assert "expected one running kernel, found 2" in undecided.stderr
    assert done.returncode == 0
    assert pidfile.process_start_time(first) is None
    assert pidfile.process_start_time(second) is not None


def test_all_are_stopped(home: Home) -> None:
    pids = [_pid(home.start_kernel()) for _ in range(2)]

    done = home.llmspell("kernel", "stop", "--all")

    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 2
    assert [pidfile.process_start_time(pid) for pid in pids] == [None, None]
    assert _left(home) == []


def test_a_pid_file_names_a_kernel(home: Home) -> None:
    pid_file = home.path / "service.pid"
    pid = _pid(home.start_kernel("--pid-file", str(pid_file)))

    assert home.llmspell("kernel", "stop", "--pid-file", str(pid_file)).returncode == 0
    assert pidfile.process_start_time(pid) is None
    assert not pid_file.exists()


def test_a_pid_file_will_do_without_an_entry_in_the_runtime_directory(home: Home) -> None:
    pid_file = home.path / "service.pid"
    connection_file = home.start_kernel("--pid-file", str(pid_file))
    connection_file.with_suffix(".pid").unlink()

    done = home.llmspell("kernel", "stop", "--pid-file", str(pid_file))

    assert done.stdout.endswith("stopped by shutdown_request\n")


def test_force_kills_and_tidies_up(home: Home) -> None:
    home.start_kernel()

    done = home.llmspell("kernel", "stop", "--force")

    assert done.stdout.endswith("stopped by SIGKILL\n")
    assert _left(home) == []


def test_a_killed_kernel_s_sockets_are_removed(home: Home) -> None:
    home.start_kernel("--transport", "ipc")

    assert home.llmspell("kernel", "stop", "--force").returncode == 0
    assert list(home.runtime.iterdir()) == []


def test_files_may_be_left_for_the_curious(home: Home) -> None:
    home.start_kernel("--id", "work")

    assert home.llmspell("kernel", "stop", "--force", "--no-cleanup").returncode == 0
    assert len(_left(home)) == 2


def test_a_kernel_that_hangs_is_killed_within_the_time(home: Home) -> None:
    pid = _pid(home.start_kernel())
    os.kill(pid, signal.SIGSTOP)

    done = home.llmspell("kernel", "stop", "--timeout", "500ms")

    assert done.stdout.endswith("stopped by SIGKILL\n")
    assert pidfile.process_start_time(pid) is None


def test_a_busy_kernel_obeys(home: Home) -> None:
    home.start_kernel("--id", "work")
    busy = home.llmspell("exec", "--connect", "work", "print(1)")
    assert busy.returncode == 0

    assert home.llmspell("kernel", "stop").stdout.endswith("stopped by shutdown_request\n")


def test_a_kernel_whose_connection_file_is_gone_is_stopped_all_the_same(home: Home) -> None:
    connection_file = home.start_kernel("--id", "work")
    connection_file.unlink()

    done = home.llmspell("kernel", "stop", "--id", "work")

    assert done.stdout.endswith("stopped by SIGTERM\n")
    assert _left(home) == []


def test_a_kernel_that_died_is_tidied_up_and_was_not_running(home: Home) -> None:
    _kill(_pid(home.start_kernel("--id", "work")))

    done = home.llmspell("kernel", "stop", "--id", "work")

    assert done.returncode == 3
    assert "had ended before; its files are removed" in done.stderr
    assert _left(home) == []


def test_all_tidies_up_after_those_that_died(home: Home) -> None:
    _kill(_pid(home.start_kernel()))

    done = home.llmspell("kernel", "stop", "--all")

    assert done.returncode == 0
    assert "had ended before" in done.stdout
    assert _left(home) == []


@pytest.mark.parametrize(
    ("case", "arguments"),
    [
        ("none at all", []),
        ("none of all", ["--all"]),
        ("no such kernel", ["--id", "nobody"]),
        ("no such pid file", ["--pid-file", "none.pid"]),
    ],
)
def test_where_nothing_runs_nothing_is_stopped(home: Home, case: str, arguments: list[str]) -> None:
    assert home.llmspell("kernel", "stop", *arguments).returncode == 3, case


def test_a_pid_file_that_is_none_is_not_believed(home: Home) -> None:
    path = home.path / "service.pid"
    path.write_text("all of them\n")
    path.chmod(0o600)

    done = home.llmspell("kernel", "stop", "--pid-file", str(path))

    assert done.returncode == 2
    assert "should hold a pid and a start time" in done.stderr
