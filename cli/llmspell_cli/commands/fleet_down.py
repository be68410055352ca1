"""``fleet down``: the controller and every kernel, gone when it returns."""

import contextlib
import signal
import time

import click

from llmspell_cli.commands.kernel_stop import tidy
from llmspell_cli.exits import Exit
from llmspell_cli.fleets import Where, fleet_options
from llmspell_cli.groups import Command
from llmspell_cli.options import duration
from llmspell_cli.output import counted
from llmspell_fleet import presence
from llmspell_fleet.paths import FleetPaths
from llmspell_kernel.errors import LlmspellError, NotRunningError, RefusedError
from llmspell_kernel.pidfile import PidRecord
from llmspell_kernel.runtime_dir import KernelEntry

_SILENT_S = 1.0
"""How long it may take without a word."""
_BETWEEN_SIGTERMS_S = 0.3
"""Two at one moment would arrive as one."""
_FORCED_WITHIN_S = 5.0
_ORPHAN_WITHIN_S = 10.0
_ORPHANS_AT_ONCE = 32

_DOWN_EXAMPLES = """
llmspell fleet down
llmspell fleet down --timeout 2m          # scripts may take so long to end
llmspell fleet down --force
"""


@click.command(cls=Command, examples=_DOWN_EXAMPLES)
@click.option("--timeout", "timeout_s", type=duration, default="30s", help="How long to be patient, as 30s.")
@click.option("--force", is_flag=True, help="Do not wait for what runs; SIGKILL for what does not end even so.")
@fleet_options
def down(where: Where, timeout_s: float, force: bool) -> int:
    """Stop the fleet and all its kernels; return when they are gone.

    Exits with 3 when none was running; what one that died had left is stopped and removed all the same.
    """
    paths = where.paths
    running = presence.find(paths)
    if running is None:
        raise NotRunningError(f"no fleet is running in {paths.runtime}{_end_leftovers(paths, force=force)}")
    if where.url is not None and not _is_at(where, running):
        raise RefusedError(
            f"the fleet in {paths.runtime} is {running.description}, and --url (LLMSPELL_URL) names {where.url}: "
            "a fleet is stopped on its own machine, by its runtime directory"
        )
    with contextlib.suppress(NotRunningError):
        _stop(running.record, paths, timeout_s, force=force)
    click.echo(f"fleet, process {running.record.pid}, stopped{_end_leftovers(paths, force=force)}")
    return Exit.DONE


def _is_at(where: Where, running: presence.Presence) -> bool:
    """Whether the fleet that runs here is the one that --url names."""
    assert where.url is not None
    if running.address is None:
        return False
    if not running.address.url.startswith("unix:"):
        return running.address.url == where.url.rstrip("/")
    # Its file was damaged and does not tell: whoever answers there does.
    try:
        return where.client().health().controller.pid == running.record.pid
    except NotRunningError:
        return False


def _stop(record: PidRecord, paths: FleetPaths, timeout_s: float, *, force: bool) -> None:
    from llmspell_kernel.client.process import ProcessHandle

    with ProcessHandle(record) as controller:

        def ends_within(timeout_s: float) -> bool:
            """Wait, and say every second how far it is once that takes longer than one."""
            give_up_at, last = time.monotonic() + timeout_s, -1
            while not controller.wait(min(_SILENT_S, max(0.0, give_up_at - time.monotonic()))):
                if time.monotonic() >= give_up_at:
                    return False
                left = len(_running(paths))
                if left != last:
                    click.echo(
                        f"waiting for the controller, process {record.pid}, and {counted(left, 'kernel')}", err=True
                    )
                last = left
            return True

        controller.send(signal.SIGTERM)
        if force:
            if not ends_within(_BETWEEN_SIGTERMS_S):
                controller.send(signal.SIGTERM)
            if not ends_within(_FORCED_WITHIN_S):
                controller.send(signal.SIGKILL)
            timeout_s = _FORCED_WITHIN_S
        if not ends_within(timeout_s):
            raise LlmspellError(
                f"the fleet did not end within {timeout_s:g} s: its controller, process {record.pid}, and "
                f"{counted(len(_running(paths)), 'kernel')} are left; " + _advice(force=force)
            )


def _advice(*, force: bool) -> str:
    if force:
        return "a process that SIGKILL does not end waits for a device, or is traced"
    return "`llmspell fleet logs` tells what it waits for, `llmspell fleet down --force` does not wait"


def _end_leftovers(paths: FleetPaths, *, force: bool) -> str:
    """End and remove what a controller left that did not end by itself; what that was, as the end of a sentence."""
    entries = presence.kernels(paths)
    if entries:
        _end_orphans(entries, force=force)
    had_files = presence.remove_leftovers(paths)
    if entries:
        return f"; {counted(len(entries), 'kernel')} and other files that its controller had left are removed"
    return "; files that its controller had left are removed" if had_files else ""


def _end_orphans(entries: list[KernelEntry], *, force: bool) -> None:
    from concurrent.futures import ThreadPoolExecutor

    from llmspell_kernel.client.process import stop_kernel

    def end(entry: KernelEntry) -> None:
        with contextlib.suppress(NotRunningError):
            stop_kernel(PidRecord(entry.pid, entry.start_time), None, timeout_s=_ORPHAN_WITHIN_S, force=force)
        tidy(entry)

    with ThreadPoolExecutor(_ORPHANS_AT_ONCE) as pool:
        list(pool.map(end, entries))


def _running(paths: FleetPaths) -> list[KernelEntry]:
    return [entry for entry in presence.kernels(paths) if entry.running]
