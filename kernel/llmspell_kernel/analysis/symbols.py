"""The names that a kernel's scripts have made, as a plain record that outlives the moment it was taken.

Completion and inspection read this record while Lua runs something else; nothing here asks Lua.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from llmspell_kernel.analysis.library import LIBRARY

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

MAX_DEPTH = 16
"""Components that a path may have; a deeper row is dropped, so that no record is nested without bound."""


class Symbol(msgspec.Struct, frozen=True):
    """One name: what is known of its value without asking Lua.

    `type` is Lua's type name, or empty when only a run can tell. `value` is a bounded readable form.
    `params` is a function's parameter list as text, `self` included. `source` is the chunk name of the user's
    code that defines the function and `line` its 1-based line there; the library's functions have none.
    `children` are a table's fields.
    """

    type: str
    value: str | None = None
    params: str | None = None
    source: str | None = None
    line: int = 0
    children: dict[str, Symbol] | None = None


UNKNOWN = Symbol("")
"""A name whose value only a run can tell."""


class SymbolTable(msgspec.Struct, frozen=True):
    """The globals of a kernel, and what is in them."""

    names: dict[str, Symbol] = {}

    @classmethod
    def from_rows(cls, rows: Iterable[bytes]) -> SymbolTable:
        r"""Build the table from rows `path\0type\0value\0params\0chunk\0line`.

        The components of `path` are joined by `\x1f`. An empty field means that there is none. `value` may
        contain zero bytes. Text that is not UTF-8 gets replacement characters. Malformed rows are skipped;
        rows may come in any order, and the last one of a path counts.
        """
        names: dict[str, Symbol] = {}
        for row in rows:
            _add_row(names, row)
        return cls(names)

    def find(self, path: Sequence[str]) -> Symbol | None:
        """Find the symbol at `path`, such as `("string", "format")`; a leading `_G` is the globals."""
        parts = path[1:] if path and path[0] == "_G" else path
        return lookup(self.names, parts) if parts else Symbol("table", children=self.names)

    def merged(self, other: Mapping[str, Symbol]) -> SymbolTable:
        """Return this table supplemented by `other`: where both know a name, this one's value counts."""
        return SymbolTable(_merged(self.names, other, MAX_DEPTH))


def lookup(names: Mapping[str, Symbol], path: Sequence[str]) -> Symbol | None:
    """Walk `path` down from `names`; None where it leads nowhere."""
    symbol = None
    level: Mapping[str, Symbol] | None = names
    for part in path:
        symbol = level.get(part) if level is not None else None
        if symbol is None:
            return None
        level = symbol.children
    return symbol


def standard_symbols() -> SymbolTable:
    """Return the table of a kernel in which nothing has run yet, made from the library's descriptions."""
    names: dict[str, Symbol] = {}
    for name, (signature, _) in LIBRARY.items():
        kind, params = _signature_parts(signature)
        _place(names, name.split("."), Symbol(kind, params=params))
    return SymbolTable(names)


def _signature_parts(signature: str) -> tuple[str, str | None]:
    head, bracket, rest = signature.partition("(")
    if bracket:
        return "function", rest.partition(")")[0]
    kind = head.partition(": ")[2]
    return {"integer": "number", "stream": "table"}.get(kind, kind), None


def _add_row(names: dict[str, Symbol], row: bytes) -> None:
    try:
        path_text, kind, rest = row.split(b"\0", 2)
        value, params, chunk, line_text = rest.rsplit(b"\0", 3)
        line = int(line_text or 0)
    except ValueError:
        return
    path = path_text.decode("utf-8", "replace").split("\x1f")
    if not kind or not all(path) or len(path) > MAX_DEPTH:
        return
    symbol = Symbol(_text(kind) or "", _text(value), _text(params), _text(chunk), max(line, 0))
    _place(names, path, symbol)


def _text(field: bytes) -> str | None:
    return field.decode("utf-8", "replace") if field else None


def _place(names: dict[str, Symbol], path: Sequence[str], symbol: Symbol) -> None:
    """Put `symbol` at `path`, making the tables above it and keeping the fields that are already there."""
    level = names
    for part in path[:-1]:
        level = children_of(level, part)
    known = level.get(path[-1])
    children = known.children if known is not None else None
    if children is None and symbol.type == "table":
        children = {}
    level[path[-1]] = msgspec.structs.replace(symbol, children=children)


def children_of(level: dict[str, Symbol], name: str) -> dict[str, Symbol]:
    """Return the fields of `name` in `level`, which becomes a table there if it was not known to be one."""
    symbol = level.get(name, UNKNOWN)
    if symbol.children is None:
        children: dict[str, Symbol] = {}
        level[name] = msgspec.structs.replace(symbol, type=symbol.type or "table", children=children)
        return children
    return symbol.children


def _merged(first: Mapping[str, Symbol], second: Mapping[str, Symbol], depth: int) -> dict[str, Symbol]:
    merged = {**second, **first}
    for name in first.keys() & second.keys():
        mine, theirs = first[name], second[name]
        if not mine.type:
            mine = msgspec.structs.replace(theirs, children=mine.children)
        if mine.children is not None and theirs.children is not None and depth:
            mine = msgspec.structs.replace(mine, children=_merged(mine.children, theirs.children, depth - 1))
        elif mine.children is None:
            mine = msgspec.structs.replace(mine, children=theirs.children)
        merged[name] = mine
    return merged
