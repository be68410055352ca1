"""A hundred clients on one kernel at once: everybody is answered, and gets nobody else's answers."""

import asyncio
import resource
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psutil
import pytest
import zmq
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager
from jupyter_client.session import Session

from support.homes import wait_until
from support.jupyter_spec import ANSWER_S, READY_S

pytestmark = [pytest.mark.jupyter, pytest.mark.timeout(300), pytest.mark.usefixtures("unmeasured")]

CLIENTS = 100
CELLS = 3
VISITS = 1000
BYTES_PER_CLIENT = 10_000_000
SHUTDOWN_S = 5.0
PATIENCE_S = 120.0
"""A hundred clients in one process are slower than the kernel that they talk to."""


@pytest.fixture
def many_files() -> None:
    """Room for ten descriptors per client."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 8192), hard))


def _counted(client: BlockingKernelClient) -> int:
    """How many clients the kernel thinks that it has."""
    client.control_channel.send(client.session.msg("statistics_request", {}))
    return len(client.get_control_msg(timeout=ANSWER_S)["content"]["clients"])


def test_clients_that_left_are_not_counted_however_busy_the_kernel_is(
    client: BlockingKernelClient, kernel: KernelManager
) -> None:
    printing = client.execute("for i = 1, 1e6 do print(i) end")
    with zmq.Context() as context:
        for _ in range(VISITS):
            with context.socket(zmq.DEALER) as visitor:
                visitor.connect(f"tcp://{kernel.ip}:{kernel.shell_port}")
                session = Session(key=client.session.key)
                session.send(visitor, "kernel_info_request", {})
                assert visitor.poll(ANSWER_S * 1000)
                assert session.recv(visitor)[1]["content"]["status"] == "ok"
    assert client.get_shell_msg(timeout=ANSWER_S)["parent_header"]["msg_id"] == printing

    wait_until(lambda: _counted(client) == 1, "the kernel to count one client")


async def _ready(client: AsyncKernelClient) -> None:
    await client.wait_for_ready(timeout=PATIENCE_S)
    await client.execute(
        "", silent=True, reply=True, timeout=PATIENCE_S
    )  # it asks again each second, and leaves late answers behind


@asynccontextmanager
async def _clients(connection_file: str) -> AsyncIterator[list[AsyncKernelClient]]:
    clients = [AsyncKernelClient(connection_file=connection_file) for _ in range(CLIENTS)]
    try:
        async with asyncio.TaskGroup() as group:
            for client in clients:
                client.load_connection_file()
                client.start_channels()
                group.create_task(_ready(client))
        yield clients
    finally:
        for client in clients:
            client.stop_channels()


async def _tell_apart(client: AsyncKernelClient, name: int) -> None:
    """Run cells all at once and check what comes back, and for which of them."""
    requests = [client.execute(f"print('out {name} {cell}') return '{name} {cell}'") for cell in range(CELLS)]
    replies = [await client.get_shell_msg(timeout=PATIENCE_S) for _ in requests]
    assert [reply["parent_header"]["msg_id"] for reply in replies] == requests
    assert {reply["content"]["status"] for reply in replies} == {"ok"}
    heard: dict[str, list[tuple[str, Any]]] = {request: [] for request in requests}
    idle = 0
    while idle < CELLS:
        message = await client.get_iopub_msg(timeout=PATIENCE_S)
        mine = heard.get(message["parent_header"].get("msg_id"))
        if mine is None:
            continue
        content, kind = message["content"], message["msg_type"]
        idle += kind == "status" and content["execution_state"] == "idle"
        if kind in ("stream", "execute_result"):
            mine.append((kind, content["text"] if kind == "stream" else content["data"]["text/plain"]))
    for cell, request in enumerate(requests):
        assert heard[request] == [("stream", f"out {name} {cell}\n"), ("execute_result", f"{name} {cell}")]


async def _everybody(kernel: KernelManager, process: psutil.Process) -> tuple[float, float]:
    """Have them all on the kernel; returns bytes of memory per client and the seconds of a shutdown."""
    alone = process.memory_full_info().pss
    async with _clients(kernel.connection_file) as clients:
        async with asyncio.TaskGroup() as group:
            for name, client in enumerate(clients):
                group.create_task(_tell_apart(client, name))
        per_client = (process.memory_full_info().pss - alone) / CLIENTS
        started = time.monotonic()
        clients[0].shutdown()
        await asyncio.to_thread(process.wait, READY_S)
        return per_client, time.monotonic() - started


def test_a_hundred_clients_get_their_own_answers_cheaply_and_leave_promptly(
    kernel: KernelManager, many_files: None
) -> None:
    process = psutil.Process(kernel.provisioner.process.pid)

    per_client, shutdown_s = asyncio.run(_everybody(kernel, process))

    sys.stdout.write(f"{per_client / 1e6:.2f} MB per client, shutdown in {shutdown_s:.2f} s\n")
    assert per_client < BYTES_PER_CLIENT
    assert shutdown_s < SHUTDOWN_S
