"""`llmspell kernel start`: from the configuration and the options to a kernel that serves."""

import contextlib
import json
import os
import signal
import socket
import stat
import subprocess
import uuid
from pathlib import Path
from typing import Any

import pytest

from llmspell_kernel import pidfile
from support.homes import DEADLINE_S, Home, connection_file_in, wait_until
from support.repository import ROOT

pytestmark = pytest.mark.integration

SPEC = ROOT / "tests" / "data" / "spec"


def _connection(path: Path) -> dict[str, Any]:
    content = json.loads(path.read_text())
    assert isinstance(content, dict)
    return content


def test_a_daemon_answers_when_its_start_returns(home: Home) -> None:
    connection_file = home.start_kernel()

    info = _connection(connection_file)
    assert connection_file == home.runtime / f"kernel-{info['kernel_id']}.json"
    assert stat.S_IMODE(connection_file.stat().st_mode) == 0o600
    assert info["ip"] == "127.0.0.1"
    assert home.llmspell("exec", "--connect", str(connection_file), "return 6*7").stdout == "42\n"


def test_a_daemon_is_a_session_of_its_own_that_logs_to_a_file(home: Home) -> None:
    pid = _connection(home.start_kernel())["pid"]

    assert os.getsid(pid) != os.getsid(0)
    assert Path(f"/proc/{pid}/cwd").readlink() == Path("/")
    (log,) = home.logs.iterdir()
    assert Path(f"/proc/{pid}/fd/2").readlink() == log
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


def test_a_foreground_kernel_says_how_to_attach_and_ends_on_sigterm(home: Home) -> None:
    with subprocess.Popen(
        home.command("kernel", "start"), env=home.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            lines = [process.stdout.readline() for _ in range(6)]
            connection_file = connection_file_in("".join(lines))
            assert f"jupyter console --existing {connection_file}" in lines[2]
            assert "Ctrl-C interrupts what runs" in lines[5]
            assert _connection(Path(connection_file))["pid"] == process.pid
            process.send_signal(signal.SIGTERM)

            assert process.wait(DEADLINE_S) == 0
        finally:
            process.kill()
    assert list(home.runtime.glob("kernel-*")) == []


def test_a_name_is_kept_and_found(home: Home) -> None:
    info = _connection(home.start_kernel("--id", "work"))

    assert info["name"] == "work"
    assert home.llmspell("exec", "--connect", "work", "return 1").stdout == "1\n"


def test_an_id_is_the_kernel_s(home: Home) -> None:
    kernel_id = str(uuid.uuid4())

    assert _connection(home.start_kernel("--id", kernel_id))["kernel_id"] == kernel_id


def test_a_second_kernel_of_the_same_id_is_refused_with_the_running_one_s_pid(home: Home) -> None:
    pid = _connection(home.start_kernel("--id", "work"))["pid"]

    again = home.llmspell("kernel", "start", "--daemon", "--id", "work")

    assert again.returncode == 4
    assert str(pid) in again.stderr


def test_a_second_kernel_with_the_same_pid_file_is_refused_with_the_running_one_s_pid(home: Home) -> None:
    pid_file = home.path / "service.pid"
    pid = _connection(home.start_kernel("--pid-file", str(pid_file)))["pid"]
    assert int(pid_file.read_text().split()[0]) == pid

    again = home.llmspell("kernel", "start", "--daemon", "--pid-file", str(pid_file))

    assert again.returncode == 4
    assert f"already running as process {pid}" in again.stderr


def test_a_stale_pid_file_is_in_nobody_s_way(home: Home) -> None:
    pid_file = home.path / "service.pid"
    pid_file.write_text(f"{os.getpid()}\n1\n")
    pid_file.chmod(0o600)

    pid = _connection(home.start_kernel("--pid-file", str(pid_file)))["pid"]

    assert int(pid_file.read_text().split()[0]) == pid


def test_a_kernel_that_was_killed_leaves_nothing_in_the_way_of_the_next(home: Home) -> None:
    pid = _connection(home.start_kernel("--id", "work"))["pid"]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: pidfile.process_start_time(pid) is None, "the kernel is gone")

    assert _connection(home.start_kernel("--id", "work"))["pid"] != pid


def test_a_port_is_the_shell_s_and_the_others_are_found(home: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]

    info = _connection(home.start_kernel("--port", str(port)))

    assert info["shell_port"] == port
    assert len({info[f"{channel}_port"] for channel in ("shell", "iopub", "stdin", "control", "hb")}) == 5


def test_a_port_in_use_is_told_and_nothing_stays(home: Home) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = home.llmspell("kernel", "start", "--daemon", "--port", str(port))

    assert done.returncode in (1, 4)
    assert str(port) in done.stderr
    assert "Traceback" not in done.stderr
    assert list(home.runtime.glob("kernel-*")) == []


def test_a_client_s_connection_file_is_obeyed_and_stays(home: Home) -> None:
    with contextlib.ExitStack() as probes:
        found = [probes.enter_context(socket.create_server(("127.0.0.1", 0))).getsockname()[1] for _ in range(5)]
    ports = dict(zip(("shell_port", "iopub_port", "stdin_port", "control_port", "hb_port"), found, strict=True))
    content = {**ports, "ip": "127.0.0.1", "transport": "tcp", "signature_scheme": "hmac-sha256", "key": "f00d"}
    path = home.path / "client.json"
    path.write_text(json.dumps(content))
    path.chmod(0o600)

    home.start_kernel("--connection-file", str(path), "--id", "work")

    assert home.llmspell("exec", "--connect", str(path), "return 1").stdout == "1\n"
    assert home.llmspell("kernel", "stop", "--id", "work").returncode == 0
    assert json.loads(path.read_text()) == content


