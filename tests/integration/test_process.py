"""The process around a kernel: its files, signals, limits, and that nothing is left of it."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from llmspell_kernel.pidfile import own_record
from support.homes import wait_until
from support.kernels import READY_S, KernelHome, KernelProcess, clients_connection
from support.peers import ANSWER_S, Client, endpoint

pytestmark = pytest.mark.integration

PATTERN_BOMB = "local s = ('a'):rep(100000):find('.-.-.-.-.-.-b')"


TOLD_AT_ONCE = """
import os, signal, sys
from llmspell_kernel.app import serve
from llmspell_kernel.options import ServeOptions

told = ServeOptions(
    kernel_id="00000000-0000-4000-8000-00000000abcd",
    on_listening=lambda _connection: os.kill(os.getpid(), signal.SIGTERM),
)
sys.exit(serve(told))
"""

INTERRUPTED_EARLY = """
import os, signal, sys
from llmspell_kernel import __main__

def load():
    os.kill(os.getpid(), signal.SIGINT)
    real()

real, __main__._import_msgspec = __main__._import_msgspec, load
sys.exit(__main__.main(["--help"]))
"""


def refused(kernel: KernelProcess, code: int = 4) -> str:
    """What a kernel that should not start says; it leaves nothing behind."""
    assert kernel.wait() == code, kernel.log_text()
    text = kernel.log_text()
    assert "Traceback" not in text
    return text


# --- files --------------------------------------------------------------------------------------------------------


def test_the_connection_file_is_private_complete_and_gone_at_the_end(kernel: KernelProcess) -> None:
    status = kernel.connection_file.stat()
    connection = kernel.connection

    assert stat.S_IMODE(status.st_mode) == 0o600
    ports = [connection[f"{channel}_port"] for channel in ("shell", "iopub", "stdin", "control", "hb")]
    assert len(set(ports)) == 5
    assert all(0 < port < 65536 for port in ports)
    assert len(connection["key"]) == 64
    assert (connection["transport"], connection["ip"]) == ("tcp", "127.0.0.1")
    assert connection["signature_scheme"] == "hmac-sha256"
    assert connection["kernel_name"] == "llmspell"
    assert connection["pid"] == kernel.pid
    assert connection["start_time"] > 0
    assert len(connection["kernel_id"]) == 36
    kernel.signal(signal.SIGTERM)
    assert kernel.wait() == 0
    assert not kernel.connection_file.exists()


def test_a_kernel_that_is_told_to_end_before_it_serves_leaves_nothing_either(home: KernelHome) -> None:
    done = subprocess.run([sys.executable, "-c", TOLD_AT_ONCE], env=home.environ, timeout=READY_S, check=False)

    assert done.returncode == 0
    assert home.left_behind() == []


def test_an_interrupt_while_it_is_loaded_does_not_end_it(home: KernelHome) -> None:
    done = subprocess.run([sys.executable, "-c", INTERRUPTED_EARLY], env=home.environ, timeout=READY_S, check=False)

    assert done.returncode == 0


def test_keys_are_never_the_same(home: KernelHome) -> None:
    kernels = [home.start_ready(file=f"{number}.json") for number in range(3)]

    assert len({kernel.connection["key"] for kernel in kernels}) == 3
    assert len({kernel.connection["kernel_id"] for kernel in kernels}) == 3


def test_a_kernel_enters_itself_in_the_runtime_directory(kernel: KernelProcess) -> None:
    (name,) = kernel.home.left_behind()
    entry = kernel.home.runtime / name

    assert name == f"kernel-{kernel.connection['kernel_id']}.pid"
    assert stat.S_IMODE(entry.stat().st_mode) == 0o600
    assert stat.S_IMODE(kernel.home.runtime.stat().st_mode) == 0o700
    lines = entry.read_text().splitlines()
    assert lines[0] == str(kernel.pid)
    assert lines[1] == str(kernel.connection["start_time"])
    assert lines[2] == str(kernel.connection_file)


def test_a_second_kernel_with_the_same_pid_file_is_refused_with_the_first_ones_pid(home: KernelHome) -> None:
    pid_file = str(home.path / "kernel.pid")
    first = home.start_ready(options={"pid_file": pid_file})
    other_id = "00000000-0000-4000-8000-00000000beef"
    second = home.start(options={"pid_file": pid_file, "kernel_id": other_id}, file="second.json")

    text = refused(second)

    assert f"process {first.pid}" in text
    assert pid_file in text
    assert not second.connection_file.exists()
    assert len(home.left_behind()) == 1
    with Client(first.connection) as client:
        assert client.execute("return 1").result == "1"


def test_a_second_kernel_of_the_same_id_is_refused(home: KernelHome) -> None:
    first = home.start_ready(options={})
    second = home.start(options={}, file="second.json")

    assert f"process {first.pid}" in refused(second)


@pytest.mark.parametrize("case", ["a process that is gone", "a pid that another process has now"])
def test_a_stale_pid_file_is_replaced(case: str, home: KernelHome) -> None:
    pid = 999_999_999 if "gone" in case else os.getpid()
    pid_file = home.path / "kernel.pid"
    pid_file.write_text(f"{pid}\n1\n\n")
    pid_file.chmod(0o600)

    kernel = home.start_ready(options={"pid_file": str(pid_file)})

    assert pid_file.read_text().splitlines()[0] == str(kernel.pid)
    kernel.signal(signal.SIGTERM)
    assert kernel.wait() == 0
    assert not pid_file.exists()


def test_a_pid_file_of_a_living_process_is_respected(home: KernelHome) -> None:
    record = own_record()
    pid_file = home.path / "kernel.pid"
    pid_file.write_text(f"{record.pid}\n{record.start_time}\n\n")
    pid_file.chmod(0o600)

    assert f"process {record.pid}" in refused(home.start(options={"pid_file": str(pid_file)}))
    assert home.left_behind() == []


def test_a_killed_kernels_files_do_not_stop_the_next(home: KernelHome) -> None:
    first = home.start_ready(options={})
    first.process.kill()
    first.wait()
    assert first.connection_file.exists()

    second = home.start(options={})
    wait_until(lambda: second.connection.get("pid") == second.pid, "the new connection file")
    with Client(second.connection) as client:
        assert client.execute("return 1").result == "1"


def test_a_clients_connection_file_is_obeyed_and_stays_as_it_is(home: KernelHome) -> None:
    connection = clients_connection(home)
    kernel = home.start(connection=connection)
    before = kernel.connection_file.stat()
    with Client(connection) as client:
        assert client.execute("return 1").result == "1"
        client.ask("shutdown_request", {"restart": False}, channel="control")
    assert kernel.wait() == 0

    after = kernel.connection_file.stat()
    assert kernel.connection == connection
    assert (before.st_ino, before.st_mtime_ns, before.st_mode) == (after.st_ino, after.st_mtime_ns, after.st_mode)


def test_a_clients_connection_file_over_tcp_is_obeyed(home: KernelHome) -> None:
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(5)]
    ports = [listener.getsockname()[1] for listener in listeners]
    for listener in listeners:
        listener.close()
    names = ("shell_port", "iopub_port", "stdin_port", "control_port", "hb_port")
    connection = clients_connection(home, **dict(zip(names, ports, strict=True)), ip="127.0.0.1", transport="tcp")

    home.start(connection=connection)

    with Client(connection) as client:
        assert client.execute("return 1").result == "1"


@pytest.mark.parametrize(
    ("case", "changes", "reason"),
    [
        ("an empty key", {"key": ""}, "its key is empty"),
        ("another scheme", {"signature_scheme": "hmac-md5"}, "expected signature_scheme hmac-sha256"),
        ("no ports", {"shell_port": 0}, "expected shell_port between 1 and 65535, found 0"),
        ("one port twice", {"shell_port": 2}, "its five ports should differ"),
        ("a port that is text", {"hb_port": "5"}, "hb_port"),
        ("a transport that is not ours", {"transport": "udp"}, "transport"),
    ],
)
def test_a_connection_file_that_cannot_be_obeyed_is_misuse(
    case: str, changes: dict[str, object], reason: str, home: KernelHome
) -> None:
    kernel = home.start(connection=clients_connection(home, **changes))

    text = refused(kernel, code=2)

    assert reason in text
    assert str(kernel.connection_file) in text
    assert home.left_behind() == []


def test_a_connection_file_that_is_no_json_is_misuse(home: KernelHome) -> None:
    (home.path / "connection.json").write_text("{")

    assert "cannot be used" in refused(home.start(), code=2)


def test_a_connection_file_of_a_running_kernel_is_not_taken_over(kernel: KernelProcess) -> None:
    text = refused(kernel.home.start(log="second.log"))

    assert f"in use by a running kernel, process {kernel.pid}" in text
    with Client(kernel.connection) as client:
        assert client.execute("return 1").result == "1"


def test_a_connection_file_in_a_folder_that_is_not_there_is_refused_by_name(home: KernelHome) -> None:
    text = refused_or_failed(home.start(file="no/such/folder.json", log="log"))

    assert "no/such/folder.json" in text


def refused_or_failed(kernel: KernelProcess) -> str:
    assert kernel.wait() in {1, 2, 4}
    text = kernel.log_text()
    assert "Traceback" not in text
    return text


# --- where a kernel cannot be -------------------------------------------------------------------------------------


def test_a_port_in_use_is_named(home: KernelHome) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        text = refused(home.start(options={"port": port}))

    assert f"127.0.0.1:{port}" in text
    assert "in use" in text
    assert home.left_behind() == []
    assert not (home.path / "connection.json").exists()


def test_a_fixed_port_is_the_shells(home: KernelHome) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    kernel = home.start_ready(options={"port": port})

    assert kernel.connection["shell_port"] == port
    with Client(kernel.connection) as client:
        assert client.execute("return 1").result == "1"


@pytest.mark.parametrize("ip", ["0.0.0.0", "10.1.2.3", "::", "example.org"])
def test_an_address_beyond_this_machine_is_refused(ip: str, home: KernelHome) -> None:
    text = refused(home.start(options={"ip": ip}))

    assert "expected a loopback address" in text
    assert ip in text


def test_a_client_cannot_ask_for_an_address_beyond_this_machine_either(home: KernelHome) -> None:
    connection = clients_connection(home, ip="0.0.0.0", transport="tcp")

    assert "expected a loopback address" in refused(home.start(connection=connection))


@pytest.mark.parametrize(
    ("case", "folder", "reason"),
    [
        ("too long", "r" * 80, "at most 75"),
        ("a file", "a-file", "a-file"),
        ("below a file", "a-file/run", "a-file/run"),
        ("others may write", "shared", "mode 0777"),
        ("a link", "link", "link"),
        ("where nobody may make one", "/proc/llmspell", "cannot be made"),
    ],
)
def test_a_runtime_directory_that_cannot_be_used_is_refused(
    case: str, folder: str, reason: str, home: KernelHome
) -> None:
    (home.path / "a-file").touch()
    (home.path / "shared").mkdir()
    (home.path / "shared").chmod(0o777)
    (home.path / "link").symlink_to(home.path / "shared")
    home.environ["LLMSPELL_RUNTIME_DIR"] = str(home.path / folder)

    assert reason in refused(home.start())


# --- signals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "code",
    [
        "while true do end",
        "while true do print('flood') end",
        "io.read()",
        PATTERN_BOMB,
        "while true do pcall(error) end",
    ],
)
def test_sigterm_ends_a_busy_kernel_and_answers_who_waits(code: str, kernel: KernelProcess) -> None:
    with Client(kernel.connection, checks=False) as client:
        answer = client.start(f"print('running') {code}", allow_stdin=True)
        kernel.signal(signal.SIGTERM)
        client.until(lambda: answer.reply, "the reply")
        assert answer.status == "error"

    assert kernel.wait() == 0
    assert kernel.home.left_behind() == []
    assert not kernel.connection_file.exists()


def test_sigterm_ends_an_idle_kernel_and_says_so(kernel: KernelProcess, client: Client) -> None:
    kernel.signal(signal.SIGTERM)

    client.until(lambda: any(m["msg_type"] == "shutdown_reply" for m in client.unasked), "the news")
    assert kernel.wait() == 0
    assert kernel.home.left_behind() == []


def test_a_second_sigterm_forces(kernel: KernelProcess, client: Client) -> None:
    client.start(f"print('running') {PATTERN_BOMB}")
    kernel.signal(signal.SIGTERM)
    # One at a time: two of the same signal at once are one.
    client.ask("kernel_info_request", channel="control")
    client.ask("kernel_info_request", channel="control")
    kernel.signal(signal.SIGTERM)

    assert kernel.wait() in {0, 1}
    assert kernel.home.left_behind() == []
    assert not kernel.connection_file.exists()


def test_sighup_reopens_the_log(home: KernelHome) -> None:
    log = home.path / "kernel.log"
    kernel = home.start_ready(options={"log": {"file": str(log)}})
    kernel.signal(signal.SIGUSR1)
    wait_until(lambda: "statistics" in log.read_text(), "the first line")
    log.rename(home.path / "kernel.log.1")
    kernel.signal(signal.SIGHUP)
    wait_until(log.exists, "the new log")
    kernel.signal(signal.SIGUSR1)

    wait_until(lambda: "statistics" in log.read_text(), "a line in the new log")
    with Client(kernel.connection) as client:
        assert client.execute("return 1").result == "1"


def test_sighup_reads_the_configuration_again(home: KernelHome) -> None:
    config = home.path / "kernel.toml"
    config.write_text('[limits]\noutput_bytes = "10KB"\n')
    kernel = home.start_ready("-c", str(config))
    endless = "for i = 1, 5000 do print('0123456789') end"
    with Client(kernel.connection, checks=False) as client:
        assert client.execute(endless).error["ename"] == "OutputLimit"
        config.write_text('[limits]\noutput_bytes = "1MB"\n')
        kernel.signal(signal.SIGHUP)
        client.until(lambda: client.execute(endless).status == "ok", "the new limit")

        config.write_text("[limits]\noutput_byte = 5\n")
        kernel.signal(signal.SIGHUP)
        assert "output_bytes" in kernel.wait_for_log("what held before holds on")
        assert client.execute(endless).status == "ok"


@pytest.mark.parametrize("code", ["return 1", "print('running') while true do end"])
def test_sigusr1_logs_statistics(code: str, kernel: KernelProcess, client: Client) -> None:
    client.finish(client.send_execute("return 'first'"))
    request = client.send_execute(code)
    client.until(lambda: client.answers[request].of("execute_input"), "the cell to begin")
    kernel.signal(signal.SIGUSR1)

    line = next(line for line in kernel.wait_for_log("statistics: ").splitlines() if "statistics: " in line)
    found = json.loads(line.partition("statistics: ")[2])
    assert found["pid"] == kernel.pid
    assert found["executions"] >= 1
    assert len(found["clients"]) == 1
    assert client.kernel_info()


def test_sigusr2_switches_debug_logging_on_and_off(kernel: KernelProcess) -> None:
    kernel.signal(signal.SIGUSR2)
    kernel.wait_for_log("the log level is now debug")
    kernel.signal(signal.SIGUSR2)
    kernel.wait_for_log("the log level is now info")
    with Client(kernel.connection) as client:
        assert client.execute("return 1").result == "1"


def test_a_kernel_ends_with_the_client_that_started_it(home: KernelHome) -> None:
    parent = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        home.environ["JPY_PARENT_PID"] = str(parent.pid)
        connection = clients_connection(home)
        kernel = home.start(connection=connection)
        with Client(connection) as client:
            client.start("print('running') while true do end")
    finally:
        parent.kill()
        parent.communicate(timeout=READY_S)

    assert kernel.wait() == 0
    assert home.left_behind() == []


# --- limits -------------------------------------------------------------------------------------------------------


def test_clients_beyond_the_limit_are_refused_until_one_leaves(home: KernelHome) -> None:
    kernel = home.start_ready(options={"limits": {"max_clients": 2}})
    with Client(kernel.connection) as one:
        one.kernel_info()
        with Client(kernel.connection) as two, Client(kernel.connection) as three:
            assert two.execute("return 2").result == "2"
            for answer in (three.execute("return 3"), three.ask("kernel_info_request")):
                assert answer.content["ename"] == "TooManyClients"
                assert "at most 2 clients" in answer.content["evalue"]
            assert two.execute("return 2").result == "2"
            # Control is always open: a kernel can be stopped by whoever may.
            assert three.ask("kernel_info_request", channel="control").status == "ok"
        with Client(kernel.connection) as four:
            four.until(lambda: four.ask("kernel_info_request").status == "ok", "room")
            assert four.execute("return 4").result == "4"


def test_clients_that_come_and_go_take_no_room(home: KernelHome) -> None:
    kernel = home.start_ready(options={"limits": {"max_clients": 3}})
    for _ in range(40):
        with Client(kernel.connection, channels=("shell",)) as client:
            client.until(lambda client=client: client.ask("kernel_info_request").status == "ok", "room")


def test_a_client_that_reconnects_under_its_identity_is_the_same_client(home: KernelHome) -> None:
    kernel = home.start_ready(options={"limits": {"max_clients": 1}})
    for _ in range(20):
        with Client(kernel.connection, channels=("shell",), identity=b"always-the-same") as client:
            assert client.ask("kernel_info_request").status == "ok"


def test_a_hundred_clients_are_served(home: KernelHome) -> None:
    kernel = home.start_ready()
    clients = [Client(kernel.connection, channels=("shell",)) for _ in range(100)]
    try:
        requests = [client.send_execute("return 1") for client in clients]
        for client, request in zip(clients, requests, strict=True):
            assert client.finish(request).status == "ok"
    finally:
        for client in clients:
            client.close()


def test_an_unused_kernel_ends(home: KernelHome) -> None:
    kernel = home.start(options={"limits": {"idle_timeout_s": 0.2}})

    assert kernel.wait() == 0
    assert "unused for 0.2 s" in kernel.log_text()
    assert home.left_behind() == []
    assert not kernel.connection_file.exists()


def test_a_kernel_that_runs_something_is_not_unused(home: KernelHome) -> None:
    kernel = home.start_ready(options={"limits": {"idle_timeout_s": 0.5}})
    with Client(kernel.connection) as client:
        answer = client.execute("local t = os.clock() while os.clock() - t < 1.2 do end return 'ran'")
        assert answer.result == "ran"

    assert kernel.wait() == 0


def test_a_configuration_file_sets_the_limits(home: KernelHome) -> None:
    config = home.path / "kernel.toml"
    config.write_text('[limits]\nmemory_bytes = "20MB"\noutput_bytes = "10KB"\nmax_clients = 1\n')
    kernel = home.start_ready("-c", str(config))
    with Client(kernel.connection, checks=False) as client:
        assert client.execute("local t = {} for i = 1, 1e8 do t[i] = i end").error["ename"] == "MemoryError"
        assert client.execute("while true do print('x') end").error["ename"] == "OutputLimit"
        with Client(kernel.connection) as second:
            assert second.ask("kernel_info_request").content["ename"] == "TooManyClients"


def test_a_configuration_file_with_a_mistake_is_misuse(home: KernelHome) -> None:
    config = home.path / "kernel.toml"
    config.write_text("[limits]\nmemory_byte = 5\n")

    text = refused(home.start("-c", str(config)), code=2)

    assert "memory_byte" in text
    assert "memory_bytes" in text


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["-h"], 0), (["--help"], 0), ([], 2), (["-f"], 2), (["-f="], 2), (["-f", "x", "-z", "1"], 2)],
)
def test_the_usage_is_told(arguments: list[str], code: int) -> None:
    command = [sys.executable, "-m", "llmspell_kernel", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=READY_S, check=False)

    assert done.returncode == code
    assert done.stderr.startswith("usage: python -m llmspell_kernel -f FILE")


# --- transport and end --------------------------------------------------------------------------------------------


def test_ipc_sockets_are_private_and_gone_at_the_end(home: KernelHome) -> None:
    kernel = home.start_ready(options={"transport": "ipc"})
    connection = kernel.connection
    folder = Path(connection["ip"]).parent

    assert connection["transport"] == "ipc"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert folder.parent == home.runtime / "k"
    assert all(Path(endpoint(connection, c).removeprefix("ipc://")).is_socket() for c in ("shell", "iopub", "hb"))
    with Client(connection) as client:
        assert client.execute("print('x') return 1").result == "1"
    kernel.signal(signal.SIGTERM)
    assert kernel.wait() == 0
    assert home.left_behind() == []
    assert not folder.exists()


def test_a_forced_end_leaves_no_sockets_either(home: KernelHome) -> None:
    kernel = home.start_ready(options={"transport": "ipc"})
    with Client(kernel.connection) as client:
        client.start(f"print('running') {PATTERN_BOMB}")
        kernel.signal(signal.SIGTERM)
        client.ask("kernel_info_request", channel="control")
        client.ask("kernel_info_request", channel="control")
        kernel.signal(signal.SIGTERM)
        kernel.wait()

    assert home.left_behind() == []


def test_a_kernel_ends_soon_though_nobody_reads_what_it_sent(home: KernelHome) -> None:
    kernel = home.start_ready()
    with Client(kernel.connection, checks=False) as client:
        client.sockets["iopub"].rcvhwm = 1
        client.reconnect("iopub")
        request = client.send_execute("for i = 1, 100000 do print(i) end return 'end'")
        client.until_reply(request)
        kernel.signal(signal.SIGTERM)
        assert kernel.process.wait(ANSWER_S) == 0
