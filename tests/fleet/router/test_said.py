"""What a kernel that broke out of Lua may say: it leaves the controller as one JSON document of ours, or not at all."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from llmspell_fleet.router.said import Held, Nonsense, Room, adopt_reply, run_outputs, run_reply, statistics

GOOD = {
    "status": "ok",
    "execution_count": 1,
    "stdout": "x\n\u2028\u0000",
    "stderr": "",
    "result": "2",
    "data": {"text/plain": "2"},
    "error": None,
    "duration_s": 0.000012,
}
"""A true kernel's."""


def reply(**members: Any) -> bytes:
    return json.dumps({**GOOD, **members}).encode()


def raw(member: str, value: bytes) -> bytes:
    """A reply with a member in bytes."""
    return reply(**{member: "HERE"}).replace(b'"HERE"', value)


def members_of(content: bytes) -> dict[str, Any]:
    """AssertionError when a name occurs twice anywhere, or it is not UTF-8."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = [name for name, _ in pairs]
        assert len(names) == len(set(names)), names
        return dict(pairs)

    found: dict[str, Any] = json.loads(content.decode(), object_pairs_hook=once)
    return found


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"status": "error", "error": {"name": "LuaError", "message": "x", "traceback": ["x"]}, "result": None},
        {"displays": [{"text/html": "<b>", "application/json": {"a": [1, 2.5, None, {"b": {}}]}}]},
        {"data": None, "result": None, "status": "timeout"},
    ],
)
def test_what_a_true_kernel_says_is_passed_on(said: dict[str, Any]) -> None:
    assert members_of(run_reply(reply(**said))) == {**GOOD, **said}


CLEANED: dict[str, bytes] = {
    "a member of the controller's": reply(kernel_id="another", session="another", execution="another"),
    "a member twice": reply()[:-1] + b',"stdout":"again"}',
    "the status twice": reply()[:-1] + b',"status":"ok"}',
    "a name twice in the data": raw("data", b'{"a":1,"a":{"b":1,"b":2}}'),
    "white space that ends an event": reply().replace(b",", b",\n\n"),
}


@pytest.mark.parametrize("case", CLEANED)
def test_what_is_odd_is_written_anew(case: str) -> None:
    written = run_reply(CLEANED[case])

    assert members_of(written).keys() == GOOD.keys()
    assert written.startswith(b'{"status":"ok"')
    assert b"\n" not in written


NONSENSE: dict[str, bytes] = {
    "nothing": b"",
    "no object": b"[]",
    "two documents": reply() + reply(),
    "a status that there is not": reply(status="fine"),
    "no status": reply().replace(b'"status"', b'"stat"'),
    "a refusal": b'{"status":"error","ename":"x","evalue":"y","traceback":[]}',
    "no UTF-8": raw("stdout", b'"\xff"'),
    "a control character": raw("stdout", b'"\x00"'),
    "half of a pair": raw("stdout", b'"\\ud800"'),
    "half of a pair, within": raw("data", b'{"a":"\\ud800"}'),
    "half of a pair, as a name": raw("data", b'{"\\ud800":1}'),
    "too deep": raw("data", b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}"),
    "too deep, and no end": raw("data", b'{"a":' + b'{"a":' * 100_000),
    "a number of many digits": raw("duration_s", b"9" * 10_000),
    "a number of many digits, within": raw("data", b'{"a":' + b"9" * 10_000 + b"}"),
    "a number that is none": raw("duration_s", b"NaN"),
    "a number beyond all": raw("duration_s", b"1e999"),
    "a count that is none": reply(execution_count="1"),
    "an object for text": reply(result={}),
    "an error without its parts": reply(error={}),
    "displays that are none": reply(displays=[1]),
}


@pytest.mark.parametrize("case", NONSENSE)
def test_nonsense_is_called_so(case: str) -> None:
    with pytest.raises(Nonsense):
        run_reply(NONSENSE[case])


def part(**members: Any) -> bytes:
    return json.dumps({"stdout": "", "stderr": "", "displays": [], **members}).encode()


def test_what_was_said_before_a_reply_is_put_before_it() -> None:
    changes: list[int] = []
    room = Room(lambda: changes.append(room.used))
    held = Held(room)
    held.take(part(stdout='a"\n', displays=[{"a": 1}]), 1000)
    held.take(part(stderr="é\0", displays=[{"b": 2}, {"c": 3}]), 1000)
    assert (room.used, changes[-1]) == (sum(map(len, ('a\\"\\n', "éé\\u0000", '{"a":1}' * 3))) + 2, room.used)

    written = run_reply(reply(stdout="b", stderr="\n", displays=[{"d": 4}]), held)

    expected = {"stdout": 'a"\nb', "stderr": "é\0\n", "displays": [{"a": 1}, {"b": 2}, {"c": 3}, {"d": 4}]}
    assert members_of(written) == {**GOOD, **expected}
    assert written.startswith(b'{"status":"ok"')
    assert room.used == 0


def test_displays_before_a_reply_that_has_none_are_told() -> None:
    held = Held(Room(lambda: None))
    held.take(part(displays=[{"a": 1}]), 1000)

    assert members_of(run_reply(reply(), held)) == {**GOOD, "displays": [{"a": 1}]}


TOO_MUCH: dict[str, bytes] = {
    "text": part(stdout="x" * 50),
    "text that JSON writes at length": part(stderr="\0" * 9),
    "displays": part(displays=[{}] * 26),
    "nothing, without end": part(),
}


@pytest.mark.parametrize("case", TOO_MUCH)
def test_of_all_executions_together_no_more_is_held(case: str) -> None:
    room = Room(lambda: None)
    executions = [Held(room) for _ in range(101)]

    def take_all() -> None:
        for held in executions:
            held.take(TOO_MUCH[case], 100)

    with pytest.raises(Nonsense, match="more than 100 bytes"):
        take_all()
    assert room.used <= 160


def test_output_is_text_or_a_bundle_and_nothing_else() -> None:
    text, display = b'{"name":"stdout","text":"a","x":1}', b'{"display":{"a":\n1}}'
    heard = [("output", b'{"name":"stdout","text":"a"}', 1), ("display", b'{"a":1}', 7)]

    assert [*run_outputs(text), *run_outputs(display)] == heard
    assert run_outputs(b'{"outputs":[%b,%b]}' % (text, display)) == heard


def part_of(content: bytes) -> None:
    Held(Room(lambda: None)).take(content, 1000)


PAST = {"execution": "e1", "msg_id": "fleet_1", "ticket": 1, "sha256": "0" * 64, "running_s": 0.5}
OTHER_NONSENSE: dict[str, tuple[Callable[[bytes], object], bytes]] = {
    "a part without its members": (part_of, b'{"stdout":""}'),
    "a part with half of a pair": (part_of, part().replace(b'""', b'"\\ud800"')),
    "a part with displays that are none": (part_of, part(displays=[1])),
    "output of a third kind": (run_outputs, b'{"name":"stdin","text":"a"}'),
    "output without text": (run_outputs, b'{"name":"stdout"}'),
    "output of nothing": (run_outputs, b"{}"),
    "several of nothing": (run_outputs, b'{"outputs":[]}'),
    "several in several": (run_outputs, b'{"outputs":[{"outputs":[{"name":"stdout","text":"a"}]}]}'),
    "a display that is none": (run_outputs, b'{"display":[]}'),
    "statistics too deep": (statistics, b'{"clients":' + b"[" * 100_000),
    "statistics without a state": (statistics, b"{}"),
    "a kept reply that is none": (adopt_reply, b'{"line":[],"replies":{"e1":{"status":"ok"}},"forgotten":0}'),
    "a line with something to say": (adopt_reply, json.dumps({"line": [{**PAST, "sha256": "\x1b[2J"}]}).encode()),
    "an execution with something to say": (adopt_reply, json.dumps({"line": [{**PAST, "execution": "\n"}]}).encode()),
    "a line without an end": (adopt_reply, json.dumps({"line": [PAST] * 40_000}).encode()),
}


@pytest.mark.parametrize("case", OTHER_NONSENSE)
def test_other_nonsense_is_called_so(case: str) -> None:
    read, said = OTHER_NONSENSE[case]
    with pytest.raises(Nonsense):
        read(said)


def test_a_kernel_that_refuses_to_be_adopted_may_have_run_anything() -> None:
    assert adopt_reply(b'{"status":"error","ename":"Refused","evalue":"x","traceback":[]}').forgotten == 2**62


@pytest.mark.parametrize("status", ["\x1b[2J" * 10, "\n", "\u202e", "x" * 100_000])
def test_what_is_told_of_nonsense_drives_no_terminal_and_is_short(status: str) -> None:
    with pytest.raises(Nonsense) as caught:
        run_reply(reply(status=status))
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300
