"""Completion. In the tables `|` is the cursor."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmspell_kernel.analysis.complete import MAX_MATCHES, Completion, MatchType, complete
from llmspell_kernel.analysis.library import KEYWORDS
from llmspell_kernel.analysis.symbols import Symbol, SymbolTable, standard_symbols

SYMBOLS = SymbolTable.from_rows(
    [
        b"counts\0table\0{apples = 3}\0\0\0",
        b"counts\x1fapples\0number\x003\0\0\0",
        b"counts\x1fadd\0function\0\0self, n\0In[1]\x004",
        b"counts\x1fbad key\0number\x001\0\0\0",
        b"counts\x1fend\0number\x001\0\0\0",
        b"counts\x1fdeep\0table\0\0\0\0",
        b"counts\x1fdeep\x1fdeeper\0table\0\0\0\0",
        b"counts\x1fdeep\x1fdeeper\x1fdeepest\0number\0\0\0\0",
        b'title\0string\0"a"\0\0\0',
        b"not a name\0number\x001\0\0\0",
    ]
).merged(standard_symbols().names)

PIECES = st.sampled_from(
    [
        *KEYWORDS,
        "counts",
        "title",
        "local t = {a=1}",
        ".",
        ":",
        "..",
        '"',
        "'",
        "[[",
        "]]",
        "--",
        "(",
        ")",
        "{",
        "}",
        " ",
        "\n",
        "x",
        "1",
        "=",
        "é",
        "😀",
        "\x00",
    ]
)


def at(marked: str, symbols: SymbolTable = SYMBOLS) -> Completion:
    return complete(marked.replace("|", "", 1), marked.index("|"), symbols)


@pytest.mark.parametrize(
    ("case", "marked", "expected"),
    [
        ("a global", "cou|", "counts"),
        ("a library function", "pri|", "print"),
        ("a library", "x = stri|", "string"),
        ("a keyword", "whil|", "while"),
        ("globals before keywords", "re|", "require repeat return"),
        ("locals before globals", "local prime = 1\npri|", "prime print"),
        ("a local that hides a global is named once", "local print = 1\nprin|", "print"),
        ("a field", "counts.ap|", "apples"),
        ("fields that can be written", "counts.|", "add apples deep"),
        ("a path", "counts.deep.deeper.d|", "deepest"),
        ("a path with white space", "counts . deep .\n  d|", "deeper"),
        ("a library's field", "math.ma|", "max maxinteger"),
        ("through _G", "_G.counts.ap|", "apples"),
        ("globals as fields of _G", "_G.cou|", "counts"),
        ("a method", "counts:|", "add"),
        ("a stream's methods", "io.stdout:|", "flush write"),
        ("a string's method", "title:up|", "upper"),
        ("a string has no fields to speak of", "title.up|", ""),
        ("a string literal's method", '"a":up|', "upper"),
        ("a string literal in parentheses", "('a'):re|", "rep reverse"),
        ("a long string literal", "([[a]]):le|", "len"),
        ("a call's result is not known", 'f("a"):up|', ""),
        ("nor is that of a call without parentheses", 'f"a":up|', ""),
        ("nor an element", "counts[1].ap|", ""),
        ("nor a field of a call", "f().counts.ap|", ""),
        ("an unknown name", "nothing.|", ""),
        ("a local table's field", "local t = {alpha=1}; t.al|", "alpha"),
        ("a local table's inner field", "local t = {a={bcd=1}}; t.a.|", "bcd"),
        ("a field that was assigned", "local t = {} t.alpha = 1 t.al|", "alpha"),
        ("a local string's method", "local s = 'x'\ns:up|", "upper"),
        ("methods of a local table", "local t = {a=1, f=function() end, g=h} t:|", "f g"),
        ("a local hides a global's fields", "local counts = {x=1}\ncounts.|", "x"),
        ("a method's self", "function counts:sub() self.su|", "sub"),
        ("a global that the cell makes", "alpha = 1\nalp|", "alpha"),
        ("a table that the cell makes", "made = {one=1}\nmade.|", "one"),
        ("a field that the cell adds", "counts.pears = 1\ncounts.pe|", "pears"),
        ("in a table constructor", "x = {cou|", "counts"),
        ("in an argument", "print(cou|", "counts"),
        ("behind a minus", "x = -cou|", "counts"),
        ("behind a label", "::top:: cou|", "counts"),
        ("a new local's name is not completed", "local |", "function"),
        ("but function is", "local fun|", "function"),
        ("a loop's variable is not completed", "for cou|", ""),
        ("a label's name is not completed", "goto cou|", ""),
        ("in a string", "x = 'cou|", ""),
        ("in a string that ends later", "x = 'cou|nts'", ""),
        ("in a long string", "x = [[\ncou|", ""),
        ("in a comment", "-- cou|", ""),
        ("at the end of a comment", "-- counts |", ""),
        ("in a long comment", "--[[ \n cou|", ""),
        ("behind a long comment", "--[[ a ]]cou|", "counts"),
        ("below a comment", "-- a\ncou|", "counts"),
        ("behind a string", "'a'|", ""),
        ("behind a closing parenthesis", "f()|", ""),
        ("in a number", "x = 12|", ""),
        ("in a number with a dot", "x = 1.|", ""),
        ("behind a character that Lua does not know", "é|", ""),
        ("an unfinished block before it", "for i = 1, 2 do if x then cou|", "counts"),
    ],
)
def test_matches(case: str, marked: str, expected: str) -> None:
    assert at(marked).matches == expected.split()


@pytest.mark.parametrize("marked", ["|", "x = |", "x = y ..|", "f(|", "-- a\n|"])
def test_everything_is_offered_where_no_word_is_begun(marked: str) -> None:
    matches = at(marked).matches

    assert {"counts", "print", "string", "while"} <= set(matches)
    assert "not a name" not in matches
    assert len(matches) == len(set(matches))


@pytest.mark.parametrize(
    ("case", "marked", "start", "end"),
    [
        ("a word", "print(cou|", 6, 9),
        ("a field without its path", "counts.ap|", 7, 9),
        ("no word yet", "counts.|", 7, 7),
        ("only what is before the cursor", "cou|nts", 0, 3),
        ("astral characters count once", "s = '😀😀' cou|", 9, 12),
        ("no matches", "nothing_like_it|", 0, 15),
        ("nothing in a comment", "-- cou|", 6, 6),
    ],
)
def test_what_is_replaced(case: str, marked: str, start: int, end: int) -> None:
    completion = at(marked)

    assert (completion.cursor_start, completion.cursor_end) == (start, end)


def test_types_are_those_of_lua() -> None:
    completion = at("local rest = f()\nlocal res = 1\nre|")

    assert completion.types == [
        MatchType("res", "number", 31, 33),
        MatchType("rest", "variable", 31, 33),
        MatchType("require", "function", 31, 33),
        MatchType("repeat", "keyword", 31, 33),
        MatchType("return", "keyword", 31, 33),
    ]


@pytest.mark.parametrize(("cursor", "expected"), [(-1, 0), (99, 5)])
def test_a_cursor_outside_the_text_is_moved_to_its_edge(cursor: int, expected: int) -> None:
    assert complete("count", cursor, SYMBOLS).cursor_end == expected


def test_the_number_of_matches_is_bounded() -> None:
    symbols = SymbolTable({f"name{number}": Symbol("number") for number in range(MAX_MATCHES * 2)})

    completion = at("name|", symbols)

    assert len(completion.matches) == len(completion.types) == MAX_MATCHES


def test_string_methods_do_not_need_a_record() -> None:
    assert at("('a'):up|", SymbolTable()).matches == ["upper"]


def test_a_cell_of_10_mb_is_read_near_the_cursor_only() -> None:
    code = "'\"[[(" * 2_000_000 + "\nlocal prime = 1\npri"

    assert complete(code, len(code), SYMBOLS).matches == ["prime", "print"]


@given(st.one_of(st.text(), st.lists(PIECES, max_size=40).map("".join)), st.integers(-3, 200))
def test_any_text_is_completed_at_any_cursor(code: str, cursor: int) -> None:
    completion = complete(code, cursor, SYMBOLS)

    inside = min(max(cursor, 0), len(code))
    word = code[completion.cursor_start : completion.cursor_end]
    assert 0 <= completion.cursor_start <= inside <= completion.cursor_end <= len(code)
    assert all(match.startswith(word) for match in completion.matches)
    assert len(set(completion.matches)) == len(completion.matches) == len(completion.types)
