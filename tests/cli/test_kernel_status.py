"""`llmspell kernel status`, `list` and `connect`."""

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from llmspell_kernel import pidfile
from support.homes import DEADLINE_S, Home, wait_until

pytestmark = pytest.mark.integration


def _rows(home: Home, command: str, *arguments: str) -> list[dict[str, Any]]:
    done = home.llmspell("kernel", command, "--output", "json", *arguments)
    rows = json.loads(done.stdout)
    assert isinstance(rows, list)
    return rows


@pytest.mark.parametrize("command", ["list", "status"])
def test_a_running_kernel_is_shown_with_all_there_is_to_say(home: Home, command: str) -> None:
    connection_file = home.start_kernel("--id", "work")
    info = json.loads(connection_file.read_text())

    (row,) = _rows(home, command)

    assert row.keys() == {"id", "pid", "name", "uptime_s", "state", "clients", "connection_file"}
    assert (row["id"], row["pid"], row["name"]) == (info["kernel_id"], info["pid"], "work")
    assert row["connection_file"] == str(connection_file)
    assert row["state"] == "idle"
    assert row["clients"] == 0
    assert 0 <= row["uptime_s"] < 60


def test_people_get_a_table(home: Home) -> None:
    connection_file = home.start_kernel("--id", "work")

    header, row = home.llmspell("kernel", "list").stdout.splitlines()

    assert header.split() == ["id", "pid", "name", "uptime", "state", "clients", "connection", "file"]
    assert row.split()[-1] == str(connection_file)


def test_a_busy_kernel_is_busy_and_counts_its_client(home: Home, tmp_path: Path) -> None:
    home.start_kernel("--id", "work")
    output = tmp_path / "output"
    with (
        output.open("wb") as stream,
        subprocess.Popen(
            home.command("exec", "--connect", "work", 'print("on") while true do end'), env=home.environ, stdout=stream
        ) as busy,
    ):
        try:
            wait_until(lambda: output.read_bytes() == b"on\n", "the script runs")

            (row,) = _rows(home, "status")

            assert (row["state"], row["clients"]) == ("busy", 1)
        finally:
            busy.send_signal(signal.SIGINT)
            busy.wait(DEADLINE_S)


def test_where_none_runs_a_list_is_empty_and_a_status_is_3(home: Home) -> None:
    listed, asked = home.llmspell("kernel", "list"), home.llmspell("kernel", "status")

    assert (listed.returncode, asked.returncode) == (0, 3)
    assert "no kernel is running" in listed.stdout
    assert "no kernel is running" in asked.stderr
    assert _rows(home, "list") == []


def test_a_kernel_that_died_is_listed_as_dead_and_not_running(home: Home) -> None:
    connection_file = home.start_kernel("--id", "work")
    pid = json.loads(connection_file.read_text())["pid"]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: pidfile.process_start_time(pid) is None, "the kernel is gone")

    (row,) = _rows(home, "list")

    assert (row["state"], row["uptime_s"]) == ("dead", None)
    assert home.llmspell("kernel", "status", "--id", "work").returncode == 3
    assert home.llmspell("kernel", "status").returncode == 3


def test_a_kernel_that_does_not_answer_is_silent(home: Home) -> None:
    pid = json.loads(home.start_kernel().read_text())["pid"]
    os.kill(pid, signal.SIGSTOP)

    done = home.llmspell("kernel", "status", "--output", "json")

    assert done.returncode == 3
    assert json.loads(done.stdout)[0]["state"] == "silent"


def test_quiet_tells_by_the_exit_code_alone(home: Home) -> None:
    home.start_kernel("--id", "work")

    done = home.llmspell("kernel", "status", "--id", "work", "--quiet")

    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_watch_goes_on_until_ctrl_c(home: Home) -> None:
    home.start_kernel("--id", "work")
    with subprocess.Popen(
        home.command("kernel", "status", "--watch", "--interval", "10ms"),
        env=home.environ,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            seen = [process.stdout.readline() for _ in range(6)]
            process.send_signal(signal.SIGINT)

            assert process.wait(DEADLINE_S) == 130
        finally:
            process.kill()
    assert sum("work" in line for line in seen) == 3


def test_connect_proves_that_a_kernel_answers(home: Home) -> None:
    connection_file = home.start_kernel("--id", "work")

    for arguments in ([], ["work"], [str(connection_file)]):
        done = home.llmspell("kernel", "connect", *arguments)
        assert done.returncode == 0
        assert f"jupyter console --existing {connection_file}" in done.stdout


def test_connect_tells_programs_the_endpoints(home: Home) -> None:
    info = json.loads(home.start_kernel().read_text())

    told = json.loads(home.llmspell("kernel", "connect", "--output", "json").stdout)

    assert told["id"] == info["kernel_id"]
    assert told["endpoints"]["shell"] == f"tcp://127.0.0.1:{info['shell_port']}"
    assert told["language"] == "lua 5.4"


def test_connect_to_nobody_is_3(home: Home) -> None:
    assert home.llmspell("kernel", "connect").returncode == 3
    assert home.llmspell("kernel", "connect", "./none.json").returncode == 3
