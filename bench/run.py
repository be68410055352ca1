"""What every figure needs: the systems, how much to measure, the load's process, a sheet to fill."""

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, TypeVar

from bench.peers import Kernel, System, running
from bench.rawclient import BenchError
from bench.report import Figure, Reading, Row

LOAD_LIMIT_S = 240.0


class Contender(Protocol):
    """What has a column in a figure's table."""

    @property
    def name(self) -> str:
        """How the tables call it."""
        ...


C = TypeVar("C", bound=Contender)


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the benchmark. A `short` one shows that everything runs; its numbers mean little."""

    systems: tuple[System, ...]
    """The kernels."""
    names: frozenset[str]
    """Of everything that takes part: the kernels and the fleet's peers."""
    directory: Path
    short: bool

    def amount(self, full: int, short: int) -> int:
        """How many to measure in this run."""
        return short if self.short else full

    def attempt(self, sheet: "Sheet", contender: C, measure: Callable[[C], None]) -> None:
        """Measure one contender if it takes part."""
        if contender.name in self.names:
            sheet.attempt(contender, measure)

    @contextlib.contextmanager
    def ready(self, system: System) -> Iterator[Kernel]:
        """A kernel that has answered, warmed by one execute."""
        with running(system, self.directory) as kernel:
            with kernel.ready_client() as client:
                time.sleep(system.settle_s)
                client.run("1+1")
            yield kernel

    def load(self, kernel: Kernel, kind: str, amount: int, *more: object) -> Mapping[str, object]:
        """Run the load generator in its own process against `kernel` and return what it found."""
        words = [kind, kernel.connection_file, kernel.pid, amount, *more]
        command = [sys.executable, "-m", "bench.load", *map(str, words)]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=LOAD_LIMIT_S, check=False)
        except subprocess.TimeoutExpired as error:
            raise BenchError(
                f"the load `{kind}` did not end within {LOAD_LIMIT_S:g} s; {kernel.last_words()}"
            ) from error
        if done.returncode:
            said = done.stderr.strip().splitlines()[-1:] or ["nothing"]
            raise BenchError(f"the load `{kind}` failed: {said[0]}; {kernel.last_words()}")
        result: Mapping[str, object] = json.loads(done.stdout)
        return result


@dataclass(slots=True)
class Sheet:
    """A figure being filled: rows are declared first, then each system's readings are put in."""

    name: str
    title: str
    rows: dict[str, Row] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def row(
        self, label: str, unit: str, better: Literal["lower", "higher"] | None, target: float | None = None
    ) -> None:
        """Declare one measure; `target` is in `unit`."""
        self.rows[label] = Row(label, unit, better, {}, target)

    def put(self, system: Contender, readings: Mapping[str, Reading]) -> None:
        """Put one system's readings into the rows of these labels."""
        for label, reading in readings.items():
            self.rows[label].readings[system.name] = reading

    def attempt(self, system: C, measure: Callable[[C], None]) -> bool:
        """Measure one system; a failure marks its empty rows, is told in the notes, and the others go on."""
        try:
            measure(system)
        except BenchError as error:
            for row in self.rows.values():
                row.readings.setdefault(system.name, Reading(word="failed", failed=True))
            self.notes.append(f"{system.name} failed: {error}")
            return False
        return True

    def rounds(self, systems: Iterable[System], count: int, measure: Callable[[System], None]) -> list[System]:
        """Measure every system `count` times, interleaved; returns those that never failed."""
        alive = list(systems)
        for _ in range(count):
            alive = [system for system in alive if self.attempt(system, measure)]
        return alive

    def figure(self) -> Figure:
        """The figure as far as it is filled."""
        return Figure(self.name, self.title, list(self.rows.values()), self.notes)
