"""The life of a kernel that a supervisor started: give up what it must not have, serve, say so once."""

import contextlib
import os
import socket
import sys
from collections.abc import Callable
from typing import NoReturn

import msgspec

from llmspell_kernel.app import serve
from llmspell_kernel.connection import ConnectionInfo
from llmspell_kernel.errors import LlmspellError, RefusedError, lacks_memory
from llmspell_kernel.options import Ending, LogOptions, ServeOptions
from llmspell_kernel.runtime.prepared import Prepared
from llmspell_kernel.taken import take_hold
from llmspell_kernel.zygote.confine import bound_processes, confine
from llmspell_kernel.zygote.lockdown import lock_down
from llmspell_kernel.zygote.marks import kernel_name, mark_descendants, name_process
from llmspell_kernel.zygote.preloading import preload
from llmspell_kernel.zygote.protocol import LONGEST_PACKET, Probed, Refused, Serving, StartKernel, encode
from llmspell_kernel.zygote.tree import become_reaper

_LONGEST_DETAIL = 1000


def become_kernel(start: StartKernel, report: socket.socket, prepared: Prepared | None = None) -> NoReturn:
    """Serve one kernel and end the process. Nothing of the parent's is cleaned up: it is still the parent's."""
    code = 1
    name_process(kernel_name(start.kernel_id))
    try:
        probe = _probe(start, report) if start.probe else None
        become_reaper()
        mark_descendants(start.kernel_id)
        confine(start.confinement, output=start.output, keep=(report.fileno(),))
        if start.confinement.level == "strict":
            code = _serve_locked(start, report, prepared, probe)
        else:
            code = probe() if probe is not None else _serve(start, report, prepared)
    except BaseException as fault:  # noqa: BLE001 - the process's boundary
        code = _end(start, report, fault)
    finally:
        sys.stderr.flush()
        os._exit(code)


def _end(start: StartKernel, report: socket.socket, fault: BaseException) -> int:
    """Say what ended the process; its exit code."""
    if lacks_memory(fault):
        os.write(2, b"llmspell kernel: the process is out of memory\n")
        return Ending.MEMORY
    if isinstance(fault, LlmspellError):
        _refuse(start, report, str(fault))
        return fault.exit_code
    if isinstance(fault, OSError):
        _refuse(start, report, f"{fault.strerror}{f': {fault.filename}' if fault.filename else ''}")
    else:
        # A fault of ours is told by its traceback in the kernel's log, and by the code.
        import traceback

        traceback.print_exception(fault)
    return 1


def _serve(start: StartKernel, report: socket.socket, prepared: Prepared | None) -> int:
    def on_listening(connection: ConnectionInfo) -> None:
        _announce(start, report, connection)
        report.close()

    options = msgspec.structs.replace(_options(start), on_listening=on_listening)
    return serve(options, prepared=prepared)


def _serve_locked(
    start: StartKernel, report: socket.socket, prepared: Prepared | None, probe: Callable[[], int] | None
) -> int:
    """Take hold of what it serves with, give up everything else, and serve."""
    if start.limits.module_paths:
        raise RefusedError("isolation level strict: modules cannot be required, no folder of the machine is in reach")
    if prepared is None:
        preload()
        prepared = Prepared()
    if probe is not None:
        _take_hold_for(start.probe)
        lock_down(start.confinement)
        return probe()
    options = _options(start)
    taken = take_hold(options)
    _announce(start, report, taken.connection)
    lock_down(start.confinement)
    report.close()
    return serve(options, prepared=prepared, taken=taken)


def _probe(start: StartKernel, report: socket.socket) -> Callable[[], int]:
    """What tries `start.probe` and reports it; what that takes is imported before it is out of reach."""
    from llmspell_kernel.zygote.probes import attempt

    def run() -> int:
        # The one descriptor that a probe has and a kernel that serves has not.
        target = str(report.fileno()) if start.probe == "inherited" else start.probe_target
        bound_processes(start.confinement)
        outcome, detail = attempt(start.probe, target)
        report.send(encode(Probed(start.kernel_id, os.getpid(), start.probe, outcome, detail[:_LONGEST_DETAIL])))
        return Ending.DONE

    return run


def _take_hold_for(probe: str) -> None:
    from llmspell_kernel.zygote import probes

    probes.take_hold(probe)


def _announce(start: StartKernel, report: socket.socket, connection: ConnectionInfo) -> None:
    # Whoever started it may be gone: the next supervisor finds its connection file.
    with contextlib.suppress(ConnectionError):
        report.send(encode(Serving(start.kernel_id, os.getpid(), connection)))


def _options(start: StartKernel) -> ServeOptions:
    return ServeOptions(
        kernel_id=start.kernel_id,
        name=start.name,
        transport=start.transport,
        ports=start.ports,
        key=start.key,
        limits=start.limits,
        pid_file=start.pid_file,
        progress_file=start.progress_file,
        supervisor_proof=start.supervisor_proof,
        is_supervised=True,
        log=LogOptions(level=start.log_level),
        on_ready=lambda _connection: bound_processes(start.confinement),
    )


def _refuse(start: StartKernel, report: socket.socket, reason: str) -> None:
    sys.stderr.write(f"llmspell kernel: {reason}\n")
    refused = Refused(start.kernel_id, os.getpid(), reason[: LONGEST_PACKET // 2])
    try:
        report.send(encode(refused))
    except (OSError, msgspec.MsgspecError):
        return  # the supervisor is gone; the exit code says it too
