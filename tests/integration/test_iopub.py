"""IOPub: lossless for who reads, bounded for who does not, and nobody is left without the end."""

import itertools
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from support.kernels import KernelHome, KernelProcess
from support.peers import ANSWER_S, Answer, Client, endpoint

pytestmark = pytest.mark.integration

UNLIMITED = {"limits": {"output_bytes": 0}}

SLEEPER = """
import sys, zmq
context = zmq.Context()
socket = context.socket(zmq.SUB)
socket.rcvhwm = 10
socket.subscribe(b"")
socket.connect(sys.argv[1])
socket.recv_multipart()
print("subscribed", flush=True)
sys.stdin.read()
"""


def numbered(answer: Answer) -> list[int]:
    """The numbers that the lines of a cell's output begin with."""
    return [int(line.partition("\t")[0]) for line in answer.text().splitlines()]


@pytest.fixture
def sleeper(kernel: KernelProcess) -> Iterator[None]:
    with stopped_subscriber(kernel):
        yield


class stopped_subscriber:  # noqa: N801 - used like a function
    """A process that has subscribed and was stopped then."""

    def __init__(self, kernel: KernelProcess) -> None:
        self._address = endpoint(kernel.connection, "iopub")

    def __enter__(self) -> None:
        command = [sys.executable, "-c", SLEEPER, self._address]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == b"subscribed\n"
        self._process.send_signal(signal.SIGSTOP)

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate(timeout=ANSWER_S)


@pytest.mark.usefixtures("unmeasured")
def test_half_a_million_lines_arrive_in_order_and_then_the_end(kernel: KernelProcess) -> None:
    with Client(kernel.connection, checks=False) as client:
        answer = client.execute("for i = 1, 500000 do print(i) end return 'end'")

        assert numbered(answer) == list(range(1, 500_001))
        assert answer.result == "end"
        assert answer.text("stderr") == ""


@pytest.mark.usefixtures("unmeasured")
def test_two_streams_keep_their_order(kernel: KernelProcess) -> None:
    with Client(kernel.connection, checks=False) as client:
        answer = client.execute("for i = 1, 5000 do print(i) io.stderr:write(i, '\\n') end")

        joined = "".join(content["text"] for content in answer.of("stream")).splitlines()
        assert [int(line) for line in joined] == [number for number in range(1, 5_001) for _ in range(2)]


def test_a_character_is_never_cut_in_two(kernel: KernelProcess) -> None:
    with Client(kernel.connection, checks=False) as client:
        answer = client.execute("io.write(('a€🌙'):rep(200000))")

        assert answer.text() == "a€🌙" * 200_000


def test_bytes_that_are_no_text_arrive_as_replacement_characters(client: Client) -> None:
    answer = client.execute("io.write('a\\xff\\xfeb\\0c') return '\\xff'")

    assert answer.text() == "a\ufffd\ufffdb\0c"
    assert answer.result is not None


@pytest.mark.usefixtures("unmeasured")
def test_who_reads_gets_everything_and_who_does_not_is_told(home: KernelHome) -> None:
    kernel = home.start_ready(options=UNLIMITED)
    with Client(kernel.connection, checks=False) as reader, Client(kernel.connection, checks=False) as sleeper:
        sleeper.sockets["iopub"].rcvhwm = 10  # for connections to come
        sleeper.reconnect("iopub")
        before = kernel.memory_kib()
        code = "local pad = ('x'):rep(200) for i = 1, 400000 do print(i, pad) end return 'end'"
        request = reader.send_execute(code)
        answer = reader.finish(request)

        assert numbered(answer) == list(range(1, 400_001))
        assert answer.text("stderr") == ""
        assert kernel.memory_kib("VmHWM") - before < 150 * 1024

        heard = sleeper.answers[request] = Answer(request)
        sleeper.until(lambda: heard.states[-1:] == ["idle"], "the end, by who slept")
        assert "not delivered: this client had stopped reading" in heard.text("stderr")
        assert heard.result == "end"
        assert heard.kinds[:2] == ["status", "execute_input"]
        # Up to the gap nothing is missing, and nothing is in disorder.
        got = numbered(heard)
        assert got == sorted(got)

        again = reader.execute("return 'again'")
        sleeper.until(lambda: _said(sleeper, again.request), "the next cell")


