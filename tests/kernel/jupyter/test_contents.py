"""Contents as they are decoded, and text as it is put into messages."""

import json
import re
import time
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmspell_kernel.jupyter import contents, outputs
from llmspell_kernel.jupyter.clock import DateClock
from llmspell_kernel.jupyter.contents import ErrorContent, ExecuteRequest, json_text
from llmspell_kernel.jupyter.pager import LONGEST, Question, question
from llmspell_kernel.runtime.outbox import FLUSH_BYTES

REQUESTS = (
    contents.ExecuteRequest,
    contents.CompleteRequest,
    contents.InspectRequest,
    contents.IsCompleteRequest,
    contents.HistoryRequest,
    contents.CommInfoRequest,
    contents.CommMessage,
    contents.ShutdownRequest,
    contents.InputReply,
)


def test_an_execute_request_has_the_specifications_defaults() -> None:
    request = msgspec.json.decode(b'{"code":"x","unknown":[1]}', type=ExecuteRequest)

    assert request == ExecuteRequest("x", False, True, None, True, True)


@pytest.mark.parametrize("kind", REQUESTS)
@given(content=st.binary(max_size=60))
def test_any_bytes_are_a_request_or_unreadable(kind: type, content: bytes) -> None:
    try:
        msgspec.json.decode(content, type=kind)
    except contents.UNREADABLE:
        return


@pytest.mark.parametrize("content", [b'{"code":"\xff"}', b'{"x":' + b"[" * 100_000, b'{"code":"\\ud800 "}', b""])
def test_what_cannot_be_decoded_is_unreadable_and_nothing_worse(content: bytes) -> None:
    with pytest.raises(contents.UNREADABLE):
        msgspec.json.decode(content, type=ExecuteRequest)


@given(st.binary())
def test_a_scripts_bytes_are_always_a_json_text(data: bytes) -> None:
    assert json.loads(json_text(data)) == data.decode("utf-8", "replace")


def test_an_error_has_a_count_only_when_one_is_given() -> None:
    error = ErrorContent("E", "message", ("line",))
    assert json.loads(contents.encode(error)).keys() == {"ename", "evalue", "traceback", "status"}

    error.execution_count = 3
    assert json.loads(contents.encode(error))["execution_count"] == 3


# --- pieces of long texts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("character", ["x", "é", "€", "🌙"])
@pytest.mark.parametrize("shift", range(4))
def test_a_long_text_is_cut_between_characters(character: str, shift: int) -> None:
    text = "." * shift + character * FLUSH_BYTES

    pieces = list(outputs._chunks(text.encode(), FLUSH_BYTES))

    assert "".join(piece.decode() for piece in pieces) == text
    assert all(len(piece) <= FLUSH_BYTES for piece in pieces)
    assert all(len(piece) > FLUSH_BYTES - 4 for piece in pieces[:-1])


@given(st.binary(max_size=50), st.integers(FLUSH_BYTES - 10, FLUSH_BYTES * 2 + 10))
def test_bytes_that_are_no_text_are_cut_without_loss(pattern: bytes, length: int) -> None:
    data = ((pattern or b"\x80") * (length // max(1, len(pattern)) + 1))[:length]

    pieces = list(outputs._chunks(data, FLUSH_BYTES))

    assert b"".join(pieces) == data
    assert all(0 < len(piece) <= FLUSH_BYTES for piece in pieces)


# --- questions and dates ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "asked"),
    [
        ("string.format?", Question("string.format", 0)),
        ("?string.format", Question("string.format", 0)),
        ("  f ??\n", Question("f", 1)),
        ("??f", Question("f", 1)),
        ("s:upper?", Question("s:upper", 0)),
        ("f", None),
        ("?", None),
        ("??", None),
        ("f???", None),
        ("f()?", None),
        ("1?", None),
        ("é?", None),
        ("return 'what?'", None),
        ("a?\nb", None),
        ("a" * LONGEST + "?", None),
    ],
)
def test_a_cell_that_asks_about_a_name_is_told_from_code(code: str, asked: Question | None) -> None:
    assert question(code) == asked


@given(st.text(alphabet=" ?a.:\n", max_size=400))
def test_any_cell_is_a_question_or_code(code: str) -> None:
    asked: Any = question(code)

    assert asked is None or re.fullmatch(r"[a.:]+", asked.name)


def test_dates_are_utc_and_never_go_back() -> None:
    clock = DateClock()
    dates = [clock.now() for _ in range(1000)]

    assert dates == sorted(dates)
    assert all(re.fullmatch(rb"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", date) for date in dates)
    assert dates[0].decode()[:13] in {time.strftime("%Y-%m-%dT%H", time.gmtime(clock.seconds() - s)) for s in (0, 60)}
