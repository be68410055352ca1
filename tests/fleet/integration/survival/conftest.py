"""A fleet of a test's own: its controller is killed, stopped, cut off from its disk, or replaced."""

import contextlib
import os
import signal
from collections.abc import Iterator

import pytest

from llmspell_fleet.spawner.remains import find_remnants
from support.fleets import FleetHome
from support.homes import Home

_CONFIG = """
[fleet]
startup_kernels = {}
[fleet.restart]
max_restarts = 1000
first_delay = "10ms"
"""


@pytest.fixture
def startup_kernels() -> int:
    """Kernels of the default tenant; a module that wants some says so with a fixture of its own."""
    return 0


@pytest.fixture
def fleet(home: Home, startup_kernels: int) -> Iterator[FleetHome]:
    made = FleetHome(home)
    made.up(config=_CONFIG.format(startup_kernels))
    yield made
    with contextlib.suppress(ProcessLookupError):
        os.kill(made.pid, signal.SIGCONT)
    home.end_all()
    assert find_remnants(str(home.runtime)) == [], "its end leaves no process"
    log = (home.logs / "fleet.log").read_text()
    assert "Traceback" not in log, log[-8000:]
