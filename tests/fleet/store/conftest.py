"""Databases of a test's own, a disk that is nearly full, and one that cannot be written."""

import os
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from llmspell_fleet.store.store import Store


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the database of this test will be."""
    return tmp_path / "state" / "fleet.db"


@pytest.fixture
def store(path: Path) -> Iterator[Store]:
    """An empty one, closed afterwards."""
    opened = Store.open(str(path))
    yield opened
    opened.close()


@contextmanager
def _mounted(*options: str) -> Iterator[Path]:
    where = Path(tempfile.mkdtemp(prefix="ls-disk-"))
    command = ["mount", "-t", "tmpfs", "-o", ",".join(("mode=0700", *options)), "llmspell-test", str(where)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0 or os.geteuid() != 0:
            reason = f"a small disk has to be mounted, which needs root: {done.stderr.strip()}"
            (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
        yield where
        subprocess.run(["umount", "--lazy", str(where)], check=True)
    finally:
        where.rmdir()


@pytest.fixture
def small_disk() -> Iterator[Path]:
    """A file system of 1 MiB."""
    with _mounted("size=1m") as where:
        yield where


@pytest.fixture
def read_only_disk() -> Iterator[Path]:
    """A file system that nobody can write to."""
    with _mounted("ro") as where:
        yield where
