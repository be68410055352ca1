"""What executions cost: one at a time, pipelined, printing."""

from collections.abc import Mapping
from typing import cast

from bench.peers import OURS, System
from bench.rawclient import BenchError
from bench.report import Figure, median, percentiles
from bench.run import Run, Sheet

WINDOW = 128
MESSAGES = 5  # busy, execute_input, execute_result and idle on IOPub, the reply on shell
ROUNDS = 3


def latency(run: Run) -> Figure:
    """`1+1`, one at a time: sent to both the reply and the idle received."""
    sheet = Sheet("latency", "`1+1`, one at a time: execute_request to reply and idle")
    sheet.row("p50", "ms", "lower", 0.22)
    sheet.row("p99", "ms", "lower", 0.8)
    samples: dict[str, list[float]] = {system.name: [] for system in run.systems}

    def one_round(system: System) -> None:
        amount = run.amount(2000 if system is OURS else 400, 50)
        with run.ready(system) as kernel:
            samples[system.name] += cast(list[float], run.load(kernel, "latency", amount)["samples"])

    for system in sheet.rounds(run.systems, run.amount(ROUNDS, 1), one_round):
        sheet.put(system, percentiles(samples[system.name]))
    return sheet.figure()


def pipelined(run: Run) -> Figure:
    """Executes of `1+1` with a window of 128 unanswered ones, every message of each received."""
    sheet = Sheet("pipelined", f"`1+1` pipelined, window {WINDOW}, every message received")
    sheet.row("executes per second", "1/s", "higher", 15_000)
    sheet.row("kernel CPU per execute", "µs", "lower")
    sheet.row("messages per execute", "1", None)
    sheet.row("messages with a wrong parent", "1", None)
    sheet.row("CPU of the load generator", "% of a core", None)
    found: dict[str, list[Mapping[str, float]]] = {system.name: [] for system in run.systems}

    def one_round(system: System) -> None:
        amount = run.amount(30_000 if system is OURS else 1500, 300)
        with run.ready(system) as kernel:
            result = cast(Mapping[str, float], run.load(kernel, "pipelined", amount, WINDOW))
        if system is OURS and (result["messages"] != MESSAGES * amount or result["wrong_parents"]):
            raise BenchError(
                f"expected {MESSAGES * amount} messages with the right parents, "
                f"{result['messages']} came, {result['wrong_parents']} with a wrong one"
            )
        found[system.name].append(result)

    for system in sheet.rounds(run.systems, run.amount(ROUNDS, 1), one_round):
        rounds = found[system.name]
        values = {
            "executes per second": median([each["executes"] / each["wall_s"] for each in rounds]),
            "kernel CPU per execute": median([each["kernel_cpu_s"] / each["executes"] for each in rounds], 1e6),
            "messages per execute": median([each["messages"] / each["executes"] for each in rounds]),
            "messages with a wrong parent": median([each["wrong_parents"] for each in rounds]),
            "CPU of the load generator": median([each["load_cpu_s"] / each["wall_s"] for each in rounds], 100),
        }
        sheet.put(system, values)
    return sheet.figure()


def printed(run: Run) -> Figure:
    """A loop that prints numbers, until idle; every line counted and its order checked."""
    sheet = Sheet("printed", "Printed lines published, until idle")
    sheet.row("lines per second", "1/s", "higher", 500_000)
    sheet.row("stream messages", "1", None)
    found: dict[str, list[Mapping[str, float]]] = {system.name: [] for system in run.systems}

    def one_round(system: System) -> None:
        amount = run.amount(500_000, 2000)
        with run.ready(system) as kernel:
            result = cast(Mapping[str, float], run.load(kernel, "printed", amount, system.print_lines))
        if not result["in_order"]:
            raise BenchError(f"expected the numbers 1 to {amount} in order, the text that came differs")
        found[system.name].append(result)

    for system in sheet.rounds(run.systems, run.amount(ROUNDS, 1), one_round):
        rounds = found[system.name]
        values = {
            "lines per second": median([each["lines"] / each["wall_s"] for each in rounds]),
            "stream messages": median([each["messages"] for each in rounds]),
        }
        sheet.put(system, values)
        sheet.notes.append(f"{system.name}: {rounds[0]['lines']:,} lines, all received, in order")
    return sheet.figure()
