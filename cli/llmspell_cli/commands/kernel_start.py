"""``kernel start``: from the configuration and the options to a kernel that serves."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from llmspell_cli import configuration, targets
from llmspell_cli.exits import Exit
from llmspell_cli.groups import Command
from llmspell_cli.options import KERNEL_CONFIG, config_option, duration, size
from llmspell_cli.output import note
from llmspell_kernel import config as configs
from llmspell_kernel import runtime_dir
from llmspell_kernel.connection import ConnectionInfo, new_kernel_id
from llmspell_kernel.errors import RefusedError
from llmspell_kernel.options import ServeOptions

_F = TypeVar("_F", bound=Callable[..., Any])

_NOT_BUILT = {
    "dap": "the debug adapter",
    "lsp": "the language server",
    "repl": "the REPL service",
    "tls": "TLS",
}
_READY_WITHIN_S = 30.0


def _options(command: _F) -> _F:
    """All options of `start`; they are many, and the function below is about what they do."""
    for option in reversed(
        (
            config_option(KERNEL_CONFIG),
            click.option("--daemon", is_flag=True, help="Run in the background; return once the kernel answers."),
            click.option("--foreground", is_flag=True, help="Stay here, whatever the configuration says."),
            click.option(
                "-i",
                "--id",
                "identity",
                metavar="ID",
                help="The kernel's UUID, or a name for it. Default: a new UUID.",
            ),
            click.option(
                "-p",
                "--port",
                type=click.IntRange(0, 65535),
                help="The shell port; the kernel finds the other four. Default: all found.",
            ),
            click.option(
                "--ip",
                help="The address to bind. Default: 127.0.0.1; others need TLS.",
            ),
            click.option("--transport", type=click.Choice(["tcp", "ipc"]), help="TCP, or unix sockets. Default: tcp."),
            click.option(
                "-f",
                "--connection-file",
                metavar="FILE",
                help="A client's connection file to obey if it exists; else where to write one.",
            ),
            click.option("--pid-file", metavar="FILE", help="Also write the pid here, for a service manager."),
            click.option(
                "--log-file",
                metavar="FILE",
                help="Where to log. Default: the terminal, or a daemon's file in the log directory.",
            ),
            click.option("--log-rotate-size", type=size, help="Begin a new log at this size, as 10MB."),
            click.option("--log-rotate-count", type=click.IntRange(0), help="How many old logs to keep."),
            click.option("--idle-timeout", type=duration, help="End a kernel unused for so long, as 1h; 0 = never."),
            click.option("--max-clients", type=click.IntRange(1), help="How many clients may be connected at once."),
            click.option("--all", "all_faces", is_flag=True, help="Every face that is built: today, Jupyter."),
            click.option("--jupyter", is_flag=True, help="The Jupyter face, which is always there."),
            click.option("--dap", is_flag=True, help="The debug adapter (not built yet)."),
            click.option("--lsp", is_flag=True, help="The language server (not built yet)."),
            click.option("--repl", is_flag=True, help="The REPL service (not built yet)."),
            click.option("--tls", is_flag=True, help="Encrypt connections (not built yet)."),
        )
    ):
        command = option(command)
    return command


_OVERRIDES = {
    "identity": ("service", "id"),
    "pid_file": ("service", "pid_file"),
    "log_file": ("logging", "file"),
    "log_rotate_size": ("logging", "rotate_size"),
    "log_rotate_count": ("logging", "rotate_count"),
    "ip": ("jupyter", "ip"),
    "transport": ("jupyter", "transport"),
    "connection_file": ("jupyter", "connection_file"),
    "idle_timeout": ("limits", "idle_timeout_s"),
    "max_clients": ("limits", "max_clients"),
}


_START_EXAMPLES = """
llmspell kernel start                           # here; prints how to attach
llmspell kernel start --daemon                  # in the background
llmspell kernel start --daemon --id work        # found as `work` by --id and --connect
llmspell kernel start --port 9555 --idle-timeout 1h
llmspell kernel start --transport ipc           # unix sockets instead of TCP
llmspell kernel start --config kernel.toml
"""


@click.command(cls=Command, examples=_START_EXAMPLES)
@_options
def start(**given: Any) -> int:
    """Start a kernel and serve it until it ends."""
    if given["daemon"] and given["foreground"]:
        raise click.UsageError("--daemon and --foreground exclude each other")
    for option, part in _NOT_BUILT.items():
        if given[option]:
            raise RefusedError(f"--{option}: {part} is not built yet; leave the option out")
    overrides = _overrides(given)
    config = configs.overridden(configuration.load(given["config_file"]), overrides)
    for notice in configs.notices(config):
        note(notice)
    if reasons := configs.refusals(config):
        raise RefusedError("the kernel is not started:\n" + "\n".join(f"  {reason}" for reason in reasons))
    options = msgspec.structs.replace(
        serve_options(config, given["port"]),
        config_file=configuration.find_file(given["config_file"]),
        overrides=tuple(overrides),
    )
    return _start_daemon(options) if config.service.daemon else _start_here(options)


def _overrides(given: dict[str, Any]) -> list[tuple[str, str, Any]]:
    """Table, key and value of what the environment and the command line say on top of the file."""
    found: list[tuple[str, str, Any]] = [*configuration.environment()]
    found += [(*_OVERRIDES[option], given[option]) for option in _OVERRIDES if given[option] is not None]
    if given["daemon"] or given["foreground"]:
        found.append(("service", "daemon", given["daemon"]))
    return found


def serve_options(config: configs.KernelConfig, port: int | None) -> ServeOptions:
    """What `config` comes to for the kernel itself; `port` is the shell's, on top of the configuration."""
    jupyter, service = config.jupyter, config.service
    identity = service.id
    kernel_id = new_kernel_id() if identity is None else targets.kernel_id(identity)
    ports = jupyter.ports.in_order()
    if port is not None:
        ports = (port, *ports[1:])
    connection_file = jupyter.connection_file
    return ServeOptions(
        kernel_id=kernel_id,
        kernel_name=jupyter.kernel_name,
        name="" if identity is None else targets.name_of(identity),
        connection_file=(
            runtime_dir.connection_path(kernel_id)
            if connection_file is None
            else configs.absolute_path(connection_file)
        ),
        pid_file=None if service.pid_file is None else configs.absolute_path(service.pid_file),
        transport=jupyter.transport,
        ip=jupyter.ip,
        port=ports[0],
        ports=ports if any(ports[1:]) else None,
        key=jupyter.key,
        limits=configs.kernel_limits(config),
        log=configs.log_options(config),
    )


