"""What a kernel keeps for a later supervisor, and whom it obeys."""

from collections.abc import Sequence
from typing import Any

import msgspec

from llmspell_kernel.jupyter.runs import Part, Run, RunRequest
from llmspell_kernel.jupyter.succession import MOST_KEPT, MOST_KEPT_BYTES, SUPERVISOR, AdoptRequest, Succession
from llmspell_kernel.wire.jupyter import Header, Message


def keep(succession: Succession, execution: str, ticket: int, reply: bytes = b"{}", parts: Sequence[Part] = ()) -> None:
    request = RunRequest("code", execution=execution, ticket=ticket)
    run = Run(request, 0.0, lambda _kind, _content: None, lambda _run, _content: None)
    run.parts += parts
    content = msgspec.json.encode(request)
    succession.keep(Message([b"us"], header("first"), b"{}", b"{}", b"{}", content, []), run, reply)


def asked(succession: Succession, *executions: str, session: str = "later") -> Any:
    return msgspec.json.decode(succession.take_over(header(session), AdoptRequest(executions), [])[0])


def header(session: str, username: str = SUPERVISOR) -> Header:
    return Header("1", "run_request", session, username)


def test_what_is_asked_for_is_told_and_nothing_else() -> None:
    succession = Succession()
    for ticket, name in enumerate("abc", 1):
        keep(succession, name, ticket, b'{"of":"%b"}' % name.encode())

    reply = asked(succession, "a", "c", "never")

    assert reply == {"status": "ok", "line": [], "replies": {"a": {"of": "a"}, "c": {"of": "c"}}, "forgotten": 0}


def test_what_is_kept_is_bounded_in_number_and_bytes_and_what_was_forgotten_is_said() -> None:
    succession = Succession()
    for ticket in range(1, MOST_KEPT + 3):
        keep(succession, f"e{ticket}", ticket)
    assert asked(succession, "e2", "e3") == {"status": "ok", "line": [], "replies": {"e3": {}}, "forgotten": 2}

    large = b'"' + b"x" * MOST_KEPT_BYTES + b'"'
    for ticket in (1000, 1001):
        keep(succession, f"e{ticket}", ticket, large)
    reply = asked(succession, "e3", "e1000", "e1001")
    assert list(reply["replies"]) == ["e1001"], "the last one is kept however long it is"
    assert reply["forgotten"] == 1000


def test_a_reply_with_parts_is_in_line_and_said_again() -> None:
    succession = Succession()
    keep(succession, "short", 1)
    keep(succession, "long", 2, b'{"the":"end"}', [Part(b"one", b"", b"")])

    reply, again = succession.take_over(header("later"), AdoptRequest(("short", "long")), [])

    told = msgspec.json.decode(reply)
    assert list(told["replies"]) == ["short"]
    assert [(one["execution"], one["ticket"]) for one in told["line"]] == [("long", 2)]
    assert [(one.parts, one.reply, one.message.identities) for one in again] == [
        ([Part(b"one", b"", b"")], b'{"the":"end"}', [b"us"])
    ]


def test_parts_count_in_what_is_kept() -> None:
    succession = Succession()
    for ticket in (1, 2):
        keep(succession, f"e{ticket}", ticket, parts=[Part(b"x" * MOST_KEPT_BYTES, b"", b"")])

    assert asked(succession, "e1")["forgotten"] == 1


def test_runs_of_a_supervisor_that_was_succeeded_are_not_taken_and_others_are() -> None:
    succession = Succession()
    assert not succession.is_past(header("first"))

    asked(succession, session="second")

    assert succession.is_past(header("first"))
    assert not succession.is_past(header("second"))
    assert not succession.is_past(header("somebody", username="lent to"))
    asked(succession, session="third")
    assert succession.is_past(header("second"))
