"""``kernel stop``: which kernels, and what became of each."""

import click

from llmspell_cli import targets
from llmspell_cli.exits import Exit
from llmspell_cli.groups import Command
from llmspell_cli.options import duration
from llmspell_kernel import pidfile
from llmspell_kernel.connection import ConnectionInfo, read_connection_file, remove_connection_file
from llmspell_kernel.errors import LlmspellError, NotRunningError
from llmspell_kernel.runtime_dir import KernelEntry, list_kernels, remove_socket_dir

_STOP_EXAMPLES = """
llmspell kernel stop --id 3f2a
llmspell kernel stop --all --timeout 5s
llmspell kernel stop --id work --force
"""


@click.command(cls=Command, examples=_STOP_EXAMPLES)
@click.option("-i", "--id", "identity", metavar="ID", help="The kernel's id, the beginning of its id, or its name.")
@click.option("--pid-file", metavar="FILE", help="The kernel that wrote this pid file.")
@click.option("--all", "stops_all", is_flag=True, help="Every kernel in the runtime directory.")
@click.option("--force", is_flag=True, help="SIGKILL at once, without asking.")
@click.option("--timeout", "timeout_s", type=duration, default="30s", help="How long to be patient, as 30s.")
@click.option("--no-cleanup", is_flag=True, help="Leave the files of kernels that did not tidy up.")
def stop(
    identity: str | None,
    pid_file: str | None,
    stops_all: bool,
    force: bool,
    timeout_s: float,
    no_cleanup: bool,
) -> int:
    """Stop a kernel; without an option, the only one that runs.

    The kernel is asked to shut down; if it does not, SIGTERM follows, then SIGKILL. What it took is said.
    """
    if (identity is not None) + (pid_file is not None) + stops_all > 1:
        raise click.UsageError("--id, --pid-file and --all exclude each other")
    if stops_all:
        return _stop_all(timeout_s, force=force, tidies=not no_cleanup)
    entry = _by_pid_file(pid_file) if pid_file is not None else _by_id(identity)
    _stop(entry, timeout_s, force=force, tidies=not no_cleanup)
    return Exit.DONE


def _by_id(identity: str | None) -> KernelEntry:
    if identity is not None:
        return targets.find_entry(identity)
    entry = targets.find(None).entry
    assert entry is not None
    return entry


def _by_pid_file(path: str) -> KernelEntry:
    try:
        record = pidfile.read(path)
    except FileNotFoundError:
        raise NotRunningError(f"there is no pid file {path}") from None
    for entry in list_kernels():
        if (entry.pid, entry.start_time) == (record.pid, record.start_time):
            return entry
    return KernelEntry(
        kernel_id="",
        pid=record.pid,
        start_time=record.start_time,
        pid_file=path,
        connection_file=record.connection_file,
        running=pidfile.is_running(record),
    )


def _stop_all(timeout_s: float, *, force: bool, tidies: bool) -> int:
    entries = list_kernels()
    if not entries:
        raise NotRunningError("no kernel is running")
    worst = Exit.DONE
    for entry in entries:
        try:
            _stop(entry, timeout_s, force=force, tidies=tidies)
        except NotRunningError as error:
            # What is gone is as stopped as was asked for.
            click.echo(str(error))
        except LlmspellError as error:
            click.echo(f"llmspell: {error}", err=True)
            worst = Exit.FAILED
    return worst


def _stop(entry: KernelEntry, timeout_s: float, *, force: bool, tidies: bool) -> None:
    from llmspell_kernel.client.process import stop_kernel

    record = pidfile.PidRecord(entry.pid, entry.start_time)
    info = _connection(entry)
    called = f"kernel {entry.kernel_id}, process {entry.pid}," if entry.kernel_id else f"process {entry.pid}"
    try:
        rung = stop_kernel(record, info, timeout_s=timeout_s, force=force)
    except NotRunningError:
        if tidies:
            tidy(entry)
        raise NotRunningError(f"{called} had ended before{'; its files are removed' if tidies else ''}") from None
    if tidies:
        tidy(entry)
    click.echo(f"{called} stopped by {rung.value}")


def _connection(entry: KernelEntry) -> ConnectionInfo | None:
    """How to ask the kernel; None when its file is gone or wrong: it can be stopped all the same."""
    try:
        return read_connection_file(entry.connection_file)
    except LlmspellError:
        return None


def tidy(entry: KernelEntry) -> None:
    """Remove what a kernel that is gone left; a client's own connection file stays."""
    info = _connection(entry)
    if info is not None and info.pid == entry.pid:
        remove_connection_file(entry.connection_file, info)
    pidfile.remove_stale(entry.pid_file)
    if entry.kernel_id:
        remove_socket_dir(entry.kernel_id)
