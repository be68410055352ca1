"""`run_request` to a real kernel: answers, order, time limits, what is said to have begun, and how the kernel ends."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from llmspell_kernel.options import Ending
from support.kernels import KernelHome, KernelProcess
from support.peers import Client, count
from support.proc import status_of, wait_at_work
from support.runs import Runner
from support.supervised import Supervised

pytestmark = pytest.mark.integration

LOOP = "while true do end"
MIB = 1024 * 1024
STUCK = "return ('a'):rep(100000):find('.-.-.-.-.-.-b')"
"""One call into C that never returns to Lua."""


@pytest.fixture
def supervised(home: KernelHome) -> Supervised:
    return Supervised(home)


@pytest.fixture
def kernel(supervised: Supervised) -> KernelProcess:
    return supervised.kernel


@pytest.fixture
def runner(supervised: Supervised) -> Iterator[Runner]:
    with supervised.connect() as runner:
        yield runner


# --- answers


def test_a_run_is_answered_in_one_message(runner: Runner) -> None:
    answer = runner.run("print('out') io.stderr:write('err') return 6 * 7", ticket=1)

    duration_s = answer.pop("duration_s")
    assert 0 < duration_s < 10
    assert answer == {
        "status": "ok",
        "execution_count": 1,
        "stdout": "out\n",
        "stderr": "err",
        "result": "42",
        "data": {"text/plain": "42"},
        "error": None,
    }


@pytest.mark.parametrize(
    ("case", "code", "result"),
    [
        ("an expression", "1 + 1", "2"),
        ("several values", "return 1, 'two', nil", "1\ttwo\tnil"),
        ("nothing", "x = 1", None),
        ("nil", "return nil", "nil"),
        ("empty code", "", None),
        ("text to quote", 'return "\\"\\\\\\n\\0"', '"\\\n\0'),
        ("not UTF-8", "return '\\xff'", "�"),
        ("not ASCII", "return 'häß €'", "häß €"),
    ],
)
def test_results(case: str, code: str, result: str | None, runner: Runner) -> None:
    answer = runner.run(code)
    assert (answer["status"], answer["result"]) == ("ok", result)


@pytest.mark.parametrize(
    ("case", "code", "name", "message"),
    [
        ("raised", "error('wrong')", "LuaError", "wrong"),
        ("does not compile", "return (", "SyntaxError", "expected"),
        ("a value", "error({code = 7})", "LuaError", "table"),
        ("input", "return io.read()", "LuaError", "does not answer requests for input"),
        ("input by line", "for line in io.lines() do print(line) end", "LuaError", "does not answer"),
    ],
)
def test_errors(case: str, code: str, name: str, message: str, runner: Runner) -> None:
    answer = runner.run(f"print('before')\n{code}")

    assert (answer["status"], answer["result"]) == ("error", None)
    assert answer["error"].keys() >= {"name", "message", "traceback"}
    assert message in answer["error"]["message"]
    assert answer["error"]["name"] == name
    assert answer["stdout"] == ("" if case == "does not compile" else "before\n")
    assert runner.run("return 'alive'")["result"] == "alive"


def test_displays_are_in_the_reply(runner: Runner) -> None:
    answer = runner.run("display{html='<b>x</b>'} print('between') display(7)")

    assert [bundle.get("text/html") for bundle in answer["displays"]] == ["<b>x</b>", None]
    assert answer["displays"][1]["text/plain"] == "7"
    assert answer["stdout"] == "between\n"


def test_streamed_output_comes_before_the_reply_in_order_and_once(runner: Runner) -> None:
    request = runner.send("print('one') display(2) io.stderr:write('three') return 4", stream=True)
    answer = runner.reply(request)

    first, shown, last = runner.outputs[request]
    assert first == {"name": "stdout", "text": "one\n"}
    assert shown["display"]["text/plain"] == "2"
    assert last == {"name": "stderr", "text": "three"}
    assert (answer["stdout"], answer["stderr"], answer["result"]) == ("", "", "4")
    assert "displays" not in answer


def test_streamed_output_comes_while_the_script_runs(runner: Runner, kernel: KernelProcess) -> None:
    with Client(kernel.connection, channels=("control",)) as client:
        request = runner.send(f"print('running') {LOOP}", stream=True)
        runner.until(lambda: runner.outputs[request], "its output")
        assert request not in runner.replies
        client.ask("interrupt_request", channel="control")
        assert runner.reply(request)["status"] == "interrupted"


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize("stream", [False, True])
def test_much_output_is_whole(stream: bool, runner: Runner) -> None:
    request = runner.send("for i = 1, 200000 do print(i) end", stream=stream)
    answer = runner.reply(request)

    text = answer["stdout"] + "".join(output["text"] for output in runner.outputs[request])
    assert text == "".join(f"{number}\n" for number in range(1, 200001))


# --- callers that do not read

TURNS = "for i = 1, {} do io.stdout:write('a') io.stderr:write('b') end ended = true return 'whole'"
"""From one stream to the other with each byte."""


def _in_turn(outputs: list[dict[str, str]]) -> int:
    """How many outputs of TURNS there are, of which none is missing."""
    turns = [("stdout", "a"), ("stderr", "b")]
    assert all((one["name"], one["text"]) == turns[at % 2] for at, one in enumerate(outputs))
    return len(outputs)


@pytest.mark.usefixtures("unmeasured")
def test_a_script_waits_for_a_caller_who_reads_late_and_nothing_is_lost(supervised: Supervised, runner: Runner) -> None:
    with supervised.connect(unread=1) as late:
        request = late.send(TURNS.format(150_000), stream=True, ticket=1)
        supervised.wait_begun(1)
        for _ in range(3):  # it serves others meanwhile
            assert runner.reply(runner.ask("statistics_request", {}))["state"] == "busy"

        assert late.reply(request)["result"] == "whole"
        assert _in_turn(late.outputs[request]) == 300_000


@pytest.mark.parametrize("letter", ["x", "\\1"])
def test_a_script_waits_for_a_caller_who_reads_late_though_it_streams_nothing(
    letter: str, supervised: Supervised, runner: Runner
) -> None:
    before = memory_of(supervised.kernel.pid)
    with supervised.connect(unread=1) as late:
        request = late.send(f"for i = 1, 800 do io.write(('{letter}'):rep(65536)) end ended = true", ticket=1)
        supervised.wait_begun(1)
        for _ in range(3):  # it serves others meanwhile
            assert runner.reply(runner.ask("statistics_request", {}))["state"] == "busy"

        assert len(late.reply(request)["stdout"]) == 800 * 65536
    assert memory_of(supervised.kernel.pid) - before < 160 * MIB


def memory_of(pid: int) -> int:
    """The most that a process has held, in bytes."""
    return int(status_of(pid)["VmHWM"].split()[0]) * 1024


@pytest.mark.usefixtures("unmeasured")
def test_a_caller_who_reads_nothing_holds_others_up_until_its_time_is_over(
    supervised: Supervised, runner: Runner
) -> None:
    with supervised.connect(unread=1) as late:
        request = late.send(TURNS.format("1e9"), stream=True, timeout_s=2, ticket=1)
        supervised.wait_begun(1)
        assert runner.run("return ended, 6 * 7")["result"] == "nil\t42"

        assert late.reply(request)["status"] == "timeout"
        assert _in_turn(late.outputs[request]) > 0


@pytest.mark.usefixtures("unmeasured")
def test_a_caller_who_leaves_holds_nobody_up(supervised: Supervised, runner: Runner) -> None:
    with supervised.connect(unread=1) as late:
        late.send(TURNS.format(150_000), stream=True, ticket=1)
        supervised.wait_begun(1)
        behind = runner.send("return ended")
        runner.reply(runner.ask("statistics_request", {}))
    assert runner.reply(behind)["result"] == "true"


# --- other requests


def test_what_cannot_be_read_is_answered(runner: Runner) -> None:
    answer = runner.reply(runner.ask("run_request", {"code": 7}))

    assert (answer["status"], answer["ename"]) == ("error", "InvalidRequest")
    assert runner.run("return 1")["result"] == "1"


def test_statistics_are_answered_on_shell_while_a_script_runs(
    runner: Runner, supervised: Supervised, client: Client
) -> None:
    running = runner.send(LOOP, ticket=1)
    supervised.wait_begun(1)

    statistics = runner.reply(runner.ask("statistics_request", {}))
    assert (statistics["status"], statistics["state"], statistics["pid"]) == ("ok", "busy", supervised.kernel.pid)

    client.ask("interrupt_request", channel="control")
    runner.reply(running)


def test_runs_are_answered_in_the_order_in_which_they_were_sent(runner: Runner) -> None:
    requests = [runner.send(f"return {number}", ticket=number) for number in range(1, 1001)]

    assert [answer["result"] for answer in runner.all(requests)] == [str(number) for number in range(1, 1001)]
    assert runner.order == requests


# --- interrupts and time limits


@pytest.mark.parametrize("how", ["control", "SIGINT"])
def test_an_interrupt_ends_the_run_and_not_the_next(
    how: str, runner: Runner, supervised: Supervised, client: Client
) -> None:
    first, second = runner.send(f"print('x') {LOOP}", ticket=1), runner.send("return 2", ticket=2)
    supervised.wait_begun(1)
    if how == "control":
        client.ask("interrupt_request", channel="control")
    else:
        supervised.kernel.signal(signal.SIGINT)

    answer = runner.reply(first)
    assert (answer["status"], answer["error"]["name"], answer["stdout"]) == ("interrupted", "Interrupted", "x\n")
    assert runner.reply(second)["result"] == "2"


def test_a_run_that_takes_too_long_is_a_timeout(runner: Runner) -> None:
    answer = runner.run(f"print('x') {LOOP}", ticket=1, timeout_s=0.2)

    assert (answer["status"], answer["error"]["name"], answer["stdout"]) == ("timeout", "ExecutionTimeout", "x\n")
    assert 0.15 < answer["duration_s"] < 15
    assert runner.run("return 1", ticket=2, timeout_s=20)["result"] == "1"


def test_the_tenants_limit_holds_when_it_is_the_shorter_one(home: KernelHome) -> None:
    with Supervised(home, limits={"execution_timeout_s": 0.2}).connect() as runner:
        for number, timeout_s in enumerate([0.0, 60.0], start=1):
            answer = runner.run(LOOP, ticket=number, timeout_s=timeout_s)
            assert (answer["status"], answer["error"]["name"]) == ("timeout", "ExecutionTimeout")


def test_time_is_counted_from_the_arrival_and_a_late_run_is_not_begun(runner: Runner, supervised: Supervised) -> None:
    first = runner.send(LOOP, ticket=1, timeout_s=1.0)
    late = runner.send("ran = true", ticket=2, timeout_s=0.3)
    supervised.wait_begun(1)

    assert runner.reply(first)["status"] == "timeout"
    answer = runner.reply(late)
    assert answer["status"] == "timeout"
    assert "not begun" in answer["error"]["message"]
    assert supervised.begun == 1
    assert runner.run("return ran", ticket=3, timeout_s=20)["result"] == "nil"


def test_a_limit_does_not_reach_the_next_run(runner: Runner) -> None:
    row = [runner.send("return 1", ticket=number, timeout_s=0.5) for number in range(1, 20)]
    runner.all(row)
    spin = "local t = os.clock() while os.clock() - t < 1 do end return 'whole'"

    assert runner.run(spin, ticket=20)["result"] == "whole"


# --- what was begun


def test_a_run_is_begun_when_it_begins_and_one_behind_it_is_not(
    runner: Runner, supervised: Supervised, client: Client
) -> None:
    assert supervised.begun == 0
    requests = [runner.send(LOOP, ticket=ticket) for ticket in (7, 8, 9)]
    for ticket, request in zip((7, 8, 9), requests, strict=True):
        supervised.wait_begun(ticket)
        assert request not in runner.replies
        client.ask("interrupt_request", channel="control")
        assert runner.reply(request)["status"] == "interrupted"
    assert supervised.begun == 9


def test_a_run_without_a_ticket_leaves_what_was_begun(runner: Runner, supervised: Supervised, client: Client) -> None:
    runner.run("return 1", ticket=5)
    runner.run("return 1")
    client.execute("return 1")

    assert supervised.begun == 5


def test_what_was_begun_is_known_after_a_kill(runner: Runner, supervised: Supervised) -> None:
    for ticket in (1, 2, 3):
        runner.send("return 1" if ticket == 1 else LOOP, ticket=ticket)
    supervised.wait_begun(2)

    supervised.kernel.signal(signal.SIGKILL)
    supervised.kernel.wait()

    assert supervised.begun == 2


def test_the_file_is_private(home: KernelHome, supervised: Supervised) -> None:
    assert (home.path / "progress").stat().st_mode & 0o777 == 0o600


# --- beside Jupyter clients


def test_a_failing_cell_aborts_cells_and_no_run(runner: Runner, kernel: KernelProcess, client: Client) -> None:
    with kernel.stopped():
        cells = client.send_row("error('wrong')", "return 1", "return 2")
        runs = [runner.send(f"return {number}", ticket=number) for number in range(1, 30)]
    answers = client.finish_all(cells)

    assert answers[0].status == "error"
    assert set(count(answers[1:])) <= {"aborted", "ok"}
    assert [answer["result"] for answer in runner.all(runs)] == [str(number) for number in range(1, 30)]


def test_a_failing_run_aborts_nothing(runner: Runner, kernel: KernelProcess, client: Client) -> None:
    with kernel.stopped():
        runs = [runner.send("error('wrong')", ticket=number) for number in range(1, 5)]
        cells = client.send_row("return 1", "return 2")

    assert [answer["status"] for answer in runner.all(runs)] == ["error"] * 4
    assert count(client.finish_all(cells)) == {"ok": 2}


@pytest.mark.parametrize("stream", [False, True])
def test_subscribers_see_what_the_caller_gets(stream: bool, runner: Runner, client: Client) -> None:
    client.kernel_info()
    code = "print('out') display(2) io.stderr:write('err') return 4"
    request = runner.send(code, stream=stream)
    runner.reply(request)
    client.until(lambda: client.states_of(request) == ["busy", "idle"], "the run's idle")

    seen = [
        (message["msg_type"], message["content"])
        for message in client.unasked
        if message["parent_header"].get("msg_id") == request
    ]
    kinds = [kind for kind, _ in seen]
    assert kinds == ["status", "execute_input", "stream", "display_data", "stream", "execute_result", "status"]
    contents = dict(seen[1:6])
    assert contents["execute_input"] == {"code": code, "execution_count": 1}
    assert [content["text"] for kind, content in seen if kind == "stream"] == ["out\n", "err"]
    assert contents["display_data"]["data"]["text/plain"] == "2"
    assert contents["execute_result"]["data"] == {"text/plain": "4"}


def test_runs_and_cells_share_variables_and_count_together(runner: Runner, client: Client) -> None:
    assert client.execute("shared = 1").content["execution_count"] == 1
    assert runner.run("shared = shared + 1")["execution_count"] == 2
    assert client.execute("return shared").result == "2"


# --- how a supervised kernel ends


def test_an_unused_one_ends_as_idle(home: KernelHome) -> None:
    supervised = Supervised(home, limits={"idle_timeout_s": 0.3})

    assert supervised.kernel.wait() == Ending.IDLE


def test_one_that_is_culled_says_so_and_ends_as_idle(supervised: Supervised, runner: Runner) -> None:
    with Client(supervised.kernel.connection, checks=False) as client:
        runner.ask("cull_request", {"in_s": 0.2, "reason": "nobody came"})
        client.until(lambda: any(m["msg_type"] == "kernel_culling" for m in client.unasked), "the news")

    (news,) = (m["content"] for m in client.unasked if m["msg_type"] == "kernel_culling")
    assert news == {"in_s": 0.2, "reason": "nobody came"}
    assert supervised.kernel.wait() == Ending.IDLE


@pytest.mark.parametrize("is_forced", [False, True])
def test_what_is_used_until_then_stays_unless_it_is_forced(
    supervised: Supervised, runner: Runner, is_forced: bool
) -> None:
    running = runner.send(LOOP, ticket=1, timeout_s=1.0)
    runner.ask("cull_request", {"in_s": 0.3, "is_forced": is_forced})

    assert runner.reply(running)["status"] == ("interrupted" if is_forced else "timeout")
    if is_forced:
        assert supervised.kernel.wait() == Ending.IDLE
    else:
        assert runner.run("return 'here'", ticket=2)["result"] == "here"


def test_runs_keep_a_kernel_from_being_idle(home: KernelHome) -> None:
    supervised = Supervised(home, limits={"idle_timeout_s": 0.5})
    with supervised.connect() as runner:
        spin = "local t = os.clock() while os.clock() - t < 1 do end return 'whole'"
        assert runner.run(spin, ticket=1)["result"] == "whole"
    assert supervised.kernel.wait() == Ending.IDLE


@pytest.mark.parametrize(("restart", "ending"), [(True, Ending.RESTART), (False, Ending.DONE)])
def test_a_clients_request_ends_it_and_says_which(
    restart: bool, ending: Ending, runner: Runner, supervised: Supervised, home: KernelHome
) -> None:
    running, waiting = runner.send(LOOP, ticket=1), runner.send("return 2", ticket=2)
    supervised.wait_begun(1)
    with Client(supervised.kernel.connection, channels=("control",)) as client:
        reply = client.ask("shutdown_request", {"restart": restart}, channel="control")
        assert reply.content == {"status": "ok", "restart": restart}

    answer = runner.reply(running)
    assert supervised.kernel.wait() == ending
    assert (answer["status"], answer["error"]["name"]) == ("interrupted", "Interrupted")
    assert (waiting in runner.replies, supervised.begun) == (False, 1)
    assert not supervised.kernel.connection_file.exists()
    assert home.left_behind() == []


def test_sigterm_interrupts_what_runs_and_answers_it(runner: Runner, supervised: Supervised) -> None:
    running = runner.send(f"print('x') {LOOP}", ticket=1)
    supervised.wait_begun(1)
    supervised.kernel.signal(signal.SIGTERM)

    assert runner.reply(running)["status"] == "interrupted"
    assert supervised.kernel.wait() == Ending.DONE


@pytest.mark.parametrize("how", ["interrupt", "timeout"])
def test_a_script_that_cannot_be_stopped_is_answered_and_ends_the_kernel(
    how: str, runner: Runner, supervised: Supervised, client: Client, home: KernelHome
) -> None:
    running = runner.send(f"print('x') {STUCK}", ticket=1, timeout_s=0.3 if how == "timeout" else 0)
    waiting = runner.send("return 2", ticket=2)
    supervised.wait_begun(1)
    if how == "interrupt":
        wait_at_work(supervised.kernel.pid)
        client.ask("interrupt_request", channel="control")

    answer = runner.reply(running)
    assert supervised.kernel.wait() == (Ending.TIMEOUT if how == "timeout" else Ending.STUCK)
    assert answer["status"] == ("timeout" if how == "timeout" else "interrupted")
    assert answer["error"]["name"] == "KernelReplaced"
    assert answer["stdout"] == "x\n"
    assert (waiting in runner.replies, supervised.begun) == (False, 1)
    assert home.left_behind() == []


def test_a_pattern_of_many_maybes_is_stopped_like_any(runner: Runner, supervised: Supervised, client: Client) -> None:
    bomb = "return string.rep('a', 40):find(string.rep('a?', 40) .. string.rep('a', 40))"
    running = runner.send(bomb, ticket=1)
    supervised.wait_begun(1)
    wait_at_work(supervised.kernel.pid)
    client.ask("interrupt_request", channel="control")

    assert runner.reply(running)["status"] == "interrupted"
    assert supervised.kernel.wait() == Ending.STUCK


def test_nothing_of_its_files_is_left_but_the_supervisors(supervised: Supervised, home: KernelHome) -> None:
    supervised.kernel.signal(signal.SIGTERM)
    supervised.kernel.wait()

    assert home.left_behind() == []
    assert Path(home.path / "progress").exists(), "it is the supervisor's, who reads it after the end"


# --- another supervisor


def test_who_takes_over_is_told_what_runs_and_gets_what_was_answered_to_nobody(supervised: Supervised) -> None:
    with supervised.connect() as first, supervised.connect() as second:
        for one in (first, second):
            one.session.username = "llmspell-fleet"
        done = first.run("return 'done'", ticket=1, execution="e1")
        running = first.send(LOOP, ticket=2, execution="e2")
        supervised.wait_begun(2)
        first.send("return 'in line'", ticket=3, execution="e3", timeout_s=60)
        assert first.reply(first.ask("statistics_request", {}))["waiting"] == 2

        adopted = second.reply(second.ask("adopt_request", {"executions": ["e1", "e2", "unheard of"]}))

        assert adopted["replies"] == {"e1": done}
        assert adopted["forgotten"] == 0
        line = [(one["execution"], one["ticket"], one["running_s"] > 0) for one in adopted["line"]]
        assert line == [("e2", 2, True), ("e3", 3, False)]
        assert adopted["line"][0]["msg_id"] == running
        # What the first one sends now is too late: it may have been sent long ago, and be read only now.
        first.send("late = true", ticket=4)
        supervised.kernel.signal(signal.SIGINT)
        assert first.reply(running)["status"] == "interrupted"
        assert second.run("return late", ticket=5)["result"] == "nil"


def test_a_long_reply_that_was_answered_to_nobody_is_said_again_as_a_whole(supervised: Supervised) -> None:
    with supervised.connect() as first, supervised.connect() as second:
        for one in (first, second):
            one.session.username = "llmspell-fleet"
        request = first.send("for i = 1, 200000 do print(i) end display(7) return 'done'", ticket=1, execution="e1")
        done = first.reply(request)
        assert len(done["stdout"]) > MIB

        adopted = second.reply(second.ask("adopt_request", {"executions": ["e1"]}))

        assert (adopted["replies"], [one["msg_id"] for one in adopted["line"]]) == ({}, [request])
        # To the routing id of whoever asked, which all supervisors of a kernel share but these two.
        first.replies.clear()
        first.parts[request] = []
        assert first.reply(request) == done


# --- who is no supervisor

DEMANDS: dict[str, dict[str, Any]] = {
    "adopt_request": {"executions": ["e1"]},
    "claim_request": {"name": "mine"},
    "cull_request": {"in_s": 0, "is_forced": True},
    "expire_request": {"ticket": 7},
    "limits_request": {"limits": {}},
}


@pytest.mark.parametrize("proof", ["", "another", "ä"])
def test_clients_with_the_key_are_not_the_supervisor(supervised: Supervised, proof: str) -> None:
    with Runner(supervised.kernel.connection, proof=proof) as client:
        for kind, content in DEMANDS.items():
            refused = client.reply(client.ask(kind, content))
            assert (refused["ename"], kind in refused["evalue"]) == ("Refused", True)
        statistics = client.reply(client.ask("statistics_request", {}))
        assert statistics["claimed"] is False
        assert client.run("return 'here'", ticket=7)["result"] == "here"


def test_who_gave_no_proof_is_nobodys_supervisor(home: KernelHome) -> None:
    alone = Supervised(home, supervisor_proof="")
    with Runner(alone.kernel.connection) as client:
        assert client.reply(client.ask("cull_request", {"in_s": 0, "is_forced": True}))["ename"] == "Refused"
