"""A kernel's files and process, seen from outside: what is made before it starts, and what is left when it is gone."""

import contextlib
import os
import signal
from typing import Literal, cast

from llmspell_fleet.controller.kernels.hold import kernel_limits
from llmspell_fleet.model.ids import KernelId
from llmspell_fleet.model.kernel import KernelSpec
from llmspell_fleet.model.tenant import IsolationLevel
from llmspell_fleet.paths import FleetPaths
from llmspell_fleet.spawner.spawner import Process
from llmspell_kernel import pidfile
from llmspell_kernel.connection import ConnectionInfo
from llmspell_kernel.errors import LlmspellError
from llmspell_kernel.safe_files import ensure_directory, remove_unfinished
from llmspell_kernel.zygote.protocol import Confinement, StartKernel


def fifo_path(paths: FleetPaths, kernel: KernelId) -> str:
    """Its standard output and error."""
    return os.path.join(paths.kernel_dir(kernel), "output")


def progress_path(paths: FleetPaths, kernel: KernelId) -> str:
    """Which execution it began last."""
    return os.path.join(paths.kernel_dir(kernel), "progress")


def make_kernel_dir(paths: FleetPaths, kernel: KernelId) -> None:
    """The private folder of its sockets, output and progress; and that of its log."""
    for path in (paths.kernel_dir(kernel), os.path.dirname(paths.kernel_log(kernel))):
        ensure_directory(path)
    _remove_unreadable(os.path.join(paths.runtime, f"kernel-{kernel}.pid"))


def _remove_unreadable(pid_file: str) -> None:
    """A kernel refuses to start over a pid file that nobody can read; and it has no process, or none would start."""
    try:
        pidfile.read(pid_file)
    except FileNotFoundError:
        return
    except LlmspellError:
        os.unlink(pid_file)


def start_request(
    paths: FleetPaths,
    spec: KernelSpec,
    last: ConnectionInfo | None,
    *,
    ticket: int,
    confinement: Confinement,
    proof: str,
    log_level: str,
    may_be_spare: bool = False,
) -> StartKernel:
    """What a spawner is asked; `last` is where its last incarnation was found, and the next one will be."""
    ports = None
    if spec.port is not None:
        ports = last.ports if last is not None else (spec.port, 0, 0, 0, 0)
    return StartKernel(
        ticket=ticket,
        kernel_id=spec.id,
        name=spec.name,
        transport="ipc" if spec.port is None else "tcp",
        ports=ports,
        key=last.key if last is not None else None,
        limits=kernel_limits(spec),
        confinement=confinement,
        supervisor_proof=proof,
        pid_file=spec.pid_file,
        output=fifo_path(paths, spec.id),
        progress_file=progress_path(paths, spec.id),
        log_level=cast(Literal["debug", "info", "warning", "error"], log_level),
        may_be_spare=may_be_spare,
    )


def _files_outside(paths: FleetPaths, spec: KernelSpec) -> list[str]:
    """What a kernel writes outside its folder."""
    own = [os.path.join(paths.runtime, f"kernel-{spec.id}.{kind}") for kind in ("json", "pid")]
    return own if spec.pid_file is None else [*own, spec.pid_file]


def remove_process_files(paths: FleetPaths, spec: KernelSpec, pid: int, level: IsolationLevel) -> None:
    """What a process, which was at `level`, was writing when it was killed; at `strict` all, which it cannot remove."""
    for path in _files_outside(paths, spec):
        remove_unfinished(path, pid)
    if level == "strict":
        remove_kernel_files(paths, spec)


def remove_kernel_files(paths: FleetPaths, spec: KernelSpec) -> None:
    """Whatever a kernel without a process has left."""
    leftovers = _files_outside(paths, spec)
    folder = paths.kernel_dir(spec.id)
    with contextlib.suppress(OSError):
        leftovers += [os.path.join(folder, name) for name in os.listdir(folder)]
    for path in leftovers:
        with contextlib.suppress(OSError):  # a kernel's own folder: what is there may be none of ours
            os.unlink(path)
    for path in (folder, os.path.dirname(folder)):
        # The second one holds other kernels' as a rule.
        with contextlib.suppress(OSError):
            os.rmdir(path)


def send_signal(process: Process, number: signal.Signals) -> None:
    """Signal it, if it is still there."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(process.pidfd, number)


def kill_tree(process: Process) -> None:
    """SIGKILL to its whole session. The pidfd first says that the number is still its own."""
    try:
        signal.pidfd_send_signal(process.pidfd, signal.SIGKILL)
    except ProcessLookupError:
        return
    # Killed, but not reaped yet or just now: nobody else can lead a group of that number while one of it lives.
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
