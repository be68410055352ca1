"""``fleet status`` and ``list``: how the fleet is, and which kernels it has."""

from collections.abc import Sequence

import click

from llmspell_cli.exits import Exit
from llmspell_cli.fleets import Where, fleet_options
from llmspell_cli.groups import Command
from llmspell_cli.options import output_option, selector_option
from llmspell_cli.output import coloured, print_json, print_table, rounded_duration, rounded_size, shown_labels
from llmspell_fleet.model.ids import WARM
from llmspell_fleet.model.kernel import Death
from llmspell_fleet.model.views import HealthView, KernelView

_COLOURS = {"healthy": "green", "degraded": "yellow", "unhealthy": "red"}
_SHOWN_ID = 12
"""Characters of a kernel's id in tables; commands take any beginning that only one id has."""
_COLUMNS = ("id", "name", "tenant", "phase", "pid", "restarts", "memory", "uptime", "last death")
_LABELS = "labels"

_WARM = "(warm)"
"""In a tenant's place: it belongs to none yet."""

_STATUS_EXAMPLES = """
llmspell fleet status
llmspell fleet status --output json
llmspell fleet status --url http://127.0.0.1:9550 --token-file viewer.token
"""


@click.command(cls=Command, examples=_STATUS_EXAMPLES)
@output_option
@fleet_options
def status(where: Where, output: str) -> int:
    """Ask the fleet how it is.

    Exits with 3 when none runs, and with 1 when it is unhealthy.
    """
    health = where.client().health()
    if output == "json":
        print_json(health)
    else:
        _show(health, where.address)
    return Exit.FAILED if health.status == "unhealthy" else Exit.DONE


def _show(health: HealthView, address: str) -> None:
    controller, zygote, counts = health.controller, health.zygote, health.counts
    phases = [f"{count} {name}" for name, count in counts.items() if count and name.isupper()]
    capacity = f" of at most {counts['capacity']}" if "capacity" in counts else ""
    lines = {
        "fleet": health.name,
        "status": coloured(health.status, _COLOURS[health.status]),
        "address": address,
        "controller": _process(controller.pid, controller.uptime_s, controller.memory_bytes),
        "zygote": _process(zygote.pid, zygote.uptime_s, zygote.memory_bytes) if zygote.pid else "none",
        "kernels": f"{', '.join(phases) or 'none'}{capacity}",
        "tenants": str(counts.get("tenants", 0)),
        "version": health.version,
    }
    for name, text in lines.items():
        click.echo(f"{name:<12} {text}")
    for name, check in health.checks.items():
        if check.status != "healthy":
            click.echo(f"{'check':<12} {name} is {coloured(check.status, _COLOURS[check.status])}: {check.detail}")


def _process(pid: int | None, uptime_s: float, memory_bytes: int | None) -> str:
    memory = "" if memory_bytes is None else f", {rounded_size(memory_bytes)}"
    return f"process {pid}, up {rounded_duration(uptime_s)}{memory}"


_LIST_COMMAND_EXAMPLES = """
llmspell fleet list
llmspell fleet list --tenant acme
llmspell fleet list --label env=prod,team
llmspell fleet list --output json
"""


@click.command("list", cls=Command, examples=_LIST_COMMAND_EXAMPLES)
@click.option("-t", "--tenant", metavar="TENANT", help="Only this tenant's kernels.")
@selector_option
@output_option
@fleet_options
def list_command(where: Where, tenant: str | None, label: str | None, output: str) -> int:
    """List the fleet's kernels."""
    kernels = where.client().kernels(tenant=tenant, label=label)
    if output == "json":
        print_json(kernels)
    elif kernels:
        print_kernels(kernels)
    elif label is not None:
        click.echo(f"there are no kernels with the label {label}")
    else:
        click.echo("there are no kernels; `llmspell tenant create` makes a tenant and its kernels")
    return Exit.DONE


def print_kernels(kernels: Sequence[KernelView]) -> None:
    """Print a table of kernels, by tenant, name and id; with their labels where there are any."""
    in_order = sorted(kernels, key=lambda kernel: (kernel.tenant, kernel.name, kernel.id))
    if any(kernel.labels for kernel in kernels):
        print_table((*_COLUMNS, _LABELS), [(*_cells(kernel), shown_labels(kernel.labels)) for kernel in in_order])
    else:
        print_table(_COLUMNS, [_cells(kernel) for kernel in in_order])


def _cells(kernel: KernelView) -> tuple[str, ...]:
    memory = kernel.usage.memory_bytes
    return (
        kernel.id[:_SHOWN_ID],
        kernel.name,
        _WARM if kernel.tenant == WARM else kernel.tenant,
        kernel.phase,
        "" if kernel.pid is None else str(kernel.pid),
        str(kernel.restarts),
        "" if memory is None else rounded_size(memory),
        "" if kernel.uptime_s is None else rounded_duration(kernel.uptime_s),
        "" if kernel.last_death is None else _cause(kernel.last_death),
    )


def _cause(death: Death) -> str:
    if death.cause == "signal" and death.signal:
        return death.signal
    if death.cause == "exited" and death.exit_code is not None:
        return f"exited {death.exit_code}"
    return death.cause
