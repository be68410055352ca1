"""The client against real kernels."""

import os
import signal
import socket
import threading
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from llmspell_kernel.client import DeadlineError, KernelClient
from llmspell_kernel.connection import ConnectionInfo, new_key, read_connection_file
from llmspell_kernel.errors import NotRunningError, RefusedError
from support.homes import DEADLINE_S, Home

pytestmark = pytest.mark.integration


@pytest.fixture
def client(kernel: ConnectionInfo) -> Iterator[KernelClient]:
    with KernelClient(kernel) as made:
        made.connect(DEADLINE_S)
        yield made


def _run(client: KernelClient, code: str, **options: Any) -> Any:
    return client.execute(code, timeout_s=DEADLINE_S, **options)


def test_a_kernel_says_what_it_is(client: KernelClient) -> None:
    assert client.kernel_info.implementation == "llmspell"
    assert client.kernel_info.language_info["name"] == "lua"


def test_the_value_of_an_execution_comes_back(client: KernelClient) -> None:
    outcome = _run(client, "return 6*7")

    assert outcome.status == "ok"
    assert outcome.result == {"text/plain": "42"}


def test_an_execution_without_a_value_has_no_result(client: KernelClient) -> None:
    assert _run(client, "local x = 1").result is None


def test_output_is_complete_when_an_execution_returns(client: KernelClient) -> None:
    heard: list[tuple[str, str]] = []

    _run(
        client,
        'for i = 1, 1000 do print(i) end io.stderr:write("end\\n")',
        on_stream=lambda name, text: heard.append((name, text)),
    )

    assert "".join(text for name, text in heard if name == "stdout") == "".join(f"{i}\n" for i in range(1, 1001))
    assert "".join(text for name, text in heard if name == "stderr") == "end\n"


@pytest.mark.parametrize("number", range(10))
def test_a_new_client_loses_no_output(kernel: ConnectionInfo, number: int) -> None:
    heard: list[str] = []
    with KernelClient(kernel) as client:
        client.connect(DEADLINE_S)
        _run(client, f"print({number})", on_stream=lambda _name, text: heard.append(text))

    assert "".join(heard) == f"{number}\n"


def test_an_error_is_an_outcome_with_its_traceback(client: KernelClient) -> None:
    outcome = _run(client, 'error("broken")')

    assert outcome.status == "error"
    assert "broken" in outcome.evalue
    assert any("broken" in line for line in outcome.traceback)


def test_displays_are_handed_over(client: KernelClient) -> None:
    shown: list[tuple[str, Any]] = []

    _run(
        client,
        'display{html="<b>x</b>"} clear_output()',
        on_display=lambda kind, content: shown.append((kind, content)),
    )

    assert [kind for kind, _ in shown] == ["display_data", "clear_output"]
    assert shown[0][1]["data"]["text/html"] == "<b>x</b>"


@pytest.mark.parametrize("line", ["a line", ""])
def test_a_script_s_question_is_answered(client: KernelClient, line: str) -> None:
    outcome = _run(client, "return io.read()", on_input=lambda _prompt, _password: line)

    assert outcome.status == "ok"
    assert outcome.result == {"text/plain": line}


def test_a_script_learns_that_input_has_ended(client: KernelClient) -> None:
    def end(_prompt: str, _password: bool) -> str:
        raise EOFError

    assert _run(client, "return io.read()", on_input=end).status == "ok"


def test_a_script_that_reads_where_nobody_answers_gets_an_error(client: KernelClient) -> None:
    assert _run(client, "return io.read()").status == "error"


def test_an_execution_beyond_its_time_is_interrupted(client: KernelClient) -> None:
    with pytest.raises(DeadlineError, match=r"did not end within 0.2 s and was interrupted"):
        client.execute("while true do end", timeout_s=0.2)

    assert _run(client, "return 1").result == {"text/plain": "1"}


def test_an_interrupt_ends_an_execution_with_an_error(client: KernelClient) -> None:
    outcome = _run(client, 'print("on") while true do end', on_stream=lambda _name, _text: client.request_interrupt())

    assert outcome.status == "error"
    assert _run(client, "return 1").status == "ok"


def test_another_client_may_interrupt(client: KernelClient, kernel: ConnectionInfo) -> None:
    with KernelClient(kernel) as other:
        begun = threading.Event()
        interrupter = threading.Thread(target=lambda: (begun.wait(DEADLINE_S), other.interrupt(DEADLINE_S)))
        interrupter.start()
        outcome = _run(client, 'print("on") while true do end', on_stream=lambda _name, _text: begun.set())
        interrupter.join()

    assert outcome.status == "error"


def test_a_kernel_that_dies_is_noticed_while_it_runs(home: Home) -> None:
    info = read_connection_file(str(home.start_kernel()))
    assert info.pid is not None

    def kill(_name: str, _text: str) -> None:
        assert info.pid is not None
        os.kill(info.pid, signal.SIGKILL)

    with KernelClient(info) as client:
        client.connect(DEADLINE_S)
        with pytest.raises(NotRunningError, match="the kernel ended while it ran this code"):
            _run(client, 'print("on") while true do end', on_stream=kill)


def test_the_heartbeat_answers_from_the_living_only(client: KernelClient, kernel: ConnectionInfo) -> None:
    assert client.is_alive(DEADLINE_S)
    with KernelClient(_nowhere(kernel)) as stranger:
        assert not stranger.is_alive(0.1)


def test_nobody_there_is_said_in_time(kernel: ConnectionInfo) -> None:
    with KernelClient(_nowhere(kernel)) as stranger, pytest.raises(NotRunningError, match=r"no kernel answers at tcp"):
        stranger.connect(0.3)


def test_a_client_with_another_key_hears_nothing(kernel: ConnectionInfo) -> None:
    with (
        KernelClient(msgspec.structs.replace(kernel, key=new_key())) as stranger,
        pytest.raises(NotRunningError, match="or its key is another one"),
    ):
        stranger.connect(0.5)


def test_a_kernel_that_is_full_says_so(home: Home) -> None:
    info = read_connection_file(str(home.start_kernel("--max-clients", "1")))
    with KernelClient(info) as first, KernelClient(info) as second:
        first.connect(DEADLINE_S)
        with pytest.raises(RefusedError, match=r"refuses this client: .*at most 1 client"):
            second.connect(DEADLINE_S)


def test_a_kernel_on_unix_sockets_is_reached_the_same_way(home: Home) -> None:
    info = read_connection_file(str(home.start_kernel("--transport", "ipc")))
    with KernelClient(info) as client:
        client.connect(DEADLINE_S)

        assert _run(client, "return 1").result == {"text/plain": "1"}


def test_a_shutdown_is_agreed_to(home: Home) -> None:
    info = read_connection_file(str(home.start_kernel()))
    with KernelClient(info) as client:
        client.shutdown(timeout_s=DEADLINE_S)
    with KernelClient(info) as late, pytest.raises(NotRunningError):
        late.connect(0.3)


def _nowhere(kernel: ConnectionInfo) -> ConnectionInfo:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    return msgspec.structs.replace(kernel, shell_port=port, iopub_port=port, hb_port=port)
