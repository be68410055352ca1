"""What clients should not send. It is counted, logged and dropped, or refused with the reason; the kernel goes on."""

import itertools
import json
import random
from collections.abc import Iterator
from typing import Any, Self

import pytest
import zmq

from llmspell_kernel.wire.jupyter import DELIMITER, Encoder, Signer
from support.kernels import KernelHome, KernelProcess, kernel_home
from support.peers import ANSWER_S, Client, bracketed, endpoint, execute_content

pytestmark = pytest.mark.integration

CHANNELS = ("shell", "control", "stdin", "iopub", "hb")
CHANNELS_THAT_OBEY = ("shell", "control", "stdin")


@pytest.fixture
def kernel(home: KernelHome) -> KernelProcess:
    """A kernel that takes messages of up to 1 MiB."""
    return home.start_ready(options={"limits": {"max_message_size": 1 << 20}})


@pytest.fixture(scope="module")
def shared() -> Iterator[Client]:
    """One kernel for everything that is to leave no trace in it."""
    with kernel_home() as home, Client(home.start_ready().connection) as client:
        yield client


@pytest.fixture
def stranger() -> Iterator["Stranger"]:
    with Stranger() as stranger:
        yield stranger


class Stranger:
    """Sends whatever frames it likes."""

    def __enter__(self) -> Self:
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._sockets: list[zmq.Socket[bytes]] = []
        return self

    def __exit__(self, *_: object) -> None:
        self._context.destroy(linger=0)

    def socket(self, kernel: KernelProcess, channel: str) -> "zmq.Socket[bytes]":
        socket = self._context.socket(zmq.XSUB if channel == "iopub" else zmq.DEALER)
        socket.sndhwm = 0
        socket.connect(endpoint(kernel.connection, channel))
        self._sockets.append(socket)
        return socket


def answers_still(kernel: KernelProcess) -> bool:
    """Whether a new client gets everything that it should."""
    with Client(kernel.connection) as client:
        answer = client.execute("print('out') return 'result'")
        return bracketed(answer) and answer.text() == "out\n" and answer.result == "result"


# --- frames -------------------------------------------------------------------------------------------------------

GARBAGE: dict[str, list[bytes]] = {
    "an empty frame": [b""],
    "one frame": [b"hello"],
    "many empty frames": [b""] * 50,
    "no delimiter": [b"a", b"b", b"c", b"{}", b"{}", b"{}", b"{}"],
    "only the delimiter": [DELIMITER],
    "a delimiter and too little": [DELIMITER, b"", b"{}", b"{}"],
    "unsigned": [DELIMITER, b"", b'{"msg_id":"a","msg_type":"execute_request"}', b"{}", b"{}", b'{"code":"x=1"}'],
    "a false signature": [DELIMITER, b"0" * 64, b"{}", b"{}", b"{}", b"{}"],
    "ten thousand frames": [b"x"] * 10_000,
    "subscriptions": [b"\x01a", b"\x01b", b"\0a"],
    "binary": [bytes(range(256))] * 7,
}


@pytest.mark.parametrize("channel", CHANNELS)
def test_garbage_does_no_harm(channel: str, kernel: KernelProcess, stranger: Stranger) -> None:
    socket = stranger.socket(kernel, channel)
    for frames in GARBAGE.values():
        for _ in range(3):
            socket.send_multipart(frames)

    assert answers_still(kernel)


@pytest.mark.parametrize("channel", CHANNELS)
def test_a_frame_beyond_the_limit_ends_the_connection_that_it_came_by(
    channel: str, kernel: KernelProcess, stranger: Stranger, client: Client
) -> None:
    socket = stranger.socket(kernel, channel)
    before = kernel.memory_kib()
    for _ in range(20):
        socket.send_multipart([DELIMITER, b"x" * (8 << 20)])

    assert answers_still(kernel)
    assert client.execute("return 1").result == "1"
    assert kernel.memory_kib() - before < 64 * 1024


def test_frames_that_are_small_each_and_too_much_together_are_dropped(client: Client, kernel: KernelProcess) -> None:
    _, frames = client.prepare("kernel_info_request")
    client.sockets["shell"].send_multipart([*frames, *[b"x" * 700_000] * 3])

    kernel.wait_for_log("expected at most 1048576 bytes in a message")
    assert client.kernel_info()


@pytest.mark.parametrize("channel", CHANNELS_THAT_OBEY)
def test_what_another_key_signed_is_not_obeyed(channel: str, kernel: KernelProcess) -> None:
    false = {**kernel.connection, "key": "another"}
    with Client(false, channels=("shell", "control", "stdin")) as liar:
        for kind in ("shutdown_request", "execute_request", "input_reply", "kernel_info_request"):
            liar.send(channel, kind, execute_content("os.exit()") | {"restart": False, "value": ""})
        kernel.wait_for_log("the signature does not match")
        assert answers_still(kernel)
        assert not liar.order


