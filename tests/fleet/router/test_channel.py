"""What one incarnation is asked, with a real kernel: answers, output, and what becomes of it all at its death."""

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator
from hashlib import sha256
from typing import Any

import pytest
import pytest_asyncio

from llmspell_fleet.router import link
from llmspell_fleet.router.channel import LEFT_IN_LINE, Lost
from llmspell_kernel.limits import KernelLimits
from support.channels import KILLED, Caller, answer
from support.kernels import READY_S
from support.peers import Client
from support.proc import files_of, wait_at_work
from support.spawning import eventually
from support.supervised import Supervised

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]

LOOP = "while true do end"


@pytest_asyncio.fixture
async def caller(supervised: Supervised) -> AsyncIterator[Caller]:
    made = Caller(supervised)
    yield made
    await made.close()


async def begun(supervised: Supervised, number: int) -> None:
    """Wait until so many of the first caller's have begun."""
    await eventually(lambda: supervised.begun >= LEFT_IN_LINE + number, f"number {number} to begin")


async def lost(pending: "asyncio.Future[bytes]") -> Lost:
    with pytest.raises(Lost) as caught:
        await asyncio.wait_for(pending, READY_S)
    return caught.value


# --- answers


async def test_a_greeting_is_answered_each_time(caller: Caller) -> None:
    assert caller.answered == 0
    caller.channel.greet()
    await eventually(lambda: caller.answered == 1, "an answer")
    caller.channel.greet()
    await eventually(lambda: caller.answered == 2, "another answer")
    assert caller.channel.heard_at > 0


async def test_a_run_is_answered_and_counted(caller: Caller) -> None:
    pending = caller.send("print('x') return 6 * 7")
    assert (caller.channel.load, caller.channel.executions) == (1, 0)

    content = await answer(pending)

    assert (content["status"], content["result"], content["stdout"]) == ("ok", "42", "x\n")
    assert (caller.channel.load, caller.channel.executions, caller.idle) == (0, 1, 1)


async def test_a_caller_who_has_left_disturbs_nobody(caller: Caller) -> None:
    left, stayed = caller.send("return 1"), caller.send("return 2")
    left.cancel()

    assert (await answer(stayed))["result"] == "2"
    assert (caller.channel.load, caller.channel.executions) == (0, 2)


async def test_idle_is_told_when_the_last_one_is_answered(caller: Caller) -> None:
    pending = [caller.send("return 1") for _ in range(10)]
    await asyncio.gather(*map(answer, pending))

    assert caller.idle == 1


async def test_output_comes_before_the_answer(caller: Caller) -> None:
    heard: list[Any] = []
    pending = caller.send(
        "print('one') display(2)", on_output=lambda _event, content: heard.append(json.loads(content))
    )
    pending.add_done_callback(lambda _: heard.append("answer"))

    content = await answer(pending)

    assert content["stdout"] == ""
    text, shown, end = heard
    assert text == {"name": "stdout", "text": "one\n"}
    assert shown == {"text/plain": "2"}
    assert end == "answer"


async def test_statistics_are_the_kernels_own(caller: Caller) -> None:
    await caller.run("return 1")
    statistics = await asyncio.wait_for(caller.channel.statistics(), READY_S)

    assert (statistics.state, statistics.executions, statistics.claimed) == ("idle", 1, False)
    assert statistics.others() == []


async def test_time_limits_are_held_by_the_kernel(caller: Caller) -> None:
    content = await caller.run(LOOP, timeout_s=0.2)

    assert content["status"] == "timeout"


@pytest.mark.usefixtures("unmeasured")
async def test_two_thousand_at_once_are_answered_once_and_in_order(caller: Caller) -> None:
    order: list[int] = []
    pending = []
    for number in range(2000):
        sent = caller.send(f"return {number}")
        sent.add_done_callback(lambda _, number=number: order.append(number))
        pending.append(sent)
    assert caller.channel.load == 2000

    answers = await asyncio.gather(*map(answer, pending))

    assert [content["result"] for content in answers] == [str(number) for number in range(2000)]
    assert order == list(range(2000))
    assert (caller.channel.load, caller.channel.executions, caller.idle) == (0, 2000, 1)


