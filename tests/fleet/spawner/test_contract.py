"""What holds for every spawner, with real processes."""

import asyncio
import os
import re
import resource
import signal
import socket
from collections.abc import Callable

import pytest

from llmspell_fleet.model.ids import KernelId
from llmspell_fleet.spawner.processes import exit_status
from llmspell_fleet.spawner.spawner import Process
from llmspell_kernel.client.kernel_client import KernelClient
from llmspell_kernel.connection import new_kernel_id
from llmspell_kernel.limits import MIB, KernelLimits
from llmspell_kernel.options import Ending
from llmspell_kernel.pidfile import process_start_time
from llmspell_kernel.zygote.confine import HEADROOM_BYTES
from llmspell_kernel.zygote.protocol import Confinement
from support.proc import environ_of, files_of, folder_of, limits_of, pid_of, signals_of, status_of
from support.shortage import without_descriptors
from support.spawning import SPAWNERS, Spawning, has_ended, spawning

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]


# --- life


async def test_a_kernel_is_started_once_serves_and_ends(site: Spawning) -> None:
    kernel = site.ask()
    await site.served(kernel)
    process = site.told.processes[kernel]

    assert process.start_time == process_start_time(process.pid)
    assert pid_of(process.pidfd) == process.pid
    assert not has_ended(process, 0)
    assert await site.run(process, "return 6 * 7") == "42"

    os.kill(process.pid, signal.SIGKILL)
    assert has_ended(process)
    assert await site.status(process) == signal.SIGKILL
    assert sorted(site.told.of(kernel)) == ["serving", "started"]
    assert site.told.of(process.pid) == ["exited"]


async def test_many_starts_at_once_all_serve(site: Spawning) -> None:
    kernels = [site.ask() for _ in range(20)]
    await site.served(*kernels)

    processes = [site.told.processes[kernel] for kernel in kernels]
    assert len({process.pid for process in processes}) == 20
    assert await asyncio.gather(*(site.run(process, "return 1 + 1") for process in processes)) == ["2"] * 20
    assert all(sorted(site.told.of(kernel)) == ["serving", "started"] for kernel in kernels)


async def test_the_ends_of_many_at_once_are_all_told(site: Spawning) -> None:
    kernels = [site.ask() for _ in range(10)]
    await site.served(*kernels)
    processes = [site.told.processes[kernel] for kernel in kernels]

    for process in processes:
        os.kill(process.pid, signal.SIGKILL)

    assert [await site.status(process) for process in processes] == [signal.SIGKILL] * 10
    assert all(site.told.of(process.pid) == ["exited"] for process in processes)


def _shut_down(site: Spawning, process: Process, *, restart: bool) -> None:
    with KernelClient(site.connection(process)) as client:
        client.shutdown(restart=restart)


ENDS: dict[str, tuple[Callable[[Spawning, Process], None], int]] = {
    "told to end": (lambda site, process: _shut_down(site, process, restart=False), 0),
    "a client restarts it": (lambda site, process: _shut_down(site, process, restart=True), Ending.RESTART << 8),
    "SIGTERM": (lambda site, process: os.kill(process.pid, signal.SIGTERM), 0),
    "kill -9": (lambda site, process: os.kill(process.pid, signal.SIGKILL), signal.SIGKILL),
    "a crash": (lambda site, process: os.kill(process.pid, signal.SIGSEGV), signal.SIGSEGV),
}


@pytest.mark.parametrize("case", ENDS)
async def test_an_end_is_told_with_its_wait_status(case: str, site: Spawning) -> None:
    process = await site.start()
    finish, status = ENDS[case]

    await asyncio.to_thread(finish, site, process)

    assert await site.status(process) == status
    assert has_ended(process)


async def test_an_unused_kernel_ends_by_itself_and_says_so(site: Spawning) -> None:
    kernel = site.ask(limits=KernelLimits(idle_timeout_s=0.2))
    await site.reported(kernel)  # whoever asks it something may come too late, and would be a use

    assert await site.status(site.told.processes[kernel]) == Ending.IDLE << 8


async def test_what_cannot_be_served_is_refused_with_the_reason_and_ends(site: Spawning) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        kernel = site.ask(transport="tcp", ports=(port, 0, 0, 0, 0))
        await site.told.until(lambda: kernel in site.told.refusals, "a refusal")

    assert f"the shell channel cannot listen on tcp://127.0.0.1:{port}" in site.told.refusals[kernel]
    await site.told.until(lambda: kernel in site.told.processes, "its process")
    assert await site.status(site.told.processes[kernel]) == 4 << 8
    assert kernel not in site.told.connections


