"""``fleet doctor``: whether limits and isolation hold on this machine, tried on throwaway kernels."""

import sys
from typing import TYPE_CHECKING

import click

from llmspell_cli.exits import Exit
from llmspell_cli.groups import Command
from llmspell_cli.options import output_option
from llmspell_cli.output import coloured, counted, note, print_json, print_table

if TYPE_CHECKING:
    from llmspell_fleet.doctor.findings import Finding, Report

_LONGEST = 90
"""Characters of what became of a probe, in the table."""

_COLOURS = {"held": "green", "NOT HELD": "red", "open": "yellow", "skipped": "yellow"}

_EXAMPLES = """
llmspell fleet doctor
llmspell fleet doctor --level strict
llmspell fleet doctor --output json | jq '.findings[] | select(.result == "open")'
"""


@click.command(cls=Command, examples=_EXAMPLES)
@click.option(
    "--level",
    type=click.Choice(["none", "process", "strict"]),
    default="process",
    show_default=True,
    help="The isolation level of the kernels that are tried.",
)
@output_option
def doctor(level: str, output: str) -> int:
    """Try whether each limit and each isolation promise holds on this machine.

    Starts throwaway kernels in a temporary directory, and has each go beyond its limits and out of its process. No
    fleet need run, and none is disturbed. It takes some ten seconds, at most 300 MB of memory, 100 processes and a
    second of one processor at a time, and leaves nothing behind.

    A limit counts as held only when the probe was stopped or refused in this run. Exits with 1 when something that
    this level promises was not seen to hold.
    """
    from llmspell_fleet.doctor.examine import examine
    from llmspell_fleet.model.tenant import IsolationLevel  # noqa: F401 - what `level` is

    progress = _Progress()
    try:
        report = examine(level, progress.show)  # type: ignore[arg-type]
    finally:
        progress.clear()
    if output == "json":
        print_json(report)
    else:
        _show(report)
    return Exit.DONE if report.is_sound else Exit.FAILED


class _Progress:
    """One line on standard error that is written over; on a terminal only."""

    def __init__(self) -> None:
        self._is_terminal = sys.stderr.isatty()
        if not self._is_terminal:
            note("this machine is examined with throwaway kernels, which takes some ten seconds")

    def show(self, number: int, total: int, what: str) -> None:
        """What is tried now."""
        if self._is_terminal:
            click.echo(f"\r\x1b[K{number}/{total} {what}", nl=False, err=True)

    def clear(self) -> None:
        """Leave the line empty."""
        if self._is_terminal:
            click.echo("\r\x1b[K", nl=False, err=True)


def _show(report: "Report") -> None:
    who = "root" if report.user == 0 else f"user {report.user}"
    click.echo(f"level {report.level}, as {who}, on {report.system}\n")
    for kind, column in (("limit", "limit"), ("isolation", "a kernel's process tries to")):
        rows = [_row(finding) for finding in report.findings if finding.kind == kind]
        print_table((column, "held by", "result", "found"), rows, colours=_COLOURS)
        click.echo()
    broken = [finding for finding in report.findings if finding.is_promised and finding.result != "held"]
    left = [finding for finding in report.findings if not finding.is_promised and finding.result == "open"]
    for finding in broken:
        click.echo(coloured(f"{finding.name}: is promised at this level, and was not seen to hold", "red"))
    if left:
        click.echo(f"{counted(len(left), 'thing')} that this level does not promise to hold {_are(len(left))} open.")
    for advice in dict.fromkeys(finding.advice for finding in report.findings if finding.advice):
        names = [finding.name for finding in report.findings if finding.advice == advice]
        click.echo(f"  {_shortened(names)}: {advice}")
    if report.is_sound:
        click.echo(coloured(f"All that level {report.level} promises held.", "green"))


def _row(finding: "Finding") -> tuple[str, str, str, str]:
    detail = finding.detail if len(finding.detail) <= _LONGEST else finding.detail[: _LONGEST - 1] + "…"
    result = "NOT HELD" if finding.is_promised and finding.result == "open" else finding.result
    by = finding.enforced_by or "nobody"
    return finding.name, by, result, detail


def _shortened(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= 3 else f"{', '.join(names[:2])} and {len(names) - 2} others"


def _are(number: int) -> str:
    return "is" if number == 1 else "are"
