"""One kernel for the tests of a module, in a home of its own."""

from collections.abc import Iterator

import pytest

from llmspell_kernel.connection import ConnectionInfo, read_connection_file
from support.homes import Home, new_home


@pytest.fixture(scope="module")
def home() -> Iterator[Home]:
    with new_home() as made:
        yield made


@pytest.fixture(scope="module")
def kernel(home: Home) -> ConnectionInfo:
    return read_connection_file(str(home.start_kernel()))
