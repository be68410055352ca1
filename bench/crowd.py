"""Many clients at once on one kernel."""

from typing import cast

from bench.peers import System
from bench.rawclient import BenchError
from bench.report import Figure, Reading
from bench.run import Run, Sheet


def clients(run: Run) -> Figure:
    """100 clients, five channels each: memory per client, one execute of each, shutdown with all attached."""
    amount = run.amount(100, 10)
    sheet = Sheet("clients", f"{amount} clients at once on one kernel")
    sheet.row("memory per client", "MB", "lower", 10.0)
    sheet.row("every client answered after", "ms", "lower")
    sheet.row("shutdown with all attached", "ms", "lower", 5000.0)

    def crowd(system: System) -> None:
        with run.ready(system) as kernel:
            result = run.load(kernel, "clients", amount)
        if result["answered"] != amount:
            raise BenchError(f"expected {amount} clients to be answered, {result['answered']} were")
        shutdown_s = cast(float | None, result["shutdown_s"])
        values = {
            "memory per client": Reading(cast(float, result["bytes_per_client"]) / 1e6),
            "every client answered after": Reading(cast(float, result["all_answered_s"]) * 1e3),
            "shutdown with all attached": Reading(word="never") if shutdown_s is None else Reading(shutdown_s * 1e3),
        }
        sheet.put(system, values)

    for system in run.systems:
        sheet.attempt(system, crowd)
    sheet.notes.append("memory is the growth of the kernel's PSS; the executes are sent together")
    return sheet.figure()