@pytest.mark.usefixtures("unmeasured")
async def test_more_than_a_kernel_takes_at_once_are_answered_too(caller: Caller) -> None:
    pending = [caller.send(f"return {number}") for number in range(6000)]

    answers = await asyncio.gather(*map(answer, pending))

    assert [content["result"] for content in answers] == [str(number) for number in range(6000)]


async def test_answers_of_any_size_come_whole(caller: Caller) -> None:
    content = await caller.run("io.write(('x'):rep(5000000)) return ('y'):rep(1000000)")
    assert (content["stdout"], content["result"]) == ("x" * 5_000_000, "y" * 1_000_000)


# --- deaths


async def test_exactly_what_was_begun_is_lost_as_begun(caller: Caller, supervised: Supervised) -> None:
    done = caller.send("return 1")
    running, *waiting = [caller.send(LOOP) for _ in range(5)]
    assert (await answer(done))["result"] == "1"
    await begun(supervised, 2)
    assert [caller.channel.has_begun(pending) for pending in (running, *waiting)] == [True] + [False] * 4

    caller.kill()
    caller.end()

    losses = [await lost(pending) for pending in (running, *waiting)]
    assert [loss.had_begun for loss in losses] == [True] + [False] * 4
    assert all(loss.death is KILLED for loss in losses)
    assert caller.channel.load == 0


async def test_a_kernel_killed_under_load_loses_each_run_one_way_or_the_other(
    caller: Caller, supervised: Supervised
) -> None:
    pending = [caller.send(f"ran = (ran or 0) + 1 return {number}") for number in range(3000)]
    await begun(supervised, 100)
    caller.kill()
    last = supervised.begun - LEFT_IN_LINE
    caller.end()

    outcomes = await asyncio.gather(*pending, return_exceptions=True)

    answered = [outcome for outcome in outcomes if isinstance(outcome, bytes)]
    losses = [outcome for outcome in outcomes if isinstance(outcome, Lost)]
    assert len(answered) + len(losses) == 3000
    # Answered is a beginning of what had begun, and what had begun is a beginning of all.
    assert all(isinstance(outcome, bytes) for outcome in outcomes[: len(answered)])
    assert [loss.had_begun for loss in losses] == [number < last for number in range(len(answered), 3000)]


async def test_what_runs_is_named_for_the_certificate_without_its_code(caller: Caller, supervised: Supervised) -> None:
    caller.send(LOOP)
    caller.send("return 'waits'")
    await begun(supervised, 1)

    (running,) = caller.channel.running()

    assert (running.id, running.sha256) == ("e-1", sha256(LOOP.encode()).hexdigest())
    assert 0 <= running.running_s < READY_S
    caller.kill()


@pytest.mark.parametrize("count", [1, 32])
async def test_answers_that_left_before_the_end_arrive_however_late_the_loop_is(
    count: int, caller: Caller, supervised: Supervised
) -> None:
    with Client(supervised.kernel.connection, channels=("iopub", "shell")) as client:
        await asyncio.to_thread(client.kernel_info)
        pending = [caller.send(f"return {number}") for number in range(count)]
        # Without the loop: the answers arrive at this process, and nobody looks. (As many as the system keeps for us.)
        client.until(lambda: len(_idles(client)) == count, "the idles of all")
        caller.kill()
        assert not any(sent.done() for sent in pending)
        caller.end()

        answers = await asyncio.gather(*map(answer, pending))
        assert [content["result"] for content in answers] == [str(number) for number in range(count)]


def _idles(client: Client) -> list[str]:
    return [
        message["parent_header"]["msg_id"]
        for message in client.unasked
        if message["msg_type"] == "status"
        and message["content"]["execution_state"] == "idle"
        and message["parent_header"].get("username") == "llmspell-fleet"
    ]


