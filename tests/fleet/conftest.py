"""What several of these folders use."""

from pathlib import Path

import pytest

from llmspell_fleet.paths import FleetPaths


@pytest.fixture
def paths(tmp_path: Path) -> FleetPaths:
    """A fleet's directories, made and empty."""
    made = FleetPaths(*(str(tmp_path / name) for name in ("run", "state", "logs")))
    for path in (made.runtime, made.state, made.logs):
        Path(path).mkdir(mode=0o700)
    return made
