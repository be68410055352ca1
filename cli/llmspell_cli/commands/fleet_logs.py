"""``fleet logs`` and ``events``: what was written, and what happened."""

import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import click

from llmspell_cli.exits import Exit
from llmspell_cli.fleets import Where, find_kernel, fleet_options
from llmspell_cli.groups import Command
from llmspell_cli.options import output_option
from llmspell_cli.output import note, print_json, print_json_line
from llmspell_fleet import presence
from llmspell_fleet.client import Gap
from llmspell_fleet.model.event import Event
from llmspell_fleet.model.views import LogLine
from llmspell_kernel.errors import LlmspellError, NotRunningError

_FOLLOW_FROM_BYTES = 4096
"""How much of a file's end is shown before what is new."""
_LOOK_EVERY_S = 0.2

_LOGS_EXAMPLES = """
llmspell fleet logs                       # the fleet's own
llmspell fleet logs --follow
llmspell fleet logs 3f2a --grep error     # a kernel's, by the beginning of its id
llmspell fleet logs worker --since 120    # by its name; the lines after number 120
"""


@click.command(cls=Command, examples=_LOGS_EXAMPLES)
@click.argument("kernel", metavar="[KERNEL]", required=False)
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@click.option("--since", type=click.IntRange(0), help="A kernel's lines after this number, as --output json shows it.")
@click.option("--grep", metavar="TEXT", help="Only lines that hold this text, exactly so.")
@output_option
@fleet_options
def logs(where: Where, kernel: str | None, follow: bool, since: int | None, grep: str | None, output: str) -> int:
    """Show what KERNEL wrote to its standard output and error; without KERNEL, the fleet's own log."""
    if kernel is None:
        if since is not None or output == "json":
            raise click.UsageError("--since and --output are for a kernel's lines, which have numbers: name a KERNEL")
        return _own_log(where, follow=follow, grep=grep)
    client = where.client()
    identity = find_kernel(client, kernel).id
    if follow:
        for line in client.follow_logs(identity, since=since or 0, grep=grep):
            _print_following(line, output)
        note("the fleet ended, or ended the stream")
        return Exit.DONE
    lines = client.logs(identity, since=since or 0, grep=grep)
    if output == "json":
        print_json(lines)
    else:
        for line in lines:
            click.echo(_text(line))
    return Exit.DONE


_EVENTS_EXAMPLES = """
llmspell fleet events
llmspell fleet events --follow
llmspell fleet events --since 120 --output json
"""


@click.command(cls=Command, examples=_EVENTS_EXAMPLES)
@click.option("-f", "--follow", is_flag=True, help="Go on with what comes, until Ctrl-C.")
@click.option("--since", type=click.IntRange(0), default=0, help="Only events after this number.")
@output_option
@fleet_options
def events(where: Where, follow: bool, since: int, output: str) -> int:
    """Show what happened, one event a line: its number, when, what, to whom.

    With --follow, JSON is one object a line.
    """
    client = where.client()
    if follow:
        for event in client.follow_events(since=since):
            _print_following(event, output)
        note("the fleet ended, or ended the stream")
        return Exit.DONE
    found = client.events(since=since)
    if output == "json":
        print_json(found)
    else:
        for event in found:
            click.echo(_text(event))
    return Exit.DONE


def _print_following(item: LogLine | Event | Gap, output: str) -> None:
    if isinstance(item, Gap):
        note(f"{item.missed} were lost here: they came faster than they were read")
    elif output == "json":
        print_json_line(item)
    else:
        click.echo(_text(item))


def _text(item: LogLine | Event) -> str:
    if isinstance(item, LogLine):
        return item.text
    told = " ".join(f"{name}={value}" for name, value in item.data.items() if value not in (None, ""))
    whose = " ".join(part for part in (item.tenant, item.kernel_id) if part)
    return f"{item.seq:>6} {item.at} {item.type:<18} {whose} {told}".rstrip()


# --- the fleet's own log ------------------------------------------------------------------------------------------


def _own_log(where: Where, *, follow: bool, grep: str | None) -> int:
    if where.url is not None:
        raise click.UsageError("--url: the fleet's own log is a file on its machine; name a KERNEL, or leave --url out")
    running = presence.find(where.paths)
    stated = running.address.log_file if running is not None and running.address is not None else None
    path = Path(stated or where.paths.log_file)
    try:
        log = path.open("rb")
    except FileNotFoundError:
        raise NotRunningError(
            f"there is no log {path}: `llmspell fleet up --daemon` writes one, a fleet in the foreground logs to its "
            "standard error"
        ) from None
    except OSError as error:
        raise LlmspellError(f"the log {path} cannot be read: {error.strerror}") from None
    wanted = None if grep is None else grep.encode()
    for line in _following(log, path) if follow else _whole(log):
        if wanted is None or wanted in line:
            sys.stdout.buffer.write(line)
            sys.stdout.buffer.flush()
    return Exit.DONE


def _whole(log: BinaryIO) -> Iterator[bytes]:
    with log:
        yield from log


def _following(log: BinaryIO, path: Path) -> Iterator[bytes]:
    """The last lines and then what is appended, also to the file that takes this one's place when it is full."""
    if log.seek(0, os.SEEK_END) > _FOLLOW_FROM_BYTES:
        log.seek(-_FOLLOW_FROM_BYTES, os.SEEK_END)
        log.readline()
    else:
        log.seek(0)
    while True:
        with log:
            started = b""
            while True:
                is_last = _is_replaced(log, path)
                for line in log:
                    started += line
                    if line.endswith(b"\n"):
                        yield started
                        started = b""
                if is_last:
                    break
                time.sleep(_LOOK_EVERY_S)
        log = path.open("rb")


def _is_replaced(log: BinaryIO, path: Path) -> bool:
    """Whether another file is at `path` by now."""
    try:
        return not os.path.samestat(os.fstat(log.fileno()), path.stat())
    except FileNotFoundError:
        return False
