"""Bounds for streams: how many there are, and what waits for each."""

import asyncio
import contextlib
from collections import deque
from collections.abc import Callable, Iterator
from typing import Final

from llmspell_fleet.errors import FleetError, UnavailableError

BACKLOG_BYTES: Final = 1024 * 1024
"""What waits for one slow reader."""


class Backlog:
    """Bytes between a source and a client that may be slow.

    When it is full and `gap` is given, the oldest items are lost and `gap(count)` is put in their place;
    without `gap` its source waits.
    """

    def __init__(self, gap: Callable[[int], bytes] | None, *, limit_bytes: int = BACKLOG_BYTES) -> None:
        self._gap = gap
        self._limit_bytes = limit_bytes
        self._items: deque[bytes] = deque()
        self._size = 0
        self._missed = 0
        self._changed = asyncio.Event()
        self._has_room = asyncio.Event()
        self._is_ended = False
        self._error: FleetError | None = None

    def has_ended(self) -> bool:
        """Whether everything was taken, and nothing more comes."""
        return self._is_ended and not self._items

    def failure(self) -> FleetError | None:
        """Why it ended, when it should not have."""
        return self._error

    async def put(self, item: bytes) -> None:
        """Add to the end."""
        while self._gap is None and self._size >= self._limit_bytes:
            self._has_room.clear()
            await self._has_room.wait()
        self._items.append(item)
        self._size += len(item)
        while self._gap is not None and self._size > self._limit_bytes and len(self._items) > 1:
            self._size -= len(self._items.popleft())
            self._missed += 1
        self._changed.set()

    def end(self, error: FleetError | None = None) -> None:
        """Nothing more comes, because of `error` if there is one."""
        self._is_ended = True
        self._error = self._error or error
        self._changed.set()

    async def take(self, timeout_s: float) -> bytes:
        """All that is there; nothing when nothing came in time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await self._changed.wait()
        if not self._is_ended:
            self._changed.clear()
        taken = b"".join(self._items)
        if self._gap is not None and self._missed:
            taken = self._gap(self._missed) + taken
        self._items.clear()
        self._size = self._missed = 0
        self._has_room.set()
        return taken


class Followers:
    """The streams that follow what happens: bounded in number, ended when the server closes."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._backlogs: set[Backlog] = set()
        self._is_closed = False

    @contextlib.contextmanager
    def admitted(self, backlog: Backlog) -> Iterator[None]:
        """Count it while it is served. UnavailableError when there are too many, or the server closes."""
        if self._is_closed:
            raise UnavailableError("the server is closing")
        if len(self._backlogs) >= self._limit:
            raise UnavailableError(f"{self._limit} clients follow already, which is the most", retry_after_s=5.0)
        self._backlogs.add(backlog)
        try:
            yield
        finally:
            self._backlogs.discard(backlog)

    def end(self) -> None:
        """End them all."""
        for backlog in self._backlogs:
            backlog.end()

    def close(self) -> None:
        """End them all, and admit no more."""
        self._is_closed = True
        self.end()