def _start_here(options: ServeOptions) -> int:
    from llmspell_kernel.app import serve

    def announce(info: ConnectionInfo) -> None:
        click.echo(_description(options, info))
        click.echo("Ctrl-C interrupts what runs; twice within two seconds while nothing runs stops the kernel.")

    return serve(msgspec.structs.replace(options, on_ready=announce))


def _start_daemon(options: ServeOptions) -> int:
    # Before anything else has threads: none survives becoming a daemon.
    from llmspell_kernel.daemon.detach import Readiness, run_detached

    log_file = options.log.file or str(Path(runtime_dir.log_dir(), f"kernel-{options.kernel_id}.log"))
    log = msgspec.structs.replace(options.log, file=log_file, owns_stdio=True)

    def main(readiness: Readiness) -> int:
        from llmspell_kernel.app import serve

        def announce(info: ConnectionInfo) -> None:
            readiness.ready(_description(options, info))

        return serve(msgspec.structs.replace(options, log=log, on_ready=announce))

    outcome = run_detached(main, log_file=log_file, deadline_s=_READY_WITHIN_S)
    if outcome.exit_code != Exit.DONE:
        click.echo(f"llmspell: the kernel did not start: {outcome.message}", err=True)
        return outcome.exit_code
    click.echo(outcome.message)
    click.echo(f"  log              {log_file}")
    return Exit.DONE


def _description(options: ServeOptions, info: ConnectionInfo) -> str:
    called = f" ({options.name})" if options.name else ""
    short = options.name or options.kernel_id[:8]
    return "\n".join(
        (
            f"kernel {options.kernel_id}{called} is ready, process {os.getpid()}, {info.transport} {info.ip}",
            f"  connection file  {options.connection_file}",
            f"  attach           jupyter console --existing {options.connection_file}",
            f"                   llmspell exec --connect {short} 'return 6*7'",
            f"  stop             llmspell kernel stop --id {short}",
        )
    )
