"""Clocks that jump. Covered: CLOCK_MONOTONIC that is another one for each controller (a time namespace, as after a
suspend or a move to another machine), forwards and backwards; the wall clock as a controller sees it, while it runs.
Not covered: a jump of the machine's own clock, which would be everybody's.
"""

import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.broken import broken_fleet, keyed, need_root, pids, say, value, wait_whole
from support.homes import wait_until
from support.restarted import RestartedFleet

pytestmark = [pytest.mark.slow, pytest.mark.integration]  # each has a fleet of its own


@pytest.fixture
def fleet() -> Iterator[RestartedFleet]:
    with broken_fleet() as made:
        yield made


def _monotonic(prefix: tuple[str, ...]) -> float:
    done = subprocess.run(
        [*prefix, "python3", "-c", "import time; print(time.monotonic())"], capture_output=True, text=True, check=False
    )
    if done.returncode:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"no time namespace here: {done.stderr}")
    return float(done.stdout)


@pytest.mark.parametrize("jump_s", [1_000_000, -600])
def test_a_controller_whose_monotonic_clock_is_another_one_adopts_all_the_same(
    fleet: RestartedFleet, jump_s: int
) -> None:
    need_root("a time namespace")
    prefix = ("unshare", "--time", "--monotonic", str(jump_s))
    assert abs(_monotonic(prefix) - _monotonic(()) - jump_s) < 60, "the clock has jumped"
    outcome = keyed(fleet, "before")
    before = pids(fleet)

    fleet.kill_controller()
    fleet.prefix = prefix
    took_s = fleet.serve()
    wait_whole(fleet)

    assert pids(fleet) == before
    assert keyed(fleet, "before") == outcome
    assert keyed(fleet, "after")[0] == 200
    assert all(0 <= kernel["uptime_s"] < 3600 for kernel in fleet.kernels()), fleet.kernels()
    victim = next(iter(before.values()))
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: victim not in [kernel["pid"] for kernel in fleet.kernels()], "it is noticed")
    wait_whole(fleet)
    assert value(fleet, "return 1", timeout_s=5) == "1"
    # And back.
    fleet.kill_controller()
    fleet.prefix = ()
    again = pids_of(fleet)
    fleet.serve()
    wait_whole(fleet)
    assert pids(fleet) == again
    say(f"monotonic clock {jump_s:+} s: served {took_s:.3f} s after exec, all {len(before)} kernels adopted")


def pids_of(fleet: RestartedFleet) -> dict[str, int]:
    """By the kernels' own files, when nobody can be asked."""
    files = fleet.home.runtime.glob("kernel-*.pid")
    return {file.name[len("kernel-") : -len(".pid")]: int(file.read_text().split()[0]) for file in files}


_SHIM = '''"""Python runs this first: the wall clock of this process is OFFSET_FILE seconds ahead."""
import datetime, os, time
_path, _real, _time = os.environ["WALL_CLOCK_OFFSET_FILE"], datetime.datetime, time.time
def _offset():
    with open(_path) as stream:
        return float(stream.read() or 0)
class datetime_(_real):
    @classmethod
    def now(cls, tz=None):
        return _real.now(tz) + datetime.timedelta(seconds=_offset())
datetime_.__name__ = "datetime"
datetime.datetime = datetime_
time.time = lambda: _time() + _offset()
'''


@pytest.mark.parametrize("jump_s", [23 * 3600, -48 * 3600])
def test_a_wall_clock_that_jumps_changes_dates_and_nothing_else(
    fleet: RestartedFleet, jump_s: int, tmp_path: Path
) -> None:
    offset = tmp_path / "offset"
    offset.write_text("0")
    (tmp_path / "sitecustomize.py").write_text(_SHIM)
    fleet.kill_controller()
    fleet.home.environ.update(PYTHONPATH=str(tmp_path), WALL_CLOCK_OFFSET_FILE=str(offset))
    fleet.serve()
    wait_whole(fleet)
    outcome, before = keyed(fleet, "before"), pids(fleet)
    location = fleet.execute("return 7", wait=False).headers["Location"]
    wait_until(lambda: fleet.ask("GET", location).json["status"] == "done", "it has run")

    offset.write_text(str(jump_s))

    assert pids(fleet) == before
    assert keyed(fleet, "before") == outcome
    assert fleet.ask("GET", location).json["outcome"]["result"] == "7"
    assert keyed(fleet, "after")[0] == 200
    victim = next(iter(before.values()))
    os.kill(victim, signal.SIGKILL)
    wait_until(lambda: victim not in [kernel["pid"] for kernel in fleet.kernels()], "it is noticed")
    wait_whole(fleet)
    seqs = [event["seq"] for event in fleet.ask("GET", "/v1/events").json["items"]]
    assert seqs == sorted(set(seqs))
    dates = [event["at"] for event in fleet.ask("GET", "/v1/events").json["items"]]
    assert (dates[-1] > dates[0]) == (jump_s > 0), "the clock has jumped"
    say(f"wall clock {jump_s:+} s: outcomes, kernels and the order of events are as they were")