def test_a_connection_file_of_our_own_goes_where_it_is_wanted(home: Home) -> None:
    path = home.path / "mine.json"

    assert home.start_kernel("--connection-file", str(path), "--id", "work") == path
    assert home.llmspell("kernel", "stop", "--id", "work").returncode == 0
    assert not path.exists()


def test_unix_sockets_are_below_the_runtime_directory_and_removed(home: Home) -> None:
    info = _connection(home.start_kernel("--transport", "ipc", "--id", "work"))

    assert info["transport"] == "ipc"
    assert info["ip"].startswith(f"{home.runtime}/k/")
    assert home.llmspell("exec", "--connect", "work", "return 1").stdout == "1\n"
    os.kill(info["pid"], signal.SIGTERM)
    wait_until(lambda: pidfile.process_start_time(info["pid"]) is None, "the kernel is gone")
    assert list(home.runtime.iterdir()) == []


def test_an_unused_kernel_ends_itself(home: Home) -> None:
    pid = _connection(home.start_kernel("--idle-timeout", "1s"))["pid"]

    wait_until(lambda: pidfile.process_start_time(pid) is None, "the idle kernel ends")
    assert list(home.runtime.glob("kernel-*")) == []


@pytest.mark.parametrize("option", ["--dap", "--lsp", "--repl", "--tls"])
def test_what_is_not_built_is_refused(home: Home, option: str) -> None:
    done = home.llmspell("kernel", "start", option)

    assert done.returncode == 4
    assert f"{option}: " in done.stderr
    assert "is not built yet" in done.stderr


def test_what_is_built_may_be_asked_for(home: Home) -> None:
    assert home.llmspell("kernel", "start", "--daemon", "--all", "--jupyter").returncode == 0


def test_serve_is_the_same_command(home: Home) -> None:
    assert home.llmspell("kernel", "serve", "--daemon").returncode == 0


@pytest.mark.parametrize("ip", ["0.0.0.0", "*", "192.0.2.1", "example.com"])
def test_an_address_that_others_reach_is_refused_without_tls(home: Home, ip: str) -> None:
    done = home.llmspell("kernel", "start", "--ip", ip)

    assert done.returncode == 4
    assert f"[jupyter] ip (--ip) is {ip}, which other machines reach, and there is no TLS" in done.stderr


def test_the_specification_s_sample_is_refused_with_every_reason(home: Home) -> None:
    done = home.llmspell("kernel", "start", "--config", str(SPEC / "service.toml"))

    assert done.returncode == 4
    for reason in ("TLS is not built yet", "which other machines reach", "the sample's placeholder"):
        assert reason in done.stderr
    assert "note: [limits] max_cpu_percent: accepted, not enforced" in done.stderr


def test_a_configuration_is_followed_and_options_come_before_it(home: Home, tmp_path: Path) -> None:
    path = tmp_path / "kernel.toml"
    path.write_text(
        '[service]\nid = "configured"\ndaemon = true\n[jupyter]\nkernel_name = "mine"\nkey = "${SECRET}"\n'
        '[limits]\nmax_clients = 3\n[logging]\nfile = "~/kernel.log"\n'
    )
    home.environ["SECRET"] = "hush"

    done = home.llmspell("kernel", "start", "--config", str(path), "--id", "given")

    assert done.returncode == 0, done.stderr
    info = _connection(Path(connection_file_in(done.stdout)))
    assert (info["name"], info["kernel_name"], info["key"]) == ("given", "mine", "hush")
    assert (home.path / "kernel.log").exists()


def test_a_configuration_with_problems_starts_nothing(home: Home, tmp_path: Path) -> None:
    path = tmp_path / "kernel.toml"
    path.write_text("[limits]\nmax_clients = 0\n")

    done = home.llmspell("kernel", "start", "--daemon", "--config", str(path))

    assert done.returncode == 2
    assert "[limits] max_clients: expected a whole number of at least 1, found the number 0" in done.stderr


@pytest.mark.parametrize(
    ("case", "variable", "make", "message"),
    [
        ("too long a runtime directory", "LLMSPELL_RUNTIME_DIR", "x" * 80, "leave room for a unix socket's path"),
        ("a file in place of a directory", "LLMSPELL_RUNTIME_DIR", "file/run", "Not a directory"),
        ("a directory that others may enter", "LLMSPELL_RUNTIME_DIR", "open", "run `chmod 700 "),
        ("a state directory that others may enter", "LLMSPELL_STATE_DIR", "open", "run `chmod 700 "),
    ],
)
def test_a_directory_that_cannot_be_used_is_told(home: Home, case: str, variable: str, make: str, message: str) -> None:
    (home.path / "file").write_text("")
    (home.path / "open").mkdir()
    (home.path / "open").chmod(0o755)
    environ = {**home.environ, variable: str(home.path / make)}

    done = Home(home.path, environ).llmspell("kernel", "start", "--daemon")

    assert done.returncode == 4, case
    assert message in done.stderr


def test_a_log_that_cannot_be_written_is_told(home: Home) -> None:
    done = home.llmspell("kernel", "start", "--daemon", "--log-file", str(home.path / "none" / "k.log"))

    assert done.returncode == 4
    assert "k.log cannot be written: No such file or directory" in done.stderr
