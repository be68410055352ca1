"""Every test of the command line has a home of its own."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.commands import Commands
from support.homes import Home, new_home
from support.kernels import short_folder
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
def folder() -> Iterator[Path]:
    """A folder for unix sockets, whose paths have to be short."""
    with short_folder() as path:
        yield path


@pytest.fixture
def directories(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the files of this process's commands are; a command sets these variables, and this undoes it."""
    for name in ("RUNTIME", "STATE", "LOG"):
        monkeypatch.setenv(f"LLMSPELL_{name}_DIR", str(folder / name.lower()))
    return folder


@pytest.fixture
def llmspell(served: ServedFleet, directories: Path, capsys: pytest.CaptureFixture[str]) -> Commands:
    return Commands(served, directories, capsys)
