"""``fleet up``: from the options to a fleet that serves, here or as a daemon."""

import os
from pathlib import Path

import click
import msgspec

from llmspell_cli import configuration
from llmspell_cli.exits import Exit
from llmspell_cli.fleets import Where, fleet_options
from llmspell_cli.groups import Command
from llmspell_cli.options import FLEET_CONFIG, config_option
from llmspell_fleet import presence
from llmspell_fleet.config.fleet import FILE_NAME, FleetConfig, load_fleet_config, rerooted
from llmspell_fleet.options import FleetOptions
from llmspell_fleet.paths import Address, FleetPaths, make_paths

_READY_WITHIN_S = 60.0
_UP_EXAMPLES = """
llmspell fleet up                         # here; Ctrl-C stops it
llmspell fleet up --daemon                # in the background; returns once it serves
llmspell fleet up --config fleet.toml --port 9550
llmspell fleet up --daemon --runtime-dir ./run --state-dir ./state --log-dir ./logs
"""


@click.command(cls=Command, examples=_UP_EXAMPLES)
@config_option(FLEET_CONFIG)
@click.option("--daemon", is_flag=True, help="Run in the background; return once the fleet serves.")
@click.option("--foreground", is_flag=True, help="Stay here, whatever the configuration says.")
@click.option("-p", "--port", type=click.IntRange(0, 65535), help="The TCP port; 0 = whichever is free.")
@click.option(
    "--allow-weaker-isolation",
    is_flag=True,
    help="Give kernels `process` where they should have `strict` and this machine cannot; /health says so.",
)
@fleet_options
def up(
    where: Where,
    config_file: str | None,
    daemon: bool,
    foreground: bool,
    port: int | None,
    allow_weaker_isolation: bool,
) -> int:
    """Start a fleet and serve until it is told to stop.

    Exits with 4 when one is running already.
    """
    if daemon and foreground:
        raise click.UsageError("--daemon and --foreground exclude each other")
    if "url" in where.named:
        raise click.UsageError(
            "--url is for a fleet that runs; the address of a new one is --port or the configuration"
        )
    presence.require_none(where.paths)
    path = configuration.find_file(config_file, FILE_NAME)
    config = None if path is None else load_fleet_config(path, environ=os.environ)
    options = FleetOptions(
        config_file=path,
        directory=str(Path.cwd()),
        port=port,
        allow_weaker_isolation=allow_weaker_isolation,
        is_rerooted=where.named,
    )
    if daemon or (config is not None and config.daemon and not foreground):
        return _start_daemon(options, config, where)
    return _start_here(options, where)


def _start_here(options: FleetOptions, where: Where) -> int:
    from llmspell_fleet.app import serve

    def announce(address: Address) -> None:
        click.echo(_description(address, where))
        click.echo("Ctrl-C stops the fleet and its kernels; a second one does not wait for what runs.")

    return serve(msgspec.structs.replace(options, on_ready=announce))


def _start_daemon(options: FleetOptions, config: FleetConfig | None, where: Where) -> int:
    # Before anything else has threads: none survives becoming a daemon.
    from llmspell_kernel.daemon.detach import Readiness, run_detached

    log_file = _log_file(config, make_paths(), where)

    def main(readiness: Readiness) -> int:
        from llmspell_fleet.app import serve

        def announce(address: Address) -> None:
            readiness.ready(_description(address, where))

        return serve(msgspec.structs.replace(options, log_file=log_file, on_ready=announce))

    outcome = run_detached(main, log_file=log_file, deadline_s=_READY_WITHIN_S, what="the fleet")
    if outcome.exit_code != Exit.DONE:
        click.echo(f"llmspell: the fleet did not start: {outcome.message}", err=True)
        return outcome.exit_code
    click.echo(outcome.message)
    click.echo(f"  log          {log_file}")
    return Exit.DONE


def _log_file(config: FleetConfig | None, paths: FleetPaths, where: Where) -> str:
    if config is None or config.log_file is None:
        return paths.log_file
    moved, _ = rerooted(config, runtime_dir=None, log_dir=paths.logs if "log" in where.named else None)
    return moved.log_file or paths.log_file


def _description(address: Address, where: Where) -> str:
    lines = [
        f"fleet is ready, process {address.pid}, {address.url}",
        f"  socket       {address.socket}",
        f"  admin token  {where.paths.admin_token}",
    ]
    if address.kernels is not None:
        lines.append(f"  kernels      {address.kernels}")
    lines.append(f"  stop         llmspell fleet down{where.runtime_option}")
    return "\n".join(lines)
