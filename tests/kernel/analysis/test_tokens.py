"""The lexer: every text becomes tokens, and each token is what Lua would make of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmspell_kernel.analysis.library import KEYWORDS
from llmspell_kernel.analysis.tokens import (
    WINDOW,
    is_text_before,
    lex,
    line_start,
    line_starts,
    path_before,
    significant,
    window,
)

LUA_PIECES = st.sampled_from(
    [
        *KEYWORDS,
        "name",
        "_x1",
        "0x1p4",
        "1e",
        '"',
        "'",
        "[[",
        "]]",
        "[=[",
        "]=]",
        "--",
        "--[[",
        "\\",
        "\\z",
        "\n",
        " ",
        "::",
        "...",
        "..",
        ".",
        ":",
        "=",
        "==",
        "{",
        "}",
        "(",
        ")",
        ",",
        ";",
        "<const>",
        "é",
        "😀",
        "\x00",
    ]
)
TEXTS = st.one_of(st.text(), st.lists(LUA_PIECES).map("".join))


@given(TEXTS)
def test_the_tokens_of_any_text_add_up_to_the_text(text: str) -> None:
    tokens = list(lex(text))

    assert "".join(token.text for token in tokens) == text
    assert [token.start for token in tokens] == [0, *(token.end for token in tokens)][: len(tokens)]


@pytest.mark.parametrize(
    ("case", "text", "expected"),
    [
        ("a name and a keyword", "endx end", ["name endx", "keyword end"]),
        ("a name is ASCII", "aé b", ["name a", "unknown é", "name b"]),
        ("integers and floats", "3 .5 3.25e-2 0", ["number 3", "number .5", "number 3.25e-2", "number 0"]),
        ("hexadecimal floats", "0xA.8p-1 0x.1 0xe+1", ["number 0xA.8p-1", "number 0x.1"]),
        ("a malformed number is one token, as in Lua", "3..2", ["number 3..2"]),
        ("letters after a number belong to it", "12abc", ["number 12abc"]),
        ("dots", "a.b..c...", ["name a", "operator .", "name b", "operator ..", "name c", "operator ..."]),
        ("long operators", "//<<>>~===", ["operator //", "operator <<", "operator >>", "operator ~="]),
        ("a label", "::top::", ["operator ::", "name top", "operator ::"]),
        ("an attribute", "<close>", ["operator <", "name close", "operator >"]),
        ("escapes", r'"a\"b" "\\" c', ["string " + r'"a\"b"', "string " + r'"\\"', "name c"]),
        ("a line break after a backslash", '"a\\\nb" c', ['string "a\\\nb"', "name c"]),
        ("white space after \\z", '"a\\z \n b" c', ['string "a\\z \n b"', "name c"]),
        ("a string without its end ends with its line", '"abc\nx', ['string "abc', "name x"]),
        ("other quotes do not end a string", '"it\'s"', ['string "it\'s"']),
        ("a long string ends at its own level", "[==[ ]] ]=] ]==]x", ["string [==[ ]] ]=] ]==]", "name x"]),
        ("a long string without its end", "[[ a\nb", ["string [[ a\nb"]),
        ("an index is no long string", "[=", ["operator [", "operator ="]),
        ("comments", "--x\n--[[y\n]]z", ["comment --x", "comment --[[y\n]]", "name z"]),
        ("a line comment that looks long", "--[=x]]\ny", ["comment --[=x]]", "name y"]),
        ("a long comment without its end", "--[[ a\nb", ["comment --[[ a\nb"]),
        ("characters that Lua does not know", "a ! $", ["name a", "unknown !", "unknown $"]),
    ],
)
def test_a_token_is_what_lua_would_make_of_it(case: str, text: str, expected: list[str]) -> None:
    found = [f"{token.kind} {token.text}" for token in lex(text) if token.kind != "space"]

    assert found[: len(expected)] == expected


@pytest.mark.parametrize(
    ("text", "closed"),
    [
        ('"abc"', True),
        ('"abc', False),
        ('"abc\\"', False),
        ('"abc\\', False),
        ("'a", False),
        ("[[a]]", True),
        ("[[a]", False),
        ("--[[a]]", True),
        ("--[[a", False),
        ("-- a", False),
    ],
)
def test_a_token_says_whether_text_at_its_end_would_belong_to_it(text: str, closed: bool) -> None:
    assert [token.closed for token in lex(text)] == [closed]


def test_a_line_comment_is_closed_by_its_line_break() -> None:
    assert next(lex("-- a\n")).closed


@pytest.mark.parametrize(
    ("case", "text", "most_tokens"),
    [
        ("an open string of escapes", '"' + "\\a" * 5_000_000, 1),
        ("an open string of \\z", '"' + "\\z \n" * 2_500_000, 1),
        ("opening brackets", "[" * 10_000_000, 1),
        ("long brackets of level 1", "[=" * 5_000_000, 1),
        ("a long bracket and almost its end", "[" + "=" * 5_000_000 + "[]" + "=" * 4_999_999, 1),
        ("ends of all other levels", "[" + "=" * 999 + "[" + ("]" + "=" * 998) * 10_000, 1),
        ("dashes", "-" * 10_000_000, 1),
        ("digits", "1" * 10_000_000, 1),
        ("signs of exponents", "1" + "e+" * 5_000_000, 1),
        ("a bracket and a run of equals signs", "[" + "=" * 400_000, 200_001),
        ("quotes", '"' * 400_000, 200_000),
        ("both quotes in turn", "\"'" * 200_000, 200_000),
        ("quotes at line ends", '"\n' * 100_000, 200_000),
        ("comments that are almost long", "--[==\n" * 100_000, 200_000),
        ("backslashes", "\\" * 200_000, 200_000),
        ("parentheses", "(" * 200_000, 200_000),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else None,
)
def test_hostile_text_is_lexed_once_from_end_to_end(case: str, text: str, most_tokens: int) -> None:
    # Work that grew with the square of these lengths would end in the time-out, not in an assertion.
    count = end = 0
    for token in lex(text):
        count += 1
        end = token.end

    assert end == len(text)
    assert count <= most_tokens


def test_only_white_space_and_comments_mean_nothing() -> None:
    assert [token.text for token in significant(lex("a --b\n .c"))] == ["a", ".", "c"]


@pytest.mark.parametrize(
    ("case", "code", "offset", "expected"),
    [
        ("a cell of ordinary length is read whole", "a\nb", 3, 0),
        ("a long one from the start of a line", "x" * WINDOW + "\nabc\n", WINDOW + 5, WINDOW + 1),
        ("a long line from somewhere within it", "x" * (WINDOW + 10), WINDOW + 10, 10),
    ],
)
def test_the_window_is_bounded(case: str, code: str, offset: int, expected: int) -> None:
    assert window(code, offset) == expected


def test_lines_break_where_lua_breaks_them() -> None:
    text = "a\nb\r\nc\n\rd\re\x0bf\u2028g"

    assert [text[start] for start in line_starts(text)] == ["a", "b", "c", "d", "e"]


@pytest.mark.parametrize("text", ["", "a", "a\nb\r\nc", "\n\n"])
def test_the_start_of_one_line_agrees_with_those_of_all(text: str) -> None:
    starts = line_starts(text)

    assert [line_start(text, line) for line in range(len(starts) + 2)] == [None, *starts, None]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a", ["a"]),
        ("x = a . b.c", ["a", "b", "c"]),
        ("f().a", None),
        ("t[1].a", None),
        ("a:b.c", None),
        (".a", None),
        ("a.", None),
        ("", None),
        (".".join("a" * 17), None),
    ],
)
def test_a_path_is_a_dotted_name_and_nothing_more(text: str, expected: list[str] | None) -> None:
    tokens = significant(lex(text))

    assert path_before(tokens, len(tokens)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('"a"', True),
        ('x = "a"', True),
        ('("a")', True),
        ("([[a]])", True),
        ('f("a")', False),
        ('f"a"', False),
        ('t[1]("a")', False),
        ("(a)", False),
        ("a", False),
        ("", False),
    ],
)
def test_a_string_literal_is_told_from_an_argument(text: str, expected: bool) -> None:
    tokens = significant(lex(text))

    assert is_text_before(tokens, len(tokens)) is expected
