"""`python -m bench`: measure llmspell beside its peers, a table a figure, all in bench/results.json."""

import argparse
import compileall
import datetime as dt
import signal
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import msgspec
from rich.console import Console

import llmspell_cli
import llmspell_kernel
from bench import busy, computing, crowd, executing, machine, starting
from bench.peers import SYSTEMS, why_missing
from bench.report import Figure, Results, problems, show, write_docs
from bench.run import Run

RESULTS = Path(__file__).with_name("results.json")
PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
FIGURES: dict[str, Callable[[Run], Figure]] = {
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
    for package in (llmspell_kernel, llmspell_cli):
        compileall.compile_dir(Path(package.__file__).parent, quiet=2)
    console = Console(width=None if sys.stdout.isatty() else 140)
    results = _measure(options, console)
    output = options.output or (None if options.smoke or options.only or options.system else RESULTS)
    if output is not None:
        output.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=2) + b"\n")
        console.print(f"wrote {output}", highlight=False)
    found = problems(results)
    for problem in found:
        console.print(f"INCOMPLETE: {problem}", style="bold red", highlight=False, markup=False)
    return 1 if found else 0


def _measure(options: argparse.Namespace, console: Console) -> Results:
    wanted = [system for system in SYSTEMS if not options.system or system.name in options.system]
    reasons = {system.name: why_missing(system) for system in wanted}
    missing = [reason for reason in reasons.values() if reason is not None]
    for reason in missing:
        console.print(f"NOT MEASURED: {reason}", style="bold yellow", highlight=False, markup=False)
    systems = tuple(system for system in wanted if reasons[system.name] is None)
    names = [system.name for system in systems]
    facts, versions = machine.facts(), machine.versions()
    date = dt.datetime.now(dt.UTC).isoformat(timespec="seconds")
    figures = []
    with tempfile.TemporaryDirectory(prefix="llmspell-bench-") as directory:
        run = Run(systems, Path(directory), options.smoke)
        for name in options.only or FIGURES:
            figure = FIGURES[name](run)
            figures.append(figure)
            show(figure, names, console)
    return Results(date, options.smoke, facts, versions, names, figures, missing)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="short: shows that everything runs, measures nothing well")
    parser.add_argument("--only", action="append", choices=FIGURES, metavar="NAME", help=f"of {', '.join(FIGURES)}")
    parser.add_argument("--system", action="append", choices=[system.name for system in SYSTEMS], metavar="NAME")
    parser.add_argument("--output", type=Path, metavar="FILE", help=f"default: {RESULTS.name}, for a full run only")
    parser.add_argument(
        "--write-docs", action="store_true", help=f"fill {PAGE.name} from {RESULTS.name}, measure nothing"
    )
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
