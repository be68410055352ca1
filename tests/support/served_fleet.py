"""A fleet in memory behind the real HTTP server, in a thread of its own: for clients that block."""

import asyncio
import contextlib
import threading
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from support.fake_fleet import FakeFleet, Site, serving

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class ServedFleet:
    """The fleet, and where it is."""

    site: Site
    loop: asyncio.AbstractEventLoop

    @property
    def fleet(self) -> FakeFleet:
        return self.site.fleet

    @property
    def url(self) -> str:
        return self.site.server.url

    @property
    def unix(self) -> str:
        return f"unix:{self.site.socket}"

    def run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Run it where the fleet lives."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(20)


@contextlib.contextmanager
def served_fleet() -> Iterator[ServedFleet]:
    """Serve it until the end of the block."""
    made: list[ServedFleet] = []
    is_up, may_end = threading.Event(), asyncio.Event()

    async def serve() -> None:
        async with serving() as site:
            made.append(ServedFleet(site, asyncio.get_running_loop()))
            is_up.set()
            await may_end.wait()

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    try:
        assert is_up.wait(20)
        yield made[0]
    finally:
        if made:
            made[0].loop.call_soon_threadsafe(may_end.set)
        thread.join(20)
