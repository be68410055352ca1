"""The stack of open blocks."""

import pytest

from llmspell_kernel.analysis.blocks import Scopes, Statement
from llmspell_kernel.analysis.symbols import UNKNOWN, Symbol
from llmspell_kernel.analysis.tokens import LONGEST_PATH


def scopes_of(*kinds: str) -> Scopes:
    scopes = Scopes()
    for kind in kinds:
        scopes.push(kind)
    return scopes


def kinds(scopes: Scopes) -> list[str]:
    return [block.kind for block in scopes.blocks[1:]]


def test_an_inner_local_hides_an_outer_one_until_its_block_ends() -> None:
    scopes = Scopes()
    scopes.declare({"x": Symbol("number")})
    scopes.push("do")
    scopes.declare({"x": UNKNOWN})
    scopes.declare({"x": Symbol("string")})

    inner = scopes.locals()
    scopes.pop()

    assert inner == {"x": Symbol("string")}
    assert scopes.locals() == {"x": Symbol("number")}


@pytest.mark.parametrize(
    ("case", "before", "after"),
    [
        ("nothing to end", [], []),
        ("a function", ["function"], []),
        ("the inner of two", ["if", "do"], ["if"]),
        ("a repeat in it was left open", ["do", "repeat", "repeat"], []),
        ("a repeat alone has another end", ["repeat"], ["repeat"]),
    ],
)
def test_end_closes_the_innermost_block_that_it_can(case: str, before: list[str], after: list[str]) -> None:
    scopes = scopes_of(*before)

    scopes.pop_at_end()

    assert kinds(scopes) == after


@pytest.mark.parametrize(
    ("before", "found", "after"),
    [([], False, []), (["do"], False, ["do"]), (["if", "do", "repeat"], True, [])],
)
def test_else_closes_its_if_and_what_was_left_open(before: list[str], found: bool, after: list[str]) -> None:
    scopes = scopes_of(*before)

    assert scopes.pop_if() is found
    assert kinds(scopes) == after


@pytest.mark.parametrize(
    ("before", "found", "after"),
    [(["do"], False, ["do"]), (["repeat", "if", "do"], True, ["repeat"])],
)
def test_until_closes_what_was_left_open_in_its_repeat(before: list[str], found: bool, after: list[str]) -> None:
    scopes = scopes_of(*before)

    assert scopes.pop_to_repeat() is found
    assert kinds(scopes) == after


def test_names_are_born_at_the_end_of_their_statement() -> None:
    scopes = Scopes()
    scopes.block.statement = Statement([], {"x": UNKNOWN})

    before = scopes.locals()
    scopes.end_statement()
    scopes.end_statement()

    assert not before
    assert scopes.locals() == {"x": UNKNOWN}


def test_a_statement_has_a_slot_for_each_of_its_names() -> None:
    names = {"a": UNKNOWN, "b": UNKNOWN}
    statement = Statement([(names, "a"), (names, "b")])

    assert [statement.next_slot() for _ in range(3)] == [(names, "a"), (names, "b"), None]


def test_a_path_through_a_local_leaves_the_globals_alone() -> None:
    scopes = Scopes()
    scopes.declare({"t": UNKNOWN})

    slot = scopes.slot_of(["t", "x"])

    assert slot == ({"x": UNKNOWN}, "x")
    assert not scopes.globals
    assert scopes.locals() == {"t": Symbol("table", children={"x": UNKNOWN})}


@pytest.mark.parametrize(
    ("path", "known"),
    [
        (["x"], {"x": UNKNOWN}),
        (["_G", "x"], {"x": UNKNOWN}),
        (["_G"], {}),
        (["x"] * (LONGEST_PATH + 1), {}),
    ],
)
def test_a_path_from_no_local_is_a_global(path: list[str], known: dict[str, Symbol]) -> None:
    scopes = Scopes()

    scopes.slot_of(path)

    assert scopes.globals == known
