"""A kernel under mixed load for SOAK_MINUTES: everything is answered as it should be, and its memory stays flat."""

import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest
import zmq
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.session import Session
from jupyter_core.utils import ensure_event_loop

from llmspell_kernel.jupyter.history import LONGEST
from llmspell_kernel.wire.jupyter import REPLAY_WINDOW
from support.homes import wait_until
from support.jupyter_spec import ANSWER_S, ENDLESS_LOOP, READY_S, execute, own_jupyter, wait_for_text

pytestmark = [pytest.mark.slow, pytest.mark.jupyter]  # as long as it is told to

DURATION_S = float(os.environ.get("SOAK_MINUTES", "60")) * 60
SAMPLE_S = 10.0
WARM_UP_SHARE = 0.25
FILLING_REQUESTS = max(REPLAY_WINDOW, LONGEST) + 1000
"""What a kernel remembers grows until it is full: it is filled before memory is compared."""

GROWTH_BYTES = 4 * 1024 * 1024
"""How much more the last third may hold than the first: allocators keep what one busy moment took. In two minutes that
is 200 bytes for each execution, in an hour 6."""

DESCRIPTORS_PER_CLIENT = 5

CONFIGURATION = """
[limits]
memory_bytes = "32MB"
output_bytes = "1MB"
"""


class Cell(NamedTuple):
    """Code, with the name of the error that it must end in, or what it must answer."""

    code: str
    result: str | None = None
    error: str | None = None
    printed_lines: int = 0


CELLS = (
    Cell("return 6*7", "42"),
    Cell("for i = 1, 2000 do print('line', i) end", printed_lines=2000),
    Cell("kept = kept or {} kept[#kept % 100 + 1] = ('x'):rep(1000) return #kept <= 100", "true"),
    Cell("error('on purpose')", error="LuaError"),
    Cell("local x = = 1", error="SyntaxError"),
    Cell("local t = {} for i = 1, 20000 do t[i] = {i, tostring(i)} end return #t", "20000"),
    Cell(
        "local sum = 0 for i = 1, 1000 do\n"
        "  local co = coroutine.wrap(function(a) while true do a = coroutine.yield(a * 2) end end)\n"
        "  sum = sum + co(i) + co(1) end return sum",
        "1003000",
    ),
    Cell("left = {} for i = 1, 200 do left[i] = coroutine.create(print) end return #left", "200"),
    Cell("display{html = ('<b>x</b>'):rep(1000)} display('a', {id = 'd'}) update_display('d', 'b') clear_output()"),
    Cell("local t = {} for i = 1, 1e9 do t[i] = ('x'):rep(100000) .. i end", error="MemoryError"),
    Cell("while true do print(('x'):rep(1000)) end", error="OutputLimit"),
    Cell("return select('#', string.byte(('x'):rep(1000), 1, -1))", "1000"),
    Cell("load('fresh_' .. math.random(10) .. ' = 1')() return type(_G)", "table"),
)

LOOPS = (
    ENDLESS_LOOP,
    "print('running') while true do pcall(function() while true do end end) end",
    "print('running') coroutine.wrap(function() while true do end end)()",
    "print('running') table.sort({3, 2, 1}, function() while true do end end)",
    "while true do print('running') end",
)


class Kernel:
    """The process, and what is measured of it."""

    def __init__(self, process: "subprocess.Popen[bytes]", connection_file: str) -> None:
        self.connection_file = connection_file
        self.process = psutil.Process(process.pid)
        self.context = zmq.Context[zmq.Socket[bytes]]()
        self.done: Counter[str] = Counter()

    @contextmanager
    def client(self) -> Iterator[BlockingKernelClient]:
        """Come, be answered, and leave."""
        client = BlockingKernelClient(connection_file=self.connection_file, context=self.context)
        client.load_connection_file()
        client.start_channels()
        try:
            # Its `wait_for_ready` reads IOPub until nothing comes any more: not while others work.
            client.kernel_info(reply=True, timeout=READY_S)
            wait_until(client.iopub_channel.msg_ready, "IOPub")
            # Its heartbeat's thread must have begun: one that is stopped before never ends.
            wait_until(client.hb_channel.is_beating, "the heartbeat")
            yield client
        finally:
            client.stop_channels()
            self.done["clients"] += 1


