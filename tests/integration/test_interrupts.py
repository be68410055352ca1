"""The ladder: the hook, by message and by signal, and last the process's replacement."""

import signal

import pytest

from support.homes import wait_until
from support.kernels import KernelHome, KernelProcess, clients_connection
from support.peers import Answer, Client, bracketed

pytestmark = pytest.mark.integration

PATTERN_BOMB = "print('running') return ('a'):rep(100000):find('.-.-.-.-.-.-b')"
"""One call into C that never returns to Lua."""


def interrupt(client: Client, answer: Answer) -> Answer:
    reply = client.ask("interrupt_request", channel="control")
    assert reply.content == {"status": "ok"}
    assert bracketed(reply)
    return client.finish(answer.request)


@pytest.mark.parametrize(
    "code",
    [
        "while true do end",
        "while true do pcall(function() while true do end end) end",
        "local co = coroutine.wrap(function() coroutine.wrap(function() while true do end end)() end) co()",
        "repeat local ok = pcall(error) until false",
        "local text = ('x'):rep(1e6) text:gsub('x', function() while true do end end)",
        "table.sort({3, 2, 1}, function() while true do end end)",
    ],
)
def test_an_interrupt_ends_the_cell_and_nothing_else(code: str, client: Client) -> None:
    client.execute("kept = 'still here'")
    answer = interrupt(client, client.start(f"print('running')\n{code}"))

    assert answer.status == "error"
    assert answer.error["ename"] == answer.content["ename"] == "Interrupted"
    assert "In[2]:2" in answer.error["evalue"]
    assert bracketed(answer)
    assert client.execute("return kept").result == "still here"


@pytest.mark.parametrize("statement", ["print('flood')", "io.stderr:write('flood')", "display({1})", "clear_output()"])
def test_an_interrupt_ends_a_flood(statement: str, kernel: KernelProcess) -> None:
    with Client(kernel.connection, checks=False) as client:
        answer = client.start(f"print('running') while true do {statement} end")
        client.send("control", "interrupt_request")

        assert client.finish(answer.request).error["ename"] == "Interrupted"
        assert client.execute("return 1").result == "1"


def test_sigint_does_the_same(kernel: KernelProcess, client: Client) -> None:
    client.execute("kept = 'still here'")
    answer = client.start("print('running') while true do end")
    kernel.signal(signal.SIGINT)

    assert client.finish(answer.request).error["ename"] == "Interrupted"
    assert client.execute("return kept").result == "still here"


def test_an_interrupt_while_idle_does_not_hit_the_next_cell(kernel: KernelProcess, client: Client) -> None:
    for _ in range(50):
        kernel.signal(signal.SIGINT)
        # After two rounds of its loop the kernel has surely seen the signal.
        client.ask("interrupt_request", channel="control")
        client.ask("interrupt_request", channel="control")
        assert client.execute("local n = 0 for i = 1, 10000 do n = n + i end return n").result == "50005000"


def test_an_interrupt_reaches_a_cell_that_has_only_been_announced(client: Client) -> None:
    for _ in range(50):
        request = client.send_execute("while true do end")
        answer = client.answers[request]
        client.until(lambda answer=answer: answer.of("execute_input"), "the cell to be announced")
        client.send("control", "interrupt_request")

        assert client.finish(request).error["ename"] == "Interrupted"


def test_interrupts_that_race_with_the_end_of_a_cell_hit_that_cell_or_none(client: Client) -> None:
    for _ in range(100):
        request = client.send_execute("return 'done'")
        client.send("control", "interrupt_request")
        client.send("control", "interrupt_request")
        assert client.finish(request).status in {"ok", "error"}
        assert client.execute("return 'next'").result in {"next", None}
        client.kernel_info()
        assert client.execute("return 'last'").result == "last"


def test_what_is_printed_before_an_interrupt_is_published_before_the_error(client: Client) -> None:
    answer = interrupt(client, client.start("print('running') io.write('half a line') while true do end"))

    assert answer.text() == "running\nhalf a line"
    assert answer.kinds[-2:] == ["error", "status"]


# --- the last rung ------------------------------------------------------------------------------------------------


def test_a_script_that_cannot_be_stopped_is_replaced_with_its_process(kernel: KernelProcess, client: Client) -> None:
    before = kernel.connection
    client.execute("lost = 1")
    answer = client.start(PATTERN_BOMB)
    waiting = client.send_execute("return 'never run'")
    client.kernel_info()

    answer = interrupt(client, answer)

    assert answer.error["ename"] == answer.content["ename"] == "KernelReplaced"
    assert client.finish(waiting).status == "aborted"
    assert kernel.process.poll() is None
    with Client(kernel.connection) as another:
        assert another.execute("return lost").result == "nil"
        assert another.execute("return 1").content["execution_count"] == 2
    assert kernel.connection == before
    # The same sockets of the same client have found the new process.
    client.until(lambda: _welcomes(client) > 1, "the second welcome")
    assert client.execute("return 'again'").result == "again"
    assert "execution_stuck" in kernel.log_text()


def _welcomes(client: Client) -> int:
    return sum(message["msg_type"] == "iopub_welcome" for message in client.unasked)


