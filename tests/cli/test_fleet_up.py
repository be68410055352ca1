"""`llmspell fleet up`, `python -m llmspell_fleet`, and the other commands about a fleet that really runs."""

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmspell_kernel import pidfile
from support.homes import DEADLINE_S, Home, wait_until
from support.poorer import poor_home

pytestmark = pytest.mark.integration

_DIRECTORIES = ("LLMSPELL_RUNTIME_DIR", "LLMSPELL_STATE_DIR", "LLMSPELL_LOG_DIR")


def _up(home: Home, *arguments: str) -> str:
    """Start a fleet in the background; what the command printed."""
    done = home.llmspell("fleet", "up", "--daemon", "--port", "0", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def _address(home: Home) -> dict[str, Any]:
    address = json.loads((home.runtime / "fleet.json").read_text())
    assert isinstance(address, dict)
    return address


def _kernels(home: Home, *arguments: str) -> list[dict[str, Any]]:
    listed = json.loads(home.llmspell("fleet", "list", "--output", "json", *arguments).stdout)
    assert isinstance(listed, list)
    return listed


def _wait_for_kernels(home: Home, are_so: Callable[[list[dict[str, Any]]], bool], what: str) -> list[dict[str, Any]]:
    seen: list[dict[str, Any]] = []

    def look() -> bool:
        seen[:] = _kernels(home)
        return are_so(seen)

    wait_until(look, what)
    return seen


def _all_ready(home: Home) -> list[dict[str, Any]]:
    return _wait_for_kernels(home, lambda all_: all(one["phase"] == "READY" for one in all_), "all kernels are READY")


def _is_gone(pid: int) -> bool:
    return pidfile.process_start_time(pid) is None


# --- up and down --------------------------------------------------------------------------------------------------


def test_a_daemon_serves_when_its_start_returns_and_is_gone_when_its_end_does(home: Home) -> None:
    told = _up(home)
    address = _address(home)

    assert told.startswith(f"fleet is ready, process {address['pid']}, {address['url']}\n")
    assert f"  socket       {home.runtime}/fleet.sock\n" in told
    assert f"  log          {home.logs}/fleet.log\n" in told
    pids = [address["pid"], *(kernel["pid"] for kernel in _all_ready(home))]

    down = home.llmspell("fleet", "down")

    assert (down.returncode, down.stdout) == (0, f"fleet, process {address['pid']}, stopped\n")
    assert all(_is_gone(pid) for pid in pids)
    assert list(home.runtime.iterdir()) == []
    assert home.llmspell("fleet", "down").returncode == 3


def test_the_token_s_file_is_told_and_the_token_is_not(home: Home) -> None:
    told = _up(home)

    path = home.state / "admin.token"
    assert f"  admin token  {path}\n" in told
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert path.read_text().strip() not in told
    assert path.read_text().strip() not in (home.logs / "fleet.log").read_text()


def test_a_daemon_is_a_session_of_its_own_in_the_root_folder(home: Home) -> None:
    _up(home)
    pid = _address(home)["pid"]

    assert os.getsid(pid) not in (os.getsid(0), os.getpid())
    assert Path(f"/proc/{pid}/cwd").readlink() == Path("/")
    assert Path(f"/proc/{pid}/fd/2").readlink() == home.logs / "fleet.log"


def test_a_second_fleet_is_refused_with_the_first_one_s_pid_and_address(home: Home) -> None:
    _up(home)
    address = _address(home)

    again = home.llmspell("fleet", "up", "--daemon", "--port", "0")

    assert again.returncode == 4
    assert f"process {address['pid']} on {address['url']}" in again.stderr
    assert home.llmspell("fleet", "status").returncode == 0


@pytest.mark.parametrize("command", [("-m", "llmspell_cli", "fleet", "up", "--port", "0"), ("-m", "llmspell_fleet")])
def test_in_the_foreground_it_serves_until_sigterm(home: Home, command: tuple[str, ...]) -> None:
    config = home.path / "fleet.toml"
    config.write_text("[fleet]\nport = 0\n")
    with subprocess.Popen(
        [sys.executable, *command, "--config", str(config)], env=home.environ, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            wait_until((home.runtime / "fleet.json").exists, "the fleet serves")
            assert _address(home)["pid"] == process.pid
            assert home.llmspell("fleet", "status").returncode == 0
            process.send_signal(signal.SIGTERM)
            assert process.wait(DEADLINE_S) == 0
            assert process.stdout is not None
            told = process.stdout.read()
        finally:
            process.kill()
    if "llmspell_cli" in command:
        assert "  stop         llmspell fleet down\n" in told
        assert told.endswith("Ctrl-C stops the fleet and its kernels; a second one does not wait for what runs.\n")
    assert list(home.runtime.iterdir()) == []


def test_directories_on_the_command_line_are_the_fleet_s_and_its_kernels(home: Home, tmp_path: Path) -> None:
    bare = Home(home.path, {name: value for name, value in home.environ.items() if name not in _DIRECTORIES})
    options = ("--runtime-dir", "run", "--state-dir", "state", "--log-dir", "logs")

    up = bare.llmspell("fleet", "up", "--daemon", "--port", "0", *options, cwd=home.path)

    assert up.returncode == 0, up.stderr
    assert f"  stop         llmspell fleet down --runtime-dir {home.runtime}\n" in up.stdout
    assert {path.name for path in home.state.iterdir()} >= {"admin.token", "fleet.db"}
    assert all(kernel["pid"] for kernel in _all_ready(home))
    assert bare.llmspell("fleet", "down", *options, cwd=home.path).returncode == 0
    assert list(home.runtime.iterdir()) == []


def test_a_port_in_use_is_told_by_the_command_and_nothing_stays(home: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = home.llmspell("fleet", "up", "--daemon", "--port", str(port))

    assert done.returncode == 4
    assert f"port {port}" in done.stderr
    assert "Traceback" not in done.stderr
    assert list(home.runtime.iterdir()) == []


def test_the_configuration_may_say_that_it_is_a_daemon(home: Home) -> None:
    home.config.mkdir()
    (home.config / "fleet.toml").write_text("[fleet]\nport = 0\nstartup_kernels = 1\n[service]\ndaemon = true\n")

    done = home.llmspell("fleet", "up")

    assert done.returncode == 0, done.stderr
    assert len(_kernels(home)) == 1


@pytest.mark.parametrize(
    ("case", "text", "code", "message"),
    [
        ("no TOML", "[fleet", 2, "fleet.toml"),
        ("a misspelling", "[fleet]\nprot = 1\n", 2, "the nearest is port"),
        ("a wrong type", "[fleet]\nport = 'x'\n", 2, "port"),
        ("not built yet", "[security]\ntls_enabled = true\n", 4, "TLS is not built yet"),
    ],
)
def test_a_configuration_that_cannot_be_meant_starts_nothing(
    home: Home, case: str, text: str, code: int, message: str
) -> None:
    config = home.path / "fleet.toml"
    config.write_text(text)

    done = home.llmspell("fleet", "up", "--daemon", "--config", str(config))

    assert done.returncode == code, case
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_isolation_that_cannot_be_had_is_refused_with_the_reason() -> None:
    with poor_home() as home:
        config = home.path / "fleet.toml"
        config.write_text('[fleet]\nport = 0\n[multi_tenant]\nisolation_level = "strict"\n')

        done = home.llmspell("fleet", "up", "--daemon", "--config", str(config))

    assert done.returncode == 4
    assert "cannot be had on this machine: becoming user" in done.stderr
    assert "--allow-weaker-isolation" in done.stderr
    assert "Traceback" not in done.stderr


def test_weaker_isolation_is_allowed_by_who_says_so_and_shown() -> None:
    with poor_home() as home:
        config = home.path / "fleet.toml"
        config.write_text('[fleet]\nport = 0\n[multi_tenant]\nisolation_level = "strict"\n')

        done = home.llmspell("fleet", "up", "--daemon", "--config", str(config), "--allow-weaker-isolation")

        assert done.returncode == 0, done.stderr
        status = home.llmspell("fleet", "status")
    assert status.returncode == 0
    assert re.search(r"^check +isolation is degraded: .*strict", status.stdout, re.MULTILINE)


@pytest.mark.parametrize("arguments", [["--demon"], ["--config"], ["fleet.toml"]])
def test_the_module_for_service_managers_tells_how_it_is_used(home: Home, arguments: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "llmspell_fleet", *arguments],
        env=home.environ,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
        check=False,
    )

    assert done.returncode == 2
    assert done.stderr.startswith("usage: python -m llmspell_fleet [--config FILE]")


# --- what runs ----------------------------------------------------------------------------------------------------


def test_a_tenant_s_life_from_the_command_line(home: Home) -> None:
    _up(home)

    made = home.llmspell("tenant", "create", "acme", "--replicas", "2", "--memory", "64MB", "--output", "json")
    assert made.returncode == 0, made.stderr
    tenant = json.loads(made.stdout)
    assert (tenant["ready"], tenant["limits"]["memory_bytes"]) == (2, 64 * 1024**2)
    assert home.llmspell("tenant", "exec", "acme", "print('hello') return 6*7").stdout == "hello\n42\n"
    failed = home.llmspell("tenant", "exec", "acme", "error('no')")
    assert failed.returncode == 1
    assert "no" in failed.stderr
    assert len(_kernels(home, "--tenant", "acme")) == 2
    assert home.llmspell("tenant", "update", "acme", "--replicas", "1").returncode == 0
    assert len(_kernels(home, "--tenant", "acme")) == 1
    assert home.llmspell("tenant", "delete", "acme", "--yes").returncode == 0
    assert _kernels(home, "--tenant", "acme") == []


def test_a_tenant_s_token_reaches_what_is_its_own(home: Home) -> None:
    _up(home)
    made = home.llmspell("tenant", "create", "acme", "--output", "json")
    token = home.path / "acme.token"
    token.write_text(json.loads(made.stdout)["token"])
    with_token = ("--token-file", str(token))

    assert home.llmspell("tenant", "exec", "acme", "return 1", *with_token).stdout == "1\n"
    assert home.llmspell("tenant", "show", "default", *with_token).returncode == 1
    assert home.llmspell("tenant", "create", "other", *with_token).returncode == 4
    assert {kernel["tenant"] for kernel in _kernels(home, *with_token)} == {"acme"}


def test_a_kernel_that_was_killed_is_replaced_and_why_is_listed(home: Home) -> None:
    _up(home)
    victim = _all_ready(home)[0]

    os.kill(victim["pid"], signal.SIGKILL)

    def is_back(kernels: list[dict[str, Any]]) -> bool:
        return any(one["id"] == victim["id"] and one["restarts"] == 1 and one["phase"] == "READY" for one in kernels)

    _wait_for_kernels(home, is_back, "the kernel is back")
    (row,) = (line for line in home.llmspell("fleet", "list").stdout.splitlines() if line.startswith(victim["id"][:12]))
    assert row.split()[-1] == "SIGKILL"
    events = json.loads(home.llmspell("fleet", "events", "--output", "json").stdout)
    assert "kernel.died" in {event["type"] for event in events if event.get("kernel_id") == victim["id"]}


def test_a_fleet_that_was_killed_is_ended_with_its_kernels_by_down(home: Home) -> None:
    _up(home)
    controller = _address(home)["pid"]
    kernels = [kernel["pid"] for kernel in _all_ready(home)]
    os.kill(controller, signal.SIGKILL)
    wait_until(lambda: _is_gone(controller), "the controller is gone")

    assert home.llmspell("fleet", "status").returncode == 3
    down = home.llmspell("fleet", "down")

    assert down.returncode == 3
    assert f"; {len(kernels)} kernels and other files that its controller had left are removed" in down.stderr
    assert all(_is_gone(pid) for pid in kernels)
    assert list(home.runtime.iterdir()) == []


def test_force_does_not_wait_for_what_runs(home: Home) -> None:
    _up(home)
    kernels = [kernel["pid"] for kernel in _all_ready(home)]
    with subprocess.Popen(
        home.command("tenant", "exec", "default", "while true do end"), env=home.environ, stderr=subprocess.PIPE
    ) as busy:
        _wait_for_kernels(home, lambda all_: any(one["phase"] == "BUSY" for one in all_), "the script runs")

        assert home.llmspell("fleet", "down", "--force").returncode == 0
        assert busy.communicate(timeout=DEADLINE_S)[1]
        assert busy.returncode in (1, 3)
    assert all(_is_gone(pid) for pid in kernels)
    assert list(home.runtime.iterdir()) == []


def test_the_fleet_s_own_log_tells_of_its_start(home: Home) -> None:
    _up(home)

    assert home.llmspell("fleet", "logs").stdout == (home.logs / "fleet.log").read_text() != ""
