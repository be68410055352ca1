"""What history requests find, and how much is kept."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmspell_kernel.jupyter.contents import HistoryRequest
from llmspell_kernel.jupyter.history import LARGEST_BYTES, LONGEST, History

CELLS = [("a = 1", None), ("b", "2"), ("c = 3", None), ("a = 1", None), ("print('[x]')", None)]


@pytest.fixture
def history() -> History:
    history = History()
    for count, (source, output) in enumerate(CELLS, start=1):
        history.add(count, source, output)
    return history


@pytest.mark.parametrize(
    ("case", "request_", "found"),
    [
        ("the last two", HistoryRequest("tail", n=2), [4, 5]),
        ("none", HistoryRequest("tail", n=0), []),
        ("fewer than none", HistoryRequest("tail", n=-3), []),
        ("all, when nothing is said", HistoryRequest("tail"), [1, 2, 3, 4, 5]),
        ("more than there are", HistoryRequest("tail", n=10**9), [1, 2, 3, 4, 5]),
        ("a range without its end", HistoryRequest("range", start=2, stop=4), [2, 3]),
        ("a range to the end", HistoryRequest("range", start=4), [4, 5]),
        ("a range that is none", HistoryRequest("range", start=4, stop=2), []),
        ("this session by its number", HistoryRequest("range", session=1, start=5), [5]),
        ("the session before this", HistoryRequest("range", session=-1), []),
        ("a session to come", HistoryRequest("range", session=7), []),
        ("a whole cell", HistoryRequest("search", pattern="b"), [2]),
        ("a part is not enough", HistoryRequest("search", pattern="a"), []),
        ("any text", HistoryRequest("search", pattern="a*"), [1, 4]),
        ("one character", HistoryRequest("search", pattern="? = ?"), [1, 3, 4]),
        ("a set", HistoryRequest("search", pattern="[bc]*"), [2, 3]),
        ("each once, the last of them", HistoryRequest("search", pattern="*", unique=True), [2, 3, 4, 5]),
        ("the last that match", HistoryRequest("search", pattern="a*", n=1), [4]),
        ("each once, the last two", HistoryRequest("search", pattern="*", unique=True, n=2), [4, 5]),
        ("anything, when no pattern is given", HistoryRequest("search", n=1), [5]),
        ("brackets as they are", HistoryRequest("search", pattern="*[[]x]*"), [5]),
    ],
)
def test_a_request_finds_the_oldest_first(
    case: str, request_: HistoryRequest, found: list[int], history: History
) -> None:
    assert history.select(request_) == [(1, count, CELLS[count - 1][0]) for count in found]


def test_outputs_come_with_the_sources_when_asked_for(history: History) -> None:
    assert history.select(HistoryRequest("tail", n=4, output=True))[:2] == [(1, 2, ("b", "2")), (1, 3, ("c = 3", None))]


def test_a_cell_of_several_lines_is_searched_as_a_whole() -> None:
    history = History()
    history.add(1, "for i = 1, 2 do\n  print(i)\nend", None)

    assert len(history.select(HistoryRequest("search", pattern="for*end"))) == 1


def test_the_oldest_are_forgotten_when_there_are_too_many() -> None:
    history = History()
    for count in range(1, LONGEST + 11):
        history.add(count, "x", None)

    kept = history.select(HistoryRequest("tail"))
    assert len(kept) == LONGEST
    assert kept[0][1] == 11


def test_the_oldest_are_forgotten_when_they_are_too_large() -> None:
    history = History()
    for count in range(1, 11):
        history.add(count, "x" * (LARGEST_BYTES // 8), "y" * (LARGEST_BYTES // 8))

    kept = history.select(HistoryRequest("tail"))
    assert [entry[1] for entry in kept] == [7, 8, 9, 10]


def test_a_cell_that_is_too_large_by_itself_is_not_kept() -> None:
    history = History()
    history.add(1, "x" * (LARGEST_BYTES + 1), None)
    history.add(2, "small", None)

    assert [entry[1] for entry in history.select(HistoryRequest("tail"))] == [2]


@given(
    pattern=st.text(max_size=30) | st.text(alphabet="[]*?!-^\\a", max_size=30),
    n=st.none() | st.integers(),
    start=st.integers(),
    stop=st.none() | st.integers(),
    session=st.integers(),
    unique=st.booleans(),
    kind=st.sampled_from(["tail", "range", "search"]),
)
def test_any_request_is_answered(
    pattern: str, n: int | None, start: int, stop: int | None, session: int, unique: bool, kind: str
) -> None:
    history = History()
    for count, (source, output) in enumerate(CELLS, start=1):
        history.add(count, source, output)

    found = history.select(HistoryRequest(kind, False, True, session, start, stop, n, pattern, unique))  # type: ignore[arg-type]

    counts = [entry[1] for entry in found]
    assert counts == sorted(set(counts))
    assert all(source == CELLS[count - 1][0] for _, count, source in found)
