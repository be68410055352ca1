"""The one adapter to lupa: a hardened Lua 5.4 state, its limits, and what a cell comes to.

Everything in here belongs to one thread, the Lua thread, except what `Interrupter` says otherwise.

**Memory.** lupa's allocator refuses growth beyond the limit, which Lua turns into an ordinary error; but Lua raises
that error by a long jump, and where Python has pushed the value that did not fit, the jump crosses Python's frames:
the process aborts or hangs. So the limit stands only while a script runs. It is lifted before Python pushes anything
and set again by the prelude's next call (`host.restore`), and callbacks that return nothing push nothing.
"""

from collections.abc import Callable
from os import path
from typing import Any, Final, Literal, Protocol

import msgspec
from lupa.lua54 import LuaError, LuaRuntime

from llmspell_kernel.limits import KernelLimits
from llmspell_kernel.runtime.interrupt import COUNT_EVENT, Hook, Interrupter

HEADROOM_BYTES: Final = 4 * 1024 * 1024
"""What showing a result or an error may take beyond a script's own limit."""

SMALL_BYTES: Final = 16 * 1024
SMALL_NEEDS_BYTES: Final = 1024 * 1024
"""What pushing and compiling a cell of `SMALL_BYTES` takes at the very most."""

FULL_BYTES: Final = 64 * 1024
"""With less than this left, garbage is collected before a cell begins."""

_PRELUDE: Final = ("text", "json", "sandbox", "coroutines", "streams", "display", "run", "symbols")
_LUA_DIRECTORY: Final = path.join(path.dirname(__file__), "lua")

Status = Literal["ok", "error", "interrupted", "timeout"]


class ScriptError(msgspec.Struct, frozen=True, gc=False):
    """Why a script failed: an error class, Lua's message, and one line of traceback each."""

    name: str
    message: str
    traceback: tuple[str, ...] = ()


class Outcome(msgspec.Struct, frozen=True, gc=False):
    """What an execution came to. `result` is the text of its values, tab-separated; None when it has none."""

    status: Status
    result: bytes | None = None
    error: ScriptError | None = None


class Host(Protocol):
    """What a script may ask of the process around it.

    Called on the Lua thread with the interpreter lock held: an implementation takes under 2 ms or releases the lock
    while it waits, and raises nothing.
    """

    def write(self, fd: int, data: bytes) -> None:
        """Take output of stdout (1) or stderr (2)."""

    def flush(self) -> None:
        """Show what was written so far."""

    def read_line(self) -> tuple[bytes, bytes]:
        """`(b"line", text)`, `(b"end", b"")`, or `(b"error", message)` where there is nobody to ask."""

    def publish(self, kind: bytes, content: bytes, display_id: bytes | None) -> None:
        """Take a display_data, update_display_data or clear_output; `content` is JSON."""


