"""``fleet scale``: how many kernels a tenant has, changed while they work."""

import time

import click

from llmspell_cli.exits import Exit
from llmspell_cli.fleets import Where, fleet_options
from llmspell_cli.groups import Command
from llmspell_cli.options import duration
from llmspell_cli.output import counted, note
from llmspell_fleet.model.requests import TenantChange
from llmspell_fleet.model.views import TenantView

_LOOK_S = 0.1
_TOLD_EVERY_S = 1.0
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
