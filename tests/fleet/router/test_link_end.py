"""A connection whose kernel has ended a moment ago, before anybody heard of its end."""

import asyncio
from pathlib import Path

import pytest
import zmq

from llmspell_fleet.router.link import Link, RunContent
from llmspell_kernel.connection import ConnectionInfo
from support.kernels import short_folder
from support.spawning import eventually

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]


async def test_a_request_after_its_end_is_counted_and_not_refused(context: zmq.Context[zmq.Socket[bytes]]) -> None:
    theirs: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    with short_folder() as folder:
        router = theirs.socket(zmq.ROUTER)
        router.bind(f"ipc://{folder}/s-1")
        link = Link(context, connection(folder), asyncio.get_running_loop(), lambda *_heard: None)
        try:
            link.hello()
            await eventually(lambda: router.poll(0), "the greeting arrives")
            theirs.destroy(linger=0)
            await eventually(lambda: not link._socket.getsockopt(zmq.EVENTS) & zmq.POLLOUT, "there is nobody")
            assert link.run(RunContent("return 1", 1, 1.0, False)) == 2
        finally:
            theirs.destroy(linger=0)
            link.close()


def connection(folder: Path) -> ConnectionInfo:
    return ConnectionInfo(
        shell_port=1, iopub_port=2, stdin_port=3, control_port=4, hb_port=5, key="k", ip=f"{folder}/s", transport="ipc"
    )