def test_a_message_that_is_sent_twice_is_obeyed_once(client: Client, kernel: KernelProcess) -> None:
    request, frames = client.prepare("execute_request", execute_content("n = (n or 0) + 1"))
    client.sockets["shell"].send_multipart(frames)
    client.finish(request)
    for channel in CHANNELS_THAT_OBEY:
        client.sockets[channel].send_multipart(frames)
    client.kernel_info()

    assert client.execute("return n").result == "1"
    assert "a replay" in kernel.log_text()


# --- messages -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channel", CHANNELS_THAT_OBEY)
def test_unknown_types_are_logged_and_dropped(channel: str, kernel: KernelProcess, client: Client) -> None:
    for kind in ("apply_request", "", "execute_reply", "\n\x1b[31m", "x" * 100_000):
        client.send(channel, kind, {})

    assert "message_unknown" in kernel.wait_for_log(f"{channel}: unknown message type")
    assert "\x1b" not in kernel.log_text()
    assert client.kernel_info()
    assert len(kernel.log_text()) < 10_000


def test_what_is_logged_about_a_flood_is_little(kernel: KernelProcess, client: Client) -> None:
    for number in range(5000):
        client.send("shell", f"unknown_{number}", {})
    client.kernel_info()

    assert len(kernel.log_text().splitlines()) < 500
    assert client.ask("statistics_request", channel="control").content["counts"]["message_unknown"] == 5000


WRONG: list[tuple[str, str, Any]] = [
    ("code that is a number", "execute_request", {"code": 1}),
    ("code that is null", "execute_request", {"code": None}),
    ("no code", "execute_request", {}),
    ("a list", "execute_request", []),
    ("null", "execute_request", None),
    ("text", "execute_request", "return 1"),
    ("expressions that are a list", "execute_request", {"code": "", "user_expressions": ["x"]}),
    ("an expression that is a number", "execute_request", {"code": "", "user_expressions": {"a": 1}}),
    ("silence that is text", "execute_request", {"code": "", "silent": "yes"}),
    ("no cursor", "complete_request", {"code": "x"}),
    ("a cursor that is text", "complete_request", {"code": "x", "cursor_pos": "1"}),
    ("a cursor that is half", "inspect_request", {"code": "x", "cursor_pos": 0.5}),
    ("code that is a table", "is_complete_request", {"code": {}}),
    ("an unknown access", "history_request", {"hist_access_type": "all"}),
    ("no access", "history_request", {}),
    ("a pattern that is a number", "history_request", {"hist_access_type": "search", "pattern": 5}),
    ("a target that is a number", "comm_info_request", {"target_name": 5}),
    ("a list where nothing is asked", "kernel_info_request", []),
]


@pytest.mark.parametrize(("case", "kind", "content"), WRONG, ids=[f"{kind}-{case}" for case, kind, _ in WRONG])
def test_a_content_of_the_wrong_types_is_refused_with_the_reason(
    case: str, kind: str, content: Any, shared: Client
) -> None:
    request = send_content(shared, "shell", kind, json.dumps(content).encode())
    answer = shared.finish(request)

    assert answer.status == "error"
    assert answer.content["ename"] == "InvalidRequest"
    assert answer.content["evalue"].startswith("the content cannot be read: ")
    assert bracketed(answer)
    assert shared.execute("return 1").result == "1"


@pytest.mark.parametrize(
    ("case", "content"),
    [
        ("nothing", b""),
        ("half", b'{"code":"x'),
        ("not UTF-8", b'{"code":"\xff\xfe"}'),
        ("half a surrogate pair", b'{"code":"\\ud800 x"}'),
        ("nested deeply", b'{"code":"","x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
        ("a long number", b'{"code":"","cursor_pos":' + b"9" * 5000 + b"}"),
        ("NaN", b'{"code":"","silent":NaN}'),
    ],
)
@pytest.mark.parametrize(
    ("channel", "kind"),
    [
        ("shell", "execute_request"),
        ("shell", "complete_request"),
        ("shell", "kernel_info_request"),
        ("shell", "comm_open"),
        ("control", "kernel_info_request"),
        ("stdin", "input_reply"),
    ],
)
def test_a_content_that_cannot_be_decoded_does_no_harm(
    channel: str, kind: str, case: str, content: bytes, shared: Client
) -> None:
    send_content(shared, channel, kind, content)

    shared.kernel_info()
    assert shared.execute("return 1").result == "1"


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"null", b'{"restart":"yes"}', b'{"restart":1}', b'{"restart":' + b"[" * 10_000]
)
def test_a_shutdown_request_that_cannot_be_read_is_refused(content: bytes, shared: Client) -> None:
    answer = shared.finish(send_content(shared, "control", "shutdown_request", content))

    assert answer.content["ename"] == "InvalidRequest"
    assert shared.execute("return 1").result == "1"


