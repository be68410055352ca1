"""The ladder that stops a running script: hook, again until it holds, and after a second the process's replacement."""

import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from llmspell_kernel.diagnostics import Diagnostics
from llmspell_kernel.jupyter.executions import Executions
from llmspell_kernel.jupyter.loop import Loop
from llmspell_kernel.runtime.interrupt import Interrupter

if TYPE_CHECKING:
    from llmspell_kernel.runtime.engine import Status

PRESS_S: Final = 0.001
"""How soon a script that moved to another coroutine is followed there."""

STUCK_AFTER_S: Final = 1.0
"""How long after an interrupt a script may still be in one call into C before its process is replaced."""


class Interrupts:
    """Interrupts and time limits of the running execution. Belongs to the I/O thread."""

    def __init__(
        self,
        loop: Loop,
        executions: Executions,
        interrupter: Interrupter,
        diagnostics: Diagnostics,
        *,
        timeout_s: float,
    ) -> None:
        self._loop = loop
        self._executions = executions
        self._interrupter = interrupter
        self._diagnostics = diagnostics
        self.timeout_s = timeout_s
        """How long one execution may run; 0 = as long as it likes. Holds from the next execution on."""
        self.on_stuck: Callable[[], None] = lambda: None
        """Called when an interrupted script does not stop: the last rung."""
        self.stuck_status: Status = "interrupted"
        """What the execution that was interrupted last came to."""
        loop.timer("press", self._press)
        loop.timer("stuck", self._stuck)
        loop.timer("deadline", self._overdue)

    def interrupt(self, reason: str) -> bool:
        """Interrupt the execution that runs now; False when none does."""
        running = self._executions.running
        if running is None or not self._interrupter.arm(running, reason):
            return False
        self.stuck_status = "timeout" if reason == "timeout" else "interrupted"
        now = time.monotonic()
        self._loop.set("press", now + PRESS_S)
        if reason == "shutdown":
            # The process ends anyhow, and must not be replaced by one that lives on.
            self._loop.clear("stuck")
        else:
            self._loop.set_if_unset("stuck", now + STUCK_AFTER_S)
        return True

    def running_changed(self, now: float) -> None:
        """Another execution runs, or none: what was set for the last one does not concern it."""
        self._loop.clear("press", "stuck")
        run = self._executions.run
        due = run.due if run else 0.0
        if self._executions.running is None or not (due or self.timeout_s):
            self._loop.clear("deadline")
        elif due and self.timeout_s:
            self._loop.set("deadline", min(due, now + self.timeout_s))
        else:
            self._loop.set("deadline", due or now + self.timeout_s)

    def _press(self, now: float) -> None:
        if self._interrupter.press_again():
            self._loop.set("press", now + PRESS_S)

    def _overdue(self, _now: float) -> None:
        self.interrupt("timeout")

    def _stuck(self, _now: float) -> None:
        if self._interrupter.pending:
            self._diagnostics.warn("execution_stuck", "an interrupted script did not stop within a second")
            self.on_stuck()
