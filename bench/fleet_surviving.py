"""What a manager's kill -9 leaves behind, and what a change of size or of configuration keeps."""

import os
import signal
import time
from collections.abc import Callable, Collection
from typing import Final

from bench.fleet import PATIENCE_S, Fleet, Json, RestartedFleet, restarted_fleet
from bench.managers import MANAGERS, Manager, running_manager
from bench.peers import OURS, System
from bench.rawclient import BenchError
from bench.report import Figure, Reading, median
from bench.run import Contender, Run, Sheet

_SETTLED_S: Final = 3.0
"""For peers to notice what has ended, or is one too many."""


def fleet_survival(run: Run) -> Figure:
    """The manager is killed with -9 and started again, as a service manager does."""
    many, few = run.amount(200, 10), run.amount(50, 5)
    sheet = Sheet("fleet-survival", "kill -9 of the manager, started again at once: what became of its children")
    sheet.row(f"its exec to serving, all {many} adopted", "s", "lower", 0.6)
    sheet.row(f"its exec to an answer of one of those {many}", "s", "lower")
    sheet.row(f"of {few}: originals that its successor manages", "1", "higher", float(few))
    sheet.row(f"of {few}: orphans, running and managed by nobody", "1", "lower", 0.0)
    sheet.row(f"of {few}: processes in the end", "1", None)

    def ours(_system: System) -> None:
        serving, answered = [], []
        for _ in range(run.amount(3, 1)):
            taken, first = _adopted(run, many)
            serving.append(taken)
            answered.append(first)
        with restarted_fleet(run.directory, kernels=few) as home:
            before, after, left = _restarted(home, "default")
        kept = len(before & after)
        sheet.put(
            OURS,
            {
                f"its exec to serving, all {many} adopted": median(serving),
                f"its exec to an answer of one of those {many}": median(answered),
                f"of {few}: originals that its successor manages": Reading(kept),
                f"of {few}: orphans, running and managed by nobody": Reading(len(left - after)),
                f"of {few}: processes in the end": Reading(len(left)),
            },
        )

    def theirs(manager: Manager) -> None:
        with running_manager(manager, run.directory, few) as children:
            children.wait(few)
            time.sleep(0.1 if run.short else manager.settle_s)
            before = set(children.pids)
            children.kill_manager()
            children.start_again()
            time.sleep(_SETTLED_S if run.short else 2 * _SETTLED_S)
            left = children.living()
            managed = children.managed()
        sheet.put(
            manager,
            {
                f"of {few}: originals that its successor manages": Reading(len(before & managed)),
                f"of {few}: orphans, running and managed by nobody": Reading(len(left - managed)),
                f"of {few}: processes in the end": Reading(len(left)),
            },
        )

    run.attempt(sheet, OURS, ours)
    for manager in MANAGERS:
        run.attempt(sheet, manager, theirs)
    sheet.notes.append("llmspell: serving is a 200 of /readyz with every kernel READY in the process that it had")
    sheet.notes.append("managed: for the peers, children of the manager that was started again")
    return sheet.figure()


def _adopted(run: Run, amount: int) -> tuple[float, float]:
    with restarted_fleet(run.directory) as home:
        fleet = home.fleet
        kernels = {kernel["id"]: kernel["pid"] for kernel in fleet.create_tenant("many", amount)}
        time.sleep(1.0)
        fleet = home.restart()
        serving = fleet.serving_at - fleet.exec_at
        while True:
            now = {kernel["id"]: kernel["pid"] for kernel in fleet.kernels("many") if kernel["phase"] == "READY"}
            if now == kernels:
                whole = max(serving, time.perf_counter() - fleet.exec_at)
                break
            if now.items() - kernels.items():
                raise BenchError("expected the kernels to be adopted, some were replaced")
        answer = fleet.execute("many", "return 1+1")
        if answer["kernel_id"] not in kernels:
            raise BenchError("expected an adopted kernel to answer")
        return whole, time.perf_counter() - fleet.exec_at


