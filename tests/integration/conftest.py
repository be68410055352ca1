"""Every test here has kernels that are real processes, in directories of its own."""

from collections.abc import Iterator

import pytest

from support.kernels import KernelHome, KernelProcess, kernel_home
from support.peers import Client


@pytest.fixture
def home() -> Iterator[KernelHome]:
    with kernel_home() as made:
        yield made


@pytest.fixture
def kernel(home: KernelHome) -> KernelProcess:
    """A kernel with a connection file of its own."""
    return home.start_ready()


@pytest.fixture
def client(kernel: KernelProcess) -> Iterator[Client]:
    with Client(kernel.connection) as client:
        yield client


@pytest.fixture
def second_client(kernel: KernelProcess) -> Iterator[Client]:
    with Client(kernel.connection) as client:
        yield client
