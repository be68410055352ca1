"""``tenant``: who kernels belong to, and what they may use."""

import sys
from collections.abc import Callable
from typing import Any, TypeVar

import click
import msgspec

from llmspell_cli.exits import Exit
from llmspell_cli.fleets import Where, fleet_options
from llmspell_cli.groups import Command, LazyGroup
from llmspell_cli.options import duration, labels, output_option, selector_option, size
from llmspell_cli.output import counted, note, print_json, print_table, rounded_size, shown_labels
from llmspell_cli.pool_options import pool_lines, pool_members, pool_options
from llmspell_fleet.model.requests import ExecuteRequest, LimitsChange, TenantChange
from llmspell_fleet.model.views import ExecuteView, RollView, TenantCreated, TenantView
from llmspell_kernel.errors import MisuseError
from llmspell_kernel.units import format_duration

_F = TypeVar("_F", bound=Callable[..., Any])

_HERE = "llmspell_cli.commands.tenant"
_COMMANDS = {
    "create": (f"{_HERE}:create", "Make a tenant and its kernels; prints its token, this once."),
    "list": (f"{_HERE}:list_command", "List the tenants."),
    "show": (f"{_HERE}:show", "Show a tenant and its kernels."),
    "update": (f"{_HERE}:update", "Change what a tenant should have."),
    "delete": (f"{_HERE}:delete", "End a tenant and its kernels."),
    "token": (f"{_HERE}_token:token", "Give a tenant another token; prints it, this once."),
    "exec": (f"{_HERE}:exec_code", "Run Lua code on one of a tenant's kernels."),
}
_TENANT_EXAMPLES = """
llmspell tenant create acme --replicas 2 --memory 64MB
llmspell tenant list
llmspell tenant exec acme 'return 6*7'
llmspell tenant update acme --replicas 5
llmspell tenant delete acme
"""


@click.group(cls=LazyGroup, commands=_COMMANDS, examples=_TENANT_EXAMPLES)
def tenant() -> None:
    """Make, change and end tenants: who kernels belong to, and what they may use."""


_LIMITS: tuple[tuple[str, str, Any, str], ...] = (
    ("--memory", "memory_bytes", size, "Lua's heap of each kernel, as 64MB."),
    ("--cpu", "cpu_percent", click.FloatRange(0), "Percent of one core that each kernel may use."),
    ("--execution-timeout", "execution_timeout_s", duration, "How long one execution may take, as 30s."),
    ("--max-output", "output_bytes", size, "What one execution may write, as 1MB."),
    ("--max-clients", "max_clients", click.IntRange(1), "Clients connected to one kernel at once."),
    ("--max-message", "max_message_bytes", size, "The largest message that a kernel takes."),
    ("--processes", "processes", click.IntRange(0), "Processes and threads of each kernel besides its own."),
    ("--files", "files", click.IntRange(0), "Open descriptors of each kernel."),
    ("--storage", "storage_bytes", size, "The largest file that a kernel may write."),
    ("--max-executions", "max_executions", click.IntRange(1), "Executions of the tenant that run or wait at once."),
    (
        "--executions-per-s",
        "executions_per_s",
        click.FloatRange(0),
        "Executions that the tenant may begin in a second.",
    ),
    ("--max-kernels", "max_kernels", click.IntRange(0), "Kernels of the tenant."),
    ("--total-memory", "total_memory_bytes", size, "What all its kernels may hold together, as 2GB."),
    ("--total-cpu", "total_cpu_percent", click.FloatRange(0), "Percent of one core that all its kernels may use."),
    ("--total-storage", "total_storage_bytes", size, "What all its kernels may store together."),
)
"""Option, member of `LimitsChange`, type, help. 0 = no bound, wherever it may be 0."""


def _wanted_options(command: _F) -> _F:
    """What a tenant should have; a command gets what was named as `wanted`'s members."""
    for option in reversed(
        (
            click.option("-n", "--replicas", type=click.IntRange(0), help="How many kernels."),
            click.option(
                "--strategy",
                type=click.Choice(["round_robin", "least_loaded", "sticky"]),
                help="How executions are spread over the kernels.",
            ),
            *(
                click.option(option, name, type=type_, metavar=_metavar(type_), help=text)
                for option, name, type_, text in _LIMITS
            ),
            click.option(
                "--isolation-level",
                type=click.Choice(["none", "process", "strict"]),
                help="What holds a kernel apart from the machine and the others.",
            ),
            click.option(
                "--idle-timeout",
                "idle_timeout_s",
                type=duration,
                metavar="TIME",
                help="End kernels unused for so long, as 1h; 0 = never.",
            ),
            pool_options,
            click.option(
                "-l",
                "--label",
                "labels",
                multiple=True,
                callback=labels,
                metavar="NAME=VALUE",
                help="A label for it and its kernels; may be repeated; without a VALUE it goes.",
            ),
            click.option(
                "--wait",
                "wait_s",
                type=duration,
                metavar="TIME",
                default="10s",
                show_default=True,
                help="How long to wait until the kernels are ready.",
            ),
        )
    ):
        command = option(command)
    return command


