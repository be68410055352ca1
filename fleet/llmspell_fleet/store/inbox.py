"""Between the controller's loop, which notes what is to be written, and the thread that writes it."""

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, Final

from llmspell_fleet.errors import StoreError
from llmspell_fleet.store.batch import Batch

if TYPE_CHECKING:
    from llmspell_fleet.store.records import Begun, Execution


LINGER_S: Final = 0.002
"""Changes that nobody waits for are written together: waking a thread costs the loop more than noting them."""


class Waiting:
    """What came in since the writer last looked, and who wants to hear of it."""

    __slots__ = ("batch", "begins", "flushes", "is_last", "reads")

    def __init__(self) -> None:
        self.batch = Batch()
        self.begins: list[tuple[Execution, asyncio.Future[Begun | Execution]]] = []
        self.flushes: list[asyncio.Future[None]] = []
        self.reads: list[tuple[Callable[[sqlite3.Connection], Any], Future[Any]]] = []
        self.is_last = False
        """Whether nothing comes after it."""


class Inbox:
    """Hold `lock` to touch `waiting`, then `ring`, or `ring_soon` when nobody waits for the commit.

    The writer holds the lock only to take a reference.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.waiting = Waiting()
        self._is_rung = False
        self._is_ringing_soon = False
        self._is_closed = False
        self._bell: SimpleQueue[None] = SimpleQueue()

    def ring(self) -> None:
        """Tell the writer that something waits, once for all that waits. StoreError when it has gone."""
        if self._is_rung:
            return
        self._refuse_when_closed()
        self._is_rung = True
        self._bell.put(None)

    def ring_soon(self) -> None:
        """As `ring`, within `LINGER_S`."""
        if self._is_ringing_soon or self._is_rung:
            return
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            # At start and end: no loop, nobody to be kept from anything.
            self.ring()
            return
        self._refuse_when_closed()
        self._is_ringing_soon = True
        loop.call_later(LINGER_S, self._ring_late)

    def _ring_late(self) -> None:
        with self.lock:
            if self._is_ringing_soon:
                self.ring()

    def _refuse_when_closed(self) -> None:
        if self._is_closed:
            raise StoreError("the store is closed: nothing can be recorded any more")

    def close(self) -> bool:
        """Let what waits be the last; False when that was said before."""
        with self.lock:
            if self._is_closed:
                return False
            self.waiting.is_last = True
            self.ring()
            self._is_closed = True
            return True

    def take(self, timeout_s: float | None) -> Waiting:
        """For the writer: what waits, after waiting for it; nothing when that takes too long."""
        try:
            self._bell.get(timeout=timeout_s)
        except Empty:
            return Waiting()
        with self.lock:
            taken, self.waiting = self.waiting, Waiting()
            self._is_rung = self._is_ringing_soon = False
        return taken
