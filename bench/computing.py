"""What it costs a CPU-bound script to run inside a kernel rather than in lupa alone."""

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from bench import proc
from bench.peers import ILUA, IPYKERNEL, Kernel, System
from bench.plain_lua import SCRIPTS
from bench.rawclient import BenchError, RawClient
from bench.report import Figure, Reading
from bench.run import Run, Sheet

_TOTAL = "all scripts"
_WALL = "all scripts, wall clock"


@dataclass(frozen=True, slots=True)
class _Best:
    """The least seconds of each script so far: CPU time of the whole process, and wall time."""

    cpu: dict[str, float] = field(default_factory=lambda: dict.fromkeys(SCRIPTS, float("inf")))
    wall: dict[str, float] = field(default_factory=lambda: dict.fromkeys(SCRIPTS, float("inf")))

    def time(self, name: str, pid: int, run_script: Callable[[str], None]) -> None:
        """Run one script in process `pid` and keep its times if they are the best."""
        cpu, wall = proc.cpu_s(pid), time.perf_counter()
        run_script(name)
        self.wall[name] = min(self.wall[name], time.perf_counter() - wall)
        self.cpu[name] = min(self.cpu[name], proc.cpu_s(pid) - cpu)


def cpu_bound(run: Run) -> Figure:
    """CPU-bound scripts in a kernel against plain lupa in its own process, in turns; the best of each."""
    sheet = Sheet("cpu-bound", "CPU-bound scripts: CPU time in the kernel ÷ CPU time in plain lupa")
    sheet.row(_TOTAL, "×", "lower", 1.02)
    for name in (*SCRIPTS, _WALL):
        sheet.row(name, "×", "lower")

    def compare(system: System) -> None:
        if system is IPYKERNEL:
            sheet.put(system, {label: Reading(word="no Lua") for label in sheet.rows})
            return
        inside, plain = _Best(), _Best()
        for _ in range(run.amount(3, 1)):
            with run.ready(system) as kernel:
                _take_turns(kernel, run.amount(4, 1), inside, plain)
        sheet.put(system, {name: Reading(inside.cpu[name] / plain.cpu[name]) for name in SCRIPTS})
        sheet.put(system, {_TOTAL: Reading(sum(inside.cpu.values()) / sum(plain.cpu.values()))})
        sheet.put(system, {_WALL: Reading(sum(inside.wall.values()) / sum(plain.wall.values()))})
        times = (f"{name} {inside.cpu[name] * 1e3:.0f} / {plain.cpu[name] * 1e3:.0f} ms" for name in SCRIPTS)
        sheet.notes.append(f"{system.name} / plain lupa: {', '.join(times)}")

    for system in run.systems:
        sheet.attempt(system, compare)
    sheet.notes.append("the target is 1.00×; 2 % is left for what two runs of the same program differ by")
    if ILUA in run.systems:
        sheet.notes.append("ilua runs the system's own Lua interpreter")
    return sheet.figure()


def _take_turns(kernel: Kernel, turns: int, inside: _Best, plain: _Best) -> None:
    command = [sys.executable, "-m", "bench.plain_lua"]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as bare,
        kernel.ready_client() as client,
    ):
        try:
            _run_plain(bare, "")  # its start is over once it has answered
            for _ in range(turns):
                for name in SCRIPTS:
                    plain.time(name, bare.pid, partial(_run_plain, bare))
                    inside.time(name, kernel.pid, partial(_run_inside, client))
        finally:
            bare.kill()


def _run_plain(bare: subprocess.Popen[str], name: str) -> None:
    assert bare.stdin is not None
    assert bare.stdout is not None
    print(name, file=bare.stdin, flush=True)
    if not bare.stdout.readline():
        raise BenchError("expected plain lupa to run the script, its process ended")


def _run_inside(client: RawClient, name: str) -> None:
    reply = client.run(SCRIPTS[name])
    if b'"ok"' not in reply.content:
        raise BenchError(f"expected the script to run, the reply is {reply.content[:200]!r}")
