"""What is known of the name at the cursor."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import msgspec

from llmspell_kernel.analysis.library import LIBRARY
from llmspell_kernel.analysis.scope import THIS_CELL, names_at
from llmspell_kernel.analysis.tokens import (
    WINDOW,
    Token,
    is_text_before,
    lex,
    line_start,
    line_starts,
    path_before,
    significant,
    window,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from llmspell_kernel.analysis.symbols import Symbol, SymbolTable

LONGEST_WORD = 256
"""Code points behind the cursor that are read to find the end of the word there."""

LONGEST_TEXT = 8_192
"""Code points of a value, comment or definition that are shown."""

_OPENS_BLOCK = frozenset(("function", "do", "if", "repeat"))
_CLOSES_BLOCK = frozenset(("end", "until"))
_IN_EXPRESSIONS = frozenset(("and", "or", "not", "nil", "true", "false"))


class Inspection(msgspec.Struct, frozen=True):
    """What there is to show, as plain text and as Markdown; both are empty when nothing was found."""

    found: bool
    text_plain: str = ""
    text_markdown: str = ""


def inspect_at(
    code: str, cursor: int, symbols: SymbolTable, sources: Mapping[str, str], *, detail_level: int = 0
) -> Inspection:
    """Describe the name at `cursor`, a local of `code` before a global.

    `sources` gives the text of each chunk name, for the comments and definitions of the functions in it. A
    `detail_level` of 1 adds the definition itself.
    """
    name = target_at(code, cursor)
    if name is None:
        return Inspection(found=False)
    names = names_at(code, cursor)
    path = re.split("[.:]", name.removeprefix("_G."))
    found = names.find(path, symbols)
    is_local = path[0] in names.locals
    if not found and ":" in name and any(owner.type == "string" for owner in names.find(path[:-1], symbols)):
        path = ["string", path[-1]]
        found = names.find(path, symbols)
        is_local = False
    library = None if is_local else LIBRARY.get(".".join(path))
    symbol = found[0] if found else None
    source = None
    if symbol is not None and symbol.source is not None:
        source = code if symbol.source == THIS_CELL else sources.get(symbol.source)
    return describe(name, symbol, library, source, detail_level=detail_level)


def target_at(code: str, cursor: int) -> str | None:
    """Return the name, such as `a.b` or `a:m`, at or just before `cursor`, else the one that is called there.

    What follows the word at the cursor in a dotted name is left out. A method of a string literal is named by
    its place in the library, as `string.upper`.
    """
    cursor = min(max(cursor, 0), len(code))
    word = re.compile(r"[A-Za-z0-9_]*+").match(code, cursor, cursor + LONGEST_WORD)
    end = word.end() if word else cursor
    tokens = list(lex(code[window(code, cursor) : end]))
    if not tokens or (tokens[-1].kind == "comment" and not tokens[-1].closed):
        return None
    meaningful = significant(tokens)
    is_near = tokens[-1].kind != "space" or len(line_starts(tokens[-1].text)) == 1
    if is_near and meaningful and meaningful[-1].kind == "name":
        return _name_before(meaningful, len(meaningful))
    return _callee(meaningful)


def describe(
    name: str,
    symbol: Symbol | None,
    library: tuple[str, str] | None,
    source: str | None = None,
    *,
    detail_level: int = 0,
) -> Inspection:
    """Describe `name` by its value, its library entry (signature, text) and the text of its chunk.

    A library entry is left out if the value shows that a script has replaced it.
    """
    if library and symbol and ((symbol.type == "function") != ("(" in library[0]) or symbol.source):
        library = None
    if library:
        heading, text = library
    elif symbol:
        heading, text = _heading(name, symbol), ""
    else:
        return Inspection(found=False)
    where = body = ""
    if symbol and symbol.source is not None:
        where = f"Defined in {symbol.source.lstrip('=@')}, line {symbol.line}"
        if source is not None:
            text = leading_comment(source, symbol.line)
            body = _definition(source, symbol.line, whole=detail_level > 0)
    elif symbol and symbol.type != "function":
        body = _clipped(symbol.value or "")
    sections = [(heading, _fenced(heading)), (text, text), (where, where), (body, _fenced(body))]
    shown = [section for section in sections if section[0]]
    return Inspection(True, "\n\n".join(plain for plain, _ in shown), "\n\n".join(rich for _, rich in shown))


def leading_comment(source: str, line: int) -> str:
    """Return the text of the comments directly above 1-based `line` of `source`, without their marks.

    A comment behind other code does not count, and an empty line ends the search.
    """
    offset = line_start(source, line) or 0
    tokens = list(lex(source[window(source, offset) : offset]))
    comments: list[str] = []
    while tokens and tokens[-1].closed and tokens[-1].kind in ("space", "comment"):
        token = tokens.pop()
        breaks = len(line_starts(token.text)) - 1
        if token.kind == "comment":
            before = "".join(earlier.text for earlier in tokens[-2:])
            if before and not before.rstrip(" \t").endswith(("\n", "\r")):
                break
            comments.append(_comment_text(token.text))
        elif breaks > 1:
            break
    return _clipped("\n".join(reversed(comments)).strip("\n"))


def _comment_text(comment: str) -> str:
    if re.match(r"--\[=*\[", comment):
        opener = comment.index("[", 3) + 1
        return "\n".join(line.strip() for line in comment[opener : 2 - opener].splitlines()).strip()
    return comment.lstrip("-").removeprefix(" ").rstrip()


def _name_before(tokens: Sequence[Token], end: int) -> str | None:
    """Return the dotted or colon name that ends with `tokens[end - 1]`."""
    if end >= 2 and tokens[end - 1].kind == "name" and tokens[end - 2].text == ":":
        if is_text_before(tokens, end - 2):
            return "string." + tokens[end - 1].text
        owner = path_before(tokens, end - 2)
        return f"{'.'.join(owner)}:{tokens[end - 1].text}" if owner else None
    path = path_before(tokens, end)
    return ".".join(path) if path else None


def _callee(tokens: Sequence[Token]) -> str | None:
    """Return the name before the innermost bracket that is open at the end; None inside a function's body."""
    brackets = blocks = 0
    for index in range(len(tokens) - 1, -1, -1):
        kind, text = tokens[index].kind, tokens[index].text
        if kind == "keyword" and text in _CLOSES_BLOCK:
            blocks += 1
        elif kind == "keyword" and blocks:
            blocks -= text in _OPENS_BLOCK
        elif kind == "keyword" and text not in _IN_EXPRESSIONS:
            return None
        elif blocks or kind != "operator":
            continue
        elif text in (")", "]", "}"):
            brackets += 1
        elif text in ("(", "[", "{") and brackets:
            brackets -= 1
        elif text in ("(", "{") and (name := _name_before(tokens, index)):
            return name
    return None


