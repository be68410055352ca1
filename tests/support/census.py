"""Every process of a fleet, counted from /proc: what the controller says of itself is compared with this."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from support.homes import Home

_UPGRADED = "-m llmspell_fleet --resume"
"""A controller after an upgrade."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One process, as proc(5) shows it."""

    pid: int
    parent: int
    state: str
    """R, S, D, T (stopped), Z (ended and not reaped) …"""
    folder: str
    """The folder of the kernel whose output it writes; "" for the controller, the zygote and others."""
    command: str


@dataclass(slots=True)
class Census:
    """The processes of one fleet at one moment."""

    controllers: list[Seen] = field(default_factory=list)
    zygotes: list[Seen] = field(default_factory=list)
    kernels: dict[str, list[Seen]] = field(default_factory=dict)
    """By the folder of the kernel, which follows from its id."""
    others: list[Seen] = field(default_factory=list)

    @property
    def stopped(self) -> list[Seen]:
        """Kernels that a signal has stopped."""
        return [seen for processes in self.kernels.values() for seen in processes if seen.state == "T"]

    @property
    def doubled(self) -> list[list[Seen]]:
        """Kernels that have more than one process."""
        return [processes for processes in self.kernels.values() if len(processes) > 1]


def folder_of(kernel: str) -> str:
    """The name of a kernel's folder."""
    return kernel.replace("-", "")[:12]


def take_census(home: Home) -> Census:
    """Everything that was started with the directories of this home, whoever its parent is by now."""
    mark = f"LLMSPELL_RUNTIME_DIR={home.runtime}\0".encode()
    census = Census()
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and (seen := _look(int(entry.name), mark, f"{home.runtime}/k/")):
            _sort(census, seen)
    return census


def unreaped(pid: int) -> list[int]:
    """Children of a process that have ended and were not reaped."""
    found = []
    for entry in os.scandir("/proc"):
        if entry.name.isdigit():
            state, parent = _state(int(entry.name))
            if state == "Z" and parent == pid:
                found.append(int(entry.name))
    return found


def _look(pid: int, mark: bytes, folders: str) -> Seen | None:
    place = Path(f"/proc/{pid}")
    try:
        if mark not in (place / "environ").read_bytes() + b"\0":
            return None
        state, parent = _state(pid)
        command = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        output = str((place / "fd" / "1").readlink())
    except OSError:
        return None  # it has ended
    folder = output.removeprefix(folders).partition("/")[0] if output.startswith(folders) else ""
    return None if state in "ZX" else Seen(pid, parent, state, folder, command)


def _state(pid: int) -> tuple[str, int]:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return "X", 0
    return fields[0], int(fields[1])


def _sort(census: Census, seen: Seen) -> None:
    if seen.folder:
        census.kernels.setdefault(seen.folder, []).append(seen)
    elif "llmspell_kernel.zygote" in seen.command:
        census.zygotes.append(seen)
    elif ("llmspell_cli" in seen.command and " fleet up" in seen.command) or _UPGRADED in seen.command:
        census.controllers.append(seen)
    else:
        census.others.append(seen)
