"""What is tried here is out of coverage's reach: a process that is locked down writes no file."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def unmeasured_hostiles(unmeasured_module: None) -> None:
    """None of these processes need carry it, then."""
