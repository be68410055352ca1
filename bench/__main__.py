"""`python -m bench`: measure llmspell beside its peers, a table a figure, all in bench/results.json."""

import argparse
import compileall
import datetime as dt
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec
from rich.console import Console

import llmspell_cli
import llmspell_fleet
import llmspell_kernel
from bench import (
    busy,
    computing,
    crowd,
    executing,
    fleet_crowd,
    fleet_repairing,
    fleet_serving,
    fleet_starting,
    fleet_surviving,
    machine,
    starting,
)
from bench.gateway import GATEWAY
from bench.managers import MANAGERS
from bench.peers import SYSTEMS, why_missing
from bench.report import Figure, Results, problems, show, write_docs
from bench.run import Run

RESULTS = Path(__file__).with_name("results.json")
PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
Measure = Callable[[Run], Figure]
KERNEL: dict[str, Measure] = {
    "cold-start": starting.cold_start,
    "memory": starting.memory,
    "latency": executing.latency,
    "pipelined": executing.pipelined,
    "interrupt": busy.interrupt,
    "busy-kernel-info": busy.kernel_info,
    "printed": executing.printed,
    "cpu-bound": computing.cpu_bound,
    "connection-file": starting.connection_file,
    "clients": crowd.clients,
}
FLEET: dict[str, Measure] = {
    "fleet-up": fleet_starting.fleet_up,
    "fleet-start": fleet_starting.fleet_start,
    "fleet-claim": fleet_starting.fleet_claim,
    "fleet-memory": fleet_starting.fleet_memory,
    "fleet-repair": fleet_repairing.fleet_repair,
    "fleet-execute": fleet_serving.fleet_execute,
    "fleet-children": fleet_repairing.fleet_children,
    "fleet-survival": fleet_surviving.fleet_survival,
    "fleet-change": fleet_surviving.fleet_change,
    "fleet-many": fleet_crowd.fleet_many,
    "fleet-thousand": fleet_crowd.fleet_thousand,
}
SECTIONS = {"kernel": KERNEL, "fleet": FLEET}
FIGURES = {**KERNEL, **FLEET}
PEERS = (GATEWAY, *MANAGERS)


def main() -> int:
    """Do what the command line asks; 0 when every figure gave numbers, whether or not it met its target."""
    options = _options()
    if options.write_docs:
        if not RESULTS.exists():
            sys.exit(f"expected the results of a full run in bench/{RESULTS.name}, there are none: `make bench`")
        write_docs(msgspec.json.decode(RESULTS.read_bytes(), type=Results), PAGE)
        return 0
    if not Path("/proc/self/smaps_rollup").exists():
        sys.exit("the benchmarks read memory and CPU time from Linux's /proc, which this system lacks")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    # A checkout may have no bytecode, as an installed wheel has; compiling would be counted as start and as memory.
    for package in (llmspell_kernel, llmspell_fleet, llmspell_cli):
        compileall.compile_dir(Path(package.__file__).parent, quiet=2)
    console = Console(width=None if sys.stdout.isatty() else 140)
    results = _measure(options, console)
    if options.merge:
        results = _merged(results)
    is_partial = options.smoke or options.only or options.system
    output = options.output or (RESULTS if options.merge or not is_partial else None)
    if output is not None:
        output.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=2) + b"\n")
        console.print(f"wrote {output}", highlight=False)
    found = problems(results)
    for problem in found:
        console.print(f"INCOMPLETE: {problem}", style="bold red", highlight=False, markup=False)
    return 1 if found else 0


def _measure(options: argparse.Namespace, console: Console) -> Results:
    figures_wanted = _figures_wanted(options)
    reasons = _reasons(options, figures_wanted)
    if "fleet-execute" in figures_wanted and (reason := fleet_serving.why_missing()) is not None:
        del figures_wanted["fleet-execute"]
        reasons["fleet-execute"] = reason
    missing = [reason for reason in reasons.values() if reason is not None]
    for reason in missing:
        console.print(f"NOT MEASURED: {reason}", style="bold yellow", highlight=False, markup=False)
    names = [name for name, reason in reasons.items() if reason is None]
    systems = tuple(system for system in SYSTEMS if system.name in names)
    facts, versions = machine.facts(), machine.versions()
    date = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    figures = []
    with tempfile.TemporaryDirectory(prefix="llmspell-bench-") as directory:
        run = Run(systems, frozenset(names), Path(directory), options.smoke)
        for measure in figures_wanted.values():
            figure = measure(run)
            figures.append(figure)
            show(figure, console)
    return Results(date, options.smoke, facts, versions, names, figures, missing)


def _merged(new: Results) -> Results:
    """The results of the last full run with these figures in place of its own."""
    old = msgspec.json.decode(RESULTS.read_bytes(), type=Results)
    figures = {figure.name: figure for figure in old.figures}
    for figure in new.figures:
        load = new.machine.get("load average at the start", "unknown")
        figure.notes.append(f"measured by itself, {new.date}, load average {load}")
        figures[figure.name] = figure
    ordered = [figures[name] for name in FIGURES if name in figures]
    return msgspec.structs.replace(old, figures=ordered, versions={**old.versions, **new.versions})


def _figures_wanted(options: argparse.Namespace) -> dict[str, Measure]:
    names = [figure for word in options.only or SECTIONS for figure in SECTIONS.get(word, (word,))]
    return {name: FIGURES[name] for name in names}


def _reasons(options: argparse.Namespace, figures: Mapping[str, Measure]) -> dict[str, str | None]:
    """What takes part, each with the reason why it cannot be measured here, or None."""
    reasons = {system.name: why_missing(system) for system in SYSTEMS if _takes_part(options, system.name)}
    if FLEET.keys() & figures.keys():
        reasons |= {peer.name: peer.why_missing(options.smoke) for peer in PEERS if _takes_part(options, peer.name)}
    return reasons


def _takes_part(options: argparse.Namespace, name: str) -> bool:
    return not options.system or name in options.system


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="short: shows that everything runs, measures nothing well")
    figures, systems = [*SECTIONS, *FIGURES], [contender.name for contender in (*SYSTEMS, *PEERS)]
    parser.add_argument("--only", action="append", choices=figures, metavar="NAME", help=f"of {', '.join(figures)}")
    parser.add_argument("--system", action="append", choices=systems, metavar="NAME", help=f"of {', '.join(systems)}")
    parser.add_argument("--output", type=Path, metavar="FILE", help=f"default: {RESULTS.name}, for a full run only")
    parser.add_argument(
        "--merge", action="store_true", help=f"put the figures of --only into {RESULTS.name}, each with its own date"
    )
    parser.add_argument(
        "--write-docs", action="store_true", help=f"fill {PAGE.name} from {RESULTS.name}, measure nothing"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
