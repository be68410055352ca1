"""One script in this process, its output as it comes: `llmspell run` and `llmspell exec`.

**Threads.** Lua runs in a thread of its own, so that the main thread can take Ctrl-C and the time limit.
"""

import os
import signal
import sys
import threading
from types import FrameType

import msgspec

from llmspell_kernel.limits import KernelLimits
from llmspell_kernel.runtime.engine import Engine, Outcome, Status

STUCK_AFTER_S = 1.0
"""How long a script may stay in one call into C after an interrupt before the process is ended under it."""

INTERRUPTED_EXIT = 130


class LocalOutcome(msgspec.Struct, frozen=True):
    """How a script ended: the text of its result, None when it has none, and the lines of its traceback."""

    status: Status
    result: str | None
    traceback: list[str]


class _Terminal:
    """The process's own streams as a script's host."""

    def __init__(self, output_bytes: int) -> None:
        self._left = output_bytes or None
        self.is_reading = False
        """Whether the script waits for standard input, which no interrupt reaches."""
        self.fault: str | None = None
        """Why output was lost, None while none was."""
        self.engine: Engine

    def write(self, fd: int, data: bytes) -> None:
        """Write through: a person may be watching."""
        if self._left is not None:
            self._left -= len(data)
            if self._left < 0:
                self.engine.interrupter.arm(None, "output")
                return
        stream = sys.stdout if fd == 1 else sys.stderr
        try:
            stream.buffer.write(data)
            if stream.isatty() or fd == 2:
                stream.buffer.flush()
        except (OSError, ValueError, AttributeError) as error:
            self._lost(error)

    def flush(self) -> None:
        """Hand what is buffered to the operating system."""
        try:
            sys.stdout.flush()
        except (OSError, ValueError, AttributeError) as error:
            self._lost(error)

    def _lost(self, error: Exception) -> None:
        """Nobody takes the output: stop."""
        self.fault = self.fault or _why(error)
        self.engine.interrupter.arm(None, "unwritable")

    def read_line(self) -> tuple[bytes, bytes]:
        """A line of standard input."""
        self.flush()
        self.is_reading = True
        try:
            line = sys.stdin.buffer.readline()
        except (OSError, ValueError, AttributeError) as error:
            return b"error", f"io.read: standard input cannot be read: {_why(error)}".encode()
        finally:
            self.is_reading = False
        return (b"line", line.removesuffix(b"\n")) if line else (b"end", b"")

    def publish(self, kind: bytes, content: bytes, _display_id: bytes | None) -> None:
        """Show the text of a display; a terminal has no way to show the rest or to take it back."""
        if kind != b"clear_output":
            text = msgspec.json.decode(content).get("text/plain", "")
            self.write(1, f"{text}\n".encode())


def _why(error: Exception) -> str:
    # Where a descriptor was closed before the start, Python has no stream at all.
    return getattr(error, "strerror", None) or "it is closed"


def run_local(code: str, *, name: str, args: list[str], limits: KernelLimits) -> LocalOutcome:
    """Run `code`; `name` is what errors call it by, `args` are its `...` and `arg`.

    A first Ctrl-C interrupts the script. One that does not stop within a second, in a call that never returns to
    Lua, ends the process with exit code 130.
    """
    terminal = _Terminal(limits.output_bytes)
    outcomes: list[Outcome] = []
    # A command line may hold bytes that are not UTF-8; the script gets them as they were.
    chunk, script, *arguments = (os.fsencode(text) for text in (code, name, *args))
    terminal.engine = Engine(terminal, limits)
    terminal.engine.reseed(os.urandom(16))
    ended = threading.Event()

    def work() -> None:
        try:
            terminal.engine.set_arguments(script, tuple(arguments))
            outcomes.append(terminal.engine.execute(chunk, b"=" + script, 1, tuple(arguments)))
        finally:
            ended.set()

    pressed = threading.Event()

    def interrupt(_signal: int, _frame: FrameType | None) -> None:
        pressed.set()

    previous = signal.signal(signal.SIGINT, interrupt)
    try:
        threading.Thread(target=work, name="lua", daemon=True).start()
        _watch(terminal, limits.execution_timeout_s, pressed, ended)
    finally:
        signal.signal(signal.SIGINT, previous)
    terminal.flush()
    outcome = outcomes[0]
    traceback = list(outcome.error.traceback) if outcome.error else []
    if terminal.fault is not None:
        return LocalOutcome("error", None, [f"OutputError: output was lost: {terminal.fault}", *traceback[1:]])
    result = None if outcome.result is None else outcome.result.decode("utf-8", "replace")
    return LocalOutcome(outcome.status, result, traceback)


def _watch(terminal: _Terminal, timeout_s: float, pressed: threading.Event, ended: threading.Event) -> None:
    """Wait for the end; interrupt at Ctrl-C or at the time limit, and end the process when that does not help."""
    interrupter = terminal.engine.interrupter
    left, waited = timeout_s or None, 0.0
    step = 0.05
    while not ended.wait(step):
        waited += step
        reason = "interrupt" if pressed.is_set() else "timeout" if left is not None and waited >= left else None
        if reason is None:
            continue
        interrupter.arm(1, reason)
        for _ in range(int(STUCK_AFTER_S / 0.005)):
            if terminal.is_reading or ended.wait(0.005):
                break
            interrupter.press_again()
        if ended.is_set():
            return
        terminal.flush()
        where = "it waits for standard input" if terminal.is_reading else "it is in one call that never returns to Lua"
        os.write(2, f"{reason}: the script was ended with its process: {where}\n".encode())
        os._exit(INTERRUPTED_EXIT if reason == "interrupt" else 1)
