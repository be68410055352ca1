"""Fan-out to whoever follows a stream: bounded for each, so that a slow one costs nobody anything."""

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

MOST_WAITING = 2048
"""Items that wait for one follower; a slower one loses the oldest, and sees it by their sequence numbers."""


class Followers(Generic[T]):
    """Those who follow. Belongs to the event loop."""

    def __init__(self) -> None:
        self._queues: set[_Queue[T]] = set()
        self._have_ended = False

    def tell(self, item: T) -> None:
        """Give everybody one more item."""
        for waiting in self._queues:
            waiting.put(item)

    @contextlib.contextmanager
    def follow(self) -> "Iterator[AsyncIterator[T]]":
        """The items told from now on."""
        waiting: _Queue[T] = _Queue()
        if self._have_ended:
            waiting.end()
        self._queues.add(waiting)
        try:
            yield waiting.items()
        finally:
            self._queues.discard(waiting)

    def end(self) -> None:
        """Nothing more will be told."""
        self._have_ended = True
        for waiting in self._queues:
            waiting.end()


class _Queue(Generic[T]):
    def __init__(self) -> None:
        self._items: deque[T] = deque(maxlen=MOST_WAITING)
        self._changed = asyncio.Event()
        self._has_ended = False

    def put(self, item: T) -> None:
        self._items.append(item)
        self._changed.set()

    def end(self) -> None:
        self._has_ended = True
        self._changed.set()

    async def items(self) -> AsyncIterator[T]:
        while True:
            while self._items:
                yield self._items.popleft()
            if self._has_ended:
                return
            self._changed.clear()
            await self._changed.wait()
