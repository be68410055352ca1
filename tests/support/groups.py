"""Real cgroups of this machine, and directories that are laid out as cgroups of version 2 are."""

import os
from collections.abc import Iterable
from pathlib import Path

import pytest

from llmspell_fleet.cgroups.hierarchy import RESOURCES, Hierarchy, Resource
from llmspell_fleet.cgroups.tree import FleetCgroups
from support.kernels import short_folder


def available() -> frozenset[Resource]:
    """What this machine's cgroups can bound, for whoever runs the tests."""
    with short_folder() as folder:
        cgroups = FleetCgroups(str(folder), f"{folder}/cgroups")
        try:
            return cgroups.resources
        finally:
            cgroups.close()


def needs_cgroups(*resources: Resource) -> None:
    """Skip a test where the machine cannot bound these."""
    lacking = set(resources) - available()
    if lacking:
        pytest.skip(f"no cgroup here bounds {', '.join(sorted(lacking))}")


def laid_out(folder: Path, *, controllers: str = "memory cpu pids", processes: str = "", is_root: bool = False) -> Path:
    """A directory with the files that the system would make; what is written to them stays, and binds nobody."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {
        "cgroup.controllers": controllers,
        "cgroup.subtree_control": "",
        "cgroup.procs": processes,
        "memory.max": "max",
        "memory.swap.max": "max",
        "memory.current": "4096",
        "memory.peak": "8192",
        "memory.events": "low 0\nhigh 0\nmax 3\noom 1\noom_kill 1\n",
        "cpu.max": "max 100000",
        "pids.max": "max",
    }
    if not is_root:
        files["cgroup.events"] = "populated 0\nfrozen 0"
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def existing(paths: Iterable[str]) -> list[str]:
    """Those of the directories that are there."""
    return [path for path in paths if Path(path).exists()]


def above(path: str) -> str:
    """The directory that it is in."""
    return str(Path(path).parent)


def is_private(path: str) -> bool:
    """Whether a file is its owner's alone."""
    return Path(path).stat().st_mode & 0o777 == 0o600


def version_2(mount: Path) -> list[Hierarchy]:
    """The one hierarchy of a machine that has version 2 alone."""
    return [Hierarchy(2, frozenset(), os.fspath(mount), "/")]


ALL = frozenset(RESOURCES)
