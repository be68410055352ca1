"""``fleet apply``: a configuration file, carried out by a fleet while it runs."""

import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click
import msgspec

from llmspell_cli.exits import Exit
from llmspell_cli.fleets import Where, fleet_options
from llmspell_cli.groups import Command
from llmspell_cli.options import duration, output_option
from llmspell_cli.output import counted, note, print_json, print_table
from llmspell_fleet.model.plan import ApplyView
from llmspell_fleet.model.requests import ApplyRequest
from llmspell_kernel.errors import LlmspellError, MisuseError
from llmspell_kernel.units import format_size

_LOOK_S = 0.2
_COLUMNS = ("target", "key", "before", "after", "how")
_HOW = {
    "live": "at once",
    "rolling": "rolling restart",
    "added": "added",
    "removed": "removed",
    "restart": "at the fleet's restart",
}
_LONGEST = 60

_APPLY_EXAMPLES = """
llmspell fleet apply fleet.toml --dry-run # what would change, and what was changed at runtime
llmspell fleet apply fleet.toml
llmspell fleet apply fleet.toml --prune   # also end tenants that are declared no more
llmspell fleet apply - < fleet.toml
"""


@click.command(cls=Command, examples=_APPLY_EXAMPLES)
@click.argument("file", metavar="FILE")
@click.option("--dry-run", is_flag=True, help="Show what would be done, and do nothing.")
@click.option("--prune", is_flag=True, help="End tenants that an earlier configuration declared and this one does not.")
@click.option(
    "--wait",
    "wait_s",
    type=duration,
    metavar="TIME",
    default="1m",
    show_default=True,
    help="How long to wait until rolling restarts have ended; 0 = not at all.",
)
@output_option
@fleet_options
def apply(where: Where, file: str, dry_run: bool, prune: bool, wait_s: float, output: str) -> int:
    """Have the running fleet be as the configuration FILE (or standard input, for `-`) says.

    Only what the file says otherwise than before is changed, and nothing when any of it is wrong. What was changed at
    runtime is kept, and shown, until the file says something new about it. Relative paths and ${NAME} are the fleet's.
    """
    client = where.client()
    view = client.apply(ApplyRequest(config=_text(file), name=_source(file), dry_run=dry_run, prune=prune))
    if output == "json":
        print_json(view)
    else:
        _show(view)
    rolling = sorted({_tenant_of(change.target) for change in view.changes if change.how == "rolling"})
    give_up_at = time.monotonic() + (0 if dry_run else wait_s)
    while rolling and time.monotonic() < give_up_at:
        rolls = {name: client.tenant(name).roll for name in rolling}
        if failed := {
            name: roll.reason for name, roll in rolls.items() if roll is not None and roll.status == "failed"
        }:
            raise LlmspellError(
                "; ".join(f"the restart of tenant {name} failed: {why}" for name, why in failed.items())
            )
        rolling = [name for name, roll in rolls.items() if roll is not None and roll.status == "rolling"]
        time.sleep(_LOOK_S if rolling else 0)
    if rolling and not dry_run:
        note(f"still restarting: {', '.join(rolling)}; `llmspell tenant show {rolling[0]}` tells how far it is")
    return Exit.DONE


def _text(file: str) -> str:
    try:
        if file == "-":
            return sys.stdin.read()
        return Path(file).read_text(encoding="utf-8")
    except OSError as error:
        raise MisuseError(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise MisuseError(f"{file} is not UTF-8 text: byte {error.start}") from None


def _source(file: str) -> str:
    return "standard input" if file == "-" else file


def _tenant_of(target: str) -> str:
    """Declared kernels are tenant `default`'s."""
    kind, _, name = target.partition(" ")
    return name if kind == "tenant" else "default"


def _show(view: ApplyView) -> None:
    if view.changes:
        rows = [
            (one.target, one.key, _value(one.before, one.key), _value(one.after, one.key), _HOW[one.how])
            for one in view.changes
        ]
        print_table(_COLUMNS, rows)
    if view.drift:
        click.echo("\nchanged at runtime, and kept:" if view.changes else "changed at runtime, and kept:")
        print_table(
            ("target", "key", "configured", "is", ""),
            [
                (one.target, one.key, _value(one.configured, one.key), _value(one.found, one.key), one.detail)
                for one in view.drift
            ],
        )
    click.echo(_summary(view))


def _summary(view: ApplyView) -> str:
    if not view.changes:
        return "nothing to change"
    done = "would be changed" if view.dry_run else "changed"
    later = sum(change.how == "restart" for change in view.changes)
    text = f"{counted(len(view.changes) - later, 'thing')} {done}"
    return f"{text}, {later} at the fleet's next restart" if later else text


def _value(value: Any, key: str = "") -> str:
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, int) and value and key.endswith("_bytes"):
        return format_size(value)
    if isinstance(value, dict):
        return _cut(", ".join(_pairs(value.items())))
    return _cut(msgspec.json.encode(value).decode())


def _pairs(items: Iterable[tuple[str, Any]]) -> Iterable[str]:
    return (f"{key}={_value(value, key)}" for key, value in items)


def _cut(text: str) -> str:
    """A terminal's lines are short; a program or a file gets the whole."""
    return text if len(text) <= _LONGEST or not sys.stdout.isatty() else f"{text[:_LONGEST]}…"
