"""Lua engines for tests: in this process, stopped from another thread, or in a process that may die."""

import json
import subprocess
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from lupa.lua54 import LuaRuntime

from llmspell_kernel.limits import MIB, KernelLimits
from llmspell_kernel.runtime.engine import Engine, Outcome, ScriptError

DEADLINE_S = 30.0
"""How long anything may take on a machine that does other things too."""

INSIDE = b"inside\n"

TRAPS = """
function spin() print("inside") while true do end end
function reentering() print("inside") while true do pcall(function() while true do end end) end end
function closing(f) return setmetatable({}, {__close = f}) end
"""
"""What the interrupt tests run into: each says that it is inside before it stays there."""


@dataclass(slots=True)
class RecordingHost:
    """A host that keeps what a script writes and answers what it reads."""

    written: list[tuple[int, bytes]] = field(default_factory=list)
    published: list[tuple[bytes, bytes, bytes | None]] = field(default_factory=list)
    lines: deque[bytes] = field(default_factory=deque)
    flushed: int = 0
    inside: threading.Event = field(default_factory=threading.Event)
    """Set when a script prints "inside"."""
    on_write: Callable[[], None] = lambda: None

    def write(self, fd: int, data: bytes) -> None:
        if data == INSIDE:
            self.inside.set()
        elif len(self.written) < 100_000:
            self.written.append((fd, data))
        self.on_write()

    def flush(self) -> None:
        self.flushed += 1

    def read_line(self) -> tuple[bytes, bytes]:
        return (b"line", self.lines.popleft()) if self.lines else (b"end", b"")

    def publish(self, kind: bytes, content: bytes, display_id: bytes | None) -> None:
        self.published.append((kind, content, display_id))

    def text(self, fd: int = 1) -> str:
        return b"".join(data for where, data in self.written if where == fd).decode()

    def bundles(self) -> list[Any]:
        return [json.loads(content) for _, content, _ in self.published]


class Lua:
    """An engine and its host, spoken to in text."""

    def __init__(self, host: RecordingHost | None = None, **limits: Any) -> None:
        self.host = host or RecordingHost()
        self.engine = Engine(self.host, KernelLimits(**{"memory_bytes": 128 * MIB, **limits}))
        self.engine.reseed(bytes(range(16)))
        self.number = 0

    def run(self, code: str | bytes, *, chunk: str = "=In[1]", arguments: tuple[bytes, ...] = ()) -> Outcome:
        self.number += 1
        source = code.encode() if isinstance(code, str) else code
        return self.engine.execute(source, chunk.encode(), self.number, arguments)

    def result(self, code: str | bytes) -> str | None:
        """The text of the values, and no error."""
        outcome = self.run(code)
        assert outcome.error is None, outcome.error
        return None if outcome.result is None else outcome.result.decode()

    def error(self, code: str | bytes) -> ScriptError:
        """The error, and no values."""
        outcome = self.run(code)
        assert outcome.error is not None, outcome.result
        return outcome.error

    def output(self, code: str | bytes) -> str:
        """What the code writes to stdout."""
        self.host.written.clear()
        self.result(code)
        return self.host.text()

    def trusted(self, source: str, *arguments: object) -> Any:
        """Run Lua as a part of the prelude is run: the prelude's table and the arguments are its `...`."""
        prelude: Any = self.engine._prelude
        return prelude[b"part"](source.encode())(prelude, *arguments)

    def stop(self, code: str, *, reason: str = "interrupt") -> "Stopped":
        """Run code, interrupt it once it has printed "inside", press on as the server does, and wait for its end."""
        self.host.inside.clear()
        self.number += 1
        number, outcomes = self.number, list[Outcome]()
        thread = threading.Thread(
            target=lambda: outcomes.append(self.engine.execute(code.encode(), b"=In[1]", number)), daemon=True
        )
        thread.start()
        assert self.host.inside.wait(DEADLINE_S), "the script did not get inside"
        begun = time.monotonic()
        assert self.engine.interrupter.arm(number, reason)
        while thread.is_alive():
            assert time.monotonic() < begun + DEADLINE_S, "the script does not stop"
            thread.join(0.001)
            self.engine.interrupter.press_again()
        return Stopped(outcomes[0], time.monotonic() - begun)


@dataclass(frozen=True, slots=True)
class Stopped:
    """What an interrupted execution came to, and how long after the interrupt."""

    outcome: Outcome
    after_s: float


def cases(text: str) -> list[Any]:
    r"""A table of Lua snippets: `## case`, the code, and `=> what is expected` with `\t` for a tab."""
    table = []
    for block in text.split("\n## ")[1:]:
        name, _, rest = block.partition("\n")
        code, _, expected = f"\n{rest}".rpartition("\n=>") if "=>" in rest else (rest, "", "")
        table.append(pytest.param(code.strip(), expected.strip().replace(r"\t", "\t"), id=name))
    return table


def plain_lua() -> Callable[[str], tuple[Any, ...]]:
    """A Lua 5.4 as it comes: a function from code to `(True, text of each value…)` or `(False, message)`."""
    lua = LuaRuntime(encoding=None, register_eval=False, register_builtins=False)
    run: Callable[[bytes], tuple[Any, ...]] = lua.execute(
        b"""
        return function(code)
            local chunk, fault = load("return nil, " .. code, "=In[1]", "t")
            local skip = chunk and 1 or 0
            if not chunk then chunk, fault = load(code, "=In[1]", "t") end
            if not chunk then return false, fault end
            local out = table.pack(pcall(chunk))
            if not out[1] then return false, tostring(out[2]) end
            for i = 2, out.n do out[i] = tostring(out[i]) end
            return true, table.unpack(out, 2 + skip, out.n)
        end
        """
    )

    def plain(code: str) -> tuple[Any, ...]:
        answer: Any = run(code.encode())
        ok, *values = answer if isinstance(answer, tuple) else (answer,)
        return ok, *(value.decode("utf-8", "replace") for value in values)

    return plain


@dataclass(frozen=True, slots=True)
class Ended:
    """A process that ran cells: how it ended, and what each cell came to."""

    returncode: int
    stderr: str
    outcomes: list[dict[str, Any]]


def in_a_process(cells: list[str], *, deadline_s: float = DEADLINE_S, **options: Any) -> Ended:
    """Run cells one after another in a process of their own. It is killed at the deadline, which is a failure.

    Each outcome is `{"status", "result", "error", "message", "heap"}`.
    """
    done = subprocess.run(
        [sys.executable, "-m", "support.lua_process"],
        cwd=Path(__file__).parents[1],
        input=json.dumps({"cells": cells, **options}),
        capture_output=True,
        text=True,
        timeout=deadline_s,
        check=False,
    )
    return Ended(done.returncode, done.stderr, [json.loads(line) for line in done.stdout.splitlines()])