def _metavar(type_: Any) -> str | None:
    return {size: "SIZE", duration: "TIME"}.get(type_) if callable(type_) else None


def _wanted(given: dict[str, Any]) -> TenantChange:
    given |= pool_members(given)
    limits = {name: given.pop(name) for _, name, _, _ in _LIMITS}
    is_limited = any(value is not None for value in limits.values())
    return TenantChange(limits=LimitsChange(**limits) if is_limited else None, **given)


_CREATE_EXAMPLES = """
llmspell tenant create acme
llmspell tenant create acme --replicas 3 --strategy sticky --memory 64MB --execution-timeout 30s
llmspell tenant create acme --output json | jq -r .token > acme.token
"""


@click.command(cls=Command, examples=_CREATE_EXAMPLES)
@click.argument("tenant_id", metavar="TENANT")
@_wanted_options
@output_option
@fleet_options
def create(where: Where, tenant_id: str, output: str, **given: Any) -> int:
    """Make the tenant TENANT and its kernels; return when they are ready.

    Its token is printed, this once: nobody can read it again.
    """
    made = where.client().create_tenant(tenant_id, _wanted(given))
    if output == "json":
        print_json(made)
    else:
        _introduce(made)
    _note_unready(made)
    return Exit.DONE


def _introduce(made: TenantCreated) -> None:
    click.echo(f"tenant {made.id} has {made.ready} of {made.replicas} kernels ready")
    click.echo(f"  token        {made.token}")
    click.echo("               shown this once: keep it in a file that only you can read")
    click.echo(f"  run Lua      llmspell tenant exec {made.id} 'return 6*7'")


def _note_unready(tenant: TenantView) -> None:
    if tenant.ready < tenant.replicas:
        note(
            f"{tenant.ready} of {tenant.replicas} kernels are ready so far: "
            f"`llmspell tenant show {tenant.id}` shows them, `llmspell fleet events` why"
        )


_LIST_COMMAND_EXAMPLES = """
llmspell tenant list
llmspell tenant list --label env=prod
llmspell tenant list --output json
"""
_COLUMNS = ("id", "ready", "strategy", "isolation", "memory", "execution timeout", "idle timeout", "labels", "created")


@click.command("list", cls=Command, examples=_LIST_COMMAND_EXAMPLES)
@selector_option
@output_option
@fleet_options
def list_command(where: Where, label: str | None, output: str) -> int:
    """List the tenants; with a tenant's token, that one."""
    tenants = where.client().tenants(label=label)
    if output == "json":
        print_json(tenants)
    elif tenants:
        print_table(_COLUMNS, [_cells(one) for one in tenants])
    elif label is not None:
        click.echo(f"there are no tenants with the label {label}")
    else:
        click.echo("there are no tenants; `llmspell tenant create` makes one")
    return Exit.DONE


def _cells(tenant: TenantView) -> tuple[str, ...]:
    limits = tenant.limits
    return (
        tenant.id,
        f"{tenant.ready}/{tenant.replicas}",
        tenant.strategy,
        tenant.isolation_level,
        rounded_size(limits.memory_bytes) if limits.memory_bytes else "",
        format_duration(limits.execution_timeout_s) if limits.execution_timeout_s else "",
        format_duration(tenant.idle_timeout_s) if tenant.idle_timeout_s else "",
        shown_labels(tenant.labels),
        tenant.created_at,
    )


_SHOW_EXAMPLES = """
llmspell tenant show acme
llmspell tenant show acme --output json
"""


@click.command(cls=Command, examples=_SHOW_EXAMPLES)
@click.argument("tenant_id", metavar="TENANT")
@output_option
@fleet_options
def show(where: Where, tenant_id: str, output: str) -> int:
    """Show the tenant TENANT: what it should have, its limits, its kernels."""
    _show(where.client().tenant(tenant_id), output)
    return Exit.DONE


def _show(tenant: TenantView, output: str) -> None:
    if output == "json":
        print_json(tenant)
        return
    lines = {
        "tenant": tenant.id,
        "created": tenant.created_at,
        "ready": f"{tenant.ready} of {tenant.replicas}",
        "strategy": tenant.strategy,
        "isolation": tenant.isolation_level,
        "idle timeout": format_duration(tenant.idle_timeout_s) if tenant.idle_timeout_s else "never",
        **pool_lines(tenant),
        "labels": shown_labels(tenant.labels) or "none",
        **({"rolling restart": _roll(tenant.roll)} if tenant.roll is not None else {}),
        **{f"limit {name}": _limit(name, value) for name, value in msgspec.to_builtins(tenant.limits).items()},
    }
    width = max(len(name) for name in lines)
    for name, text in lines.items():
        click.echo(f"{name:<{width}}  {text}")
    if tenant.kernels:
        from llmspell_cli.commands.fleet_status import print_kernels

        click.echo()
        print_kernels(tenant.kernels)


