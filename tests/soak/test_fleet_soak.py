"""A fleet whose kernels come, go and are killed twenty times a second: its controller's memory and files stay flat."""

import itertools
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from support.broken import require_no_traceback
from support.census import take_census, unreaped
from support.homes import wait_until
from support.proc import files_of, threads_of
from support.restarted import RestartedFleet, restarted_fleet
from support.workload import Books, Client, Worker

pytestmark = [pytest.mark.slow, pytest.mark.integration]  # as long as it is told to

DURATION_S = float(os.environ.get("SOAK_FLEET_MINUTES", "10")) * 60
ROUND_S = 5.0
"""Between two looks, each at a fleet that stands still."""

PER_SECOND = 20
"""Kernels that are started: half of them asked for and deleted, half killed and replaced."""

KERNELS = 40
WARM_UP_SHARE = 0.5
"""Until then what is kept within bounds has filled, in a long run: 10,000 events, 1,000 kernels that have ended."""

GROWTH_BYTES = 4 * 1024 * 1024
"""How much more the last third may hold than the first: allocators keep what one busy moment took."""

GROWTH_FILES = 4
STORE_BYTES = 64 * 1024 * 1024

CONFIG = f"""
[fleet]
startup_kernels = {KERNELS}
[fleet.restart]
max_restarts = 1000000
window = "1s"
first_delay = "10ms"
longest_delay = "50ms"
"""


class Sample(NamedTuple):
    """What the controller holds, with so many kernels and nothing under way."""

    at_s: float
    churned: int
    rss_bytes: int
    pss_bytes: int
    private_bytes: int
    files: int
    threads: int
    store_bytes: int
    log_files: int


@pytest.fixture
def fleet() -> Iterator[RestartedFleet]:
    with restarted_fleet(CONFIG) as made:
        yield made


def _kernels(fleet: RestartedFleet) -> list[dict[str, Any]]:
    every: list[dict[str, Any]] = fleet.kernels()
    return every


def _wait_calm(fleet: RestartedFleet) -> None:
    """Until there are as many kernels as at the beginning, and all of them take work."""

    def is_calm() -> bool:
        shown = _kernels(fleet)
        return len(shown) == KERNELS and all(kernel["phase"] in ("READY", "BUSY") for kernel in shown)

    wait_until(is_calm, f"all {KERNELS} kernels take work")


def _sample(fleet: RestartedFleet, at_s: float, churned: int) -> Sample:
    rollup = {
        line.split(":")[0]: int(line.split()[1]) * 1024
        for line in Path(f"/proc/{fleet.pid}/smaps_rollup").read_text().splitlines()[1:]
    }
    sample = Sample(
        at_s,
        churned,
        rollup["Rss"],
        rollup["Pss"],
        rollup["Private_Clean"] + rollup["Private_Dirty"],
        len(files_of(fleet.pid)),
        threads_of(fleet.pid),
        sum(path.stat().st_size for path in fleet.home.state.glob("fleet.db*")),
        sum(1 for path in fleet.home.logs.rglob("*") if path.is_file()),
    )
    sys.stdout.write(
        f"{at_s:6.0f} s, {churned:6} started: RSS {sample.rss_bytes / 2**20:.2f}, PSS {sample.pss_bytes / 2**20:.2f}, "
        f"private {sample.private_bytes / 2**20:.2f} MiB; {sample.files} files, {sample.threads} threads, "
        f"store {sample.store_bytes / 2**20:.2f} MiB, {sample.log_files} logs\n"
    )
    sys.stdout.flush()
    return sample


def _churn(fleet: RestartedFleet, client: Client, chooser: random.Random, until: float) -> int:
    """Start kernels at the rate, half by asking, half by killing; how many there were."""
    began, started = time.monotonic(), 0
    own: list[str] = []
    while (now := time.monotonic()) < until:
        if now < began + started / PER_SECOND:
            time.sleep(began + started / PER_SECOND - now)
        if started % 2:
            made = client.ask("POST", "/v1/kernels", {"tenant": "default"})
            assert made.status == 201, made.body
            own.append(made.headers["Location"])
            if len(own) > 3:
                _delete(client, own.pop(0))
        else:
            running = [kernel["pid"] for kernel in _kernels(fleet) if kernel["pid"] is not None]
            with suppress(ProcessLookupError):
                os.kill(chooser.choice(running), signal.SIGKILL)
        started += 1
    for location in own:
        _delete(client, location)
    return started


def _delete(client: Client, location: str) -> None:
    done = client.ask("DELETE", location)
    assert done.status == 204, done.body


def _slope(samples: list[Sample], name: str) -> float:
    """Per started kernel, by least squares."""
    xs, ys = [sample.churned for sample in samples], [getattr(sample, name) for sample in samples]
    middle_x, middle_y = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((x - middle_x) ** 2 for x in xs)
    return sum((x - middle_x) * (y - middle_y) for x, y in zip(xs, ys, strict=True)) / spread if spread else 0.0


@pytest.mark.timeout(DURATION_S * 2 + 240)
def test_a_controller_stays_as_it_is_while_kernels_churn(fleet: RestartedFleet) -> None:
    books, client, chooser = Books(), Client(fleet), random.Random(0)
    _wait_calm(fleet)
    samples: list[Sample] = []
    began, churned = time.monotonic(), 0
    sys.stdout.write("\n")
    for number in itertools.count():
        workers = [Worker(fleet, books, ["default"], number * 10 + n, 0.02) for n in range(2)]
        for worker in workers:
            worker.start()
        churned += _churn(fleet, client, chooser, time.monotonic() + ROUND_S)
        for worker in workers:
            worker.stop()
        for worker in workers:
            worker.join(60)
        _wait_calm(fleet)
        samples.append(_sample(fleet, time.monotonic() - began, churned))
        if time.monotonic() - began > DURATION_S and len(samples) >= 6:
            break
    client.close()
    wait_until(lambda: not unreaped(fleet.pid), "whatever has ended is reaped", deadline_s=5)
    census = take_census(fleet.home)
    assert len(census.kernels) == KERNELS
    assert not census.doubled
    assert not census.others

    warm = samples[int(len(samples) * WARM_UP_SHARE) :]
    third = max(1, len(warm) // 3)
    first, last = (Sample(*map(min, zip(*part, strict=True))) for part in (warm[:third], warm[-third:]))
    # Nobody waits for a kernel to start: the pace is what the fleet can take, and is told.
    sys.stdout.write(
        f"{churned} kernels started in {samples[-1].at_s:.0f} s; {books.numbers} executions; per kernel started: "
        f"{_slope(warm, 'private_bytes'):+.0f} bytes private, {_slope(warm, 'rss_bytes'):+.0f} RSS, "
        f"{_slope(warm, 'pss_bytes'):+.0f} PSS, {_slope(warm, 'files'):+.4f} files, "
        f"{_slope(warm, 'store_bytes'):+.0f} bytes of store; first third to last: "
        f"{(last.private_bytes - first.private_bytes) / 2**20:+.2f} MiB private\n"
    )
    assert not books.wrongs, "\n".join(books.wrongs[:10])
    assert last.private_bytes - first.private_bytes <= GROWTH_BYTES
    assert last.files <= first.files + GROWTH_FILES
    # The loop's own pool makes its threads when they are first needed, and no more than so many.
    assert last.threads <= first.threads + min(32, (os.cpu_count() or 1) + 4)
    assert last.store_bytes <= STORE_BYTES
    require_no_traceback(fleet)
    assert threading.active_count() < 10