def _restarted(home: RestartedFleet, tenant: str) -> tuple[set[int], set[int], set[int]]:
    """Processes before, those that the successor has, and those that there are."""
    _wait_ready(home.fleet, tenant)
    before = _pids(home.fleet.kernels(tenant))
    fleet = home.restart()
    _wait_ready(fleet, tenant)
    after = _pids(fleet.kernels(tenant))
    return before, after, home.kernels()


def _pids(kernels: Collection[Json]) -> set[int]:
    return {kernel["pid"] for kernel in kernels if kernel["pid"] is not None}


def _wait_ready(fleet: Fleet, tenant: str) -> None:
    while any(kernel["phase"] not in ("READY", "BUSY") for kernel in fleet.kernels(tenant)):
        time.sleep(0.005)


def fleet_change(run: Run) -> Figure:
    """From 50 to 60, then a configuration that says more than before."""
    few = run.amount(50, 5)
    more = few + few // 5
    sheet = Sheet("fleet-change", f"{few} children scaled to {more}, then a reload: who is still the same process")
    sheet.row(f"scaled: of the {few} originals", "1", "higher", float(few))
    sheet.row("scaled: seconds until all are up", "s", "lower")
    sheet.row(f"reloaded with one group more: of the {more}", "1", "higher", float(more))

    def ours(_system: System) -> None:
        with restarted_fleet(run.directory, kernels=few) as home:
            fleet = home.fleet
            _wait_ready(fleet, "default")
            first = _pids(fleet.kernels("default"))
            at = time.perf_counter()
            fleet.ask("PATCH", "/v1/tenants/default", {"replicas": more, "wait_s": 60})
            taken = time.perf_counter() - at
            second = _pids(fleet.kernels("default"))
            home.configure('[[fleet.tenants]]\nid = "other"\nreplicas = 1\n')
            os.kill(fleet.pid, signal.SIGHUP)
            deadline = time.monotonic() + 30
            while not any(tenant["id"] == "other" for tenant in fleet.ask("GET", "/v1/tenants")["items"]):
                if time.monotonic() > deadline:
                    raise BenchError("expected the configuration's new tenant after SIGHUP, there is none")
                time.sleep(0.01)
            _wait_ready(fleet, "other")
            third = _pids(fleet.kernels("default"))
        if len(second) != more:
            raise BenchError(f"expected {more} kernels, there are {len(second)}")
        put(OURS, len(first & second), taken, len(second & third))

    def theirs(manager: Manager) -> None:
        with running_manager(manager, run.directory, few) as children:
            children.wait(few)
            time.sleep(0.1 if run.short else manager.settle_s)
            first = set(children.pids)
            at = time.perf_counter()
            children.scale(more)
            taken = _until(lambda: len(children.living()) == more, at)
            time.sleep(manager.settle_s)
            second = children.living()
            children.reload(more)
            time.sleep(_SETTLED_S)
            third = children.living()
        put(manager, len(first & second), taken, len(second & third))

    def put(system: Contender, scaled: int, taken: float, reloaded: int) -> None:
        sheet.put(
            system,
            {
                f"scaled: of the {few} originals": Reading(scaled),
                "scaled: seconds until all are up": Reading(taken),
                f"reloaded with one group more: of the {more}": Reading(reloaded),
            },
        )

    run.attempt(sheet, OURS, ours)
    for manager in MANAGERS:
        run.attempt(sheet, manager, theirs)
    return sheet.figure()


def _until(is_so: Callable[[], bool], began_at: float) -> float:
    """Seconds from `began_at` until it is so."""
    deadline = time.monotonic() + PATIENCE_S
    while not is_so():
        if time.monotonic() > deadline:
            raise BenchError(f"expected it within {PATIENCE_S:g} s of being told")
        time.sleep(0.005)
    return time.perf_counter() - began_at