def send_content(client: Client, channel: str, kind: str, content: bytes) -> str:
    """Send a message with these bytes as its content, properly signed."""
    request, frames = client.prepare(kind)
    frames[-1] = content
    frames[1] = client.session.sign(frames[2:])
    client.sockets[channel].send_multipart(frames)
    return request


@pytest.mark.parametrize("position", [-1, 10**9, 2**63, -(2**70)])
@pytest.mark.parametrize("kind", ["complete_request", "inspect_request"])
def test_a_cursor_outside_of_the_code_does_no_harm(kind: str, position: int, shared: Client) -> None:
    answer = shared.ask(kind, {"code": "print", "cursor_pos": position, "detail_level": 0})

    assert answer.status in {"ok", "error"}
    assert shared.kernel_info()


@pytest.mark.parametrize("pattern", ["[", "[z-a]", "[!", "*" * 2000, "\\", "a" * 100_000, "[[:alpha:]]", "\0"])
def test_any_history_pattern_is_answered(pattern: str, shared: Client) -> None:
    shared.execute("x = 1")
    answer = shared.ask("history_request", {"hist_access_type": "search", "pattern": pattern, "raw": True, "n": 5})

    assert answer.status == "ok"


@pytest.mark.parametrize("n", [0, -1, 10**20])
def test_any_number_of_history_entries_is_answered(n: int, shared: Client) -> None:
    shared.execute("x = 1")

    assert shared.ask("history_request", {"hist_access_type": "tail", "n": n, "raw": True}).status == "ok"


def test_a_header_longer_than_headers_are_is_dropped(kernel: KernelProcess, client: Client) -> None:
    client.send("shell", "kernel_info_request", username="x" * 20_000)

    kernel.wait_for_log("expected at most 16384 bytes in a header")
    assert client.kernel_info()


PIECES = [
    "local ", "function ", "end", "x", "y.z", "a:b", "'s", '"q', "[[", "]]", "--", "--[[", "(", ")", "{", "}", "=", "==",
    "\n", "for ", "in ", "do ", "while ", "repeat ", "until ", "return ", "goto ", "::", "..", "...", "#", "~", "\\", "\0",
    "é", "🌙", "1e", "0x", "?", "??", ";", ",", "string.", "string.format", "('x'):", "_G", "%", "\r\n", "<const>", "<close>",
]  # fmt: skip
ODD: list[Any] = [None, True, 1, -1, 2**70, 1.5, "", "*", [], {}, [1], {"a": "b"}, {"a": 1}, "[", "\0", "🌙"]
KINDS = (
    "complete_request", "inspect_request", "is_complete_request", "history_request", "comm_info_request", "comm_open",
    "comm_msg", "execute_request", "kernel_info_request", "unknown_request",
)  # fmt: skip


