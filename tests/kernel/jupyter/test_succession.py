"""What a kernel keeps for a later supervisor, and whom it obeys."""

from typing import Any

import msgspec

from llmspell_kernel.jupyter.runs import Run, RunRequest
from llmspell_kernel.jupyter.succession import MOST_KEPT, MOST_KEPT_BYTES, SUPERVISOR, AdoptRequest, Succession
from llmspell_kernel.wire.jupyter import Header


def a_run(execution: str, ticket: int) -> Run:
    return Run(
        RunRequest("code", execution=execution, ticket=ticket), 0.0, lambda _content: None, lambda _run, _content: None
    )


def asked(succession: Succession, *executions: str, session: str = "later") -> Any:
    return msgspec.json.decode(succession.take_over(header(session), AdoptRequest(executions), []))


def header(session: str, username: str = SUPERVISOR) -> Header:
    return Header("1", "run_request", session, username)


def test_what_is_asked_for_is_told_and_nothing_else() -> None:
    succession = Succession()
    for ticket, name in enumerate("abc", 1):
        succession.keep(a_run(name, ticket), b'{"of":"%b"}' % name.encode())

    reply = asked(succession, "a", "c", "never")

    assert reply == {"status": "ok", "line": [], "replies": {"a": {"of": "a"}, "c": {"of": "c"}}, "forgotten": 0}


def test_what_is_kept_is_bounded_in_number_and_bytes_and_what_was_forgotten_is_said() -> None:
    succession = Succession()
    for ticket in range(1, MOST_KEPT + 3):
        succession.keep(a_run(f"e{ticket}", ticket), b"{}")
    assert asked(succession, "e2", "e3") == {"status": "ok", "line": [], "replies": {"e3": {}}, "forgotten": 2}

    large = b'"' + b"x" * MOST_KEPT_BYTES + b'"'
    for ticket in (1000, 1001):
        succession.keep(a_run(f"e{ticket}", ticket), large)
    reply = asked(succession, "e3", "e1000", "e1001")
    assert list(reply["replies"]) == ["e1001"], "the last one is kept however long it is"
    assert reply["forgotten"] == 1000


def test_runs_of_a_supervisor_that_was_succeeded_are_not_taken_and_others_are() -> None:
    succession = Succession()
    assert not succession.is_past(header("first"))

    asked(succession, session="second")

    assert succession.is_past(header("first"))
    assert not succession.is_past(header("second"))
    assert not succession.is_past(header("somebody", username="lent to"))
    asked(succession, session="third")
    assert succession.is_past(header("second"))