def _settle(kernel: Kernel, client: BlockingKernelClient, request: str, error: str | None) -> None:
    """Take the reply and the rest of what a request puts out."""
    reply = client.get_shell_msg(timeout=ANSWER_S)
    assert reply["parent_header"]["msg_id"] == request
    assert reply["content"].get("ename") == error, reply["content"]
    while True:
        message = client.get_iopub_msg(timeout=ANSWER_S)
        is_mine = message["parent_header"].get("msg_id") == request
        if is_mine and message["content"].get("execution_state") == "idle":
            kernel.done["executions"] += 1
            return


def _run_cells(kernel: Kernel, client: BlockingKernelClient) -> None:
    for cell in CELLS:
        reply, heard = execute(client, cell.code)
        assert reply.get("ename") == cell.error, (cell.code, reply)
        assert (heard.result, heard.stdout.count("\n")) == (cell.result, cell.printed_lines) or cell.error, cell.code
        kernel.done["executions"] += 1
        kernel.done[cell.error or "ok"] += 1


def _run_pipelined(kernel: Kernel, client: BlockingKernelClient) -> None:
    *requests, last = [client.execute(f"return {n}") for n in range(200)]
    for request in requests:
        assert client.get_shell_msg(timeout=ANSWER_S)["parent_header"]["msg_id"] == request
        kernel.done["executions"] += 1
    _settle(kernel, client, last, None)


def _interrupt_loops(kernel: Kernel, client: BlockingKernelClient) -> None:
    for number, code in enumerate(LOOPS):
        request = client.execute(code)
        wait_for_text(client, request, "running")
        if number % 2:
            kernel.process.send_signal(signal.SIGINT)
        else:
            client.control_channel.send(client.session.msg("interrupt_request", {}))
            client.get_control_msg(timeout=ANSWER_S)
        _settle(kernel, client, request, "Interrupted")
        kernel.done["Interrupted"] += 1


def _ask(kernel: Kernel, client: BlockingKernelClient) -> None:
    assert client.complete("string.for", reply=True, timeout=ANSWER_S)["content"]["matches"] == ["format"]
    assert client.inspect("string.format", reply=True, timeout=ANSWER_S)["content"]["found"]
    client.is_complete("for i = 1, 2 do")
    assert client.get_shell_msg(timeout=ANSWER_S)["content"]["status"] == "incomplete"
    assert client.history(reply=True, timeout=ANSWER_S, hist_access_type="tail", n=10)["content"]["status"] == "ok"
    answer = {"allow_stdin": True, "stdin_hook": lambda _message: client.input("typed")}
    assert execute(client, "return io.read()", **answer)[1].result == "typed"
    kernel.done["questions"] += 5


ROUND: tuple[Callable[[Kernel, BlockingKernelClient], None], ...] = (_run_cells, _run_pipelined, _interrupt_loops, _ask)


def _visit(kernel: Kernel, stop: threading.Event, failures: "queue.Queue[BaseException]") -> None:
    """Come and go until told to stop; every other time as somebody who speaks another protocol."""
    try:
        while not stop.is_set():
            with kernel.client() as client:
                # Aborted when the other client's cell failed meanwhile.
                reply = client.execute("return 1", reply=True, timeout=ANSWER_S)
                assert reply["content"]["status"] in ("ok", "aborted")
                port = client.shell_port
            with socket.create_connection(("127.0.0.1", port)) as stranger:
                stranger.sendall(b"GET / HTTP/1.1\r\n\r\n" * 10)
    except BaseException as failure:  # noqa: BLE001 - handed to the test, which owns it
        failures.put(failure)
    finally:
        # jupyter_client's blocking calls made it, for this thread.
        ensure_event_loop().close()