@pytest.mark.parametrize("seed", range(2))
def test_any_content_of_any_request_does_no_harm(seed: int, home: KernelHome) -> None:
    chance = random.Random(seed)
    kernel = home.start_ready(options={"limits": {"execution_timeout_s": 0.1}})
    with Client(kernel.connection, checks=False) as client:
        for number in range(1000):
            code = "".join(chance.choice(PIECES) for _ in range(chance.randrange(40)))
            content: dict[str, Any] = {
                "code": code,
                "cursor_pos": chance.choice([0, len(code), len(code) // 2, chance.randrange(-5, 60)]),
                "detail_level": chance.choice([0, 1, 2, -1]),
                "hist_access_type": chance.choice(["tail", "range", "search"]),
                "pattern": code,
                "n": chance.choice([None, 0, 5, -1]),
                "comm_id": code,
                "target_name": code,
                "silent": chance.random() < 0.3,
                "store_history": chance.random() < 0.8,
                "stop_on_error": chance.random() < 0.5,
                "allow_stdin": False,
                "user_expressions": {code: code},
            }
            if chance.random() < 0.3:
                content[chance.choice(list(content))] = chance.choice(ODD)
            client.send("control" if chance.random() < 0.1 else "shell", chance.choice(KINDS), content)
            if number % 100 == 99:
                client.kernel_info()
        client.until(lambda: client.execute("return 'last'").result == "last", "a cell that is not aborted")


def test_surrogates_in_names_and_sessions_do_no_harm(kernel: KernelProcess, client: Client) -> None:
    content = b'{"code":"x = 1","user_expressions":{"\\ud83c\\udf19":"x"}}'
    answer = client.finish(send_content(client, "shell", "execute_request", content))

    assert answer.content["user_expressions"]["🌙"]["data"]["text/plain"] == "1"
    client.finish(client.send("shell", "kernel_info_request", username="\x00\n☃"))
    assert client.ask("statistics_request", channel="control").status == "ok"


# --- sizes --------------------------------------------------------------------------------------------------------


def test_ten_megabytes_of_code_run(shared: Client) -> None:
    code = "x = 0\n" + "x = x + 1\n" * 1_000_000 + "return x"

    assert shared.execute(code).result == "1000000"
    assert shared.execute("return 'after'").result == "after"


def test_ten_megabytes_of_nonsense_are_a_syntax_error(shared: Client) -> None:
    for code in [
        "(" * 10_000_000,
        "'" + "x" * 10_000_000,
        "return " + "{" * 10_000_000,
        "-" * 10_000_000 + "\nreturn 1",
    ]:
        assert shared.execute(code, store_history=False).status in {"error", "ok"}
        assert shared.ask("is_complete_request", {"code": code}).content["status"] in {
            "invalid",
            "incomplete",
            "complete",
        }
        for kind in ("complete_request", "inspect_request"):
            assert shared.ask(kind, {"code": code, "cursor_pos": len(code), "detail_level": 1}).status == "ok"
    assert shared.execute("return 1").result == "1"


@pytest.mark.parametrize(
    "code", ["\x1bLua\x54\x00", "\x1b", "\x00", "return '\x00\x01\xff'", "\ufeffreturn 1", "#!lua\nreturn 1"]
)
def test_code_that_is_binary_is_never_bytecode(code: str, shared: Client) -> None:
    answer = shared.execute(code)

    assert answer.status in {"ok", "error"}
    assert shared.execute("return 1").result == "1"


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize(
    "statement", ["print('x')", "io.write(('x'):rep(100000))", "io.stderr:write('x')", "display(('x'):rep(1000))"]
)
def test_output_without_end_is_stopped(statement: str, home: KernelHome) -> None:
    kernel = home.start_ready(options={"limits": {"output_bytes": 1 << 20}})
    with Client(kernel.connection, checks=False) as client:
        answer = client.execute(f"while true do pcall(function() {statement} end) end")

        assert answer.error["ename"] == "OutputLimit"
        assert len(answer.text()) + len(answer.text("stderr")) <= 1 << 20
        assert client.execute("print('again')").text() == "again\n"


def test_a_result_or_error_of_many_megabytes_is_shortened(shared: Client) -> None:
    for code in [
        "return ('x'):rep(100000000)",
        "error(('x'):rep(100000000))",
        "local t = {} for i = 1, 1e6 do t[i] = i end return t",
    ]:
        answer = shared.execute(code)
        assert sum(len(json.dumps(m["content"])) for m in answer.published) < 2_000_000
        assert len(json.dumps(answer.content)) < 2_000_000


@pytest.mark.usefixtures("unmeasured")
def test_a_hundred_thousand_pipelined_executions_are_all_answered_in_order(home: KernelHome) -> None:
    kernel = home.start_ready()
    total = 100_000
    encoder = Encoder(Signer(kernel.connection["key"].encode()), session="pipelined")
    content = json.dumps(execute_content("n = (n or 0) + 1")).encode()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        shell = context.socket(zmq.DEALER)
        shell.sndhwm = shell.rcvhwm = 0
        shell.linger = 0
        shell.connect(endpoint(kernel.connection, "shell"))
        for _ in range(total):
            shell.send_multipart(encoder.encode("execute_request", content, date=b"2031-01-01T00:00:00.000000Z"))
        for number in range(1, total + 1):
            assert shell.poll(ANSWER_S * 1000), f"{number} did not come"
            frames = shell.recv_multipart()
            assert b'"pipelined_%d"' % number in frames[3], number
            assert frames[5].startswith(b'{"status":"ok","execution_count":%d,' % number)
    finally:
        context.destroy(linger=0)
    assert kernel.memory_kib("VmHWM") < 250 * 1024
    with Client(kernel.connection) as client:
        assert client.execute("return n").result == str(total)


def test_everything_at_once(kernel: KernelProcess, stranger: Stranger, client: Client) -> None:
    sockets = [stranger.socket(kernel, channel) for channel in CHANNELS]
    requests = []
    for number, frames in zip(range(300), itertools.cycle(GARBAGE.values()), strict=False):
        for socket in sockets:
            socket.send_multipart(frames[:100])
        requests.append(client.send_execute(f"return {number}"))
        client.send("control", "interrupt_request" if number % 50 == 49 else "kernel_info_request")

    for request in requests:
        assert client.finish(request).status in {"ok", "error", "aborted"}
    assert client.execute("return 'done'").result == "done"
