"""What commands print: tables for people, JSON for programs."""

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Any

import click

_WIDE = 1000
"""Columns. A table that goes to a file or a pipe is not cut to a terminal's width."""


def print_json(value: Any) -> None:
    """Print `value` as indented JSON."""
    import msgspec

    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2))


def print_json_line(value: Any) -> None:
    """Print `value` as JSON on one line, at once: for streams."""
    import msgspec

    click.echo(msgspec.json.encode(value))


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, colours: Mapping[str, str] | None = None
) -> None:
    """Print `rows` under `columns`; empty cells become a dash. `colours` are of cells with just that text."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell or "-", style=(colours or {}).get(cell, "")) for cell in row))
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else _WIDE, highlight=False, markup=False)
    console.print(table)


def note(message: str) -> None:
    """Say something beside the result: to standard error, so that programs read the result alone."""
    click.echo(f"note: {message}", err=True)


def coloured(text: str, colour: str) -> str:
    """`text` in a colour: on a terminal only, whose owner did not turn colours off (https://no-color.org)."""
    return click.style(text, fg=colour) if sys.stdout.isatty() and not os.environ.get("NO_COLOR") else text


def counted(number: int, noun: str) -> str:
    """``1 kernel``, ``2 kernels``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def rounded_duration(seconds: float) -> str:
    """A duration in its two largest units, for people: 93784 is ``1d2h``."""
    from llmspell_kernel.units import format_duration

    for length_s, unit_s in ((86_400, 3600), (3600, 60)):
        if seconds >= length_s:
            return format_duration(seconds // unit_s * unit_s)
    return format_duration(int(seconds))


def rounded_size(size_bytes: int) -> str:
    """A size to three digits, for people: 3460300 is ``3.3 MB``."""
    size, units = float(size_bytes), ["B", "KB", "MB", "GB", "TB"]
    while size >= 1000 and len(units) > 1:
        size, units = size / 1024, units[1:]
    return f"{size:.0f} {units[0]}" if size >= 10 or units[0] == "B" else f"{size:.1f} {units[0]}"


def shown_labels(labels: Mapping[str, str]) -> str:
    """Labels as they are given: ``env=prod,team=x``."""
    return ",".join(f"{name}={value}" for name, value in sorted(labels.items()))
