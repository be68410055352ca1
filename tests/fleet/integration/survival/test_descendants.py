"""What a kernel has started ends with it, also where no cgroup holds it and its controller and zygote were killed."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.fleets import FleetHome
from support.forking import KINDS, alive, end_all, left, make_kernels_fork
from support.homes import wait_until
from support.poorer import WITHOUT_CGROUPS, poor_fleet
from support.restarts import kill_controller, up_again
from support.tenants import need_root

pytestmark = pytest.mark.integration

CONFIG = """
[fleet]
startup_kernels = 1
[fleet.restart]
first_delay = "10ms"
[multi_tenant]
isolation_level = "{level}"
"""


@pytest.fixture(params=["none", "process"])
def fleet(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[tuple[FleetHome, Path]]:
    """A fleet whose kernels leave processes, and the file in which these note themselves."""
    need_root("hiding the cgroups of this machine")
    notes = make_kernels_fork(monkeypatch, tmp_path)
    try:
        with poor_fleet(config=CONFIG.format(level=request.param), prefix=WITHOUT_CGROUPS) as made:
            yield made, notes
    finally:
        end_all(notes)


def killed(fleet: FleetHome, kernel: str, pid: int) -> None:
    kill_controller(fleet)
    up_again(fleet)
    assert [one["pid"] for one in fleet.wait_ready()] == [pid], f"{kernel} is adopted"
    os.kill(pid, signal.SIGKILL)


def deleted(fleet: FleetHome, kernel: str, pid: int) -> None:
    kill_controller(fleet)
    up_again(fleet)
    assert [one["pid"] for one in fleet.wait_ready()] == [pid]
    assert fleet.ask("DELETE", f"/v1/kernels/{kernel}").status == 204


def killed_unseen(fleet: FleetHome, kernel: str, pid: int) -> None:
    kill_controller(fleet)
    os.kill(pid, signal.SIGKILL)
    up_again(fleet)


@pytest.mark.parametrize("end", [killed, deleted, killed_unseen])
def test_what_an_adopted_kernel_has_left_is_found(
    fleet: tuple[FleetHome, Path], end: Callable[[FleetHome, str, int], None]
) -> None:
    home, notes = fleet
    (kernel,) = home.wait_ready()
    wait_until(lambda: len(left(notes)) == len(KINDS), "everything to be started")
    of_first = list(left(notes))
    assert all(map(alive, of_first))

    end(home, kernel["id"], kernel["pid"])

    wait_until(lambda: not any(map(alive, of_first)), "its descendants to end")
    others = set(left(notes)) - set(of_first)
    assert all(map(alive, others)), "those of its next incarnation go on"