async def test_the_last_answer_of_a_stuck_kernel_arrives(caller: Caller, supervised: Supervised) -> None:
    stuck, waiting = caller.send("return ('a'):rep(100000):find('.-.-.-.-.-.-b')"), caller.send("return 2")
    await begun(supervised, 1)
    await asyncio.to_thread(wait_at_work, supervised.kernel.pid)
    supervised.kernel.signal(signal.SIGINT)
    await asyncio.to_thread(supervised.kernel.wait)
    caller.end()

    assert (await answer(stuck))["error"]["name"] == "KernelReplaced"
    assert (await lost(waiting)).had_begun is False


async def test_an_end_with_nothing_to_wait_for_is_at_once(caller: Caller) -> None:
    await caller.run("return 1")
    before = len(files_of("self"))
    caller.end()

    await eventually(lambda: len(files_of("self")) < before, "its descriptors to be closed")


async def test_who_waits_for_statistics_is_let_go(caller: Caller, supervised: Supervised) -> None:
    caller.kill()
    asked = asyncio.ensure_future(caller.channel.statistics())
    await asyncio.sleep(0)
    caller.end()

    with pytest.raises(ConnectionResetError, match="the kernel has ended"):
        await asyncio.wait_for(asked, READY_S)


# --- the next controller


async def test_the_next_controller_takes_the_connection_over(caller: Caller, supervised: Supervised) -> None:
    running = caller.send(LOOP, timeout_s=1)
    await begun(supervised, 1)

    successor = Caller(supervised)
    content = await successor.run("return 'successor'")

    assert content["result"] == "successor"
    assert (successor.channel.executions, successor.channel.load) == (1, 0)
    # What the first one asked was answered to the second one, which does not take it for its own.
    assert not running.done()
    successor.channel.greet()
    await eventually(lambda: successor.answered == 1, "an answer")
    await successor.close()


async def test_what_a_predecessor_left_in_line_is_not_taken_for_ones_own(
    caller: Caller, supervised: Supervised
) -> None:
    with Client(supervised.kernel.connection, channels=("control",)) as client:
        for _ in range(3):
            caller.send(LOOP)
        await begun(supervised, 1)
        # It answers in order: the others are in its line by then, and not on their way, where a successor cuts them off.
        await caller.channel.statistics()
        successor = Caller(supervised)
        own = successor.send("return 'mine'")
        for ticket in (2, 3):
            client.ask("interrupt_request", channel="control")
            await begun(supervised, ticket)

        assert not successor.channel.has_begun(own)

        client.ask("interrupt_request", channel="control")
        assert (await answer(own))["result"] == "mine"
        await successor.close()


@pytest.mark.usefixtures("unmeasured")
async def test_what_a_predecessor_s_run_wrote_before_its_line_is_known_is_no_offence(
    caller: Caller, supervised: Supervised, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "MOST_UNASKED", 3)
    heard: list[str] = []
    turns = "while true do io.stdout:write('a') io.stderr:write('b') end"
    caller.send(turns, on_output=lambda _event, _output: heard.append(""))
    await eventually(lambda: heard, "output")
    # Nobody reads while this test computes, and then the kernel has much to say to whoever comes.
    until = time.process_time() + 0.5
    while time.process_time() < until:
        pass
    successor = Caller(supervised)
    successor.channel.adopt(())
    (running,) = (await asyncio.wait_for(successor.channel.inherited(), READY_S)).line
    successor.channel.interrupt()

    assert (await answer(running))["status"] == "interrupted"
    assert successor.offences == []
    await successor.close()


async def test_what_a_predecessor_s_run_writes_is_no_offence(
    caller: Caller, supervised: Supervised, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "MOST_UNASKED", 3)
    heard: list[str] = []
    writes = "for i = 1, 100 do print(i) local t = os.clock() while os.clock() - t < 0.012 do end end return 'whole'"
    caller.send(writes, on_output=lambda _event, _output: heard.append(""))
    await eventually(lambda: heard, "output")
    successor = Caller(supervised)
    successor.channel.adopt(())
    (running,) = (await asyncio.wait_for(successor.channel.inherited(), READY_S)).line

    assert (await answer(running))["result"] == "whole"
    assert successor.offences == []
    await successor.close()


WRITES_MUCH = "io.write(('\\0'):rep(90000)) while true do end"
"""What JSON makes most of."""


