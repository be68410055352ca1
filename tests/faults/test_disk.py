"""A disk that is full below a fleet that runs: what needs no disk goes on, the rest is refused, and all is well again."""

import json
import os
import signal
from collections.abc import Iterator

import pytest

from support.broken import (
    CONFIG,
    fill,
    health,
    keyed,
    need_root,
    pids,
    require_no_traceback,
    running,
    say,
    small_disk,
    value,
    wait_whole,
)
from support.homes import wait_until
from support.restarted import RestartedFleet, served

pytestmark = [pytest.mark.slow, pytest.mark.integration]  # each has a fleet of its own

MEGABYTES = 24


@pytest.fixture
def fleet() -> Iterator[RestartedFleet]:
    need_root("a file system of its own")
    with small_disk(MEGABYTES) as home, served(home, CONFIG) as made:
        wait_whole(made)
        yield made
        require_no_traceback(made)


def test_a_full_disk_stops_nothing_that_needs_none_and_is_said(fleet: RestartedFleet) -> None:
    outcome = keyed(fleet, "before")
    before = pids(fleet)
    free = fill(fleet.home)
    statuses = [keyed(fleet, f"full-{number}")[0] for number in range(20)]
    for _ in range(20):
        assert value(fleet, "print(('x'):rep(10000)) return 1") == "1"
    assert set(statuses) <= {200, 503}, statuses
    wait_until(lambda: 503 in [keyed(fleet, f"still-{os.urandom(4).hex()}")[0] for _ in range(20)], "it is refused")
    wait_until(lambda: health(fleet)["checks"]["store"]["status"] != "healthy", "health tells of it")
    told = health(fleet)["checks"]["store"]["detail"]
    assert pids(fleet) == before, "nobody dies of it"

    free()

    wait_until(lambda: keyed(fleet, "after")[0] == 200, "it is recorded again")
    wait_until(lambda: health(fleet)["status"] == "healthy", "health is well again")
    say(f"disk full: keyed executions were answered {sorted(set(statuses))}, health said: {told}")
    assert keyed(fleet, "before") == outcome
    assert pids(fleet) == before


def test_kernels_killed_while_the_disk_is_full_are_back_once_it_is_not(fleet: RestartedFleet) -> None:
    before = pids(fleet)
    free = fill(fleet.home)
    victims = list(before.values())[:4]
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
    wait_until(lambda: not set(victims) & set(running(fleet)), "they are gone")
    for _ in range(10):
        assert value(fleet, "return 1") == "1", "the others serve"

    free()

    took_s = wait_whole(fleet)
    say(f"kernels killed on a full disk: whole {took_s:.3f} s after there was room again")
    assert {pid for pid in pids(fleet).values() if pid in before.values()} == set(before.values()) - set(victims)


def test_a_controller_that_comes_back_to_a_full_disk_says_so_or_serves_and_loses_nothing(fleet: RestartedFleet) -> None:
    outcome = keyed(fleet, "before")
    before = pids(fleet)
    fleet.kill_controller()
    free = fill(fleet.home)
    fleet.begin()
    assert fleet.process is not None
    process = fleet.process
    wait_until(lambda: process.poll() is not None or fleet.is_serving(), "it serves, or says why not")
    if process.poll() is None:
        said = "it serves"
        assert value(fleet, "return 1") == "1"
    else:
        said = fleet.said()
        assert process.returncode in (1, 4), said
        assert "No space left" in said or "full" in said, said
    assert sorted(running(fleet)) == sorted(before.values())
    free()

    if process.poll() is not None:
        fleet.serve()
    took_s = wait_whole(fleet)
    say(f"controller back on a full disk: {json.dumps(said.splitlines()[-1])}; whole {took_s:.3f} s after")
    assert pids(fleet) == before
    assert keyed(fleet, "before") == outcome
