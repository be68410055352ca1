"""Work that goes on when nobody waits for it any more: kept until it ends, and told when it fails by our fault."""

import asyncio
import logging
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from llmspell_fleet.errors import FleetError

T = TypeVar("T")

_LOG: Final = logging.getLogger("llmspell.fleet")

AGAIN_S: Final = 0.5
"""How soon what was to have no end is begun again."""


class Background:
    """The owner of such tasks. Belongs to the event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._tasks: set[asyncio.Task[Any]] = set()

    def run(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        """Do `work`; its failure is logged, unless whoever holds the task looks at it."""
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def keep(self, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Do `work`, which has no end: what fails of it by our fault is logged, and it is begun again."""
        self.run(_kept(work))

    def _ended(self, task: "asyncio.Task[Any]") -> None:
        self._tasks.discard(task)
        if task.cancelled():
            return
        fault = task.exception()
        if fault is not None and not isinstance(fault, FleetError):
            _LOG.error("background work failed", exc_info=fault)

    async def close(self) -> None:
        """End what is left."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def _kept(work: Callable[[], Coroutine[Any, Any, None]]) -> None:
    while True:
        try:
            await work()
        except Exception:  # noqa: BLE001 - whatever it is, the fleet goes on needing it
            _LOG.exception("background work failed, and is begun again")
        await asyncio.sleep(AGAIN_S)