class Engine:
    """One Lua state with the prelude loaded."""

    def __init__(self, host: Host, limits: KernelLimits) -> None:
        self.limits = limits
        """What scripts may use; may be replaced at any time, and holds from the next execution on."""
        self._lua = LuaRuntime(
            encoding=None,
            register_eval=False,
            register_builtins=False,
            unpack_returned_tuples=True,
            attribute_filter=_deny_attributes,
            max_memory=0,
        )
        self._set_memory = self._lua.set_max_memory
        self._current_limit = 0
        self._floor = 0
        """What stands for the limit while the heap holds more than that allows; 0 = it does not."""
        self._prelude = self._load_prelude(host)
        self._memory_used = self._lua.get_memory_used
        self._run, self._run_small = self._prelude[b"run"], self._prelude[b"run_small"]
        self._interrupter = Interrupter(Hook(self._prelude[b"mailbox_addresses"]))

    @property
    def interrupter(self) -> Interrupter:
        """The door for other threads."""
        return self._interrupter

    @property
    def memory_used_bytes(self) -> int:
        """What the Lua heap holds now, garbage included."""
        return int(self._lua.get_memory_used(total=True))

    def reseed(self, seed: bytes) -> None:
        """Seed `math.random` with 16 fresh bytes; a state made before a fork would repeat its parent's numbers."""
        high, low = (int.from_bytes(seed[at : at + 8], "little", signed=True) for at in (0, 8))
        self._prelude[b"reseed"](high, low)

    def execute(self, code: bytes, chunk: bytes, number: int, arguments: tuple[bytes, ...] = ()) -> Outcome:
        """Run a cell or a script.

        `chunk` is its name as Lua takes it (`=In[1]`, `@script.lua`); `number` is what interrupts call it by.
        """
        self._interrupter.begin(number)
        try:
            if not arguments and self._is_small(code):
                self._limit()
                answer = self._run_small(code, chunk)
            else:
                self._collect_when_full()
                try:
                    answer = self._run(code, chunk, *arguments)
                finally:
                    self._floor = 0
        except LuaError as fault:
            # Out of memory or interrupted where no handler could run.
            answer = (b"error", _text_of(fault), b"")
        finally:
            self._lift()
            reason = self._interrupter.end()
        frames = b"" if reason is None else self._recover()
        if answer == b"ok":
            return _OK
        kind, *rest = answer
        if kind == b"ok":
            return Outcome("ok", rest[0])
        return _interruption(reason, frames) if reason is not None else _failure(kind, *rest)

    def evaluate(self, expression: bytes, number: int) -> tuple[bool, bytes]:
        """The value of one expression as a MIME bundle in JSON; or False and the message."""
        self._interrupter.begin(number)
        try:
            ok, value = self._prelude[b"evaluate"](expression)
        except LuaError as fault:
            ok, value = False, _text_of(fault)
        finally:
            self._lift()
            reason = self._interrupter.end()
        self.was_interrupted = reason is not None
        if reason is not None:
            error = _interruption(reason, self._recover()).error
            if not ok and error is not None:
                value = error.message.encode()
        return bool(ok), bytes(value)

    def _recover(self) -> bytes:
        """Take the hook out of every coroutine; returns where it found the script."""
        self._prelude[b"unhook"]()
        frames: bytes = self._prelude[b"take_interrupted_at"]()
        return frames

    def symbols(self) -> list[bytes]:
        """The script's globals and what is in them, as rows for `analysis.SymbolTable.from_rows`."""
        rows: bytes = self._prelude[b"snapshot"]()
        return rows.split(b"\x1e") if rows else []

    def set_arguments(self, script: bytes, arguments: tuple[bytes, ...]) -> None:
        """Give the script its `arg` table."""
        self._prelude[b"set_arguments"](script, *arguments)

    def forget_input(self) -> None:
        """Drop what `io.read` has buffered: it was another cell's input."""
        self._prelude[b"forget_input"]()

    # --- memory ------------------------------------------------------------------------------------------------

    def _is_small(self, code: bytes) -> bool:
        """Whether a cell is sure to be pushed and compiled within the limit, which then need not be lifted for it."""
        limit = self.limits.memory_bytes
        return not limit or (len(code) <= SMALL_BYTES and self._memory_used() + SMALL_NEEDS_BYTES < limit)

    def _collect_when_full(self) -> None:
        """Lua collects by itself when memory is out, except while it grows its stack, as it does at a cell's start."""
        limit = self.limits.memory_bytes
        if 0 < limit < self._memory_used() + FULL_BYTES:
            self._lua.gccollect()
            used = self._memory_used()
            if used > limit:
                # It was lowered since: a script may not grow, but must be able to run, to give something back.
                self._floor = used + SMALL_NEEDS_BYTES

    def _lift(self) -> None:
        self._current_limit = 0
        self._set_memory(0)

    def _limit(self) -> None:
        self._current_limit = self._floor or self.limits.memory_bytes
        self._set_memory(self._current_limit)

    def _headroom(self) -> None:
        if self.limits.memory_bytes:
            self._current_limit = (self._floor or self.limits.memory_bytes) + HEADROOM_BYTES
            self._set_memory(self._current_limit)

    def _restore(self) -> None:
        self._set_memory(self._current_limit)

    # --- the prelude -------------------------------------------------------------------------------------------

    def _load_prelude(self, host: Host) -> "_Table":
        def lifting(answer: Callable[..., tuple[object, ...]]) -> Callable[..., tuple[object, ...]]:
            def callback(*arguments: bytes) -> tuple[object, ...]:
                result = answer(*arguments)
                self._set_memory(0)
                return result

            return callback

        callbacks = {
            b"write": host.write,
            b"flush": host.flush,
            b"publish": host.publish,
            b"read_line": lifting(host.read_line),
            b"find_module": lifting(self._find_module),
            b"interrupted": lambda: self._interrupter.pending,
            b"limit": self._limit,
            b"headroom": self._headroom,
            b"restore": self._restore,
        }
        # Lua gets functions one by one and builds the table itself: no proxy of a Python container exists.
        collect = self._lua.execute(b"local t = {} return t, function(name, f) t[name] = f end")
        table, put = collect
        for name, callback in callbacks.items():
            put(name, callback)
        prelude: _Table = self._lua.compile(_source("boot"), name=b"=?", mode=b"t")(table)
        for part in _PRELUDE:
            prelude[b"part"](_source(part))(prelude)
        return prelude

    def _find_module(self, name: bytes) -> tuple[object, ...]:
        from llmspell_kernel.runtime.modules import find_module

        return find_module(name, self.limits.module_paths)


