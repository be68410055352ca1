"""A store and a controller of a test's own, on the event loop that the controller runs on."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvloop

from llmspell_fleet.store.store import Store
from support.controllers import Site, Start, fleet_paths, running


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    """An empty one, closed afterwards."""
    opened = Store.open(str(tmp_path / "state" / "fleet.db"))
    yield opened
    opened.close()


@pytest.fixture
def controller() -> Start:
    """Starts one: `async with controller(lease_ttl_s=1) as site`."""

    @contextlib.asynccontextmanager
    async def start(**config: Any) -> AsyncIterator[Site]:
        with fleet_paths() as paths:
            async with running(paths, **config) as site:
                yield site

    return start
