"""``fleet scale`` and ``restart``: a tenant's kernels, more, fewer or new, while they work."""

import re
import time

import click

from llmspell_cli.exits import Exit
from llmspell_cli.fleets import Where, find_target, fleet_options
from llmspell_cli.groups import Command
from llmspell_cli.options import duration
from llmspell_cli.output import counted, note
from llmspell_fleet.model.requests import RollRequest, TenantChange
from llmspell_fleet.model.views import KernelView, RollView, TenantView
from llmspell_kernel.errors import LlmspellError

_LOOK_S = 0.1
_TOLD_EVERY_S = 1.0
_SHARE = re.compile(r"[0-9]{1,6}|[0-9]{1,3}%", re.ASCII)
_SETTLED = ("READY", "BUSY", "STOPPED", "HIBERNATED")
"""A kernel that was culled comes back when it is needed."""

_SCALE_EXAMPLES = """
llmspell fleet scale acme 60
llmspell fleet scale acme 10 --wait 5m    # busy kernels finish what they run
llmspell fleet scale acme 60 --wait 0     # return at once
"""


@click.command(cls=Command, examples=_SCALE_EXAMPLES)
@click.argument("tenant_id", metavar="TENANT")
@click.argument("replicas", metavar="N", type=click.IntRange(0))
@click.option(
    "--wait",
    "wait_s",
    type=duration,
    metavar="TIME",
    default="1m",
    show_default=True,
    help="How long to wait until it is so; 0 = not at all.",
)
@fleet_options
def scale(where: Where, tenant_id: str, replicas: int, wait_s: float) -> int:
    """Give the tenant TENANT N kernels, and keep those that need not go.

    Idle kernels leave first; a busy one finishes what it runs. Exits with 1 when the time is over before it is so.
    """
    client = where.client()
    before = client.tenant(tenant_id)
    view = client.update_tenant(tenant_id, TenantChange(replicas=replicas, wait_s=0))
    kept = {kernel.id for kernel in before.kernels}
    give_up_at, tell_at = time.monotonic() + wait_s, time.monotonic() + _TOLD_EVERY_S
    while not _is_so(view) and time.monotonic() < give_up_at:
        time.sleep(_LOOK_S)
        view = client.tenant(tenant_id)
        if time.monotonic() >= tell_at:
            tell_at += _TOLD_EVERY_S
            note(_progress(view))
    if _is_so(view):
        left = sum(kernel.id in kept for kernel in view.kernels)
        click.echo(f"tenant {view.id} has {counted(view.replicas, 'kernel')}, {left} of its {len(kept)} kept")
        return Exit.DONE
    note(_progress(view))
    if not wait_s:
        return Exit.DONE
    note(f"`llmspell tenant show {view.id}` shows them, `llmspell fleet events` why")
    return Exit.FAILED


def _is_so(view: TenantView) -> bool:
    return len(view.kernels) == view.replicas and all(kernel.phase in _SETTLED for kernel in view.kernels)


def _progress(view: TenantView) -> str:
    leaving = max(0, len(view.kernels) - view.replicas)
    more = f", {counted(leaving, 'kernel')} on the way out" if leaving else ""
    failed = sum(kernel.phase == "FAILED" for kernel in view.kernels)
    return f"{view.ready} of {counted(view.replicas, 'kernel')} ready{more}{f', {failed} FAILED' if failed else ''}"


def _share(text: str) -> int | str:
    """A number of kernels or a percentage, for click: use as a parameter's type."""
    if not _SHARE.fullmatch(text):
        raise click.BadParameter(f"expected a number of kernels or a percentage such as 25%, found {text!r}")
    return text if text.endswith("%") else int(text)


_RESTART_EXAMPLES = """
llmspell fleet restart acme               # one kernel after the other, while the others serve
llmspell fleet restart acme --max-unavailable 25%
llmspell fleet restart acme --max-unavailable 0 --max-surge 2   # never fewer than there are now
llmspell fleet restart 4f21c8             # one kernel, by the beginning of its id
"""


def process_of(kernel: KernelView) -> str:
    """Which process a kernel has now, if it has one."""
    return "which has no process now" if kernel.pid is None else f"process {kernel.pid}"


@click.command(cls=Command, examples=_RESTART_EXAMPLES)
@click.argument("target", metavar="TARGET")
@click.option(
    "--max-unavailable",
    type=_share,
    metavar="N|P%",
    default="1",
    show_default=True,
    help="How many of the tenant's kernels may be not ready because of it.",
)
@click.option(
    "--max-surge",
    type=_share,
    metavar="N|P%",
    default="0",
    show_default=True,
    help="How many kernels may be started besides, to stand in meanwhile.",
)
@click.option(
    "--wait",
    "wait_s",
    type=duration,
    metavar="TIME",
    default="10m",
    show_default=True,
    help="How long to wait for the end of it; 0 = not at all.",
)
@fleet_options
def restart(where: Where, target: str, max_unavailable: int | str, max_surge: int | str, wait_s: float) -> int:
    """Give TARGET new processes: a tenant's kernels a few at a time, or one kernel.

    A tenant's busy kernels finish what they run; sessions are told that their variables are gone. Exits with 1 when a
    kernel does not become ready again: the others are left as they are then.
    """
    client = where.client()
    found = find_target(client, target)
    if isinstance(found, KernelView):
        kernel = client.restart_kernel(found.id)
        click.echo(f"kernel {kernel.id} is {kernel.phase}, {process_of(kernel)}")
        if kernel.phase == "PENDING":
            note(f"`llmspell fleet why {kernel.id[:12]}` tells what it waits for")
        return Exit.DONE if kernel.phase in _SETTLED else Exit.FAILED
    asked = RollRequest(max_unavailable=max_unavailable, max_surge=max_surge, wait_s=0)
    roll: RollView | None = client.restart_tenant(found.id, asked)
    give_up_at, told = time.monotonic() + wait_s, -1
    while roll is not None and roll.status == "rolling" and time.monotonic() < give_up_at:
        if roll.done != told:
            told = roll.done
            note(f"{roll.done} of {counted(roll.total, 'kernel')} restarted")
        time.sleep(_LOOK_S)
        roll = client.tenant(found.id).roll
    if roll is None:
        raise LlmspellError(f"the fleet knows nothing more of the restart: `llmspell fleet events` tells of {target}")
    if roll.status == "failed":
        raise LlmspellError(f"{roll.done} of {counted(roll.total, 'kernel')} restarted: {roll.reason}")
    if roll.status == "done":
        click.echo(f"tenant {found.id}: {counted(roll.total, 'kernel')} restarted")
        return Exit.DONE
    note(f"{roll.done} of {counted(roll.total, 'kernel')} restarted; it goes on: `llmspell tenant show {found.id}`")
    return Exit.FAILED if wait_s else Exit.DONE