def _said(client: Client, request: str) -> bool:
    return "idle" in client.states_of(request)


def test_a_slow_reader_alone_loses_nothing(home: KernelHome) -> None:
    kernel = home.start_ready(options=UNLIMITED)
    with Client(kernel.connection, checks=False) as client:
        client.sockets["iopub"].rcvhwm = 2
        client.reconnect("iopub")
        request = client.send_execute("local pad = ('x'):rep(60000) for i = 1, 900 do print(i, pad) end return 'end'")
        answer = client.answers[request]
        # One message at a time, with the work of a busy front end in between.
        while not answer.is_over:
            client.take(ANSWER_S, at_once=1)
            sum(itertools.islice(itertools.count(), 20_000))

        assert numbered(answer) == list(range(1, 901))
        assert answer.text("stderr") == ""
        assert answer.result == "end"


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize(
    ("case", "code", "most_mib"),
    [
        ("text", "local pad = ('x'):rep(1000) for i = 1, 200000 do print(i, pad) end", 100),
        ("displays", "for i = 1, 30000 do display({1}) end", 60),
        ("errors", "for i = 1, 2000 do pcall(error, 'x') clear_output() end error('x')", 60),
    ],
)
def test_a_stopped_subscriber_costs_bounded_memory(case: str, code: str, most_mib: int, home: KernelHome) -> None:
    kernel = home.start_ready(options=UNLIMITED)
    with Client(kernel.connection, checks=False, channels=("shell", "control")) as client:
        client.kernel_info()
        with stopped_subscriber(kernel):
            before = kernel.memory_kib()
            client.execute(code)
            after = kernel.memory_kib("VmHWM")
            assert client.kernel_info()
        assert after - before < most_mib * 1024


@pytest.mark.usefixtures("unmeasured")
def test_a_stopped_subscriber_does_not_hold_up_executions(kernel: KernelProcess, sleeper: None) -> None:
    with Client(kernel.connection, checks=False) as client:
        answers = client.finish_all(client.send_row(*["print('x') return 1"] * 5000))

        assert all(answer.result == "1" and answer.text() == "x\n" for answer in answers)


def test_subscribers_come_and_go_in_a_flood(kernel: KernelProcess) -> None:
    with Client(kernel.connection, checks=False) as client:
        running = client.start("print('running') while true do print('flood') end")
        for _ in range(10):
            with Client(kernel.connection, checks=False) as guest:
                guest.until(lambda guest=guest: _has_text(guest), "the flood")
            client.take(0)
        client.ask("interrupt_request", channel="control")
        client.finish(running.request)
        assert client.execute("return 1").result == "1"


def _has_text(client: Client) -> bool:
    return any(message["msg_type"] == "stream" for message in client.unasked)


@pytest.mark.parametrize(
    ("case", "topic", "hears"),
    [
        ("a prefix of ours", lambda kernel_id: b"kernel.", True),
        ("one type", lambda kernel_id: f"kernel.{kernel_id}.status".encode(), True),
        ("something else", lambda kernel_id: b"comm-", False),
        ("another kernel", lambda kernel_id: b"kernel.another.status", False),
    ],
)
def test_a_subscription_is_welcomed_and_matches_topics(
    case: str, topic: Callable[[str], bytes], hears: bool, kernel: KernelProcess, client: Client
) -> None:
    with Client(kernel.connection, topic=topic(kernel.connection["kernel_id"])) as other:
        answer = client.execute("print('x')")
        if hears:
            other.until(lambda: _said(other, answer.request), "the status")
        else:
            other.until_reply(other.send("shell", "kernel_info_request"))
            assert [m["msg_type"] for m in other.unasked] == ["iopub_welcome"]
