"""``fleet``: the group of commands about a fleet of kernels."""

import click

from llmspell_cli.groups import LazyGroup

_HERE = "llmspell_cli.commands"
_COMMANDS = {
    "up": (f"{_HERE}.fleet_up:up", "Start a fleet, in the foreground or as a daemon."),
    "down": (f"{_HERE}.fleet_down:down", "Stop the fleet and all its kernels."),
    "status": (f"{_HERE}.fleet_status:status", "Ask the fleet how it is."),
    "list": (f"{_HERE}.fleet_status:list_command", "List the fleet's kernels."),
    "apply": (f"{_HERE}.fleet_apply:apply", "Have the fleet be as a configuration file says."),
    "scale": (f"{_HERE}.fleet_pools:scale", "Give a tenant more or fewer kernels."),
    "restart": (f"{_HERE}.fleet_pools:restart", "Restart a tenant's kernels a few at a time, or one kernel."),
    "upgrade": (f"{_HERE}.fleet_upgrade:upgrade", "Replace the controller's code, and keep its kernels."),
    "drain": (f"{_HERE}.fleet_signal:drain", "Let kernels finish what they run, and end or restart."),
    "signal": (f"{_HERE}.fleet_signal:signal", "Forward a signal to a kernel, a tenant's kernels, or all."),
    "doctor": (f"{_HERE}.fleet_doctor:doctor", "Try whether limits and isolation hold on this machine."),
    "why": (f"{_HERE}.fleet_why:why", "Say why a kernel is as it is, and what comes next."),
    "logs": (f"{_HERE}.fleet_logs:logs", "Show what a kernel, or the fleet itself, wrote."),
    "events": (f"{_HERE}.fleet_logs:events", "Show what happened."),
}
_FLEET_EXAMPLES = """
llmspell fleet up --daemon                # prints where it listens
llmspell fleet status
llmspell fleet list
llmspell fleet scale acme 60
llmspell fleet apply fleet.toml --dry-run
llmspell fleet logs --follow
llmspell fleet down
"""


@click.group(cls=LazyGroup, commands=_COMMANDS, examples=_FLEET_EXAMPLES)
def fleet() -> None:
    """Run a fleet of kernels, for many tenants, behind one address."""
