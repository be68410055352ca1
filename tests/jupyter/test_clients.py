"""jupyter_client, as front ends use it: blocking and asynchronous, with its managers."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

import psutil
import pytest
import zmq
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import AsyncKernelManager, KernelManager

from support.homes import wait_until
from support.jupyter_spec import (
    ANSWER_S,
    ENDLESS_LOOP,
    KERNEL,
    READY_S,
    connected,
    execute,
    running_kernel,
    wait_for_text,
)

pytestmark = pytest.mark.jupyter


def _pid(manager: KernelManager) -> int:
    pid: int = manager.provisioner.process.pid
    return pid


def test_an_execution_is_told_in_full(client: BlockingKernelClient) -> None:
    reply, heard = execute(client, "print('one') io.stderr:write('two') return 3")

    assert reply["status"] == "ok"
    assert heard.of("execute_input")[0]["code"].startswith("print")
    assert heard.kinds == ["stream", "stream", "execute_result"]
    assert [content["name"] for content in heard.of("stream")] == ["stdout", "stderr"]
    assert heard.result == "3"
    assert [content["execution_state"] for content in heard.of("status")] == ["busy", "idle"]


def test_an_error_is_told_once_with_the_line_and_the_users_functions(client: BlockingKernelClient) -> None:
    reply, heard = execute(client, "local function divide(n)\n  error('no ' .. n)\nend\ndivide(0)")

    (error,) = heard.of("error")
    assert heard.kinds == ["error"]
    assert reply["status"] == "error"
    assert error["evalue"] == reply["evalue"]
    assert "In[1]:2: no 0" in error["evalue"]
    assert any("divide" in line for line in error["traceback"])


def test_what_follows_a_failure_is_aborted_and_what_comes_later_is_not(client: BlockingKernelClient) -> None:
    requests = [client.execute(code) for code in ("error('first')", "x = 1", "x = 2")]
    replies = {
        reply["parent_header"]["msg_id"]: reply for reply in (client.get_shell_msg(timeout=ANSWER_S) for _ in requests)
    }

    assert [replies[request]["content"]["status"] for request in requests] == ["error", "aborted", "aborted"]
    assert execute(client, "return x")[1].result == "nil"


def test_expressions_of_the_user_are_answered_with_the_reply(client: BlockingKernelClient) -> None:
    reply, _ = execute(client, "x = 20", user_expressions={"sum": "x + 1", "fault": "x.y.z"})

    assert reply["user_expressions"]["sum"]["data"]["text/plain"] == "21"
    assert reply["user_expressions"]["fault"]["status"] == "error"


def test_a_silent_execution_publishes_nothing_and_leaves_no_history(client: BlockingKernelClient) -> None:
    reply, heard = execute(client, "y = 5 print('quiet') return y", silent=True)

    assert reply["status"] == "ok"
    assert heard.kinds == []
    assert heard.of("execute_input") == []
    assert client.history(reply=True, timeout=ANSWER_S, hist_access_type="tail", n=5)["content"]["history"] == []
    assert execute(client, "return y")[1].result == "5"


def test_input_is_asked_for_and_answered(client: BlockingKernelClient) -> None:
    asked: list[dict[str, Any]] = []

    def answer(message: dict[str, Any]) -> None:
        asked.append(message)
        client.input("a name")

    reply, heard = execute(client, "return 'hello ' .. io.read()", allow_stdin=True, stdin_hook=answer)

    assert reply["status"] == "ok"
    assert len(asked) == 1
    assert heard.result == "hello a name"


def test_input_is_answered_by_a_cell_that_follows_another_at_once(client: BlockingKernelClient) -> None:
    for _ in range(50):
        client.execute("x = 1")
        reading = client.execute("return io.read()", allow_stdin=True)
        client.get_stdin_msg(timeout=ANSWER_S)
        client.input("typed")
        client.get_shell_msg(timeout=ANSWER_S)
        reply = client.get_shell_msg(timeout=ANSWER_S)

        assert (reply["parent_header"]["msg_id"], reply["content"]["status"]) == (reading, "ok")


def test_requests_are_answered_while_a_script_runs(client: BlockingKernelClient, kernel: KernelManager) -> None:
    execute(client, "known_before = 1")
    running = client.execute(ENDLESS_LOOP)
    wait_for_text(client, running, "running")

    assert client.kernel_info(reply=True, timeout=ANSWER_S)["content"]["implementation"] == "llmspell"
    assert client.complete("known_bef", reply=True, timeout=ANSWER_S)["content"]["matches"] == ["known_before"]
    assert client.inspect("string.rep", reply=True, timeout=ANSWER_S)["content"]["found"]
    assert client.comm_info(reply=True, timeout=ANSWER_S)["content"]["comms"] == {}

    kernel.interrupt_kernel()
    assert client.get_shell_msg(timeout=ANSWER_S)["parent_header"]["msg_id"] == running


def test_the_manager_interrupts_and_the_variables_survive(client: BlockingKernelClient, kernel: KernelManager) -> None:
    execute(client, "kept = 'still here'")
    running = client.execute(ENDLESS_LOOP)
    wait_for_text(client, running, "running")

    kernel.interrupt_kernel()
    reply = client.get_shell_msg(timeout=ANSWER_S)

    assert reply["parent_header"]["msg_id"] == running
    assert reply["content"]["ename"] == "Interrupted"
    assert execute(client, "return kept")[1].result == "still here"


def test_the_manager_restarts_and_the_variables_are_gone(client: BlockingKernelClient, kernel: KernelManager) -> None:
    execute(client, "lost = 1")
    before = _pid(kernel)

    kernel.restart_kernel()
    client.wait_for_ready(timeout=READY_S)

    assert _pid(kernel) != before
    assert not psutil.pid_exists(before)
    assert execute(client, "return lost")[1].result == "nil"


def test_a_restart_ends_a_script_that_runs(client: BlockingKernelClient, kernel: KernelManager) -> None:
    running = client.execute(ENDLESS_LOOP)
    wait_for_text(client, running, "running")

    kernel.restart_kernel()
    client.wait_for_ready(timeout=READY_S)

    assert execute(client, "1+1")[1].result == "2"


def test_shutdown_is_prompt_and_leaves_nothing() -> None:
    with running_kernel() as manager, connected(manager) as client:
        execute(client, "x = 1")
        process = psutil.Process(_pid(manager))
        started = time.monotonic()
        client.shutdown()

        assert process.wait(timeout=ANSWER_S) == 0
        assert time.monotonic() - started < 5


def test_the_heartbeat_answers_during_a_script(client: BlockingKernelClient, kernel: KernelManager) -> None:
    running = client.execute(ENDLESS_LOOP)
    wait_for_text(client, running, "running")

    wait_until(client.hb_channel.is_beating, "a heartbeat")
    kernel.interrupt_kernel()
    client.get_shell_msg(timeout=ANSWER_S)


def test_the_heartbeat_survives_clients_that_leave_before_it_answers(
    client: BlockingKernelClient, kernel: KernelManager
) -> None:
    beat = f"tcp://{kernel.ip}:{kernel.hb_port}"
    with zmq.Context() as context:
        for _ in range(50):
            with context.socket(zmq.DEALER) as leaving, context.socket(zmq.REQ) as staying:
                leaving.connect(beat)
                leaving.send_multipart([b"", b"are you there"])
                leaving.recv_multipart()
                for _ in range(100):
                    leaving.send_multipart([b"", b"never mind"])
                leaving.close()
                staying.linger = 0
                staying.connect(beat)
                staying.send(b"and now?")

                assert staying.poll(ANSWER_S * 1000)
                assert staying.recv() == b"and now?"


def test_a_second_client_hears_what_the_first_runs(client: BlockingKernelClient, kernel: KernelManager) -> None:
    with connected(kernel) as listener:
        request = client.execute("print('for everybody')")
        wait_for_text(listener, request, "for everybody")

        assert execute(listener, "return 2")[0]["execution_count"] == 2


# --- asynchronous -------------------------------------------------------------------------------------------------


@asynccontextmanager
async def _started() -> AsyncIterator[tuple[AsyncKernelManager, AsyncKernelClient]]:
    manager = AsyncKernelManager(kernel_name=KERNEL)
    await manager.start_kernel()
    client = manager.client()
    client.start_channels()
    try:
        await client.wait_for_ready(timeout=READY_S)
        await client.execute(
            "", silent=True, reply=True, timeout=READY_S
        )  # it asks again each second, and leaves late answers behind
        yield manager, client
    finally:
        client.stop_channels()
        await manager.shutdown_kernel(now=True)
        await manager.cleanup_resources()


async def _executes(_manager: AsyncKernelManager, client: AsyncKernelClient) -> None:
    heard: list[dict[str, Any]] = []
    reply = await client.execute_interactive("print('hi') return 6*7", timeout=ANSWER_S, output_hook=heard.append)

    assert reply["content"]["status"] == "ok"
    assert [m["msg_type"] for m in heard if m["msg_type"] in ("stream", "execute_result")] == [
        "stream",
        "execute_result",
    ]


async def _pipelines(_manager: AsyncKernelManager, client: AsyncKernelClient) -> None:
    requests = [client.execute(f"return {n}") for n in range(200)]
    replies = [await client.get_shell_msg(timeout=ANSWER_S) for _ in requests]

    assert [reply["parent_header"]["msg_id"] for reply in replies] == requests
    assert [reply["content"]["execution_count"] for reply in replies] == list(range(1, 201))


async def _is_interrupted(manager: AsyncKernelManager, client: AsyncKernelClient) -> None:
    running = client.execute(ENDLESS_LOOP)
    while (await client.get_iopub_msg(timeout=ANSWER_S))["msg_type"] != "stream":
        pass
    await manager.interrupt_kernel()
    reply = await client.get_shell_msg(timeout=ANSWER_S)

    assert (reply["parent_header"]["msg_id"], reply["content"]["ename"]) == (running, "Interrupted")


async def _restarts(manager: AsyncKernelManager, client: AsyncKernelClient) -> None:
    await client.execute("x = 1", reply=True, timeout=ANSWER_S)
    await manager.restart_kernel()
    await client.wait_for_ready(timeout=READY_S)
    reply = await client.execute("assert(x == nil)", reply=True, timeout=ANSWER_S)

    assert reply["content"]["status"] == "ok"


async def _shuts_down(manager: AsyncKernelManager, _client: AsyncKernelClient) -> None:
    process = psutil.Process(manager.provisioner.process.pid)
    await manager.shutdown_kernel()

    assert not process.is_running()


Story = Callable[[AsyncKernelManager, AsyncKernelClient], Coroutine[Any, Any, None]]


@pytest.mark.parametrize("story", [_executes, _pipelines, _is_interrupted, _restarts, _shuts_down])
def test_the_asynchronous_client(story: Story) -> None:
    async def tell() -> None:
        async with _started() as (manager, client):
            await story(manager, client)

    asyncio.run(tell())
