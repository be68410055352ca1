"""How late an event loop is with what is due."""

import asyncio
import time
from collections.abc import Callable

INTERVAL_S = 0.5


class LoopLag:
    """Asks the running loop for a timer every half second, and reports by how many seconds each came too late."""

    def __init__(self, report: Callable[[float], None], *, interval_s: float = INTERVAL_S) -> None:
        self._report = report
        self._interval_s = interval_s
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Measure from now on; to be called on the loop that is measured."""
        # Not loop.time(): uvloop's is that of its current turn, which hides what the turn itself took.
        due_at = time.monotonic() + self._interval_s
        self._timer = asyncio.get_running_loop().call_later(self._interval_s, self._fire, due_at)

    def stop(self) -> None:
        """Measure no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _fire(self, due_at: float) -> None:
        self._report(max(0.0, time.monotonic() - due_at))
        self.start()
