"""What one run comes to, as the content of its reply."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmspell_kernel.jupyter.contents import json_text
from llmspell_kernel.jupyter.outputs import LONGEST_QUOTED
from llmspell_kernel.jupyter.runs import Run, RunRequest, said
from llmspell_kernel.runtime.engine import Outcome, ScriptError

FAILURE = ScriptError("LuaError", "wrong", ("LuaError: wrong", "  at In[1]:1"))


class Sent(list[tuple[str, bytes]]):
    """What a run sent before its reply."""

    def add(self, kind: str, content: bytes) -> None:
        self.append((kind, content))

    @property
    def decoded(self) -> list[Any]:
        """The outputs of what was streamed."""
        contents = [msgspec.json.decode(content) for kind, content in self if kind == "run_output"]
        return [output for content in contents for output in content.get("outputs", [content])]


def a_run(**request: Any) -> tuple[Run, Sent]:
    sent = Sent()
    return Run(RunRequest("code", **request), 100.0, sent.add, lambda _run, _content: None), sent


def whole(run: Run, sent: Sent) -> tuple[Any, int]:
    """What the caller of a run makes of all that it is told, and how long the longest of it is."""
    messages = [*sent, *said(run.parts, run.reply(Outcome("ok", None), 3, 0.25))]
    assert {kind for kind, _ in messages[:-1]} <= {"run_part"}
    contents = [msgspec.json.decode(content) for _, content in messages]
    answer = contents[-1]
    for name in ("stdout", "stderr"):
        answer[name] = "".join(content[name] for content in contents)
    answer["displays"] = [display for content in contents for display in content.get("displays", ())]
    return answer, max(len(content) for _, content in messages)


def reply(run: Run, outcome: Outcome, count: int = 3, duration_s: float = 0.25) -> Any:
    return msgspec.json.decode(run.reply(outcome, count, duration_s))


def write(run: Run, name: bytes, text: bytes) -> None:
    run.write(name, text, json_text(text))


EMPTY = {
    "status": "ok",
    "execution_count": 3,
    "stdout": "",
    "stderr": "",
    "result": None,
    "data": None,
    "error": None,
    "duration_s": 0.25,
}
ERROR = {"name": "LuaError", "message": "wrong", "traceback": list(FAILURE.traceback)}


@pytest.mark.parametrize(
    ("case", "outcome", "differs"),
    [
        ("nothing", Outcome("ok", None), {}),
        ("a result", Outcome("ok", b"42"), {"result": "42", "data": {"text/plain": "42"}}),
        ("an empty result", Outcome("ok", b""), {"result": "", "data": {"text/plain": ""}}),
        ("a result to quote", Outcome("ok", b'"\n\\'), {"result": '"\n\\', "data": {"text/plain": '"\n\\'}}),
        ("an error", Outcome("error", None, FAILURE), {"status": "error", "error": ERROR}),
        ("an interrupt", Outcome("interrupted", None, FAILURE), {"status": "interrupted", "error": ERROR}),
        ("a timeout", Outcome("timeout", None, FAILURE), {"status": "timeout", "error": ERROR}),
    ],
)
def test_the_reply_says_what_the_outcome_was(case: str, outcome: Outcome, differs: dict[str, Any]) -> None:
    run, _ = a_run()
    assert reply(run, outcome) == EMPTY | differs


def test_text_and_displays_are_in_the_reply() -> None:
    run, sent = a_run()
    for name, text in [(b"stdout", b"one\n"), (b"stderr", b"wrong\n"), (b"stdout", b"two\n")]:
        write(run, name, text)
    run.display(b'{"text/html":"<b>"}')
    run.display(b'{"text/plain":"2"}')

    answer = reply(run, Outcome("ok", None))
    assert (answer["stdout"], answer["stderr"]) == ("one\ntwo\n", "wrong\n")
    assert answer["displays"] == [{"text/html": "<b>"}, {"text/plain": "2"}]
    assert sent == []


def test_what_was_streamed_is_not_repeated() -> None:
    run, sent = a_run(stream=True)
    write(run, b"stdout", b"one\n")
    run.display(b'{"text/plain":"2"}')
    write(run, b"stderr", b"wrong\n")

    assert reply(run, Outcome("ok", b"42")) == EMPTY | {"result": "42", "data": {"text/plain": "42"}}
    assert sent.decoded == [
        {"name": "stdout", "text": "one\n"},
        {"display": {"text/plain": "2"}},
        {"name": "stderr", "text": "wrong\n"},
    ]


@given(st.lists(st.tuples(st.sampled_from([b"stdout", b"stderr"]), st.text().map(str.encode))))
def test_the_same_text_arrives_streamed_or_not(pieces: list[tuple[bytes, bytes]]) -> None:
    (kept, nothing), (streamed, sent) = a_run(), a_run(stream=True)
    for run in (kept, streamed):
        for name, text in pieces:
            write(run, name, text)

    reply(streamed, Outcome("ok", None))
    answer = reply(kept, Outcome("ok", None))
    for name in ("stdout", "stderr"):
        assert answer[name] == "".join(output["text"] for output in sent.decoded if output["name"] == name)
        assert answer[name].encode() == b"".join(text for of, text in pieces if of == name.encode())
    assert nothing == []


def test_a_character_that_came_in_two_pieces_is_one() -> None:
    run, _ = a_run()
    euro = "€".encode()
    write(run, b"stdout", euro[:1])
    write(run, b"stdout", euro[1:])

    assert reply(run, Outcome("ok", None))["stdout"] == "€"


@given(st.binary())
def test_any_bytes_make_a_reply_that_is_json(data: bytes) -> None:
    run, _ = a_run()
    write(run, b"stdout", data)

    assert reply(run, Outcome("ok", data))["stdout"] == data.decode("utf-8", "replace")


PIECES = {
    "letters": b"x" * 1000,
    "what JSON writes as six bytes": b"\x01" * 1000,
    "characters of four bytes, cut anywhere": "🌙".encode() * 250 + b"\xf0",
    "what is no text": b"\xff\x80" * 500,
}


@pytest.mark.parametrize("execution", ["", "e1"])
@pytest.mark.parametrize("case", PIECES)
def test_a_long_reply_goes_in_parts_none_of_which_is_long(case: str, execution: str) -> None:
    run, sent = a_run(execution=execution)
    data = PIECES[case] * 1000
    for at in range(0, len(data), 1001):
        write(run, b"stdout", data[at : at + 1001])
        write(run, b"stderr", b"-")
    run.display(b'{"text/plain":"1"}')

    assert bool(sent) != bool(execution), "those of a run with an id are held until its end"
    answer, longest = whole(run, sent)

    assert answer["stdout"] == data.decode("utf-8", "replace")
    assert answer["stderr"] == "-" * len(range(0, len(data), 1001))
    assert answer["displays"] == [{"text/plain": "1"}]
    assert longest < LONGEST_QUOTED


def test_a_large_display_is_a_part_of_its_own_and_in_its_place() -> None:
    run, sent = a_run()
    displays = [b'{"text/plain":"%b"}' % (digit * size) for digit, size in [(b"1", 1), (b"2", 10**6), (b"3", 1)]]
    for display in displays:
        run.display(display)

    assert len(sent) == 2
    assert whole(run, sent)[0]["displays"] == [msgspec.json.decode(display) for display in displays]


@pytest.mark.parametrize(("timeout_s", "due"), [(0.0, 0.0), (2.5, 102.5)])
def test_its_time_is_counted_from_its_arrival(timeout_s: float, due: float) -> None:
    assert a_run(timeout_s=timeout_s)[0].due == due


@pytest.mark.parametrize(
    "content",
    [
        "{}",
        '{"code":1}',
        '{"code":"","ticket":-1}',
        '{"code":"","ticket":4611686018427387905}',
        '{"code":"","timeout_s":-1}',
        '{"code":"","stream":1}',
        "[]",
    ],
)
def test_what_is_not_a_run_request_is_refused(content: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(content, type=RunRequest)
