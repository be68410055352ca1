"""What a failure does to the executions that were sent after it."""

import pytest

from support.kernels import KernelProcess
from support.peers import Client, bracketed

pytestmark = pytest.mark.integration


@pytest.mark.usefixtures("unmeasured")
def test_what_was_sent_before_a_failure_was_known_is_aborted_every_time(kernel: KernelProcess, client: Client) -> None:
    for round_ in range(50):
        # Long enough that the rest of the row is sent before it fails, also on a loaded machine.
        failing = f"local until_ = os.clock() + 0.05 while os.clock() < until_ do end error('round {round_}')"
        codes = [failing, "print('ran')", "return 1", "x ="]

        with kernel.stopped():
            row = client.send_row(*codes)
        answers = client.finish_all(row)

        assert [answer.status for answer in answers] == ["error", "aborted", "aborted", "aborted"], round_
        for aborted in answers[1:]:
            assert aborted.kinds == ["status", "status"]
        assert all(bracketed(answer) for answer in answers)
        assert client.execute("return 'after'").result == "after"


def test_a_slow_failure_aborts_the_cells_of_other_clients_too(client: Client, second_client: Client) -> None:
    failing = client.start("print('running') io.read() ", allow_stdin=True)
    client.until(lambda: client.asked, "the question")
    waiting = second_client.send_execute("return 1")
    second_client.kernel_info()
    client.ask("interrupt_request", channel="control")

    assert client.finish(failing.request).status == "error"
    assert second_client.finish(waiting).status == "aborted"


def test_without_stop_on_error_the_rest_runs(client: Client) -> None:
    failed, ran = client.finish_all(client.send_row("error('no')", "return 1", stop_on_error=False))

    assert failed.status == "error"
    assert ran.result == "1"


def test_an_interrupt_aborts_what_waits(client: Client) -> None:
    endless = client.start("print('running') while true do end")
    waiting = [client.send_execute(code) for code in ("return 1", "while true do end", "return 3")]
    client.kernel_info()
    client.ask("interrupt_request", channel="control")

    assert client.finish(endless.request).status == "error"
    assert [client.finish(request).status for request in waiting] == ["aborted"] * 3
    assert client.execute("return 4").result == "4"


def test_aborted_cells_leave_no_gap_in_the_counts(kernel: KernelProcess, client: Client) -> None:
    client.execute("'one'")
    with kernel.stopped():
        row = client.send_row("error('two')", "3", "4")
    answers = client.finish_all(row)
    after = client.execute("'three'")

    assert answers[0].content["execution_count"] == 2
    assert after.content["execution_count"] == 3
    assert after.of("execute_input")[0]["execution_count"] == 3
    history = client.ask("history_request", {"hist_access_type": "tail", "n": 9, "output": False, "raw": True})
    assert [entry[1] for entry in history.content["history"]] == [1, 2, 3]


def test_other_requests_after_a_failure_are_answered_not_aborted(kernel: KernelProcess, client: Client) -> None:
    with kernel.stopped():
        requests = client.send_row("error('no')", "1")
        info = client.send("shell", "kernel_info_request")
        complete = client.send("shell", "complete_request", {"code": "pri", "cursor_pos": 3})

    assert [client.finish(request).status for request in requests] == ["error", "aborted"]
    assert client.finish(info).status == "ok"
    assert "print" in client.finish(complete).content["matches"]


def test_many_failures_in_a_row_from_several_clients_answer_everything(kernel: KernelProcess) -> None:
    with Client(kernel.connection) as one, Client(kernel.connection) as other:
        requests = []
        for number in range(300):
            for client in (one, other):
                code = "error('no')" if number % 7 == 3 else f"return {number}"
                requests.append((client, client.send_execute(code, stop_on_error=number % 2 == 0)))
        for client, request in requests:
            answer = client.finish(request)
            assert answer.states == ["busy", "idle"]
            assert answer.status in {"ok", "error", "aborted"}
        assert one.execute("return 'after'").result == "after"
