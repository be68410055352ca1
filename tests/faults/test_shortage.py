"""No process can be made, or there is no memory left: who lives goes on, and who died is back when it ends."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.broken import (
    CONFIG,
    KERNELS,
    broken_fleet,
    cgroup,
    deaths,
    need_root,
    pids,
    remove_cgroup,
    require_no_traceback,
    running,
    say,
    value,
    wait_whole,
)
from support.homes import new_home, wait_until
from support.restarted import RestartedFleet

pytestmark = [pytest.mark.slow, pytest.mark.integration]  # each has a fleet of its own

MIB = 1024 * 1024


@pytest.fixture
def no_forks() -> Iterator[Path]:
    """A control group whose members cannot fork."""
    need_root("a control group")
    path = cgroup("pids", "forks")
    try:
        yield path
    finally:
        remove_cgroup(path)


def test_a_zygote_that_cannot_fork_is_tried_again_until_it_can(no_forks: Path) -> None:
    with broken_fleet() as fleet:
        before = pids(fleet)
        (no_forks / "cgroup.procs").write_text(str(fleet.zygote()))
        (no_forks / "pids.max").write_text("0")
        victims = list(before.values())[:3]
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
        wait_until(lambda: any("fork" in death for death in deaths(fleet)), "it is said that forking failed")
        for _ in range(10):
            assert value(fleet, "return 1") == "1", "the others serve"
        assert len(running(fleet)) == KERNELS - len(victims)

        (no_forks / "pids.max").write_text("max")

        took_s = wait_whole(fleet)
        say(f"fork failure: whole {took_s:.3f} s after processes could be made again")
        assert {pid for pid in pids(fleet).values() if pid in before.values()} == set(before.values()) - set(victims)


def test_a_controller_that_can_make_neither_process_nor_thread_goes_on(no_forks: Path) -> None:
    with broken_fleet() as fleet:
        before = pids(fleet)
        zygote = fleet.zygote()
        assert zygote is not None
        for pid in (fleet.pid, zygote):
            (no_forks / "cgroup.procs").write_text(str(pid))
        (no_forks / "pids.max").write_text("0")
        os.kill(zygote, signal.SIGKILL)
        os.kill(next(iter(before.values())), signal.SIGKILL)
        wait_until(lambda: len(running(fleet)) == KERNELS - 1, "it is gone")
        for _ in range(10):
            assert value(fleet, "return 1") == "1", "the others serve"

        (no_forks / "pids.max").write_text("max")

        took_s = wait_whole(fleet)
        say(f"zygote killed where none can be made: whole {took_s:.3f} s after one could be")


def test_memory_that_runs_out_ends_who_takes_it_and_no_other(request: pytest.FixtureRequest) -> None:
    need_root("a control group")
    group = cgroup("memory", "memory")
    request.addfinalizer(lambda: remove_cgroup(group))
    is_first = (group / "memory.limit_in_bytes").exists()
    limit, usage = ("memory.limit_in_bytes", "memory.usage_in_bytes") if is_first else ("memory.max", "memory.current")
    with new_home() as home:
        script = f'echo $$ > {group}/cgroup.procs && exec "$@"'
        fleet = RestartedFleet(home, prefix=("/bin/sh", "-c", script, "sh"))
        try:
            fleet.serve(CONFIG)
            wait_whole(fleet)
            before = pids(fleet)
            (group / limit).write_text(str(int((group / usage).read_text()) + 64 * MIB))
            # 200 MiB of Lua strings, which its own limit allows.
            answer = fleet.execute("local t = {} for i = 1, 200 do t[i] = ('x'):rep(2^20) .. i end return #t")
            died = answer.status == 502 or answer.json["status"] == "error"
            assert died, answer.body
            assert fleet.process is not None
            if fleet.process.poll() is not None:
                fleet.serve()
            took_s = wait_whole(fleet)
            stayed = set(before.values()) & set(pids(fleet).values())
            say(
                f"memory shortage: answered {answer.status}; {len(stayed)} of {KERNELS} stayed; whole {took_s:.3f} s after"
            )
            assert len(stayed) >= KERNELS - 1
            (group / limit).write_text("-1" if is_first else "max")
            require_no_traceback(fleet)
        finally:
            fleet.end()
