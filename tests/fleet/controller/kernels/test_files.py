"""A kernel's files and process, seen from outside: what it is asked to be, and what is left of it."""

import os
import select
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import replace

from llmspell_fleet.controller.kernels import files
from llmspell_fleet.model.ids import KernelId, TenantId
from llmspell_fleet.model.kernel import KernelSpec
from llmspell_fleet.paths import FleetPaths
from llmspell_fleet.spawner.spawner import Process
from llmspell_kernel.connection import ConnectionInfo
from llmspell_kernel.errors import RefusedError
from llmspell_kernel.pidfile import process_start_time
from llmspell_kernel.zygote.protocol import Confinement, StartKernel

ONE, OTHER = (KernelId(f"{n}0000000-0000-4000-8000-000000000000") for n in (1, 2))
SPEC = KernelSpec(id=ONE, tenant=TenantId("t"), name="first")


def connection(**given: object) -> ConnectionInfo:
    made = {
        "transport": "tcp",
        "ip": "127.0.0.1",
        **{f"{name}_port": 9000 + n for n, name in enumerate(("shell", "iopub", "stdin", "control", "hb"))},
        "key": "secret",
        "signature_scheme": "hmac-sha256",
        "kernel_name": "llmspell",
        **given,
    }
    return msgspec.convert(made, ConnectionInfo)


# --- what is asked for


def start_request(paths: FleetPaths, spec: KernelSpec, last: ConnectionInfo | None, **given: Any) -> StartKernel:
    return files.start_request(paths, spec, last, confinement=Confinement(files=7), proof="proof", **given)


def test_what_holds_a_kernel_and_what_proves_its_fleet_go_with_the_request(paths: FleetPaths) -> None:
    request = start_request(paths, SPEC, None, ticket=1, log_level="info")

    assert (request.confinement, request.supervisor_proof) == (Confinement(files=7), "proof")


def test_a_first_incarnation_makes_its_key_and_has_no_ports(paths: FleetPaths) -> None:
    request = start_request(paths, SPEC, None, ticket=7, log_level="debug")

    assert (request.ticket, request.kernel_id, request.name, request.log_level) == (7, ONE, "first", "debug")
    assert (request.transport, request.ports, request.key) == ("ipc", None, None)
    assert request.output == f"{paths.runtime}/k/100000000000/output"
    assert request.progress_file == f"{paths.runtime}/k/100000000000/progress"


@pytest.mark.parametrize("port", [0, 9600])
def test_a_port_is_asked_for_and_four_are_found(paths: FleetPaths, port: int) -> None:
    request = start_request(paths, replace(SPEC, port=port), None, ticket=1, log_level="info")

    assert (request.transport, request.ports) == ("tcp", (port, 0, 0, 0, 0))


def test_the_next_incarnation_is_found_where_the_last_one_was(paths: FleetPaths) -> None:
    last = connection()
    request = start_request(paths, replace(SPEC, port=0), last, ticket=2, log_level="info")

    assert (request.ports, request.key) == (last.ports, "secret")
    assert request.ports == (9000, 9001, 9002, 9003, 9004)


def test_the_next_incarnation_on_unix_sockets_has_the_key_and_no_ports(paths: FleetPaths) -> None:
    request = start_request(paths, SPEC, connection(transport="ipc"), ticket=2, log_level="info")

    assert (request.transport, request.ports, request.key) == ("ipc", None, "secret")


def test_a_pid_file_of_a_person_s_own_is_asked_for(paths: FleetPaths) -> None:
    request = start_request(paths, replace(SPEC, pid_file="/x.pid"), None, ticket=1, log_level="info")

    assert request.pid_file == "/x.pid"


# --- folders


def test_its_folders_are_private_and_may_exist(paths: FleetPaths) -> None:
    for _ in range(2):
        files.make_kernel_dir(paths, ONE)

    for path in (paths.kernel_dir(ONE), f"{paths.logs}/kernels"):
        assert stat.S_IMODE(Path(path).stat().st_mode) == 0o700


def test_a_folder_that_cannot_be_made_is_said(paths: FleetPaths) -> None:
    Path(paths.runtime, "k").write_text("in the way")

    with pytest.raises((OSError, RefusedError), match="run/k"):
        files.make_kernel_dir(paths, ONE)


def leave_files(paths: FleetPaths, kernel: KernelId) -> None:
    """What a killed kernel leaves."""
    files.make_kernel_dir(paths, kernel)
    folder = Path(paths.kernel_dir(kernel))
    os.mkfifo(folder / "output")
    for path in (folder / "progress", folder / "s-1", folder / "s-2"):
        path.touch()
    for suffix in ("json", "pid"):
        Path(paths.runtime, f"kernel-{kernel}.{suffix}").touch()