def _heading(name: str, symbol: Symbol) -> str:
    if symbol.type != "function":
        return f"{name}: {symbol.type or 'known only when the cell runs'}"
    params = symbol.params if symbol.params is not None else "..."
    if ":" in name:
        params = params.removeprefix("self").removeprefix(", ")
    return f"{name}({params})"


def _definition(source: str, line: int, *, whole: bool) -> str:
    """Return line `line` of `source`, or the whole of the first function that starts there."""
    offset = line_start(source, line)
    if offset is None:
        return ""
    text = source[offset : offset + WINDOW]
    first_line = re.split("[\r\n]", text, maxsplit=1)[0].strip()
    blocks = 0
    for token in lex(text) if whole else ():
        if token.kind == "keyword" and token.text in _OPENS_BLOCK and (blocks or token.text == "function"):
            blocks += 1
        elif token.kind == "keyword" and token.text in _CLOSES_BLOCK and blocks:
            blocks -= 1
            if not blocks:
                return _clipped(text[: token.end])
    return _clipped(first_line)


def _clipped(text: str) -> str:
    return text if len(text) <= LONGEST_TEXT else text[:LONGEST_TEXT] + " …"


def _fenced(code: str) -> str:
    longest = max((len(run) for run in re.findall("`+", code)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}lua\n{code}\n{fence}"
