"""``fleet signal`` and ``drain``: one kernel, a tenant's, or all."""

from typing import get_args

import click

from llmspell_cli.exits import Exit
from llmspell_cli.fleets import Where, find_target, fleet_options
from llmspell_cli.groups import Command
from llmspell_cli.options import duration
from llmspell_cli.output import counted
from llmspell_fleet.client import FleetClient
from llmspell_fleet.model.requests import DrainRequest, ForwardedSignal
from llmspell_fleet.model.views import KernelView, TenantView
from llmspell_kernel.errors import LlmspellError, MisuseError

_DOWN = ("STOPPED", "FAILED", "HIBERNATED", "PENDING", "BACKOFF")
_UP = ("READY", "BUSY")

_all = click.option("--all", "is_all", is_flag=True, help="All kernels of all tenants.")

_SIGNAL_EXAMPLES = """
llmspell fleet signal USR1 4f21c8         # one kernel writes its statistics to its log
llmspell fleet signal INT acme            # interrupt what the tenant's kernels run
llmspell fleet signal HUP --all           # reopen the log files
llmspell fleet signal TERM 4f21c8         # end its process; its restart rule says what follows
"""


def _name(text: str) -> str:
    """A signal's name with or without SIG, for click: use as a parameter's type."""
    name = text.upper().removeprefix("SIG")
    if name not in get_args(ForwardedSignal):
        raise click.BadParameter(f"expected one of {', '.join(get_args(ForwardedSignal))}, found {text!r}")
    return name


@click.command(cls=Command, examples=_SIGNAL_EXAMPLES)
@click.argument("name", metavar="INT|TERM|HUP|USR1|USR2", type=_name)
@click.argument("target", metavar="TARGET", required=False)
@_all
@fleet_options
def signal(where: Where, name: ForwardedSignal, target: str | None, is_all: bool) -> int:
    """Forward a signal to TARGET: a kernel, or the kernels of a tenant; or to all.

    INT interrupts what runs. TERM ends the process, and the kernel's restart rule says what follows. HUP reopens the
    log, USR1 writes statistics to it, USR2 switches its debug level.
    """
    client = where.client()
    client.signal(_target(client, target, is_all=is_all), name)
    return Exit.DONE


_DRAIN_EXAMPLES = """
llmspell fleet drain 4f21c8               # it finishes what it runs, and stays down
llmspell fleet drain acme --restart       # new processes, after what runs
llmspell fleet drain --all --wait 5m
llmspell fleet restart 4f21c8             # up again
"""


@click.command(cls=Command, examples=_DRAIN_EXAMPLES)
@click.argument("target", metavar="TARGET", required=False)
@_all
@click.option("--restart", is_flag=True, help="Start new processes afterwards; else kernels stay down.")
@click.option(
    "--wait",
    "wait_s",
    type=duration,
    metavar="TIME",
    default="1m",
    show_default=True,
    help="How long to wait until it is so, at most 10m; 0 = not at all.",
)
@fleet_options
def drain(where: Where, target: str | None, is_all: bool, restart: bool, wait_s: float) -> int:
    """Let TARGET, a kernel or a tenant's kernels, or all, finish what they run, and end.

    They take no more work at once. Work that takes longer than the fleet's drain_deadline is interrupted. Exits with 1
    when the time is over before it is so; it goes on.
    """
    if wait_s > 600:
        raise MisuseError(f"--wait: expected at most 10m, found {wait_s:g} s")
    client = where.client()
    found = _target(client, target, is_all=is_all)
    kernels = client.drain(found, DrainRequest(restart=restart, wait_s=wait_s))
    failed = [kernel.id for kernel in kernels if restart and kernel.phase == "FAILED"]
    if failed:
        raise LlmspellError(f"{counted(len(failed), 'kernel')} FAILED: `llmspell fleet list` shows why")
    over = sum(kernel.phase in (_UP if restart else _DOWN) for kernel in kernels)
    what = "restarted" if restart else "drained"
    click.echo(f"{over} of {counted(len(kernels), 'kernel')} {what}")
    return Exit.DONE if over == len(kernels) or not wait_s else Exit.FAILED


def _target(client: FleetClient, text: str | None, *, is_all: bool) -> KernelView | TenantView | None:
    """What is meant; None = all."""
    if is_all == (text is not None):
        raise MisuseError("expected either a kernel or a tenant, or --all")
    return None if text is None else find_target(client, text)
