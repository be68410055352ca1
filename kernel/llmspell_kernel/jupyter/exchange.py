"""What goes to the Lua thread and what comes back, and when each is looked at."""

import time
from collections.abc import Callable
from typing import Final

from llmspell_kernel.jupyter.executions import Executions
from llmspell_kernel.jupyter.iopub import IOPub
from llmspell_kernel.jupyter.loop import Loop
from llmspell_kernel.jupyter.replies import Replies
from llmspell_kernel.jupyter.snapshots import Snapshots
from llmspell_kernel.runtime.outbox import Outbox
from llmspell_kernel.runtime.wakeup import Wakeup

FLUSH_S: Final = 0.010
"""How long text waits for more of its kind before it is published."""

TAKE_AT_ONCE: Final = 128
"""Items taken from the outbox before the sockets get their turn."""

PEEK_S: Final = 0.001
PEEK_SLOWLY_S: Final = 0.050
PEEKS: Final = 20
"""The Lua thread posts the ends of short cells in a row without waking this one: it looks by itself, soon at first."""


class Exchange:
    """Hands executions over and delivers what they came to. Belongs to the I/O thread."""

    def __init__(
        self,
        loop: Loop,
        executions: Executions,
        snapshots: Snapshots,
        iopub: IOPub,
        replies: Replies,
        outbox: Outbox,
        wakeup: Wakeup,
        *,
        on_change: Callable[[int | None, float], None],
    ) -> None:
        self._loop = loop
        self._executions = executions
        self._snapshots = snapshots
        self._iopub = iopub
        self._replies = replies
        self._outbox = outbox
        self._wakeup = wakeup
        self._on_change = on_change
        self._was_running: int | None = None
        self._peeks = 0
        loop.read(wakeup.descriptor, self._woken)
        loop.timer("flush", self._deliver)
        loop.timer("peek", self._peek)
        loop.timer("iopub", self._advance_iopub)
        loop.timer("replies", self._advance_replies)
        loop.between = self._between
        iopub.on_stall = lambda: loop.set_if_unset("iopub", time.monotonic() + iopub.retry_s)
        replies.on_wait = lambda: loop.set_if_unset("replies", time.monotonic() + replies.retry_s)

    def _between(self) -> None:
        if self._outbox.urgent:
            self._deliver()
        if self._executions.has_new:
            self._executions.hand_over()
            self._snapshots.executing()
            self._follow()
            self._executions.announce()

    def _woken(self) -> None:
        self._wakeup.wait()
        if not self._outbox.urgent and self._outbox.awake:
            self._loop.set_if_unset("flush", time.monotonic() + FLUSH_S)

    def _deliver(self, _now: float = 0.0) -> None:
        self._loop.clear("flush")
        if self._iopub.is_congested or (self._replies.is_waiting and self._is_held_up()):
            return
        self._executions.deliver(self._outbox.take(TAKE_AT_ONCE))
        if self._outbox.awake:
            self._loop.set_if_unset("flush", time.monotonic())
        self._snapshots.arrived()
        self._follow()

    def _is_held_up(self) -> bool:
        """Whether a script waits for its caller to read, so that nothing is lost.

        Only while it runs: its end, also by its time limit or an interrupt, is told, and others have their turn,
        unless its caller leaves even that unread.
        """
        run = self._executions.run
        return run is not None and (run.is_far_behind() or (run.is_held_up and not self._outbox.has_end))

    def _follow(self) -> None:
        """Set the timers by what runs now."""
        now = time.monotonic()
        if self._executions.waiting > 1:
            self._peeks = 0
            self._loop.set("peek", now + PEEK_S)
        running = self._executions.running
        if running != self._was_running:
            self._was_running = running
            self._on_change(running, now)

    def _peek(self, now: float) -> None:
        if self._outbox.has_items:
            self._deliver()
        elif self._executions.waiting > 1:
            self._peeks += 1
            self._loop.set("peek", now + (PEEK_S if self._peeks < PEEKS else PEEK_SLOWLY_S))

    def _advance_iopub(self, now: float) -> None:
        self._iopub.advance(now)
        if self._iopub.stalled:
            self._loop.set("iopub", now + self._iopub.retry_s)
        if self._outbox.awake:
            self._loop.set_if_unset("flush", now)

    def _advance_replies(self, now: float) -> None:
        self._replies.advance()
        if self._replies.is_waiting:
            self._loop.set("replies", now + self._replies.retry_s)
        if self._outbox.awake:
            self._loop.set_if_unset("flush", now)
