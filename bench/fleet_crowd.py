"""Hundreds of kernels and a thousand: how long until all answer, and what they cost while they do nothing."""

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from bench import proc
from bench.fleet import PATIENCE_S, kill, restarted_fleet, running_fleet
from bench.managers import MANAGERS, Manager, running_manager
from bench.peers import OURS, System
from bench.rawclient import BenchError
from bench.report import Figure, Reading
from bench.run import Contender, Run, Sheet
from bench.starting import MIB

KIB: Final = 1024
_SETTLED_S: Final = 3.0
"""For what a start leaves to be done."""


def fleet_many(run: Run) -> Figure:
    """Five hundred, which do nothing: what it takes to have them, and to keep them."""
    many = run.amount(500, 10)
    idle_s = run.amount(20, 1)
    sheet = Sheet("fleet-many", f"{many} children: started, kept while they do nothing, killed together")
    sheet.row(f"all {many} up", "s", "lower")
    sheet.row(f"manager's CPU with {many} idle", "% of a core", "lower", 1.0)
    sheet.row("manager's memory for each", "KiB", "lower", 60.0)
    sheet.row(f"kill -9 of all {many}, to all up", "s", "lower")

    def ours(_system: System) -> None:
        with running_fleet(run.directory) as fleet, fleet.events() as events:
            before = proc.memory_bytes(fleet.pid, alone=True)["Rss"]
            at = time.perf_counter()
            kernels = fleet.create_tenant("many", many)
            taken = time.perf_counter() - at
            held = proc.memory_bytes(fleet.pid, alone=True)["Rss"] - before
            events.wait("kernel.ready", {kernel["id"] for kernel in kernels})
            share = _idle_share([fleet.pid], idle_s)
            at = kill(kernels)
            ready = events.wait("kernel.ready", {kernel["id"] for kernel in kernels})
            again = max(instant for instant, _ in ready.values()) - at
        put(OURS, taken, share, held / many, again)
        sheet.notes.append(
            "llmspell: kernels that have answered; the others: shells that have begun to run, which is less"
        )

    def theirs(manager: Manager) -> None:
        with running_manager(manager, run.directory, 1) as small:
            small.wait(1)
            time.sleep(0.1 if run.short else manager.settle_s)
            before = small.manager_bytes("Rss")
        with running_manager(manager, run.directory, many) as children:
            taken = children.wait(many) - children.exec_at
            time.sleep(0.1 if run.short else manager.settle_s)
            held = children.manager_bytes("Rss") - before
            share = _idle_share(children.managers(), idle_s)
            again = children.kill(list(children.pids))
        put(manager, taken, share, held / many, again)

    def put(system: Contender, taken: float, share: float, held: float, again: float) -> None:
        sheet.put(
            system,
            {
                f"all {many} up": Reading(taken),
                f"manager's CPU with {many} idle": Reading(share),
                "manager's memory for each": Reading(held / KIB),
                f"kill -9 of all {many}, to all up": Reading(again),
            },
        )

    run.attempt(sheet, OURS, ours)
    for manager in MANAGERS:
        run.attempt(sheet, manager, theirs)
    sheet.notes.append(f"CPU over {idle_s} s; memory: growth of RSS over a manager of none (theirs: of one)")
    sheet.notes.append("up: for the peers from the manager's exec, for llmspell from the request to a running fleet")
    return sheet.figure()


def _idle_share(pids: Iterable[int], during_s: float) -> float:
    """Percent of a core that these use, from a few seconds on after their start."""
    time.sleep(min(_SETTLED_S, during_s))
    members = list(pids)
    before = sum(proc.cpu_s(pid, alone=True) for pid in members)
    at = time.perf_counter()
    time.sleep(during_s)
    used = sum(proc.cpu_s(pid, alone=True) for pid in members) - before
    return 100 * used / (time.perf_counter() - at)


def fleet_thousand(run: Run) -> Figure:
    """A thousand at once on one machine, every one of which answers."""
    many = run.amount(1000, 20)
    sheet = Sheet("fleet-thousand", f"{many:,} kernels at once")
    sheet.row("asked for, to all READY", "s", "lower")
    sheet.row("an execute on each, one after the other", "s", "lower")
    sheet.row("PSS per kernel, READY", "MiB", "lower")
    sheet.row("PSS per kernel, after its execute", "MiB", "lower")
    sheet.row("controller's PSS", "MiB", "lower")
    sheet.row("controller's descriptors", "1", "lower")
    sheet.row("controller's threads", "1", "lower")
    sheet.row("controller's CPU while all are idle", "% of a core", "lower")
    sheet.row("the controller killed: exec to serving, all adopted", "s", "lower")
    sheet.row("SIGTERM to the end of all", "s", "lower")

    def ours(_system: System) -> None:
        with restarted_fleet(run.directory) as home:
            fleet = home.fleet
            at = time.perf_counter()
            kernels = fleet.create_tenant("many", many, strategy="round_robin")
            ready_s = time.perf_counter() - at
            fresh = sum(proc.memory_bytes(kernel["pid"], alone=True)["Pss"] for kernel in kernels)
            at = time.perf_counter()
            answered = {fleet.execute("many", "return 1+1")["kernel_id"] for _ in kernels}
            executed_s = time.perf_counter() - at
            if len(answered) != many:
                raise BenchError(f"expected {many} kernels to answer, {len(answered)} did")
            used = sum(proc.memory_bytes(kernel["pid"], alone=True)["Pss"] for kernel in kernels)
            controller = Path(f"/proc/{fleet.pid}")
            descriptors, threads = (sum(1 for _ in (controller / name).iterdir()) for name in ("fd", "task"))
            held = proc.memory_bytes(fleet.pid, alone=True)["Pss"]
            share = _idle_share([fleet.pid], run.amount(20, 1))
            fleet = home.restart()
            before = {kernel["id"]: kernel["pid"] for kernel in kernels}
            while {k["id"]: k["pid"] for k in fleet.kernels("many") if k["phase"] == "READY"} != before:
                if time.perf_counter() > fleet.exec_at + PATIENCE_S:
                    raise BenchError("expected all kernels to be adopted")
                time.sleep(0.01)
            adopted_s = time.perf_counter() - fleet.exec_at
            at = time.perf_counter()
            home.stop()
            stopped_s = time.perf_counter() - at
            if home.kernels():
                raise BenchError("expected no kernel to outlive its fleet")
        readings = {
            "asked for, to all READY": Reading(ready_s),
            "an execute on each, one after the other": Reading(executed_s),
            "PSS per kernel, READY": Reading(fresh / many / MIB),
            "PSS per kernel, after its execute": Reading(used / many / MIB),
            "controller's PSS": Reading(held / MIB),
            "controller's descriptors": Reading(descriptors),
            "controller's threads": Reading(threads),
            "controller's CPU while all are idle": Reading(share),
            "the controller killed: exec to serving, all adopted": Reading(adopted_s),
            "SIGTERM to the end of all": Reading(stopped_s),
        }
        sheet.put(OURS, readings)

    run.attempt(sheet, OURS, ours)
    return sheet.figure()
