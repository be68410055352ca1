r"""A tolerant lexer for Lua 5.4: any text in, tokens that add up to that text out.

It never raises, and its work grows with the length of the text alone: every repetition in the pattern is
possessive or ends at the first match of what follows, so that nothing is kept to be tried again.
Offsets are code points. Lua lexes bytes, but its syntax is ASCII, so both agree on where tokens are.
"""

from __future__ import annotations

import re
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING, Literal

import msgspec

from llmspell_kernel.analysis.library import KEYWORDS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

WINDOW = 32_768
"""Code points before the cursor that an analysis reads: any cell that people write, and 0.1 s at worst."""

LONGEST_PATH = 16
"""Components of a dotted name that are followed."""

Kind = Literal["name", "keyword", "number", "string", "comment", "operator", "space", "unknown"]


class Token(msgspec.Struct, frozen=True, gc=False):
    """A piece of the text.

    `closed` is false where text written at the token's end would still belong to it: a string or long comment
    without its end, a line comment that no line break follows.
    """

    kind: Kind
    text: str
    start: int
    closed: bool = True

    @property
    def end(self) -> int:
        """Offset of the first code point after the token."""
        return self.start + len(self.text)


_LINE_BREAK = r"\r\n|\n\r|\n|\r"
# Numbers are read as Lua's own lexer reads them: greedily, with letters that no number can have.
# A quoted string ends at a line break unless `\` or `\z` comes before it.
_SPACE = r"[ \t\n\r\f\v]"
_ESCAPE = rf"\\(?:z{_SPACE}*+|\r\n|\n\r|.)?+"
_DOUBLE = rf'"(?:[^"\\\r\n]++|{_ESCAPE})*+'
_SINGLE = rf"'(?:[^'\\\r\n]++|{_ESCAPE})*+"
_PATTERN = rf"""
    (?P<space>{_SPACE}++)
  | (?P<name>[A-Za-z_][A-Za-z0-9_]*+)
  | (?P<number>
        (?: 0[xX](?:[pP][+-]?+|[0-9A-Fa-f.])*+ | \.?+[0-9](?:[eE][+-]?+|[0-9A-Fa-f.])*+ ) [A-Za-z0-9_]*+ )
  | (?P<comment>--\[(?P<comment_level>=*+)\[.*?\](?P=comment_level)\])
  | (?P<open_comment>--\[=*+\[.*+)
  | (?P<line_comment>--[^\r\n]*+)
  | (?P<string>{_DOUBLE}" | {_SINGLE}' | \[(?P<string_level>=*+)\[.*?\](?P=string_level)\])
  | (?P<open_string>{_DOUBLE} | {_SINGLE} | \[=*+\[.*+)
  | (?P<operator>\.\.\.?+ | [=~<>]= | << | >> | // | :: | [-+*/%^\#&|~<>=(){{}}\[\];:,.])
  | (?P<unknown>[^\x00-\x7f]++ | .)
"""
_CLASSES: dict[str | None, tuple[Kind, bool]] = {
    "space": ("space", True),
    "name": ("name", True),
    "number": ("number", True),
    "comment": ("comment", True),
    "open_comment": ("comment", False),
    "line_comment": ("comment", True),
    "string": ("string", True),
    "open_string": ("string", False),
    "operator": ("operator", True),
    "unknown": ("unknown", True),
}


@cache  # compiled at the first question: a kernel that nobody asks does not pay for it
def _pattern() -> re.Pattern[str]:
    return re.compile(_PATTERN, re.VERBOSE | re.DOTALL)


def lex(text: str) -> Iterator[Token]:
    """Yield the tokens of `text`, white space and comments included; their texts concatenate to `text`."""
    for match in _pattern().finditer(text):
        group = match.lastgroup
        kind, closed = _CLASSES[group]
        word = match.group()
        if group == "name" and word in KEYWORDS:
            kind = "keyword"
        elif group == "line_comment":
            closed = match.end() < len(text)
        yield Token(kind, word, match.start(), closed)


def significant(tokens: Iterable[Token]) -> list[Token]:
    """Return the tokens that mean something to Lua: all but white space and comments."""
    return [token for token in tokens if token.kind not in ("space", "comment")]


def window(code: str, offset: int) -> int:
    """Return where an analysis of `code` up to `offset` starts: at 0, or at a line within WINDOW of it."""
    if offset <= WINDOW:
        return 0
    return code.find("\n", offset - WINDOW, offset) + 1 or offset - WINDOW


def line_starts(text: str) -> list[int]:
    r"""Return the offsets at which the lines of `text` start; Lua breaks them at \n, \r, \r\n and \n\r."""
    return [0, *(match.end() for match in re.finditer(_LINE_BREAK, text))]


def line_start(text: str, line: int) -> int | None:
    """Return the offset at which 1-based `line` of `text` starts, None if there is no such line."""
    if line <= 1:
        return 0 if line == 1 else None
    found = next(islice(re.finditer(_LINE_BREAK, text), line - 2, None), None)
    return found.end() if found else None


def ends_operand(token: Token) -> bool:
    """Whether `token` can be the last one of an expression."""
    if token.kind == "keyword":
        return token.text in ("end", "nil", "true", "false")
    if token.kind == "operator":
        return token.text in (")", "]", "}", "...")
    return token.kind in ("name", "number", "string")


def path_before(tokens: Sequence[Token], end: int) -> list[str] | None:
    """Return the dotted name that ends with `tokens[end - 1]`, such as `["a", "b"]`; None if there is none.

    `tokens` are significant ones. A name that continues another expression, as in `f().a`, has no path.
    """
    path: list[str] = []
    while end > 0 and tokens[end - 1].kind == "name" and len(path) < LONGEST_PATH:
        path.append(tokens[end - 1].text)
        if end < 2 or tokens[end - 2].text not in (".", ":"):
            return path[::-1]
        if tokens[end - 2].text == ":":
            return None
        end -= 2
    return None


def is_text_before(tokens: Sequence[Token], end: int) -> bool:
    """Whether a string literal, also one in parentheses, ends with `tokens[end - 1]` and is no argument."""
    start = end - 1
    if end >= 3 and tokens[end - 1].text == ")" and tokens[end - 3].text == "(":
        start, end = end - 3, end - 1
    if end < 1 or tokens[end - 1].kind != "string":
        return False
    return start < 1 or not ends_operand(tokens[start - 1])
