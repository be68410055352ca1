"""Busy is not deaf: what needs no Lua is answered while a script runs."""

from collections.abc import Iterator

import pytest
import zmq

from support.kernels import KernelHome, KernelProcess
from support.peers import ANSWER_S, Client, Json, bracketed, endpoint

pytestmark = pytest.mark.integration

BUSY = {
    "a loop": "while true do end",
    "a flood": "while true do print('flood') end",
    "one call into C": "local s = ('a'):rep(100000):find('.-.-.-.-.-.-b')",
    "waiting for input": "io.read()",
    "callbacks": "while true do ('abc'):gsub('.', function(c) return c end) end",
}


@pytest.fixture(params=BUSY, ids=lambda name: name.replace(" ", "-"))
def busy(request: pytest.FixtureRequest, kernel: KernelProcess) -> Iterator[Client]:
    """A client of a kernel that runs a script without end."""
    with Client(kernel.connection, checks=False) as client:
        client.execute("earlier = { field = 1 }")
        client.start(f"print('running') in_this_cell = 1 {BUSY[request.param]}", allow_stdin=True)
        yield client


@pytest.fixture
def other(kernel: KernelProcess, busy: Client) -> Iterator[Client]:
    """A client that is not flooded: it only talks."""
    with Client(kernel.connection, channels=("shell", "control", "stdin")) as client:
        yield client


def test_everything_but_execution_is_answered(busy: Client, other: Client) -> None:
    assert other.kernel_info()["status"] == "ok"
    assert other.ask("kernel_info_request", channel="control").status == "ok"
    for code, expected in [("earl", "earlier"), ("earlier.", "field"), ("in_this", "in_this_cell"), ("whil", "while")]:
        content = other.ask("complete_request", {"code": code, "cursor_pos": len(code)}).content
        assert expected in content["matches"]
    inspected = other.ask("inspect_request", {"code": "string.rep", "cursor_pos": 8, "detail_level": 0}).content
    assert inspected["found"]
    assert other.ask("is_complete_request", {"code": "for"}).content["status"] == "incomplete"
    history = other.ask("history_request", {"hist_access_type": "tail", "n": 5, "output": False, "raw": True})
    assert history.content["history"] == [[1, 1, "earlier = { field = 1 }"]]
    assert other.ask("comm_info_request", {}).content["comms"] == {}


def test_the_heart_beats(kernel: KernelProcess, busy: Client) -> None:
    with beating(kernel.connection) as heart:
        for number in range(20):
            heart.send(b"%d" % number)
            assert heart.poll(ANSWER_S * 1000)
            assert heart.recv() == b"%d" % number


class beating:  # noqa: N801 - used like a function
    """A client of the heartbeat channel."""

    def __init__(self, connection: Json) -> None:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.REQ)
        self._socket.linger = 0
        self._socket.connect(endpoint(connection, "hb"))

    def __enter__(self) -> "zmq.Socket[bytes]":
        return self._socket

    def __exit__(self, *_: object) -> None:
        self._context.destroy(linger=0)


def test_the_heart_beats_on_when_clients_have_left(kernel: KernelProcess) -> None:
    for _ in range(5):
        with beating(kernel.connection) as left:
            for _ in range(100):
                left.send(b"x")
                left.recv()
            left.send(b"the answer finds nobody")
        with beating(kernel.connection) as heart:
            heart.send(b"ping")
            assert heart.poll(ANSWER_S * 1000)


def test_requests_overtake_executions_that_wait(client: Client) -> None:
    running = client.start("print('running') while true do end")
    waiting = [client.send_execute(f"return {number}") for number in range(50)]

    assert bracketed(client.ask("kernel_info_request"))

    client.ask("interrupt_request", channel="control")
    client.finish_all([running.request, *waiting])


@pytest.mark.usefixtures("unmeasured")
def test_control_is_answered_when_more_waits_than_is_read(kernel: KernelProcess) -> None:
    with Client(kernel.connection, checks=False) as client:
        running = client.start("print('running') while true do end")
        row = client.send_row(*["return 1"] * 6000)
        assert client.ask("kernel_info_request", channel="control").status == "ok"
        client.ask("interrupt_request", channel="control")
        client.finish(running.request)
        statuses = {client.finish(request).status for request in row}
        assert statuses <= {"ok", "aborted"}
        assert client.execute("return 1").result == "1"


def test_a_busy_kernel_says_so_when_it_is_asked(home: KernelHome) -> None:
    kernel = home.start_ready()
    with Client(kernel.connection) as client:
        client.start("print('running') while true do end")
        answer = client.ask("statistics_request", channel="control")
        assert answer.content["state"] == "busy"
        assert answer.content["pid"] == kernel.pid
        assert answer.content["lua_memory_bytes"] > 0
        assert [entry["session"] for entry in answer.content["clients"]] == [client.session.session]