async def test_an_output_that_is_not_there_is_refused_with_its_path(site: Spawning) -> None:
    missing = str(site.folder / "not-there")
    kernel = site.ask(output=missing)
    await site.told.until(lambda: kernel in site.told.refusals, "a refusal")

    assert missing in site.told.refusals[kernel]


async def test_a_port_is_the_one_that_was_asked_for_and_others_are_found(site: Spawning) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = await site.start(transport="tcp", ports=(port, 0, 0, 0, 0))

    connection = site.connection(process)
    assert (connection.transport, connection.ip, connection.shell_port) == ("tcp", "127.0.0.1", port)
    assert await site.run(process, "return 1") == "1"


async def test_a_key_that_is_given_is_taken(site: Spawning) -> None:
    process = await site.start(key="c0ffee" * 8)

    assert site.connection(process).key == "c0ffee" * 8


async def test_a_living_process_is_recovered_and_no_other(site: Spawning) -> None:
    process = await site.start()
    kernel = KernelId("any")

    found = site.spawner.recover(kernel, process.pid, process.start_time)
    assert found is not None
    assert (found.pid, found.start_time) == (process.pid, process.start_time)
    assert found.pidfd != process.pidfd
    assert site.spawner.recover(kernel, process.pid, process.start_time + 1) is None

    os.kill(process.pid, signal.SIGKILL)
    await site.status(process)
    assert has_ended(found)
    os.close(found.pidfd)
    assert site.spawner.recover(kernel, process.pid, process.start_time) is None


@pytest.mark.parametrize("kind", SPAWNERS)
async def test_closing_ends_the_helper_and_leaves_the_kernels(kind: str) -> None:
    async with spawning(kind) as site:
        process = await site.start()
        helper = site.spawner.pid
        assert (helper is None) == (kind == "subprocess")

        await site.close()

        assert helper is None or process_start_time(helper) is None
        assert site.spawner.pid is None
        assert not has_ended(process, 0)
        assert await site.run(process, "return 'alive'") == "alive"


