"""What can be written at the cursor."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from llmspell_kernel.analysis.library import KEYWORDS
from llmspell_kernel.analysis.scope import Names, names_after
from llmspell_kernel.analysis.symbols import Symbol, SymbolTable, standard_symbols
from llmspell_kernel.analysis.tokens import Token, is_text_before, lex, path_before, significant, window

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

MAX_MATCHES = 1_000
"""Matches in one answer: more than a person reads, less than slows a front end down."""


class MatchType(msgspec.Struct, frozen=True):
    """One entry of `_jupyter_types_experimental`; `type` is Lua's type name, `keyword` or `variable`."""

    text: str
    type: str
    start: int
    end: int


class Completion(msgspec.Struct, frozen=True):
    """Replacements for `code[cursor_start:cursor_end]` (code points): locals, globals, keywords in turn."""

    matches: list[str]
    cursor_start: int
    cursor_end: int
    types: list[MatchType]


def complete(code: str, cursor: int, symbols: SymbolTable) -> Completion:
    """Complete the word that ends at `cursor`, which is clipped to the text.

    Nothing is offered in strings, comments and numbers, or right after a closing bracket or quote.
    """
    cursor = min(max(cursor, 0), len(code))
    start = window(code, cursor)
    tokens = list(lex(code[start:cursor]))
    word = ""
    if tokens and tokens[-1].kind in ("name", "keyword"):
        word = tokens.pop().text
    found: dict[str, str] = {}
    if word or not tokens or _may_precede_a_word(tokens[-1]):
        before = significant(tokens)
        found = _candidates(before, names_after(code, start, before), symbols, word)
    matches = list(found)[:MAX_MATCHES]
    begin = cursor - len(word)
    types = [MatchType(text, found[text], begin, cursor) for text in matches]
    return Completion(matches, begin, cursor, types)


def _may_precede_a_word(token: Token) -> bool:
    if token.kind == "operator":
        return token.text not in (")", "]", "}", "...")
    return token.kind in ("space", "comment") and token.closed


def _candidates(before: list[Token], names: Names, symbols: SymbolTable, word: str) -> dict[str, str]:
    """Return name to type in the answer's order; `before` are the significant tokens before the word."""
    last = before[-1].text if before else ""
    if last in (".", ":"):
        return _matching(_members(before, names, symbols), word)
    if last in ("goto", "for"):
        return {}
    keywords = dict.fromkeys(["function"] if last == "local" else KEYWORDS, "keyword")
    found = {name: kind for name, kind in sorted(keywords.items()) if name.startswith(word)}
    if last == "local":
        return found
    return {
        **_matching(names.locals, word),
        **_matching({**names.globals, **symbols.names}, word),
        **found,
    }


def _members(before: Sequence[Token], names: Names, symbols: SymbolTable) -> dict[str, Symbol]:
    """Return the fields, or after a colon the methods, of the expression that the last token follows."""
    end = len(before) - 1
    path = path_before(before, end)
    owners = names.find(path, symbols) if path else []
    fields: dict[str, Symbol] = {}
    for owner in reversed(owners):
        fields.update(owner.children or {})
    if before[end].text == ".":
        return fields
    if is_text_before(before, end) or any(owner.type == "string" for owner in owners):
        library = symbols.find(("string",)) or standard_symbols().find(("string",))
        fields.update((library.children if library else None) or {})
    return {name: field for name, field in fields.items() if field.type in ("function", "")}


def _matching(names: Mapping[str, Symbol], word: str) -> dict[str, str]:
    """Return the names that can be written as such and start with `word`, in order, with their types."""
    return {
        name: names[name].type or "variable"
        for name in sorted(name for name in names if name.startswith(word))
        if name.isidentifier() and name.isascii() and name not in KEYWORDS
    }
