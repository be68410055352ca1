"""When to look at the script's globals: for a request while Lua is idle, and a moment after it became idle."""

from collections.abc import Callable
from typing import Final

from llmspell_kernel.jupyter.executions import Executions
from llmspell_kernel.jupyter.loop import Loop
from llmspell_kernel.runtime.worker import TakeSymbols, Worker
from llmspell_kernel.wire.jupyter import Message

AFTER_S: Final = 0.020
"""How long Lua must be idle before its globals are looked at unasked: cells in a row pay nothing for it."""


class Snapshots:
    """Answers requests from a fresh snapshot when Lua is idle, from the last one when it is not."""

    def __init__(self, loop: Loop, executions: Executions, worker: Worker, answer: Callable[[Message], None]) -> None:
        self._loop = loop
        self._executions = executions
        self._worker = worker
        self._answer = answer
        self._waiting: list[Message] = []
        self._asked = False
        self._before: list[bytes] = []
        self._is_fresh = False
        loop.timer("symbols", self._look)

    def answer(self, message: Message) -> None:
        """Answer now, or as soon as the snapshot is there that an idle Lua gives at once."""
        if self._executions.running is not None or self._is_fresh:
            self._answer(message)
            return
        self._waiting.append(message)
        self._look()

    def executing(self) -> None:
        """Something runs: what is known of the globals may be old."""
        self._is_fresh = False
        self._loop.clear("symbols")

    def idle(self, now: float) -> None:
        """Nothing runs any more."""
        self._loop.set("symbols", now + AFTER_S)

    def arrived(self) -> None:
        """The outbox was emptied: answer what waits if a snapshot was in it."""
        if not self._asked or self._executions.symbols is self._before:
            return
        self._asked = False
        self._is_fresh = self._executions.running is None
        waiting, self._waiting = self._waiting, []
        for message in waiting:
            self._answer(message)

    def _look(self, _now: float = 0.0) -> None:
        if not self._asked and not self._is_fresh and self._executions.running is None:
            self._asked = True
            self._before = self._executions.symbols
            self._worker.submit(TakeSymbols())
