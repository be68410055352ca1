"""`llmspell fleet logs` and `events`."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.commands import Commands, end
from support.homes import DEADLINE_S, Home, wait_until
from support.served_fleet import ServedFleet

pytestmark = pytest.mark.integration


class Following:
    """A command that goes on, and what it has printed so far."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self.process = process
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line.rstrip("\n"))

    def wait_for(self, count: int) -> list[str]:
        wait_until(lambda: len(self.lines) >= count, f"{count} lines, found {self.lines}")
        return self.lines

    def end(self) -> int:
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(DEADLINE_S)
        self._reader.join()
        return code


@contextmanager
def _following(command: list[str], environ: dict[str, str]) -> Iterator[Following]:
    with subprocess.Popen(
        [sys.executable, "-m", "llmspell_cli", *command], env=environ, stdout=subprocess.PIPE, text=True
    ) as process:
        following = Following(process)
        try:
            yield following
        finally:
            process.kill()
            process.wait(DEADLINE_S)
            following._reader.join()


@pytest.fixture
def remote(served: ServedFleet, tmp_path: Path) -> dict[str, str]:
    """The environment of commands about the served fleet."""
    (tmp_path / "token").write_text("admin-token")
    return {**os.environ, "LLMSPELL_URL": served.unix, "LLMSPELL_TOKEN_FILE": str(tmp_path / "token")}


def test_a_kernel_s_lines_are_shown(llmspell: Commands, served: ServedFleet) -> None:
    kernel = served.fleet.kernel_of("acme")

    assert llmspell("fleet", "logs", kernel).out == "one\na.b\ntwo\n"
    assert llmspell("fleet", "logs", kernel[:8], "--since", "1", "--grep", "a.b").out == "a.b\n"
    (line,) = llmspell("fleet", "logs", kernel, "--since", "2", "--output", "json").json
    assert (line["seq"], line["text"]) == (3, "two")


def test_a_kernel_that_is_not_there_has_no_lines(llmspell: Commands) -> None:
    done = llmspell("fleet", "logs", "nobody")

    assert done.code == 1
    assert "the fleet has no kernel 'nobody': `llmspell fleet list` shows those it has" in done.err


def test_a_kernel_s_lines_are_followed_until_ctrl_c(served: ServedFleet, remote: dict[str, str]) -> None:
    kernel = served.fleet.kernel_of("acme")

    with _following(["fleet", "logs", kernel, "--follow", "--since", "2"], remote) as following:
        assert following.wait_for(1) == ["two"]
        served.run(served.fleet.write(kernel, "three"))
        assert following.wait_for(2) == ["two", "three"]
        assert following.end() == 130


def test_events_are_shown_one_a_line(llmspell: Commands) -> None:
    lines = llmspell("fleet", "events").out.splitlines()

    assert [line.split() for line in lines] == [
        ["1", "2025-01-01T00:00:00.000000Z", "tenant.created", "acme"],
        ["2", "2025-01-01T00:00:00.000000Z", "tenant.created", "globex"],
    ]
    (event,) = llmspell("fleet", "events", "--since", "1", "--output", "json").json
    assert (event["seq"], event["tenant"]) == (2, "globex")


def test_events_are_followed_as_one_object_a_line(served: ServedFleet, remote: dict[str, str]) -> None:
    with _following(["fleet", "events", "--follow", "--since", "2", "--output", "json"], remote) as following:
        wait_until(lambda: served.fleet.streams == 1, "the stream is open")
        served.run(served.fleet.happen())
        (line,) = following.wait_for(1)

        assert json.loads(line)["type"] == "fleet.reloaded"
        assert following.end() == 130


# --- the fleet's own log ------------------------------------------------------------------------------------------


def _log(home: Home, text: str) -> Path:
    home.logs.mkdir(exist_ok=True)
    path = home.logs / "fleet.log"
    with path.open("a") as log:
        log.write(text)
    return path


def test_the_fleet_s_own_log_is_shown(home: Home) -> None:
    _log(home, "one\ntwo\nlast without an end")

    assert home.llmspell("fleet", "logs").stdout == "one\ntwo\nlast without an end"
    assert home.llmspell("fleet", "logs", "--grep", "w").stdout == "two\nlast without an end"


def test_the_fleet_s_own_log_is_followed_into_the_next_file(home: Home) -> None:
    path = _log(home, "one\n")
    with _following(["fleet", "logs", "--follow", "--grep", "o"], home.environ) as following:
        following.wait_for(1)
        _log(home, "t")
        _log(home, "wo\nx\n")
        following.wait_for(2)
        path.rename(home.logs / "fleet.log.1")
        _log(home, "four\n")
        assert following.wait_for(3) == ["one", "two", "four"]
        assert following.end() == 130


def test_a_long_log_is_followed_from_its_last_lines(home: Home) -> None:
    _log(home, "".join(f"line {number}\n" for number in range(10_000)))

    with _following(["fleet", "logs", "-f"], home.environ) as following:
        wait_until(lambda: following.lines and following.lines[-1] == "line 9999", "the last line")
        assert len(following.lines) < 1000
        assert following.lines[0].startswith("line 9")


def test_a_log_that_is_not_there_says_where_it_would_be(home: Home) -> None:
    done = home.llmspell("fleet", "logs")

    assert done.returncode == 3
    assert f"there is no log {home.logs / 'fleet.log'}" in done.stderr


@pytest.mark.parametrize("arguments", [["--since", "3"], ["--output", "json"], ["--url", "http://localhost:1"]])
def test_what_the_fleet_s_own_log_has_not_is_misuse(capsys: pytest.CaptureFixture[str], arguments: list[str]) -> None:
    assert end(capsys, "fleet", "logs", *arguments).code == 2
