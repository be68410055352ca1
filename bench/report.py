"""The records of a run, their summaries, and how they are shown: tables for people, Markdown for the docs."""

import math
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec
from rich.console import Console
from rich.table import Table

OURS = "llmspell"
_BEGIN, _END = "<!-- results: begin -->", "<!-- results: end -->"


class Summary(msgspec.Struct, frozen=True):
    """Raw samples in the row's unit, summarised; percentiles are nearest-rank."""

    n: int
    p50: float
    p95: float
    p99: float
    min: float
    max: float


class Reading(msgspec.Struct, frozen=True):
    """One system's value in one row, or the word that stands in its place (`never (10 s)`, `failed`, `–`)."""

    value: float | None = None
    word: str = ""
    summary: Summary | None = None
    failed: bool = False


class Row(msgspec.Struct, frozen=True):
    """One measure of a figure. `target` is in `unit`; `better` is absent where there is nothing to win."""

    label: str
    unit: str
    better: Literal["lower", "higher"] | None
    readings: dict[str, Reading]
    target: float | None = None

    def is_met(self) -> bool | None:
        """Whether our reading meets the target; None without a target or without a reading of ours."""
        ours = self.readings.get(OURS)
        if self.target is None or ours is None:
            return None
        if ours.value is None:
            return False
        return ours.value <= self.target if self.better == "lower" else ours.value >= self.target

    def advantage(self, peer: str) -> float | None:
        """How many times better than this peer we are; None where one of the two has no number."""
        ours, theirs = self.readings.get(OURS, Reading()).value, self.readings.get(peer, Reading()).value
        if self.better is None or not ours or not theirs:
            return None
        return theirs / ours if self.better == "lower" else ours / theirs


class Figure(msgspec.Struct, frozen=True):
    """One figure of the benchmark: its rows, and what must be known to read them."""

    name: str
    title: str
    rows: list[Row]
    notes: list[str]

    def systems(self) -> list[str]:
        """Those with a reading in it, in the order in which they were measured."""
        return list(dict.fromkeys(name for row in self.rows for name in row.readings))


class Results(msgspec.Struct, frozen=True):
    """A whole run, as `bench/results.json` holds it."""

    date: str
    short: bool
    machine: dict[str, str | int | float]
    versions: dict[str, str]
    systems: list[str]
    figures: list[Figure]
    missing: list[str]


def summarise(samples: Sequence[float], scale: float = 1.0) -> Summary:
    """Summarise at least one sample, each multiplied by `scale` into the row's unit."""
    ordered = sorted(sample * scale for sample in samples)

    def rank(share: float) -> float:
        return ordered[max(math.ceil(share * len(ordered)) - 1, 0)]

    return Summary(len(ordered), statistics.median(ordered), rank(0.95), rank(0.99), ordered[0], ordered[-1])


def median(samples: Sequence[float], scale: float = 1.0) -> Reading:
    """The reading that shows the median of its samples."""
    summary = summarise(samples, scale)
    return Reading(summary.p50, summary=summary)


def percentiles(
    samples: Sequence[float], *, tail: Literal["p95", "p99"] = "p99", prefix: str = ""
) -> dict[str, Reading]:
    """Readings in ms for the rows `p50` and `tail`, from samples in seconds."""
    summary = summarise(samples, 1e3)
    worst = summary.p95 if tail == "p95" else summary.p99
    return {f"{prefix}p50": Reading(summary.p50, summary=summary), f"{prefix}{tail}": Reading(worst)}


def problems(results: Results) -> list[str]:
    """Every reading that failed or is no number, every row without one of ours; empty for a complete run."""
    found: dict[str, None] = {}
    for figure in results.figures:
        for row in figure.rows:
            for system, reading in row.readings.items():
                if reading.failed:
                    found[f"{figure.name}: {system} failed"] = None
                elif reading.value is not None and not math.isfinite(reading.value):
                    found[f"{figure.name}: {row.label}: {system} {reading.value}"] = None
            ours = row.readings.get(OURS, Reading())
            if OURS in results.systems and ours.value is None and not ours.failed:
                found[f"{figure.name}: {row.label}: no number for {OURS}"] = None
    return list(found)


def show(figure: Figure, console: Console) -> None:
    """Print one figure's table and its notes."""
    systems = figure.systems()
    console.print(figure.title, style="bold", highlight=False, markup=False)
    table = Table()
    for position, heading in enumerate(_headings(systems)):
        table.add_column(heading, justify="left" if position == 0 else "right")
    for row in figure.rows:
        met = row.is_met()
        style = "" if met is None else ("green" if met else "red")
        table.add_row(*_cells(row, systems), style=style)
    console.print(table)
    for note in figure.notes:
        console.print(f"  {note}", style="dim", highlight=False, markup=False)
    console.print()


def write_docs(results: Results, page: Path) -> None:
    """Replace what stands between the result markers of `page` by these results."""
    head, _, rest = page.read_text().partition(_BEGIN)
    _, found, tail = rest.partition(_END)
    if not found:
        raise ValueError(f"expected the markers {_BEGIN} and {_END} in {page}, found no such pair: put them back")
    page.write_text(f"{head}{_BEGIN}\n\n{_markdown(results)}\n{_END}{tail}")


def _headings(systems: Sequence[str]) -> list[str]:
    peers = [name for name in systems if name != OURS]
    return ["measure", *systems, *(f"× {peer}" for peer in peers), "target", "met"]


def _cells(row: Row, systems: Sequence[str]) -> list[str]:
    peers = [name for name in systems if name != OURS]
    sign = {"lower": "≤", "higher": "≥"}.get(row.better or "", "")
    target = "" if row.target is None else f"{sign} {_number(row.target)}"
    met = {True: "yes", False: "NO", None: ""}[row.is_met()]
    shown = [_shown(row.readings.get(name, Reading(word="–"))) for name in systems]
    unit = "" if row.unit in ("1", "1/s") else f", {row.unit}"
    return [f"{row.label}{unit}", *shown, *(_times(row.advantage(peer)) for peer in peers), target, met]


def _shown(reading: Reading) -> str:
    return reading.word if reading.value is None else _number(reading.value)


def _times(ratio: float | None) -> str:
    return "" if ratio is None else f"{_number(ratio)}×"


def _number(value: float) -> str:
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3f}" if abs(value) < 1 else f"{value:.2f}" if abs(value) < 10 else f"{value:.1f}"


def _markdown(results: Results) -> str:
    facts: Mapping[str, object] = {"date": results.date, **results.machine, **results.versions}
    lines = ["; ".join(f"{name} {value}" for name, value in facts.items()) + ".", ""]
    lines += [f"Not measured: {reason}." for reason in results.missing]
    for figure in results.figures:
        systems = figure.systems()
        headings = _headings(systems)
        lines += [f"### {figure.title}", "", _table_line(headings), _table_line(["---"] * len(headings))]
        lines += [_table_line(_cells(row, systems)) for row in figure.rows]
        lines += ["", *(f"- {note}" for note in figure.notes), *([""] if figure.notes else [])]
    return "\n".join(lines)


def _table_line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