def _roll(roll: RollView) -> str:
    ended = f" at {roll.finished_at}" if roll.finished_at else ""
    reason = f": {roll.reason}" if roll.reason else ""
    return f"{roll.status}{ended}, {roll.done} of {counted(roll.total, 'kernel')}{reason}"


def _limit(name: str, value: float) -> str:
    if not value:
        return "none"
    if name.endswith("_bytes"):
        return rounded_size(int(value))
    if name.endswith("_timeout_s"):
        return format_duration(value)
    return f"{value:g}"


_UPDATE_EXAMPLES = """
llmspell tenant update acme --replicas 5
llmspell tenant update acme --memory 128MB --execution-timeout 1m
llmspell tenant update acme --replicas 0 --wait 30s
llmspell tenant update acme --restart on-failure --max-age 1d
llmspell tenant update acme --label env=prod --label old=
"""


@click.command(cls=Command, examples=_UPDATE_EXAMPLES)
@click.argument("tenant_id", metavar="TENANT")
@_wanted_options
@output_option
@fleet_options
def update(where: Where, tenant_id: str, output: str, **given: Any) -> int:
    """Change what the tenant TENANT should have; what is not named stays."""
    wanted = _wanted(given)
    if wanted == TenantChange(wait_s=wanted.wait_s):
        raise click.UsageError("expected something to change, such as --replicas 5, and found nothing")
    changed = where.client().update_tenant(tenant_id, wanted)
    _show(changed, output)
    _note_unready(changed)
    return Exit.DONE


_DELETE_EXAMPLES = """
llmspell tenant delete acme
llmspell tenant delete acme --yes
"""


@click.command(cls=Command, examples=_DELETE_EXAMPLES)
@click.argument("tenant_id", metavar="TENANT")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@fleet_options
def delete(where: Where, tenant_id: str, yes: bool) -> int:
    """End the tenant TENANT, its token and its kernels; return when they are gone."""
    client = where.client()
    if not yes:
        if not sys.stdin.isatty():
            raise MisuseError("there is no terminal to ask whether that is meant: say so with --yes")
        doomed = client.tenant(tenant_id)
        click.confirm(
            f"End tenant {doomed.id}, its token and its {counted(len(doomed.kernels), 'kernel')}?", abort=True
        )
    client.delete_tenant(tenant_id)
    click.echo(f"tenant {tenant_id} and its kernels are gone")
    return Exit.DONE


_EXEC_CODE_EXAMPLES = """
llmspell tenant exec acme 'return 6*7'
llmspell tenant exec acme --session me 'counter = (counter or 0) + 1 return counter'
llmspell tenant exec acme - < script.lua
"""


@click.command("exec", cls=Command, examples=_EXEC_CODE_EXAMPLES)
@click.argument("tenant_id", metavar="TENANT")
@click.argument("code")
@click.option("-s", "--session", metavar="NAME", help="Whose thread of work it is; `sticky` keeps it on one kernel.")
@click.option("--timeout", "timeout_s", type=duration, metavar="TIME", help="How long it may take, waiting included.")
@output_option
@fleet_options
def exec_code(
    where: Where, tenant_id: str, code: str, session: str | None, timeout_s: float | None, output: str
) -> int:
    """Run the Lua code CODE, or what standard input holds for `-`, on one of the tenant TENANT's kernels."""
    if code == "-":
        code = sys.stdin.read()
    outcome = where.client().execute(tenant_id, ExecuteRequest(code=code, session=session, timeout_s=timeout_s))
    if output == "json":
        print_json(outcome)
    else:
        _print_outcome(outcome)
    return Exit.DONE if outcome.status == "ok" else Exit.FAILED


def _print_outcome(outcome: ExecuteView) -> None:
    click.echo(outcome.stdout, nl=False)
    click.echo(outcome.stderr, nl=False, err=True)
    if outcome.result is not None:
        click.echo(outcome.result)
    if outcome.error is not None:
        for line in outcome.error.traceback or [f"{outcome.error.name}: {outcome.error.message}"]:
            click.echo(line, err=True)
    elif outcome.status != "ok":
        click.echo(f"llmspell: the script ended with {outcome.status} after {outcome.duration_s:.1f} s", err=True)
    if outcome.session_reset is True:
        note("the session's kernel died since: its variables are lost")
    if outcome.timeout_clipped is True:
        note(f"the time was cut to the tenant's limit, {format_duration(float(outcome.timeout_s or 0))}")
