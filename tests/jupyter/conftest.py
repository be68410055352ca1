"""Every test in this folder has a real Jupyter client on a real kernel."""

from collections.abc import Iterator

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

from support.jupyter_spec import connected, own_jupyter, running_kernel


@pytest.fixture(scope="module", autouse=True)
def jupyter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Jupyter's directories and ours, for this module alone."""
    with own_jupyter(tmp_path_factory.mktemp("jupyter")):
        yield


@pytest.fixture
def kernel() -> Iterator[KernelManager]:
    with running_kernel() as manager:
        yield manager


@pytest.fixture
def client(kernel: KernelManager) -> Iterator[BlockingKernelClient]:
    with connected(kernel) as client:
        yield client
