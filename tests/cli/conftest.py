"""Every test of the command line has a home of its own."""

from collections.abc import Iterator

import pytest

from support.homes import Home, new_home


@pytest.fixture
def home() -> Iterator[Home]:
    with new_home() as made:
        yield made
