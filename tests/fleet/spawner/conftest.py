"""Spawners are tested on the event loop that the controller runs on."""

import asyncio
from collections.abc import AsyncIterator, Callable

import pytest
import pytest_asyncio
import uvloop

from support.spawning import SPAWNERS, Spawning, spawning


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


@pytest_asyncio.fixture(params=SPAWNERS)
async def site(request: pytest.FixtureRequest) -> AsyncIterator[Spawning]:
    """Every spawner in turn."""
    async with spawning(request.param) as site:
        yield site