def test_a_kernel_on_a_clients_connection_file_is_replaced_too(home: KernelHome) -> None:
    kernel = home.start(connection=clients_connection(home))
    with Client(kernel.connection) as client:
        answer = interrupt(client, client.start(PATTERN_BOMB))
        assert answer.error["ename"] == "KernelReplaced"
    with Client(kernel.connection) as client:
        assert client.execute("return 1").result == "1"
    assert kernel.process.poll() is None


def test_an_execution_past_its_time_is_stopped(home: KernelHome) -> None:
    kernel = home.start_ready(options={"limits": {"execution_timeout_s": 0.3}})
    with Client(kernel.connection) as client:
        row = client.finish_all(client.send_row("while true do end", "return 1", stop_on_error=False))
        assert row[0].error["ename"] == "ExecutionTimeout"
        assert row[1].result == "1"
        assert client.execute("kept = 1 return kept").result == "1"


def test_a_stuck_execution_past_its_time_is_replaced(home: KernelHome) -> None:
    kernel = home.start_ready(options={"limits": {"execution_timeout_s": 0.3}})
    with Client(kernel.connection) as client:
        answer = client.execute(PATTERN_BOMB)
        assert answer.error["ename"] == "KernelReplaced"
    with Client(kernel.connection) as client:
        assert client.execute("return 1").result == "1"


# --- shutdown and restart -----------------------------------------------------------------------------------------


def test_shutdown_is_answered_told_to_everybody_and_done(
    kernel: KernelProcess, client: Client, second_client: Client
) -> None:
    answer = client.ask("shutdown_request", {"restart": False}, channel="control")

    assert answer.content == {"status": "ok", "restart": False}
    assert answer.kinds == ["status", "shutdown_reply", "status"]
    second_client.until(lambda: _kinds(second_client)[-2:] == ["shutdown_reply", "status"], "the news")
    assert kernel.wait() == 0
    assert not kernel.connection_file.exists()
    assert kernel.home.left_behind() == []


def _kinds(client: Client) -> list[str]:
    return [message["msg_type"] for message in client.unasked]


@pytest.mark.parametrize("code", ["while true do end", "while true do print('flood') end", "io.read()", PATTERN_BOMB])
@pytest.mark.parametrize("restart", [False, True])
def test_shutdown_while_busy_answers_who_waits_and_does_not_wait_for_the_script(
    code: str, restart: bool, kernel: KernelProcess, client: Client
) -> None:
    running = client.start(f"print('running') {code}", allow_stdin=True)
    waiting = client.send_execute("return 'never run'")
    client.kernel_info()

    client.ask("shutdown_request", {"restart": restart}, channel="control")

    assert client.finish(running.request).error["ename"] == "Interrupted"
    assert client.finish(waiting).status == "aborted"
    if restart:
        with Client(kernel.connection) as after:
            assert after.execute("return 1").content["execution_count"] == 1
        kernel.signal(signal.SIGTERM)
    assert kernel.wait() == 0
    assert kernel.home.left_behind() == []


def test_a_kernel_with_its_own_file_restarts_in_place(kernel: KernelProcess, client: Client) -> None:
    before, pid_files = kernel.connection, kernel.home.left_behind()
    client.execute("lost = 1")

    answer = client.ask("shutdown_request", {"restart": True}, channel="control")

    assert answer.content == {"status": "ok", "restart": True}
    client.until(lambda: _welcomes(client) > 1, "the second welcome")
    after = client.execute("return lost")
    assert (after.result, after.content["execution_count"]) == ("nil", 1)
    assert kernel.process.poll() is None
    assert kernel.connection == before
    assert kernel.home.left_behind() == pid_files


def test_a_kernel_restarts_in_place_again_and_again_and_then_ends(kernel: KernelProcess) -> None:
    opened: list[list[str]] = []
    for _ in range(4):
        with Client(kernel.connection) as client:
            assert client.execute("return n").result == "nil"
            client.execute("n = 1")
            client.ask("shutdown_request", {"restart": True}, channel="control")
            client.until(lambda client=client: _welcomes(client) > 1, "the second welcome")
            opened.append(kernel.open_files())
    assert opened[1:] == opened[:-1]
    kernel.signal(signal.SIGTERM)
    assert kernel.wait() == 0
    assert kernel.home.left_behind() == []
    assert not kernel.connection_file.exists()


def test_a_kernel_on_a_clients_file_leaves_the_restart_to_the_client(home: KernelHome) -> None:
    connection = clients_connection(home)
    kernel = home.start(connection=connection)
    with Client(connection) as client:
        client.ask("shutdown_request", {"restart": True}, channel="control")

    assert kernel.wait() == 0
    assert kernel.connection == connection
    wait_until(lambda: home.left_behind() == [], "the pid file to be gone")
    again = home.start()
    with Client(connection) as client:
        assert client.execute("return 1").result == "1"
    assert again.pid != kernel.pid


def test_ipc_kernels_restart_in_place(home: KernelHome) -> None:
    kernel = home.start_ready(options={"transport": "ipc"})
    with Client(kernel.connection) as client:
        client.ask("shutdown_request", {"restart": True}, channel="control")
        client.until(lambda: _welcomes(client) > 1, "the second welcome")
        assert client.execute("return 1").result == "1"
        client.ask("shutdown_request", {"restart": False}, channel="control")

    assert kernel.wait() == 0
    assert home.left_behind() == []
    assert list(home.runtime.rglob("k/*")) == []
