"""``kernel status``, ``list`` and ``connect``: who is there, and how to reach them."""

import time
from typing import Any

import click
import msgspec

from llmspell_cli import targets
from llmspell_cli.exits import Exit
from llmspell_cli.groups import Command
from llmspell_cli.options import duration, output_option
from llmspell_cli.output import print_json, print_table
from llmspell_kernel.connection import CHANNELS, read_connection_file
from llmspell_kernel.errors import LlmspellError, NotRunningError
from llmspell_kernel.pidfile import process_age_s
from llmspell_kernel.runtime_dir import KernelEntry, list_kernels
from llmspell_kernel.units import format_duration

_COLUMNS = ("id", "pid", "name", "uptime", "state", "clients", "connection file")
_ANSWER_WITHIN_S = 1.0


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One kernel as the listings show it."""

    id: str
    pid: int
    name: str
    uptime_s: float | None
    state: str
    """``idle``, ``busy``; ``answers``: its heartbeat alone does; ``silent``: not even that; ``dead``: it is gone."""
    clients: int | None
    connection_file: str

    def cells(self) -> tuple[str, ...]:
        """As a table shows it."""
        uptime = "" if self.uptime_s is None else format_duration(int(self.uptime_s))
        clients = "" if self.clients is None else str(self.clients)
        return (self.id, str(self.pid), self.name, uptime, self.state, clients, self.connection_file)


_LIST_COMMAND_EXAMPLES = """
llmspell kernel list
llmspell kernel list --output json
"""


@click.command("list", cls=Command, examples=_LIST_COMMAND_EXAMPLES)
@output_option
def list_command(output: str) -> int:
    """List the kernels of this user, with those that died without tidying up."""
    rows = [_row(entry) for entry in list_kernels()]
    if not rows and output == "table":
        click.echo("no kernel is running; `llmspell kernel start` starts one")
    else:
        _print(rows, output)
    return Exit.DONE


_STATUS_EXAMPLES = """
llmspell kernel status
llmspell kernel status --id work --quiet && echo alive
llmspell kernel status --watch --interval 2s
"""


@click.command(cls=Command, examples=_STATUS_EXAMPLES)
@click.option("-i", "--id", "identity", metavar="ID", help="One kernel: its id, the beginning of its id, or its name.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing; the exit code tells.")
@click.option("-w", "--watch", is_flag=True, help="Again and again, until Ctrl-C.")
@click.option("--interval", "interval_s", type=duration, default="5s", help="How often with --watch.")
@output_option
def status(identity: str | None, quiet: bool, watch: bool, interval_s: float, output: str) -> int:
    """Ask running kernels how they are.

    Exits with 3 when none runs, or the one that was named does not answer.
    """
    while True:
        rows = [_row(entry) for entry in _asked_for(identity)]
        if not quiet:
            _print(rows, output)
        if not watch:
            return Exit.DONE if all(row.state in ("idle", "busy", "answers") for row in rows) else Exit.NOT_RUNNING
        time.sleep(interval_s)


def _asked_for(identity: str | None) -> list[KernelEntry]:
    if identity is not None:
        return [targets.find_entry(identity)]
    running = [entry for entry in list_kernels() if entry.running]
    if not running:
        raise NotRunningError("no kernel is running: start one with `llmspell kernel start`")
    return running


def _print(rows: list[Row], output: str) -> None:
    if output == "json":
        print_json(rows)
    else:
        print_table(_COLUMNS, [row.cells() for row in rows])


def _row(entry: KernelEntry) -> Row:
    name, state, clients = "", "dead", None
    if entry.running:
        name, state, clients = _ask(entry)
    return Row(
        id=entry.kernel_id,
        pid=entry.pid,
        name=name,
        uptime_s=process_age_s(entry.pid) if entry.running else None,
        state=state,
        clients=clients,
        connection_file=entry.connection_file,
    )


def _ask(entry: KernelEntry) -> tuple[str, str, int | None]:
    """Name, state and number of clients, from the kernel itself."""
    from llmspell_kernel.client import DeadlineError, KernelClient

    name = ""
    try:
        info = read_connection_file(entry.connection_file)
        name = info.name or ""
        with KernelClient(info) as client:
            try:
                statistics = client.statistics(_ANSWER_WITHIN_S)
            except DeadlineError:
                return name, "answers" if client.is_alive() else "silent", None
    except LlmspellError:
        return name, "silent", None
    return name, statistics.state, len(statistics.clients)


_CONNECT_EXAMPLES = """
llmspell kernel connect
llmspell kernel connect work
llmspell kernel connect ./kernel.json
"""


def _language(info: dict[str, Any]) -> str:
    return f"{info.get('name', '?')} {info.get('version', '')}".strip()


@click.command(cls=Command, examples=_CONNECT_EXAMPLES)
@click.argument("target", metavar="[ID|FILE]", required=False)
@output_option
def connect(target: str | None, output: str) -> int:
    """Prove that a kernel answers, and show how to attach; without an argument, the only one that runs."""
    from llmspell_kernel.client import KernelClient

    found = targets.find(target)
    with KernelClient(found.info) as client:
        began = time.monotonic()
        answer = client.connect()
        took_ms = (time.monotonic() - began) * 1000
    details: dict[str, Any] = {
        "id": found.info.kernel_id,
        "pid": found.info.pid,
        "implementation": f"{answer.implementation} {answer.implementation_version}",
        "language": _language(answer.language_info),
        "protocol": answer.protocol_version,
        "answered_in_ms": round(took_ms, 1),
        "connection_file": found.connection_file,
        "endpoints": {channel: found.info.endpoint(channel) for channel in CHANNELS},
    }
    if output == "json":
        print_json(details)
        return Exit.DONE
    for key, value in details.items():
        if key != "endpoints":
            click.echo(f"{key:<16} {'-' if value is None else value}")
    for channel, endpoint in details["endpoints"].items():
        click.echo(f"{channel:<16} {endpoint}")
    click.echo(f"\nattach with      jupyter console --existing {found.connection_file}")
    click.echo(f"                 llmspell exec --connect {found.connection_file} 'return 6*7'")
    return Exit.DONE
