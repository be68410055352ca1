"""Fixtures of the runtime's tests."""

import pytest

from support.lua import Lua


@pytest.fixture
def lua() -> Lua:
    """A fresh engine."""
    return Lua()
