"""A fleet of 50 kernels under load, broken at random: nothing is lost, doubled or orphaned, and nothing runs twice.

FAULTS_SEED repeats a run, FAULTS_MINUTES makes it longer, FAULTS_ONLY names one fault.
"""

import json
import os
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence

import pytest

from support.broken import require_no_traceback
from support.restarted import RestartedFleet, restarted_fleet
from support.runs import Runner
from support.storm import CONFIG, FAULTS, HARMLESS, KERNELS, WHOLE_S, Fault, Storm, kill_controller
from support.witness import Witness
from support.workload import AUDIT, Books, Worker, recheck

pytestmark = [pytest.mark.slow, pytest.mark.integration]  # as long as it is told to

MINUTES = float(os.environ.get("FAULTS_MINUTES", "1.5"))
SEED = int(os.environ.get("FAULTS_SEED") or random.SystemRandom().randrange(1_000_000))
ONLY = os.environ.get("FAULTS_ONLY", "")
CLIENTS = 8
PAUSE_S = 0.02
CALM_S = 0.5
"""Between two faults."""


@pytest.fixture
def fleet() -> Iterator[RestartedFleet]:
    with restarted_fleet(CONFIG) as made:
        yield made


def _strike(storm: Storm, faults: Sequence[Fault], chooser: random.Random, minutes: float) -> int:
    """All faults once in a random order, and again until the time is over; how many there were."""
    deadline, number = time.monotonic() + minutes * 60, 0
    while number == 0 or time.monotonic() < deadline:
        for fault in chooser.sample(faults, len(faults)):
            storm.run(fault)
            time.sleep(CALM_S * chooser.random())
            number += 1
            if time.monotonic() > deadline and number >= len(faults):
                break
    return number


def _audited(storm: Storm, books: Books) -> int:
    """Look into the Lua states that live: no number is in two of them, or twice in one. How many there are."""
    found: Counter[int] = Counter()
    for kernel in storm.kernels():
        file = storm.fleet.home.runtime / f"kernel-{kernel['id']}.json"
        with Runner(json.loads(file.read_text())) as runner:
            told = runner.run(AUDIT)["result"]
        for pair in str(told or "").split():
            number, times = pair.split(":")
            found[int(number)] += int(times)
    for number, times in found.items():
        if times > 1:
            books.wrong(f"execution {number} has run {times} times, say the kernels that live")
    return len(found)


def _report(storm: Storm, books: Books, witness: Witness, struck: int, alive: int, outcomes: int) -> None:
    """Settle the accounts, and print them."""
    for number, (begun, ran) in witness.doubled().items():
        books.wrong(f"execution {number} was seen to begin {begun} times and to run {ran} times")
    for number in books.not_begun & set(witness.begun):
        books.wrong(f"execution {number} has the outcome that it never began, and was seen to begin")
    unseen = books.succeeded - set(witness.ran)
    sys.stdout.write(f"{storm.report()}\n")
    sys.stdout.write(
        f"{struck} faults, {storm.deaths} kernels and {storm.fleet.execs - 1} controllers ended; "
        f"{books.numbers} executions, {len(witness.begun)} seen to begin (of {len(books.succeeded)} that succeeded, "
        f"{len(unseen)} were not), {alive} in Lua states that live, {outcomes} recorded outcomes asked twice\n"
    )
    for what, times in sorted(books.answered.items()):
        sys.stdout.write(f"  {what:<28} {times:>7}\n")
    sys.stdout.write(f"  slowest: { {kind: round(taken, 2) for kind, taken in books.slowest_s.items()} }\n")
    assert len(unseen) < 0.2 * len(books.succeeded), "the witness is not there"


def _storm(fleet: RestartedFleet, faults: Sequence[Fault], minutes: float) -> Books:
    """Strike a fleet that is at work, and look at everything afterwards."""
    sys.stdout.write(f"\nFAULTS_SEED={SEED} FAULTS_MINUTES={MINUTES:g}: {KERNELS} kernels\n")
    storm, books = Storm(fleet, random.Random(SEED)), Books()
    storm.prepare()
    witness = Witness(fleet.home.runtime)
    witness.start()
    workers = [Worker(fleet, books, list(storm.expected), SEED + n, PAUSE_S) for n in range(CLIENTS)]
    for worker in workers:
        worker.start()
    try:
        struck = _strike(storm, faults, random.Random(SEED + 1), minutes)
    finally:
        for worker in workers:
            worker.stop()
        for worker in workers:
            worker.join(90)
    assert not [worker for worker in workers if worker.is_alive()]
    storm.wait_whole(WHOLE_S)
    alive = _audited(storm, books)
    # What is recorded is recorded: also for the next controller.
    kill_controller(storm)
    storm.wait_whole(WHOLE_S)
    outcomes = recheck(fleet, books)
    witness.stop()
    _report(storm, books, witness, struck, alive, outcomes)
    require_no_traceback(fleet)
    assert not books.wrongs, "\n".join(books.wrongs[:20])
    return books


@pytest.mark.timeout(MINUTES * 60 + 400)
def test_nothing_is_lost_doubled_or_run_twice_whatever_is_killed(fleet: RestartedFleet) -> None:
    _storm(fleet, [fault for fault in FAULTS if ONLY in fault.name], MINUTES)


@pytest.mark.timeout(MINUTES * 60 + 400)
def test_what_ran_while_controllers_and_zygotes_were_killed_has_the_outcome_that_it_came_to(
    fleet: RestartedFleet,
) -> None:
    books = _storm(fleet, HARMLESS, MINUTES / 4)

    # Kernels lived on: whatever began has ended, and whoever asks is told how.
    lost = {what: times for what, times in books.answered.items() if "502" in what}
    assert not lost, lost
