"""Inspection. In the tables `|` is the cursor."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmspell_kernel.analysis.inspect import (
    LONGEST_TEXT,
    Inspection,
    describe,
    inspect_at,
    leading_comment,
    target_at,
)
from llmspell_kernel.analysis.library import LIBRARY
from llmspell_kernel.analysis.symbols import UNKNOWN, Symbol, SymbolTable, standard_symbols

CELL = """-- Adds two.
-- And says so.
function add(a, b)
  if a then return a + b end
end
"""
SOURCES = {"In[1]": CELL}
SYMBOLS = SymbolTable.from_rows(
    [
        b"add\0function\0\0a, b\0In[1]\x003",
        b"gone\0function\0\0a\0In[0]\x001",
        b"t\0table\0{x = 1}\0\0\0",
        b"t\x1fm\0function\0\0self, n\0In[0]\x001",
        b'title\0string\0"a"\0\0\0',
    ]
).merged(standard_symbols().names)


def at(marked: str, detail_level: int = 0) -> Inspection:
    code, cursor = marked.replace("|", "", 1), marked.index("|")
    return inspect_at(code, cursor, SYMBOLS, SOURCES, detail_level=detail_level)


@pytest.mark.parametrize(
    ("case", "marked", "expected"),
    [
        ("before a name", "|print", "print"),
        ("in a name", "pri|nt", "print"),
        ("behind a name", "x = print|", "print"),
        ("a little behind a name", "print  |", "print"),
        ("a line behind a name", "print\n|", None),
        ("a dotted name", "string.format|", "string.format"),
        ("the last part of a dotted name", "string.for|mat", "string.format"),
        ("the first part of a dotted name", "str|ing.format", "string"),
        ("a method", "a.b:m|", "a.b:m"),
        ("a method of a literal", "('x'):upp|er()", "string.upper"),
        ("a field of a call", "f().x|", None),
        ("a method of a call", "f():x|", None),
        ("in a call's parentheses", "print(|", "print"),
        ("behind an argument", "print(1, |", "print"),
        ("behind a number", "print(12|)", "print"),
        ("in a string argument", "print('a |b')", "print"),
        ("an argument that is a name", "print(x|)", "x"),
        ("behind inner calls", "print(f(1), {2}, t[3], |", "print"),
        ("in a grouping", "print((1 + |", "print"),
        ("in an index", "print(t[|", "print"),
        ("in a table argument", "display{html = |}", "display"),
        ("in a table in a call", "display({html = |})", "display"),
        ("in a method call", "t:m(|", "t:m"),
        ("in a function's body in a call", "pcall(function() |", None),
        ("in a block in a function's body", "pcall(function() if x then y = |", None),
        ("behind a function in a call", "pcall(function() if x then f(y) end repeat until z end, |", "pcall"),
        ("behind a constant", "print(nil|", "print"),
        ("behind logic", "print(x and |", "print"),
        ("outside of calls", "x = |", None),
        ("behind a call", "f(1)|", None),
        ("on a keyword", "while|", None),
        ("in a comment", "print(-- x|", None),
        ("in a comment in a call, later", "print(-- x\n|", "print"),
        ("nothing", "|", None),
        ("behind astral characters", "f('😀😀', prin|t)", "print"),
    ],
)
def test_what_the_cursor_is_at(case: str, marked: str, expected: str | None) -> None:
    assert target_at(marked.replace("|", "", 1), marked.index("|")) == expected


@pytest.mark.parametrize(
    ("case", "marked", "expected"),
    [
        ("a library function", "string.rep(|", "\n\n".join(LIBRARY["string.rep"])),
        ("a constant", "math.pi|", "\n\n".join(LIBRARY["math.pi"])),
        ("through _G", "_G.print|", "\n\n".join(LIBRARY["print"])),
        ("a string's method", "title:rep(|", "\n\n".join(LIBRARY["string.rep"])),
        ("a local string's method", "local s = 'a' s:rep(|", "\n\n".join(LIBRARY["string.rep"])),
        ("the kernel's own", "display|", "\n\n".join(LIBRARY["display"])),
        ("a value", "t|", "t: table\n\n{x = 1}"),
        ("a value of the cell", "local n = 1 n|", "n: number"),
        ("what is not known yet", "local n = f() n|", "n: known only when the cell runs"),
        ("a local hides the library", "local print = 1 print|", "print: number"),
        (
            "a user's function",
            "add(|",
            "add(a, b)\n\nAdds two.\nAnd says so.\n\nDefined in In[1], line 3\n\nfunction add(a, b)",
        ),
        ("a function whose text is gone", "gone|", "gone(a)\n\nDefined in In[0], line 1"),
        ("a method, without its self", "t:m(|", "t:m(n)\n\nDefined in In[0], line 1"),
        ("a method as a field, with its self", "t.m|", "t.m(self, n)\n\nDefined in In[0], line 1"),
        (
            "a function of this cell",
            "-- Hello.\nlocal function f(x) end\nf(|",
            "f(x)\n\nHello.\n\nDefined in this cell, line 2\n\nlocal function f(x) end",
        ),
    ],
)
def test_what_is_said(case: str, marked: str, expected: str) -> None:
    inspection = at(marked)

    assert inspection.found
    assert inspection.text_plain == expected


@pytest.mark.parametrize("marked", ["nothing|", "t.nothing|", "x = |", "title:nothing(|", "t:upper(|"])
def test_what_is_not_known_is_not_found(marked: str) -> None:
    assert at(marked) == Inspection(found=False)


def test_more_detail_is_the_whole_definition() -> None:
    assert at("add|", 1).text_plain.endswith("line 3\n\nfunction add(a, b)\n  if a then return a + b end\nend")


def test_markdown_fences_code() -> None:
    assert at("t|").text_markdown == "```lua\nt: table\n```\n\n```lua\n{x = 1}\n```"


def test_a_fence_is_longer_than_any_in_the_value() -> None:
    assert describe("s", Symbol("string", "a ```` b"), None).text_markdown.endswith("`````lua\na ```` b\n`````")


def test_a_value_is_cut_where_it_gets_too_long() -> None:
    assert len(describe("s", Symbol("string", "x" * LONGEST_TEXT * 2), None).text_plain) < LONGEST_TEXT + 100


@pytest.mark.parametrize(
    ("case", "symbol", "expected"),
    [
        ("not in the record", None, "print(...)\n\nWrites"),
        ("the original", Symbol("function"), "print(...)\n\nWrites"),
        ("another value", Symbol("number", "5"), "print: number\n\n5"),
        (
            "a script's function",
            Symbol("function", None, "x", "=In[1]", 2),
            "print(x)\n\nDefined in In[1], line 2",
        ),
    ],
)
def test_a_replaced_library_function_is_not_described_by_the_library(
    case: str, symbol: Symbol | None, expected: str
) -> None:
    assert describe("print", symbol, LIBRARY["print"]).text_plain.startswith(expected)


@pytest.mark.parametrize(
    ("case", "symbol", "expected"),
    [
        ("unknown parameters", Symbol("function"), "f(...)"),
        ("no parameters", Symbol("function", params=""), "f()"),
        ("an unknown value", UNKNOWN, "f: known only when the cell runs"),
    ],
)
def test_a_heading_says_what_is_known(case: str, symbol: Symbol, expected: str) -> None:
    assert describe("f", symbol, None).text_plain == expected


@pytest.mark.parametrize(
    ("case", "source", "line", "expected"),
    [
        ("none", "x = 1\nfunction f() end", 2, ""),
        ("one line", "-- a\nfunction f() end", 2, "a"),
        ("several lines", "-- a\n--\n--   b\nfunction f() end", 4, "a\n\n  b"),
        ("more dashes", "--- a\n-------\nfunction f() end", 3, "a"),
        ("indented", "do\n  -- a\n  -- b\n  function f() end", 4, "a\nb"),
        ("a long one", "--[[ a\n     b\n]]\nfunction f() end", 4, "a\nb"),
        ("a long one of a level", "--[==[ a ]] ]==]\nfunction f() end", 2, "a ]]"),
        ("an empty line between", "-- a\n\nfunction f() end", 3, ""),
        ("only what is directly above", "-- a\n\n-- b\nfunction f() end", 4, "b"),
        ("behind other code", "x = 1 -- a\nfunction f() end", 2, ""),
        ("behind other code, then its own", "x = 1 -- a\n-- b\nfunction f() end", 3, "b"),
        ("in a string that is open", "x = [[\n-- a\nfunction f() end", 3, ""),
        ("carriage returns", "-- a\r\n-- b\r\nfunction f() end", 3, "a\nb"),
        ("the first line", "function f() end", 1, ""),
        ("a line that is not there", "-- a", 9, ""),
        ("no line", "-- a", 0, ""),
        ("a negative line", "-- a", -1, ""),
    ],
)
def test_the_comment_above_a_function(case: str, source: str, line: int, expected: str) -> None:
    assert leading_comment(source, line) == expected


@pytest.mark.parametrize(
    ("case", "source", "line", "expected"),
    [
        (
            "blocks in it",
            "f = function() do end repeat until x end, 1",
            1,
            "f = function() do end repeat until x end",
        ),
        ("blocks before it", "if x then f = function() end end", 1, "if x then f = function() end"),
        ("no end", "function f()\n x()", 1, "function f()"),
        ("a line that is not there", "function f() end", 5, "line 5"),
    ],
)
def test_the_definition_ends_with_its_function(case: str, source: str, line: int, expected: str) -> None:
    symbol = Symbol("function", None, "", "In[1]", line)

    assert describe("f", symbol, None, source, detail_level=1).text_plain.endswith(expected)


TEXTS = st.one_of(
    st.text(), st.lists(st.sampled_from([*CELL.split(" "), *"()[]{}'.:\n", "--", "[[", "😀"])).map("".join)
)


@given(TEXTS, st.integers(-3, 200), st.integers(0, 1))
def test_any_text_is_inspected_at_any_cursor(code: str, cursor: int, detail_level: int) -> None:
    inspection = inspect_at(code, cursor, SYMBOLS, SOURCES, detail_level=detail_level)

    assert inspection.found == bool(inspection.text_plain) == bool(inspection.text_markdown)


@given(TEXTS, st.integers(-3, 20))
def test_any_line_of_any_text_has_a_comment(source: str, line: int) -> None:
    assert isinstance(leading_comment(source, line), str)