@pytest.fixture
def kernel(tmp_path: Path) -> Iterator[Kernel]:
    configuration, connection_file = tmp_path / "kernel.toml", tmp_path / "connection.json"
    configuration.write_text(CONFIGURATION)
    command = ["-m", "llmspell_kernel", "-f", str(connection_file), "-c", str(configuration)]
    with own_jupyter(tmp_path), (tmp_path / "kernel.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, *command], stderr=log, stdin=subprocess.DEVNULL)
        try:
            wait_until(connection_file.exists, "the kernel's connection file")
            kernel = Kernel(process, str(connection_file))
            with kernel.context:
                _fill(kernel)
                yield kernel
        finally:
            process.terminate()
            process.wait(timeout=READY_S)


class Sample(NamedTuple):
    """What the kernel holds, after a garbage collection."""

    at_s: float
    private_bytes: int
    descriptors: int
    threads: int


def _private_bytes(pid: int) -> int:
    """Memory that is the process's own. PSS and USS change with other processes that map the same libraries."""
    (line,) = (line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("RssAnon:"))
    return int(line.split()[1]) * 1024


def _sample(kernel: Kernel, client: BlockingKernelClient, at_s: float) -> Sample:
    execute(client, "collectgarbage() collectgarbage()", store_history=False)
    process = kernel.process
    sample = Sample(at_s, _private_bytes(process.pid), process.num_fds(), process.num_threads())
    counts = ", ".join(f"{count} {name}" for name, count in sorted(kernel.done.items()))
    figures = f"{sample.private_bytes / 2**20:.2f} MiB, {sample.descriptors} descriptors, {sample.threads} threads"
    sys.stdout.write(f"{at_s:6.0f} s: {figures}; {counts}\n")
    sys.stdout.flush()
    return sample


def _fill(kernel: Kernel) -> None:
    """Run many cells fast: with no subscriber, and no look at the answers."""
    connection = json.loads(Path(kernel.connection_file).read_text())
    session = Session(key=connection["key"].encode())
    with kernel.context.socket(zmq.DEALER) as shell:
        shell.connect(f"tcp://{connection['ip']}:{connection['shell_port']}")
        for start in range(0, FILLING_REQUESTS, 500):
            for number in range(start, start + 500):
                content = {"code": f"local filling = {number} return filling", "store_history": True}
                session.send(shell, "execute_request", content)
            for _ in range(500):
                assert shell.poll(ANSWER_S * 1000)
                shell.recv_multipart()
            kernel.done["executions"] += 500


def _work(kernel: Kernel, failures: "queue.Queue[BaseException]") -> list[Sample]:
    samples: list[Sample] = []
    started = time.monotonic()
    with kernel.client() as client:
        while (at_s := time.monotonic() - started) < DURATION_S or len(samples) < 2:
            if at_s >= SAMPLE_S * len(samples):
                samples.append(_sample(kernel, client, at_s))
            for part in ROUND:
                part(kernel, client)
            if not failures.empty():
                raise failures.get()
        samples.append(_sample(kernel, client, at_s))
    return samples


def test_memory_stays_flat_under_mixed_load(kernel: Kernel) -> None:
    stop, failures = threading.Event(), queue.Queue[BaseException]()
    visitor = threading.Thread(target=_visit, args=(kernel, stop, failures))
    visitor.start()
    try:
        samples = _work(kernel, failures)
    finally:
        stop.set()
        visitor.join()

    warm = [sample for sample in samples if sample.at_s >= DURATION_S * WARM_UP_SHARE]
    third = max(1, len(warm) // 3)
    # What is taken for a moment only adds: the least of several looks is what the kernel holds.
    first, last = (Sample(*map(min, zip(*part, strict=True))) for part in (warm[:third], warm[-third:]))
    growth = last.private_bytes - first.private_bytes
    sys.stdout.write(f"growth from the first third to the last: {growth / 2**20:+.2f} MiB\n")
    assert growth <= GROWTH_BYTES
    # A visitor may be there at every look of one third and at none of the other.
    assert last.descriptors <= first.descriptors + DESCRIPTORS_PER_CLIENT
    assert last.threads <= first.threads
