"""Small fleets of real processes that one thing is done to, and what holds before, meanwhile and afterwards."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from support.census import take_census
from support.homes import DEADLINE_S, Home, new_home, wait_until
from support.restarted import RestartedFleet, served

CONFIG = """
[fleet]
startup_kernels = 8
start_deadline = "5s"
stop_deadline = "2s"
[fleet.restart]
max_restarts = 1000000
first_delay = "10ms"
longest_delay = "200ms"
"""
KERNELS = 8


def pids(fleet: RestartedFleet) -> dict[str, int]:
    """Processes by kernel, as the controller has them; AssertionError unless /proc has the same ones, once each."""
    shown = {kernel["id"]: kernel["pid"] for kernel in fleet.kernels()}
    assert sorted(running(fleet)) == sorted(pid for pid in shown.values() if pid is not None)
    return shown


def running(fleet: RestartedFleet) -> list[int]:
    """Processes of kernels, with or without a controller."""
    census = take_census(fleet.home)
    assert not census.doubled
    return [processes[0].pid for processes in census.kernels.values()]


def wait_whole(fleet: RestartedFleet, kernels: int = KERNELS, *, what: str = "the fleet is whole") -> float:
    """Until all kernels take work and have one process each; seconds that it took."""
    at = time.monotonic()

    def is_whole() -> bool:
        try:
            shown = fleet.kernels()
        except (OSError, KeyError, ValueError):
            return False
        phases = [kernel["phase"] for kernel in shown]
        return (
            len(phases) == kernels
            and {"READY", "BUSY"}.issuperset(phases)
            and sorted(running(fleet)) == sorted(kernel["pid"] for kernel in shown)
        )

    wait_until(is_whole, what)
    return time.monotonic() - at


def value(fleet: RestartedFleet, code: str, **members: object) -> Any:
    """What code returns that has to succeed."""
    answer = fleet.execute(code, **members)
    assert answer.status == 200, answer.body
    assert answer.json["status"] == "ok", answer.json
    return answer.json["result"]


def keyed(fleet: RestartedFleet, key: str, code: str = "n = (n or 0) + 1 return n") -> tuple[int, bytes]:
    """Ask with an Idempotency-Key: status and body."""
    answer = fleet.ask("POST", "/v1/tenants/default/execute", {"code": code}, headers={"Idempotency-Key": key})
    return answer.status, answer.body


def say(text: str) -> None:
    """For whoever reads what the run measured."""
    sys.stdout.write(f"\n{text}\n")
    sys.stdout.flush()


@contextlib.contextmanager
def broken_fleet(config: str = CONFIG) -> Iterator[RestartedFleet]:
    """A fleet of `KERNELS` that serves; afterwards its controllers have told no traceback."""
    with new_home() as home, served(home, config) as fleet:
        wait_whole(fleet)
        yield fleet
        require_no_traceback(fleet)


def require_no_traceback(fleet: RestartedFleet) -> None:
    """Whatever happens is said in sentences."""
    text = fleet.log.read_text(errors="replace")
    assert "Traceback" not in text, text[text.index("Traceback") - 300 :][:4000]


@contextlib.contextmanager
def small_disk(megabytes: int) -> Iterator[Home]:
    """A home on a file system of its own, with so much room."""
    with new_home() as home:
        subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=0700", "tmpfs", str(home.path)], check=True
        )
        try:
            yield home
        finally:
            subprocess.run(["umount", "-l", str(home.path)], check=True)


def fill(home: Home) -> Callable[[], None]:
    """Leave no byte free; returns what gives the room back."""
    path = home.path / "filling"
    with path.open("wb", buffering=0) as stream, contextlib.suppress(OSError):
        for size in (65536, 4096, 1):
            with contextlib.suppress(OSError):
                while True:
                    stream.write(b"x" * size)
    return path.unlink


def health(fleet: RestartedFleet) -> dict[str, Any]:
    """What the fleet says of itself."""
    view: dict[str, Any] = fleet.ask("GET", "/health").json
    return view


def deaths(fleet: RestartedFleet) -> list[str]:
    """Why kernels have ended: detail of each one's last death."""
    return [json.dumps(kernel["last_death"]) for kernel in fleet.kernels() if kernel["last_death"]]


def need_root(what: str) -> None:
    """Skip, or fail in CI, where we are not root."""
    if os.geteuid() != 0:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{what} needs root")


def cgroup(controller: str, name: str) -> Path:
    """A new control group of one controller, of whichever version this machine has; skips where none can be made."""
    place = Path("/sys/fs/cgroup") / controller
    if not place.is_dir():
        place = Path("/sys/fs/cgroup")
    path = place / f"llmspell-{name}-{os.getpid()}"
    try:
        path.mkdir()
        if not (path / "cgroup.procs").exists():
            raise OSError("no control groups here")
    except OSError as fault:
        pytest.skip(f"no control group can be made here: {fault}")
    return path


def remove_cgroup(path: Path) -> None:
    """Once what was in it has ended."""

    def is_removed() -> bool:
        with contextlib.suppress(OSError):
            path.rmdir()
        return not path.exists()

    wait_until(is_removed, f"{path} is empty", deadline_s=DEADLINE_S)
