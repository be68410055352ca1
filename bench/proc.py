"""What Linux says about a running process: memory, CPU time, children, who maps the same libraries.

Only /proc is read, so this works on Linux alone.
"""

import contextlib
import os
import select
import signal
from collections.abc import Iterator
from pathlib import Path

_SHARED_LIBRARIES = ("python3", "_zmq", "lua54")
_END_WITHIN_S = 5.0


def tree(pid: int) -> list[int]:
    """The process and all its descendants, parents first; those that end meanwhile are left out."""
    pids = [pid]
    for parent in pids:
        for children in Path(f"/proc/{parent}/task").glob("*/children"):
            try:
                pids.extend(int(child) for child in children.read_text().split())
            except OSError:
                continue
    return pids


def marked(mark: str) -> list[int]:
    """Processes whose environment holds `mark`: also those that outlived the parent which could name them."""
    needle = mark.encode()
    found = []
    for environment in Path("/proc").glob("[0-9]*/environ"):
        try:
            if needle in environment.read_bytes():
                found.append(int(environment.parent.name))
        except OSError:
            continue
    return found


def parent(pid: int) -> int | None:
    """The process that would reap it; None when it has ended."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return None


def writing_below(folder: Path) -> set[int]:
    """Processes whose standard output is a file below `folder`: a fleet's kernels are found so without asking it."""
    found = set()
    for output in Path("/proc").glob("[0-9]*/fd/1"):
        with contextlib.suppress(OSError):
            if output.readlink().is_relative_to(folder):
                found.add(int(output.parent.parent.name))
    return found


def kill_marked(mark: str) -> None:
    """SIGKILL to whatever has `mark` in its environment, by pid, until nothing has: managers replace their children."""
    while pids := marked(mark):
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in pids:
            wait_for_end(pid, _END_WITHIN_S)


def memory_bytes(pid: int, *, alone: bool = False) -> dict[str, int]:
    """Memory in bytes, by Linux's names: `Rss`, `Pss`, `Private` (clean + dirty); of the tree, or of `pid` alone."""
    total = {"Rss": 0, "Pss": 0, "Private": 0}
    for member in (pid,) if alone else tree(pid):
        for line in Path(f"/proc/{member}/smaps_rollup").read_text().splitlines():
            key, _, rest = line.partition(":")
            name = "Private" if key in ("Private_Clean", "Private_Dirty") else key
            if name in total:
                total[name] += int(rest.split()[0]) * 1024
    return total


def cpu_s(pid: int, *, alone: bool = False) -> float:
    """CPU seconds that living threads have used, by the scheduler's clock; of the tree, or of `pid` alone."""
    used = 0
    for member in (pid,) if alone else tree(pid):
        for task in Path(f"/proc/{member}/task").glob("*/schedstat"):
            try:
                used += int(task.read_text().split()[0])
            except OSError:
                continue
    return used / 1e9


def sharers(pid: int) -> dict[str, int]:
    """For the interpreter, ZeroMQ and Lua: how many processes outside this tree map the same file."""
    own = {name: set(_mapped(pid, name)) for name in _SHARED_LIBRARIES}
    others = [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    outside = [other for other in others if other not in tree(pid)]
    return {name: sum(1 for other in outside if files & set(_mapped(other, name))) for name, files in own.items()}


def _mapped(pid: int, name: str) -> Iterator[str]:
    try:
        lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        fields = line.split(maxsplit=5)
        if len(fields) == 6 and name in Path(fields[5]).name:
            yield fields[5]


def wait_for_end(pid: int, timeout_s: float) -> bool:
    """Wait until the process, child or not, has ended; false when the time ran out."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([pidfd], [], [], timeout_s)[0])
    finally:
        os.close(pidfd)
