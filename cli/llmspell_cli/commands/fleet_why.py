"""``fleet why``: why a kernel is as it is, and what will happen to it next."""

import textwrap
from collections.abc import Iterator

import click

from llmspell_cli.exits import Exit
from llmspell_cli.fleets import Where, find_kernel, fleet_options
from llmspell_cli.groups import Command
from llmspell_cli.options import output_option
from llmspell_cli.output import coloured, print_json
from llmspell_fleet.model.ids import WARM, KernelId, is_kernel_id
from llmspell_fleet.model.kernel import Death
from llmspell_fleet.model.why import Coming, WhyView
from llmspell_kernel.units import format_duration

_LABEL = 10
_WIDTH = 100
_STDERR_LINES = 5
"""How many of a death's lines are shown; the others are in JSON and in `fleet logs`."""

_COLOURS = {"READY": "green", "BUSY": "green", "FAILED": "red", "BACKOFF": "yellow", "GONE": "red"}

_WHY_EXAMPLES = """
llmspell fleet why 3f2a           # by the beginning of its id
llmspell fleet why worker         # by its name
llmspell fleet why 9589393a-f055-475a-b70f-a04622e3bd7e --output json   # also one that has left
"""


@click.command(cls=Command, examples=_WHY_EXAMPLES)
@click.argument("kernel", metavar="KERNEL")
@output_option
@fleet_options
def why(where: Where, kernel: str, output: str) -> int:
    """Say why KERNEL is as it is, and what will happen to it next, when, and by which setting.

    KERNEL is its name, its id or the beginning of it. A kernel that has left is known by its whole id, for a while.
    """
    client = where.client()
    identity = KernelId(kernel.lower()) if is_kernel_id(kernel.lower()) else find_kernel(client, kernel).id
    view = client.why(identity)
    if output == "json":
        print_json(view)
    else:
        for line in _lines(view):
            click.echo(line)
    return Exit.DONE


def _lines(view: WhyView) -> Iterator[str]:
    name = f" ({view.name})" if view.name else ""
    whose = "nobody's yet (warm)" if view.tenant == WARM else f"of tenant {view.tenant}"
    yield _row("kernel", f"{view.kernel_id}{name} {whose}")
    yield _row("phase", coloured(view.phase, _COLOURS.get(view.phase, "blue")))
    yield from _wrapped("why", view.summary)
    for sentence in view.because:
        yield from _wrapped("", sentence)
    if view.deaths and (last := view.deaths[0]).stderr:
        yield from _stderr(last)
    for label, coming in zip(["next", *[""] * len(view.next)], view.next, strict=False):
        yield from _coming(label, coming)
    if len(view.deaths) > 1:
        yield _row("deaths", f"{len(view.deaths)} are kept, {_causes(view.deaths)}")


def _stderr(death: Death) -> Iterator[str]:
    lines = death.stderr[-_STDERR_LINES:]
    more = len(death.stderr) - len(lines)
    yield _row("stderr", f"the last {len(lines)} of {len(death.stderr)} lines:" if more else "its last lines:")
    for line in lines:
        yield _row("", f"  {line}")


def _coming(label: str, coming: Coming) -> Iterator[str]:
    when = "" if coming.in_s is None else f"in {_rounded(coming.in_s)}"
    told = f"{coming.what}{' ' + coming.detail if coming.detail else ''}"
    by = f" ({coming.setting})" if coming.setting else ""
    yield from _wrapped(label, f"{when + ': ' if when else ''}{told}{by}")


def _causes(deaths: list[Death]) -> str:
    causes = [death.cause for death in deaths]
    return ", ".join(f"{causes.count(cause)} {cause}" for cause in dict.fromkeys(causes))


def _rounded(seconds: float) -> str:
    return format_duration(round(seconds, 1) if seconds < 10 else round(seconds))


def _row(label: str, text: str) -> str:
    return f"{label:<{_LABEL}} {text}".rstrip()


def _wrapped(label: str, text: str) -> Iterator[str]:
    for number, line in enumerate(textwrap.wrap(text, _WIDTH - _LABEL, break_long_words=False) or [""]):
        yield _row(label if number == 0 else "", line if number == 0 else f"  {line}")