def below(path: str) -> list[str]:
    return sorted(str(found.relative_to(path)) for found in Path(path).rglob("*"))


def test_all_that_a_kernel_left_is_removed_and_nothing_of_others(paths: FleetPaths, tmp_path: Path) -> None:
    leave_files(paths, OTHER)
    before = below(paths.runtime)
    leave_files(paths, ONE)
    own_pid_file = tmp_path / "one.pid"
    own_pid_file.touch()
    Path(paths.kernel_log(ONE)).touch()

    files.remove_kernel_files(paths, replace(SPEC, pid_file=str(own_pid_file), log_file=paths.kernel_log(ONE)))

    assert below(paths.runtime) == before
    assert not own_pid_file.exists()
    assert Path(paths.kernel_log(ONE)).exists()


def test_what_a_killed_process_was_writing_is_removed(paths: FleetPaths, tmp_path: Path) -> None:
    spec = replace(SPEC, pid_file=str(tmp_path / "one.pid"))
    runtime = Path(paths.runtime)
    written = [tmp_path / "one.pid", *(runtime / f"kernel-{ONE}.{kind}" for kind in ("json", "pid"))]
    for path in written:
        path.with_name(f"{path.name}.77.tmp").touch()
    others = [runtime / f"kernel-{ONE}.json.78.tmp", runtime / f"kernel-{OTHER}.json.77.tmp"]
    for path in others:
        path.touch()

    for _ in range(2):
        files.remove_process_files(paths, spec, 77, spec.isolation_level)

    assert sorted(runtime.iterdir()) == sorted(others)
    assert not list(tmp_path.glob("one.pid*"))


def test_the_last_kernel_leaves_an_empty_directory(paths: FleetPaths) -> None:
    leave_files(paths, ONE)

    for _ in range(2):
        files.remove_kernel_files(paths, replace(SPEC, pid_file=f"{paths.runtime}/not-there.pid"))

    assert below(paths.runtime) == []


# --- processes

_TREE = """
import os, signal
os.setsid()
signal.signal(signal.SIGTERM, signal.SIG_IGN)
child = os.fork()
if child:
    print(child, flush=True)
while True:
    signal.pause()
"""


class Tree:
    """A process that leads a session of its own, and a child of it in its group."""

    def __init__(self) -> None:
        self.leader = subprocess.Popen([sys.executable, "-I", "-S", "-c", _TREE], stdout=subprocess.PIPE, text=True)
        assert self.leader.stdout is not None
        child = int(self.leader.stdout.readline())
        self.pidfds = [os.pidfd_open(pid) for pid in (self.leader.pid, child)]
        self.process = Process(self.leader.pid, process_start_time(self.leader.pid) or 0, self.pidfds[0])

    def has_ended(self, number: int) -> bool:
        poll = select.poll()
        poll.register(self.pidfds[number], select.POLLIN)
        return bool(poll.poll(10_000))

    def close(self) -> None:
        for pidfd in self.pidfds:
            if not select.select([pidfd], [], [], 0)[0]:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)
        assert self.leader.stdout is not None
        self.leader.stdout.close()
        self.leader.wait(10)


@pytest.fixture
def tree() -> Iterator[Tree]:
    made = Tree()
    yield made
    made.close()


@pytest.mark.integration
def test_killing_takes_the_whole_group(tree: Tree) -> None:
    files.kill_tree(tree.process)

    assert tree.has_ended(0)
    assert tree.has_ended(1)
    assert tree.leader.wait(10) == -signal.SIGKILL


@pytest.mark.integration
@pytest.mark.parametrize("act", [files.kill_tree, lambda process: files.send_signal(process, signal.SIGTERM)])
def test_a_process_that_is_over_and_reaped_is_left(tree: Tree, act: Callable[[Process], None]) -> None:
    signal.pidfd_send_signal(tree.process.pidfd, signal.SIGKILL)
    tree.leader.wait(10)

    act(tree.process)

    # Its number may be somebody else's group by now: without a living leader nothing of it is touched.
    assert not select.select([tree.pidfds[1]], [], [], 0)[0]


_SLEEPER = "import signal; signal.signal(signal.SIGINT, signal.SIG_DFL); print(1, flush=True); signal.pause()"


@pytest.mark.integration
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1])
def test_other_signals_reach_the_process(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-I", "-S", "-c", _SLEEPER], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        pidfd = os.pidfd_open(child.pid)
        files.send_signal(Process(child.pid, 0, pidfd), number)
        assert child.wait(10) == -number
        os.close(pidfd)
