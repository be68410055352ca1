"""What commands print: tables for people, JSON for programs."""

import sys
from collections.abc import Sequence
from typing import Any

import click

_WIDE = 1000
"""Columns. A table that goes to a file or a pipe is not cut to a terminal's width."""


def print_json(value: Any) -> None:
    """Print `value` as indented JSON."""
    import msgspec

    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2))


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print `rows` under `columns`; empty cells become a dash."""
    from rich.console import Console
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*(cell or "-" for cell in row))
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else _WIDE, highlight=False, markup=False)
    console.print(table)


def note(message: str) -> None:
    """Say something beside the result: to standard error, so that programs read the result alone."""
    click.echo(f"note: {message}", err=True)