_OK: Final = Outcome("ok")


def _source(part: str) -> bytes:
    with open(path.join(_LUA_DIRECTORY, f"{part}.lua"), "rb") as file:
        return file.read()


class _Table(Protocol):
    """A Lua table as lupa shows it; only the trusted prelude's own are ever seen from here."""

    def __getitem__(self, name: bytes) -> Any: ...


def _deny_attributes(_object: object, _name: object, _is_setting: bool) -> object:
    raise AttributeError("attribute access is not available")


def _text_of(fault: LuaError) -> bytes:
    """Lua's own bytes: without an encoding lupa reads them as Latin-1. What it says of memory it leaves out."""
    return b"not enough memory" if isinstance(fault, MemoryError) else str(fault).encode("latin-1", "replace")


def _lines(frames: bytes) -> tuple[str, ...]:
    return tuple(frames.decode("utf-8", "replace").splitlines())


def _failure(kind: bytes, message: bytes, frames: bytes = b"") -> Outcome:
    text = message.decode("utf-8", "replace")
    lines = _lines(frames)
    name = "SyntaxError" if kind == b"syntax" else "LuaError"
    if text.endswith("not enough memory"):
        name = "MemoryError"
        text += ": the script reached its limit; set large variables to nil, or raise memory_bytes"
    return Outcome("error", None, ScriptError(name, text, _traceback(f"{name}: {text}", lines)))


def _traceback(headline: str, frames: tuple[str, ...]) -> tuple[str, ...]:
    return (headline, "stack traceback:", *(f"  {frame}" for frame in frames)) if frames else (headline,)


_REASONS: Final[dict[str, tuple[Status, str, str]]] = {
    "interrupt": ("interrupted", "Interrupted", "interrupted"),
    "timeout": ("timeout", "ExecutionTimeout", "stopped: the execution time limit was reached"),
    "output": ("error", "OutputLimit", "stopped: the output limit of one execution was reached"),
    "unwritable": ("error", "OutputError", "stopped: the output could not be written"),
    "shutdown": ("interrupted", "Interrupted", "interrupted: the kernel is shutting down"),
}


def _interruption(reason: str, frames: bytes) -> Outcome:
    status, name, text = _REASONS[reason]
    lines = _lines(frames)
    places = (line.partition(": in ")[0] for line in lines if not line.startswith(("[C]", "…")))
    place = next(places, None)
    message = f"{text} at {place}" if place else text
    return Outcome(status, None, ScriptError(name, message, _traceback(f"{name}: {message}", lines)))


assert COUNT_EVENT == b"\x03", "the prelude's is_interrupt looks for this byte"
