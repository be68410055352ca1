"""The router's tests talk to real kernels, on the event loop that the controller runs on."""

import asyncio
from collections.abc import Callable, Iterator

import pytest
import uvloop

from support.kernels import KernelHome, kernel_home
from support.supervised import Supervised


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
def home() -> Iterator[KernelHome]:
    with kernel_home() as made:
        yield made


@pytest.fixture
def supervised(home: KernelHome) -> Supervised:
    return Supervised(home)
