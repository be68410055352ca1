"""Every test of the command line has a home of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.commands import Commands
from support.homes import Home, new_home
from support.served_fleet import ServedFleet, served_fleet


@pytest.fixture
def home() -> Iterator[Home]:
    with new_home() as made:
        yield made


@pytest.fixture
def served() -> Iterator[ServedFleet]:
    with served_fleet() as made:
        yield made


@pytest.fixture
def llmspell(
    served: ServedFleet, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Commands:
    for name in ("RUNTIME", "STATE", "LOG"):
        # The command sets these, and this undoes it.
        monkeypatch.setenv(f"LLMSPELL_{name}_DIR", str(tmp_path / name.lower()))
    return Commands(served, tmp_path, capsys)
