"""The open blocks of a Lua text and the names in them, as a walk over its tokens finds them.

Every operation takes constant time, or the time of what it removes: none searches the stack of blocks,
so that no text, however deeply nested, costs more than its length.
"""

from __future__ import annotations

from typing import TypeAlias

from llmspell_kernel.analysis.symbols import UNKNOWN, Symbol, children_of
from llmspell_kernel.analysis.tokens import LONGEST_PATH

Slot: TypeAlias = tuple[dict[str, Symbol], str]
"""Where what is known of a value goes: the names or fields, and which of them."""


class Statement:
    """An assignment, loop header or `until` condition that is being read.

    `slots` take the values in turn; at its end the `unborn` names come into being, and with `closes_block`
    its block ends.
    """

    __slots__ = ("closes_block", "position", "slots", "unborn")

    def __init__(
        self, slots: list[Slot], unborn: dict[str, Symbol] | None = None, *, closes_block: bool = False
    ) -> None:
        self.slots = slots
        self.unborn = unborn or {}
        self.closes_block = closes_block
        self.position = -1

    def next_slot(self) -> Slot | None:
        """Return where the next value goes, if there is a name for it."""
        self.position += 1
        return self.slots[self.position] if self.position < len(self.slots) else None


class Block:
    """An open block: its locals, its open brackets (the fields of a table, or None) and its statement."""

    __slots__ = ("awaits_do", "brackets", "kind", "names", "statement")

    def __init__(self, kind: str, *, awaits_do: bool = False) -> None:
        self.kind = kind
        self.awaits_do = awaits_do
        self.names: dict[str, Symbol] = {}
        self.brackets: list[dict[str, Symbol] | None] = []
        self.statement: Statement | None = None


class Scopes:
    """The stack of open blocks, the locals that are visible in the innermost, and the globals met so far."""

    def __init__(self) -> None:
        self.blocks = [Block("chunk")]
        self.globals: dict[str, Symbol] = {}
        self._open = {"repeat": 0, "if": 0}
        self._visible: dict[str, list[dict[str, Symbol]]] = {}  # by name: the scopes that have it, innermost last

    @property
    def block(self) -> Block:
        """The innermost block."""
        return self.blocks[-1]

    def locals(self) -> dict[str, Symbol]:
        """Return the locals that are visible now."""
        return {name: scopes[-1][name] for name, scopes in self._visible.items() if scopes}

    def push(self, kind: str, *, awaits_do: bool = False) -> None:
        """Open a block."""
        self.blocks.append(Block(kind, awaits_do=awaits_do))
        self._open[kind] = self._open.get(kind, 0) + 1

    def pop(self) -> Block:
        """Close the innermost block; its names are seen no more."""
        block = self.blocks.pop()
        self._open[block.kind] -= 1
        for name in block.names:
            self._visible[name].pop()
        return block

    def pop_if(self) -> bool:
        """Close the innermost `if` and what was left open in it; answer whether there was one."""
        found = self._open["if"] > 0
        while found and self.pop().kind != "if":
            pass
        return found

    def pop_to_repeat(self) -> bool:
        """Close what was left open in the innermost `repeat`, not itself; answer whether there was one."""
        found = self._open["repeat"] > 0
        while found and self.block.kind != "repeat":
            self.pop()
        return found

    def pop_at_end(self) -> None:
        """Close the innermost block that `end` closes, and each `repeat` left open in it."""
        if len(self.blocks) - 1 > self._open["repeat"]:
            while self.pop().kind == "repeat":
                pass

    def end_statement(self) -> None:
        """End the innermost block's statement, if it has one."""
        statement, self.block.statement = self.block.statement, None
        if statement is not None:
            self.declare(statement.unborn)
            if statement.closes_block:
                self.pop()

    def declare(self, names: dict[str, Symbol]) -> None:
        """Make locals of the innermost block."""
        scope = self.block.names
        for name, symbol in names.items():
            if name not in scope:
                self._visible.setdefault(name, []).append(scope)
            scope[name] = symbol

    def slot_of(self, path: list[str]) -> Slot | None:
        """Return where the value of `path` goes, and make the path known; None for one that is too long."""
        scopes = self._visible.get(path[0])
        level = scopes[-1] if scopes else self.globals
        if path[0] == "_G" and not scopes:
            path = path[1:]
        if not path or len(path) > LONGEST_PATH:
            return None
        for part in path[:-1]:
            level = children_of(level, part)
        level.setdefault(path[-1], UNKNOWN)
        return level, path[-1]