@pytest.mark.parametrize("kind", SPAWNERS)
async def test_closing_while_kernels_end_and_start_is_quiet(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    async with spawning(kind) as site:
        processes = [await site.start() for _ in range(3)]
        for process in processes:
            os.kill(process.pid, signal.SIGKILL)
        assert all(has_ended(process) for process in processes)
    assert capfd.readouterr().err == ""


# --- what a kernel gets, and what it does not get


async def test_the_environment_is_an_allow_list(monkeypatch: pytest.MonkeyPatch) -> None:
    secrets = {
        "OPENAI_API_KEY": "sk-secret",
        "LLMSPELL_TOKEN": "secret",
        "PYTHONWARNINGS": "default",
        "PYTHONSTARTUP": "/x",
        "LD_BIND_NOW": "1",
        "LUA_PATH": "/x/?.lua",
        "JPY_PARENT_PID": "1",
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    for kind in ("zygote", "subprocess"):
        async with spawning(kind, TZ="UTC") as site:
            names = environ_of((await site.start()).pid)
            allowed = {"HOME", "LANG", "LC_ALL", "LC_CTYPE", "PATH", "TZ"}
            ours = {f"LLMSPELL_{name}_DIR" for name in ("RUNTIME", "STATE", "LOG", "CONFIG")}
            assert names.keys() <= allowed | ours
            assert names["TZ"] == "UTC"


async def test_nothing_open_is_inherited(site: Spawning) -> None:
    with (site.folder / "marked").open("w") as marked, socket.create_server(("127.0.0.1", 0)) as listener:
        os.set_inheritable(marked.fileno(), True)
        listener.set_inheritable(True)
        first, second = await site.start(), await site.start()
        mine = _told_apart(files_of("self"))
        helper = _told_apart(files_of(site.spawner.pid)) if site.spawner.pid else set()
        assert marked.name in mine

        theirs = [_told_apart(files_of(process.pid)) for process in (first, second)]

    shared = {os.devnull}
    outputs = {str(path) for path in site.folder.iterdir() if path.suffix in (".output", ".progress")}
    assert theirs[0] & mine <= shared
    assert theirs[0] & helper <= shared
    assert theirs[0] & theirs[1] <= shared
    files = {name for name in theirs[0] if name.startswith("/")}
    assert files <= shared | outputs


def _told_apart(files: dict[int, str]) -> set[str]:
    """Names that mean the same file wherever they are; `anon_inode:[eventfd]` is another one in each process."""
    return {name for name in files.values() if not name.startswith("anon_inode:")}


async def test_standard_streams_are_nothing_and_the_fifo(site: Spawning) -> None:
    request = site.request()
    reader = os.open(request.output, os.O_RDONLY | os.O_NONBLOCK)
    try:
        site.spawner.start(request)
        kernel = KernelId(request.kernel_id)
        await site.served(kernel)
        pid = site.told.processes[kernel].pid
        files = files_of(pid)
        assert [files[number] for number in range(3)] == [os.devnull, request.output, request.output]

        os.kill(pid, signal.SIGUSR1)
        heard = asyncio.Event()
        asyncio.get_running_loop().add_reader(reader, heard.set)
        await asyncio.wait_for(heard.wait(), 20)
        asyncio.get_running_loop().remove_reader(reader)
        assert b"statistics" in os.read(reader, 65536)
    finally:
        os.close(reader)


async def test_a_fifo_that_nobody_reads_holds_nothing_up(site: Spawning) -> None:
    process = await site.start(log_level="debug")
    # A FIFO holds 64 KiB; each of these writes some hundred bytes to it.
    code = "for i = 1, 100 do local _ = i end return 'done'"
    for _ in range(3):
        assert await site.run(process, code) == "done"
    for _ in range(400):
        os.kill(process.pid, signal.SIGUSR1)
    assert await site.run(process, code) == "done"


async def test_a_process_is_set_apart(site: Spawning) -> None:
    process = await site.start()
    status = status_of(process.pid)

    assert os.getsid(process.pid) == os.getpgid(process.pid) == process.pid
    assert status["NoNewPrivs"] == "1"
    assert status["Umask"] == "0077"
    assert folder_of(process.pid) == "/"
    assert signals_of(status["SigBlk"]) == set()
    assert signal.SIGPIPE in signals_of(status["SigIgn"])
    assert not {signal.SIGCHLD, signal.SIGINT, signal.SIGTERM} & signals_of(status["SigIgn"])
    assert limits_of(process.pid)["core file size"] == "0"


LIMITS: dict[str, tuple[Confinement, dict[str, str]]] = {
    "files": (Confinement(files=200), {"open files": "200"}),
    "processes": (Confinement(processes=1000), {"processes": "1000"}),
    "a file's size": (Confinement(file_bytes=10 * MIB), {"file size": str(10 * MIB)}),
    "nothing": (Confinement(), {}),
    "nothing at level none": (Confinement(level="none", files=200, memory_bytes=MIB, file_bytes=MIB), {}),
}


@pytest.mark.parametrize("case", LIMITS)
async def test_limits_are_those_of_the_confinement_and_no_others(case: str, site: Spawning) -> None:
    confinement, expected = LIMITS[case]
    process = await site.start(confinement=confinement)

    assert limits_of(process.pid) == limits_of(os.getpid()) | {"core file size": "0"} | expected


async def test_memory_is_bounded_for_the_whole_process(site: Spawning) -> None:
    unbounded_lua = KernelLimits(memory_bytes=0)
    process = await site.start(confinement=Confinement(memory_bytes=32 * MIB), limits=unbounded_lua)
    bound = int(limits_of(process.pid)["data size"])
    assert 32 * MIB + HEADROOM_BYTES < bound < 32 * MIB + HEADROOM_BYTES + 200 * MIB

    outcome = await site.execute(process, f"return #('x'):rep({bound})")

    assert (outcome.status, "not enough memory" in outcome.evalue) == ("error", True)
    assert await site.run(process, "return 'alive'") == "alive"
    assert int(status_of(process.pid)["VmData"].split()[0]) * 1024 <= bound


async def test_lua_alone_is_bounded_without_a_confinement(site: Spawning) -> None:
    limits = KernelLimits(memory_bytes=32 * MIB)
    process = await site.start(confinement=Confinement(level="none", memory_bytes=MIB), limits=limits)

    assert limits_of(process.pid)["data size"] == limits_of(os.getpid())["data size"]
    outcome = await site.execute(process, f"return #('x'):rep({64 * MIB})")
    assert (outcome.status, "not enough memory" in outcome.evalue) == ("error", True)


async def test_keys_and_random_numbers_are_each_kernels_own(site: Spawning) -> None:
    processes = [await site.start() for _ in range(3)]

    assert len({site.connection(process).key for process in processes}) == 3
    numbers = [await site.run(process, "return math.random(1 << 62)") for process in processes]
    assert len(set(numbers)) == 3
    # Addresses are masked by numbers of each kernel's own; none shows the layout that forks share.
    shown = [await site.run(process, "return tostring({})") for process in processes]
    assert all(re.fullmatch(r"table: 0x0*[0-9a-f]{1,4}", str(text)) for text in shown), shown


async def test_files_are_private_and_gone_with_the_process(site: Spawning) -> None:
    pid_file = site.folder / "kernel.pid"
    request = site.request(pid_file=str(pid_file), name="a-name")
    site.spawner.start(request)
    kernel = KernelId(request.kernel_id)
    await site.served(kernel)
    process = site.told.processes[kernel]
    made = [path for path in (site.folder / "runtime").rglob("*") if not path.is_dir()]
    assert {path.name for path in made} >= {f"kernel-{kernel}.json", f"kernel-{kernel}.pid"}
    assert all(path.stat().st_mode & 0o077 == 0 for path in made)
    assert pid_file.read_text().splitlines()[0] == str(process.pid)
    assert site.connection(process).name == "a-name"

    os.kill(process.pid, signal.SIGTERM)
    await site.status(process)
    assert [path for path in (site.folder / "runtime").rglob("*") if not path.is_dir()] == []
    assert not pid_file.exists()


async def test_the_same_kernel_is_started_again_after_its_end(site: Spawning) -> None:
    kernel = new_kernel_id()
    first = await site.start(kernel_id=kernel)
    before = site.connection(first)
    os.kill(first.pid, signal.SIGKILL)
    assert await site.status(first) == signal.SIGKILL
    os.close(site.told.processes.pop(KernelId(kernel)).pidfd)
    del site.told.connections[KernelId(kernel)]

    second = await site.start(kernel_id=kernel, key=before.key)

    assert site.connection(second).endpoint("shell") == before.endpoint("shell")
    assert await site.run(second, "return 1") == "1"


async def test_limits_above_the_hard_one_are_the_hard_one(site: Spawning) -> None:
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    process = await site.start(confinement=Confinement(files=hard + 1))

    assert limits_of(process.pid)["open files"] == str(hard)


async def test_a_start_for_which_we_have_no_descriptors_has_failed_and_costs_no_other(site: Spawning) -> None:
    before = await site.start()
    with without_descriptors():
        kernel = site.ask()
        await site.told.until(lambda: kernel in site.told.failures, "its failure")

    assert "Too many open files" in site.told.failures[kernel]
    assert await site.run(await site.start(), "return 1") == "1"
    assert await site.run(before, "return 1") == "1"
    assert site.told.losses == []


async def test_a_process_that_we_have_no_descriptor_for_is_not_taken_for_gone(site: Spawning) -> None:
    process = await site.start()
    with without_descriptors(), pytest.raises(OSError, match="Too many open files"):
        site.spawner.recover(KernelId("k"), process.pid, process.start_time)

    found = site.spawner.recover(KernelId("k"), process.pid, process.start_time)
    assert found is not None
    os.close(found.pidfd)


async def test_the_system_tells_how_a_kernel_ended_to_whoever_holds_its_pidfd(site: Spawning) -> None:
    process = await site.start()
    assert exit_status(process) is None

    os.kill(process.pid, signal.SIGKILL)
    await site.status(process)

    # Linux 6.15 and later; before that, only its parent knew.
    assert exit_status(process) in (signal.SIGKILL, None)


# --- probes


@pytest.mark.parametrize("kind", ["zygote", "subprocess"])
async def test_a_probe_runs_in_a_kernels_place_and_says_what_it_got(kind: str) -> None:
    async with spawning(kind) as site:
        bound = Confinement(files=100)
        told = [await site.probe("open_files", "1000", confinement=bound), await site.probe("fork")]

        assert [(probed.name, probed.outcome) for probed in told] == [
            ("open_files", "stopped"),
            ("fork", "got_through"),
        ]
        assert [probed.pid for probed in told] == [process.pid for process in site.told.processes.values()]
        for process in site.told.processes.values():
            assert await site.status(process) == 0
        assert not site.told.connections


@pytest.mark.parametrize("kind", ["zygote", "subprocess"])
async def test_a_probe_that_there_is_not_is_refused(kind: str) -> None:
    async with spawning(kind) as site:
        kernel = site.ask(probe="nonsense")
        await site.told.until(lambda: kernel in site.told.refusals, "a refusal")

        assert "expected one of the probes" in site.told.refusals[kernel]
        await site.told.until(lambda: kernel in site.told.processes, "its process")
