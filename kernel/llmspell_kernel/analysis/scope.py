"""Which names a cell's text gives: the locals that are visible at an offset, and the globals that it assigns.

One pass over the tokens, without recursion. It follows Lua's rules where the text is finished Lua and
guesses where it is not: a keyword that can only start a statement ends whatever was left open before it.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

import msgspec

from llmspell_kernel.analysis.blocks import Scopes, Slot, Statement
from llmspell_kernel.analysis.symbols import UNKNOWN, Symbol, SymbolTable, lookup
from llmspell_kernel.analysis.tokens import Token, ends_operand, lex, line_starts, significant, window

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

THIS_CELL = "this cell"
"""The `source` of functions in text that has no chunk name yet, because it has not run."""

DEEPEST_LITERAL = 8
"""Nested table constructors whose fields are recorded."""

_IN_EXPRESSIONS = frozenset(("and", "or", "not", "nil", "true", "false", "in"))
_AFTER_A_LITERAL = frozenset((",", ";", "}", ")", "]", "::"))


class Names(msgspec.Struct, frozen=True):
    """What a text makes known. Types, parameters and fields come from its literals; all else is unknown."""

    locals: dict[str, Symbol]
    globals: dict[str, Symbol]

    def find(self, path: Sequence[str], symbols: SymbolTable) -> list[Symbol]:
        """Return what is known of `path`, best first: a local, or globals of `symbols` and the text."""
        if path[0] in self.locals:
            found = [lookup(self.locals, path)]
        else:
            found = [symbols.find(path), SymbolTable(self.globals).find(path)]
        return [symbol for symbol in found if symbol is not None]


def names_at(code: str, offset: int, source: str = THIS_CELL) -> Names:
    """Return the locals that an expression at `offset` can name and the globals assigned before it.

    A word that ends at `offset` counts as that expression's, not as part of what comes before.
    """
    offset = min(max(offset, 0), len(code))
    start = window(code, offset)
    tokens = list(lex(code[start:offset]))
    if tokens and tokens[-1].kind in ("name", "keyword"):
        tokens.pop()
    return names_after(code, start, tokens, source)


def assigned_globals(code: str, source: str = THIS_CELL) -> dict[str, Symbol]:
    """Return the globals that `code` assigns: what a symbol snapshot lacks while this code runs."""
    start = window(code, len(code))
    return names_after(code, start, lex(code[start:]), source).globals


def names_after(code: str, start: int, tokens: Iterable[Token], source: str = THIS_CELL) -> Names:
    """Return what `tokens`, lexed from `code[start:]`, make known to an expression that follows them.

    `source` is the chunk name given to the functions that are defined there.
    """
    return _Walk(code, start, significant(tokens), source).run()


class _Walk:
    """One pass over a text's tokens; `index` is that of the token behind the one at hand."""

    def __init__(self, code: str, start: int, tokens: list[Token], source: str) -> None:
        self.code = code
        self.start = start
        self.tokens = tokens
        self.source = source
        self.lines: list[int] = []
        self.lines_before = 0
        self.index = 0
        self.scopes = Scopes()
        self.slot: Slot | None = None
        self.after_operand = False
        self.after_statement = True

    def run(self) -> Names:
        while self.index < len(self.tokens):
            token = self.tokens[self.index]
            starts = self.starts_statement(token)
            if starts:
                self.scopes.block.brackets.clear()
                self.scopes.end_statement()
            self.index += 1
            slot, self.slot = self.slot, None
            self.after_operand = ends_operand(token)
            self.after_statement = False
            if token.kind == "keyword":
                _KEYWORDS.get(token.text, _Walk.literal)(self, token, slot)
            elif token.kind == "operator":
                self.operator(token, slot)
            elif token.kind == "name" and starts:
                self.assignment()
            else:
                self.literal(token, slot)
        if self.after_operand:
            self.scopes.end_statement()
        return Names(self.scopes.locals(), self.scopes.globals)

    def starts_statement(self, token: Token) -> bool:
        if token.kind == "keyword" and token.text not in _IN_EXPRESSIONS:
            return token.text != "function" or self.peek_kind(1) == "name"
        if self.scopes.block.brackets:
            return False
        if token.kind == "name":
            return self.after_operand or self.after_statement
        return token.text in (";", "::")

    def peek(self, ahead: int = 0) -> str:
        index = self.index + ahead
        return self.tokens[index].text if index < len(self.tokens) else ""

    def peek_kind(self, ahead: int = 0) -> str:
        index = self.index + ahead
        return self.tokens[index].kind if index < len(self.tokens) else ""

    # Names

    def path(self, separators: tuple[str, ...]) -> list[str]:
        path = [self.peek()]
        self.index += 1
        while self.peek() in separators and self.peek_kind(1) == "name":
            path.append(self.peek(1))
            self.index += 2
        return path

    def declared_names(self) -> dict[str, Symbol]:
        """Read names with their attributes, as `a, b <const>`."""
        names: dict[str, Symbol] = {}
        while self.peek_kind() == "name":
            names[self.peek()] = UNKNOWN
            self.index += 1
            if self.peek() == "<":
                self.index += 2
                self.index += self.peek() == ">"
            if self.peek() != ",":
                break
            self.index += 1
        return names

    def parameters(self) -> list[str]:
        names: list[str] = []
        if self.peek() != "(":
            return names
        self.index += 1
        while self.peek_kind() == "name" or self.peek() in (",", "..."):
            if self.peek() != ",":
                names.append(self.peek())
            self.index += 1
        self.index += self.peek() == ")"
        return names

    # Statements

    def assignment(self) -> None:
        """Read `a, b.c =`, whose first name is at hand; what is no assignment has no effect."""
        self.index -= 1
        paths: list[list[str]] = []
        while self.peek_kind() == "name":
            paths.append(self.path((".",)))
            if self.peek() != ",":
                break
            self.index += 1
        if self.peek() == "=":
            slots = [slot for path in paths if (slot := self.scopes.slot_of(path))]
            self.expect_values(Statement(slots))

    def expect_values(self, statement: Statement) -> None:
        self.index += 1
        self.after_operand = False
        self.scopes.block.statement = statement
        self.slot = statement.next_slot()

    def local(self, _token: Token, _slot: Slot | None) -> None:
        if self.peek() == "function":
            self.index += 1
            self.function(self.tokens[self.index - 1], None, is_local=True)
            return
        names = self.declared_names()
        if self.peek() == "=":
            self.expect_values(Statement([(names, name) for name in names], names))
        else:
            self.scopes.declare(names)
            self.after_statement = True

    def function(self, token: Token, slot: Slot | None, *, is_local: bool = False) -> None:
        path = self.path((".", ":")) if self.peek_kind() == "name" else []
        is_method = len(path) > 1 and self.tokens[self.index - 2].text == ":"
        params = ["self"] * is_method + self.parameters()
        symbol = Symbol("function", None, ", ".join(params), self.source, self.line_of(token))
        if path and is_local:
            self.scopes.declare({path[0]: symbol})
        elif path:
            slot = self.scopes.slot_of(path)
        if slot:
            slot[0][slot[1]] = symbol
        self.block(token, None)
        self.scopes.declare({name: UNKNOWN for name in params if name != "..."})
        if is_method and slot:
            self.scopes.declare({"self": Symbol("table", children=slot[0])})

    def line_of(self, token: Token) -> int:
        if not self.lines:
            self.lines = line_starts(self.code[self.start : self.start + self.tokens[-1].end])
            self.lines_before = self.code.count("\n", 0, self.start)
        return self.lines_before + bisect_right(self.lines, token.start)

    def block(self, token: Token, _slot: Slot | None) -> None:
        self.scopes.push(token.text)
        self.after_statement = token.text != "if"

    def for_loop(self, _token: Token, _slot: Slot | None) -> None:
        names = self.declared_names()
        if self.peek() == "=":
            names = dict.fromkeys(names, Symbol("number"))
        self.scopes.push("for", awaits_do=True)
        self.scopes.block.statement = Statement([], names)

    def while_loop(self, _token: Token, _slot: Slot | None) -> None:
        self.scopes.push("while", awaits_do=True)

    def do(self, _token: Token, _slot: Slot | None) -> None:
        if self.scopes.block.awaits_do:
            self.scopes.block.awaits_do = False
        else:
            self.scopes.push("do")
        self.after_statement = True

    def otherwise(self, token: Token, _slot: Slot | None) -> None:
        if self.scopes.pop_if():
            self.scopes.push("if")
        self.after_statement = token.text == "else"

    def until(self, _token: Token, _slot: Slot | None) -> None:
        # The condition can name the block's locals, so that the block ends where the condition does.
        if self.scopes.pop_to_repeat():
            self.scopes.block.statement = Statement([], closes_block=True)

    def end(self, _token: Token, _slot: Slot | None) -> None:
        self.scopes.pop_at_end()

    def goto(self, _token: Token, _slot: Slot | None) -> None:
        self.index += self.peek_kind() == "name"
        self.after_statement = True

    def boundary(self, _token: Token, _slot: Slot | None) -> None:
        self.after_statement = True

    # Expressions

    def operator(self, token: Token, slot: Slot | None) -> None:
        block = self.scopes.block
        if token.text == "{":
            fields = self.constructor(slot)
            block.brackets.append(fields)
            self.field(fields)
        elif token.text in ("(", "["):
            block.brackets.append(None)
        elif token.text in (")", "]", "}"):
            del block.brackets[-1:]
        elif token.text in (",", ";", "::"):
            if block.brackets:
                self.field(block.brackets[-1])
            elif token.text != ",":
                self.after_statement = True
            elif block.statement:
                self.slot = block.statement.next_slot()

    def constructor(self, slot: Slot | None) -> dict[str, Symbol] | None:
        if slot is None or len(self.scopes.block.brackets) >= DEEPEST_LITERAL:
            return None
        fields: dict[str, Symbol] = {}
        slot[0][slot[1]] = Symbol("table", children=fields)
        return fields

    def field(self, fields: dict[str, Symbol] | None) -> None:
        if fields is not None and self.peek_kind() == "name" and self.peek(1) == "=":
            self.slot = fields, self.peek()
            fields.setdefault(self.peek(), UNKNOWN)
            self.index += 2

    def literal(self, token: Token, slot: Slot | None) -> None:
        """Record the type of a value that is one literal, or a concatenation that starts with one."""
        if slot is None:
            return
        kind = "boolean" if token.text in ("true", "false") else token.kind
        follows = self.peek_kind() == "operator" and self.peek() not in _AFTER_A_LITERAL
        if self.peek() == ".." and kind in ("number", "string"):
            slot[0][slot[1]] = Symbol("string")
        elif kind in ("boolean", "number", "string") and not follows and self.peek() not in ("and", "or"):
            slot[0][slot[1]] = Symbol(kind)


_KEYWORDS: dict[str, Callable[[_Walk, Token, Slot | None], None]] = {
    "local": _Walk.local,
    "function": _Walk.function,
    "for": _Walk.for_loop,
    "while": _Walk.while_loop,
    "do": _Walk.do,
    "if": _Walk.block,
    "then": _Walk.boundary,
    "else": _Walk.otherwise,
    "elseif": _Walk.otherwise,
    "repeat": _Walk.block,
    "until": _Walk.until,
    "end": _Walk.end,
    "goto": _Walk.goto,
    "break": _Walk.boundary,
}