async def test_what_a_predecessor_allowed_is_no_offence(
    caller: Caller, supervised: Supervised, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "BESIDES_OUTPUT_BYTES", 10_000)
    caller.send(WRITES_MUCH, timeout_s=1, is_recorded=True)
    await begun(supervised, 1)
    await caller.channel.statistics()
    successor = Caller(supervised, output_bytes=1000)
    successor.channel.adopt(())
    (running,) = (await asyncio.wait_for(successor.channel.inherited(), READY_S)).line

    assert len((await answer(running))["stdout"]) == 90_000
    assert (await successor.run("return 'well'"))["result"] == "well"
    assert successor.offences == []
    await successor.close()


# --- what is too much


async def test_a_lower_limit_is_no_offence_of_what_ran_under_a_higher_one(
    supervised: Supervised, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "BESIDES_OUTPUT_BYTES", 10_000)
    caller = Caller(supervised, output_bytes=100_000)
    running = caller.send(WRITES_MUCH, timeout_s=1)
    await begun(supervised, 1)
    await caller.channel.limit(KernelLimits(output_bytes=1000))

    assert len((await answer(running))["stdout"]) == 90_000
    assert (await caller.run("io.write(('a'):rep(2000))"))["status"] == "error"
    assert caller.offences == []
    await caller.close()


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize("is_streamed", [False, True])
@pytest.mark.parametrize("case", ["from stream to stream", "what JSON makes most of", "nothing at all"])
async def test_within_its_limit_no_script_says_too_much(
    case: str, is_streamed: bool, supervised: Supervised, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "BESIDES_OUTPUT_BYTES", 10_000)
    code = {
        "from stream to stream": "for i = 1, 50000 do io.stdout:write('a') io.stderr:write('\\xff') end",
        "what JSON makes most of": "io.write(('\\0'):rep(100000))",
        "nothing at all": "for i = 1, 200000 do io.stdout:write('') io.stderr:write('') end",
    }[case]
    caller = Caller(supervised, output_bytes=100_000)
    heard: list[bytes] = []
    given = {"on_output": lambda _event, output: heard.append(output)} if is_streamed else {}

    said = await caller.run(code, **given)
    text = said["stdout"] + said["stderr"] + "".join(json.loads(output)["text"] for output in heard)
    assert len(text) == (0 if case == "nothing at all" else 100_000)
    assert (said["status"], caller.offences) == ("ok", [])
    await caller.close()


ODD = (
    r"return '\xff\xfe\xed\xa0\x80\0\x1b'",
    r"print('\xff\xed\xa0\x80\0') io.stderr:write('\xc3')",
    r"error('\xff\xed\xa0\x80')",
    r"error(setmetatable({}, {__tostring = function() return '\xff' end}))",
    r"display{json = {a = '\xff\xed\xa0\x80\0', ['\xff'] = 1, [1] = 2, ['1'] = 3}}",
    r"display{json = {1e308, 1e20, 2^63, -2^63, math.mininteger, math.maxinteger, -0.0, 5e-324}}",
    r"display{json = {math.huge}}",
    r"local t = {} for i = 1, 60 do t = {t} end display{json = t}",
    r"display{html = '\xff', png = '\xff\0', svg = '\xf5', text = '\xed\xa0\x80'}",
    r"display(setmetatable({}, {__tostring = function() return '\xff' end}))",
    r"local s = '' for i = 0, 255 do s = s .. string.char(i) end print(s) display{json = s, text = s} return s",
    r"return 1/0, 0/0, nil",
    r"error(string.rep('\xff', 1e6))",
    r"return load('\xff')",
)
"""What scripts may do that what a kernel says of it might not be believed."""


@pytest.mark.parametrize("is_streamed", [False, True])
async def test_whatever_a_script_does_its_kernel_is_believed(caller: Caller, is_streamed: bool) -> None:
    given = {"on_output": lambda _event, output: json.loads(output)} if is_streamed else {}
    for code in ODD:
        assert (await caller.run(code, **given))["status"] in {"ok", "error"}, code
    assert caller.offences == []
