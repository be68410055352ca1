"""The composition root: builds a kernel from its parts, serves, and leaves nothing behind.

**Threads.** The caller's thread (the process's main one) becomes the I/O thread; the Lua thread and the heartbeat's
are started here and named in `runtime.worker` and `jupyter.heartbeat`.
"""

import contextlib
import ctypes
import os
import resource
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Final, NoReturn

import msgspec

from llmspell_kernel import pidfile, runtime_dir
from llmspell_kernel.connection import (
    ConnectionInfo,
    client_connection_file,
    remove_connection_file,
    write_connection_file,
)
from llmspell_kernel.diagnostics import LONGEST_TEXT, Diagnostics
from llmspell_kernel.errors import LlmspellError, lacks_memory
from llmspell_kernel.jupyter.claims import Claim
from llmspell_kernel.jupyter.clock import DateClock
from llmspell_kernel.jupyter.heartbeat import Heartbeat
from llmspell_kernel.jupyter.server import JupyterServer
from llmspell_kernel.jupyter.sockets import Sockets, bind_sockets
from llmspell_kernel.limits import KernelLimits
from llmspell_kernel.options import Ending, ServeOptions
from llmspell_kernel.replacement import BROKEN, STUCK, Predecessor, replace_process
from llmspell_kernel.runtime.engine import Engine
from llmspell_kernel.runtime.outbox import Broken, Outbox
from llmspell_kernel.runtime.prepared import Prepared
from llmspell_kernel.runtime.progress import Progress
from llmspell_kernel.runtime.wakeup import Wakeup
from llmspell_kernel.runtime.worker import Worker
from llmspell_kernel.taken import Taken, address, claim_pid_files, describe, require_loopback

SWITCH_INTERVAL_S: Final = 0.0002
"""At Python's 5 ms the I/O thread starves while a script calls back often; this costs no throughput."""

SECOND_INTERRUPT_S: Final = 2.0
"""Two Ctrl-C within this time, while nothing runs, end a kernel that a person started at a terminal."""

CLOSE_WITHIN_S: Final = 3.0
"""How long a supervised kernel that must end may take to deliver what it has sent."""

_PR_SET_NO_NEW_PRIVS: Final = 38

_prctl = ctypes.CDLL(None).prctl
"""Looked up at import: doing so copies 150 KiB of a zygote's pages into a child."""


def serve(
    options: ServeOptions,
    predecessor: Predecessor | None = None,
    prepared: Prepared | None = None,
    taken: Taken | None = None,
) -> int:
    """Run a kernel until it ends; returns the exit code (`Ending`). Must be called in the main thread.

    With `taken`, it has what it needs already and no right to get it: it neither writes nor removes a file.
    RefusedError: a port or a pid file is taken, an address is not allowed, a directory cannot be used.
    """
    kernel = Kernel(options, predecessor, prepared, taken)
    try:
        return kernel.run()
    except BaseException as fault:
        kernel.failed(fault)
        raise
    finally:
        kernel.close()


class Kernel:
    """One kernel process, between its start and its end."""

    def __init__(
        self,
        options: ServeOptions,
        predecessor: Predecessor | None = None,
        prepared: Prepared | None = None,
        taken: Taken | None = None,
    ) -> None:
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        if taken is None:
            _harden()
        # From before there is a file of it on, by which somebody might find and signal it.
        self._signals = _hear_signals()
        self._options = options
        self._files = contextlib.ExitStack()
        self._diagnostics = Diagnostics(options.log)
        wakeup = Wakeup()
        limits = options.limits
        outbox = self._outbox = prepared.outbox if prepared else Outbox()
        outbox.wake, outbox.output_limit = wakeup.wake, limits.output_bytes
        progress = taken.progress if taken is not None else _progress(options)
        given, self._is_clients_file = _given(options, predecessor, taken)
        path = self._claim_pid_files() if taken is None else ""
        try:
            self._sockets = _bind(options, given, () if taken is None else taken.listening)
            self.connection = given or describe(options, self._sockets.ports)
            if options.on_listening is not None:
                # Whoever waits for us connects while we make the rest.
                options.on_listening(self.connection)
            engine = _make_engine(outbox, limits, prepared)
            self._worker = Worker(engine, outbox, progress.begin if progress else lambda _ticket: None)
            self._worker.start()
            _connect(outbox, engine)
            self._server = JupyterServer(
                self._sockets,
                key=self.connection.key,
                kernel_id=options.kernel_id,
                limits=limits,
                worker=self._worker,
                outbox=outbox,
                outbox_wakeup=wakeup,
                diagnostics=self._diagnostics,
            )
            self._server.statistics = self.statistics
            supervision = self._server.supervision
            supervision.claim = Claim(self.connection if path else None, path, options.log, self._diagnostics)
            supervision.on_limits, supervision.proof = self._hold, options.supervisor_proof
            self._server.interrupts.on_stuck = self._replace_stuck
            self._server.executions.on_broken = self._replace_broken
            self._heartbeat = Heartbeat(self._sockets.hb, self._server.loop)
            if not self._is_clients_file and taken is None:
                if self.connection.transport == "ipc":
                    self._files.callback(runtime_dir.remove_socket_dir, options.kernel_id)
                if predecessor is None:
                    write_connection_file(path, self.connection)
                self._files.callback(remove_connection_file, path, self.connection)
        except BaseException:
            self._files.close()
            raise
        self._started_at = time.monotonic()
        self._last_interrupt = -SECOND_INTERRUPT_S
        self._terminating = False
        self._ending = Ending.DONE
        self._on_signal: dict[int, Callable[[], None]] = {
            signal.SIGINT: self._on_sigint,
            signal.SIGTERM: self._on_sigterm,
            signal.SIGHUP: self._on_sighup,
            signal.SIGUSR1: self._on_sigusr1,
            signal.SIGUSR2: self._on_sigusr2,
        }

    # --- life --------------------------------------------------------------------------------------------------

    def run(self) -> int:
        """Serve until the end; returns the exit code."""
        self._server.loop.read(self._signals, lambda: self._on_signals(os.read(self._signals, 256)))
        if self._is_clients_file:
            self._end_with_parent()
        if self._options.on_ready is not None:
            self._options.on_ready(self.connection)
        why = self._server.run()
        if why == "restart" and not self._is_clients_file:
            self._replace(Ending.RESTART)
        if why == "idle" and self._options.is_supervised:
            self._ending = Ending.IDLE
        return self._ending

    def failed(self, fault: BaseException) -> None:
        """It ends for this, whatever happens while it does."""
        self._ending = Ending.MEMORY if lacks_memory(fault) else Ending.FAULT

    def close(self) -> None:
        """Remove the files, deliver what is sent, end the threads."""
        self._files.close()
        self._close_sockets()
        self._diagnostics.close()
        if not self._worker.stop(timeout_s=0.2):
            # The Lua thread may be anywhere in C; tearing the interpreter down under it would crash.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(self._ending)

    def _close_sockets(self) -> None:
        self._server.close()
        self._heartbeat.close()
        # Ends the heartbeat's proxy, which then closes the socket that is left.
        self._sockets.context.term()

    def _claim_pid_files(self) -> str:
        """Enter it in the listing; returns where its connection file belongs."""
        path = self._options.connection_file or runtime_dir.connection_path(self._options.kernel_id)
        for pid_path in claim_pid_files(self._options, path):
            self._files.callback(pidfile.release, pid_path)
        return path

    # --- replacing this process --------------------------------------------------------------------------------

    def _replace_stuck(self) -> None:
        status = self._server.interrupts.stuck_status
        self._server.executions.fail_running(STUCK, status)
        self._replace(Ending.TIMEOUT if status == "timeout" else Ending.STUCK)

    def _replace_broken(self, broken: Broken) -> None:
        with contextlib.suppress(MemoryError):
            self._diagnostics.warn("lua_thread_failed", broken.text[-LONGEST_TEXT:])
        self._server.executions.fail_running(BROKEN, "error")
        self._replace(Ending.MEMORY if broken.is_memory else Ending.FAULT)

    def _replace(self, ending: Ending) -> NoReturn:
        if self._options.is_supervised:
            # Whatever closing may wait for, the supervisor waits for the end. Where no thread can be made any more,
            # for want of memory or by a bound, ZeroMQ's own linger time has to do.
            with contextlib.suppress(RuntimeError):
                threading.Timer(CLOSE_WITHIN_S, os._exit, (ending,)).start()
        self._close_sockets()
        self._diagnostics.close()
        if self._options.is_supervised:
            self._files.close()
            os._exit(ending)
        options = msgspec.structs.replace(self._options, on_ready=None)
        replace_process(Predecessor(options, self.connection, self._is_clients_file))

    # --- signals -----------------------------------------------------------------------------------------------

    def _end_with_parent(self) -> None:
        """End when the Jupyter client that started us does: it names itself, and nobody else would stop us."""
        parent = os.environ.get("JPY_PARENT_PID", "")
        if not parent.isdecimal() or int(parent) <= 1:
            return
        try:
            descriptor = os.pidfd_open(int(parent))
        except OSError:
            self._server.lifetime.end("parent")
            return

        def ended() -> None:
            self._server.loop.forget(descriptor)
            self._server.lifetime.end("parent")

        self._server.loop.read(descriptor, ended)

    def _on_signals(self, numbers: bytes) -> None:
        for number in numbers:
            self._on_signal[signal.Signals(number)]()

    def _on_sigint(self) -> None:
        if self._server.interrupts.interrupt("interrupt"):
            return
        now = time.monotonic()
        if os.isatty(0) and not self._is_clients_file:
            if now - self._last_interrupt < SECOND_INTERRUPT_S:
                self._server.lifetime.end("shutdown")
            else:
                os.write(2, b"Nothing runs. Press Ctrl-C again to stop the kernel.\n")
        self._last_interrupt = now

    def _on_sigterm(self) -> None:
        if self._terminating:
            self._files.close()
            os._exit(1)
        self._terminating = True
        self._server.lifetime.end("shutdown")

    def _on_sighup(self) -> None:
        """Read the configuration again, for the limits and the log, and reopen the log file."""
        from llmspell_kernel.config import reloaded

        try:
            self._options = reloaded(self._options)
        except LlmspellError as fault:
            self._diagnostics.reopen()
            self._diagnostics.warn("reload_failed", f"SIGHUP: what held before holds on: {fault}")
            return
        self._hold(self._options.limits)
        self._diagnostics.follow(self._options.log)
        self._diagnostics.info("SIGHUP: the configuration was read again and the log reopened")

    def _hold(self, limits: KernelLimits) -> None:
        self._options = msgspec.structs.replace(self._options, limits=limits)
        self._worker.engine.limits, self._outbox.output_limit = limits, limits.output_bytes
        self._server.limit(limits)

    def _on_sigusr1(self) -> None:
        self._diagnostics.info("statistics: " + msgspec.json.encode(self.statistics()).decode())

    def _on_sigusr2(self) -> None:
        self._diagnostics.info(f"SIGUSR2: the log level is now {self._diagnostics.toggle_debug()}")

    def statistics(self) -> dict[str, object]:
        """What this kernel has done and holds, for people and for the fleet."""
        executions = self._server.executions
        now = DateClock().seconds()
        return {
            "status": "ok",
            "pid": os.getpid(),
            "kernel_id": self._options.kernel_id,
            "uptime_s": round(time.monotonic() - self._started_at, 3),
            "state": "idle" if executions.running is None else "busy",
            "executions": executions.finished,
            "failed": executions.failed,
            "waiting": executions.waiting,
            "claimed": self._server.supervision.claim.is_claimed,
            "idle_s": round(self._server.lifetime.idle_s(time.monotonic()), 3),
            "clients": [
                {
                    "session": c.session,
                    "username": c.username,
                    "connected_at": c.connected_at,
                    "last_active": c.last_active,
                    "idle_s": round(now - c.last_active, 3),
                    "requests": c.requests,
                }
                for c in self._server.clients.all()
            ],
            "lua_memory_bytes": self._worker.engine.memory_used_bytes,
            "counts": dict(self._diagnostics.counts),
        }


def _given(
    options: ServeOptions, predecessor: Predecessor | None, taken: Taken | None
) -> tuple[ConnectionInfo | None, bool]:
    """What is settled of where it is found, and whether its connection file is a client's."""
    if taken is not None:
        return taken.connection, False
    if predecessor is not None:
        return predecessor.connection, predecessor.is_clients_file
    given = client_connection_file(options.connection_file) if options.connection_file else None
    return given, given is not None


def _progress(options: ServeOptions) -> Progress | None:
    return Progress(options.progress_file) if options.progress_file else None


def _harden() -> None:
    """What every kernel gives up at its start, whoever starts it."""
    os.umask(0o077)
    # A core file would hold the signing key and the scripts' data.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def _hear_signals() -> int:
    """From now on signals are numbers in a pipe, of which this is the end to read."""
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
        # The handler only makes the interpreter write the number to the pipe, whatever else runs.
        signal.signal(number, _heard)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    return reader


def _heard(_number: int, _frame: object) -> None:
    return None


def _make_engine(outbox: Outbox, limits: KernelLimits, prepared: Prepared | None) -> Engine:
    engine = prepared.engine if prepared else Engine(outbox, limits)
    engine.limits = limits
    engine.reseed(os.urandom(16))
    return engine


def _connect(outbox: Outbox, engine: Engine) -> None:
    interrupter = engine.interrupter
    interrupter.on_arm = outbox.nudge
    outbox.interrupted = lambda: interrupter.pending

    def stop_for_output() -> None:
        interrupter.arm(None, "output")

    outbox.stop_for_output = stop_for_output


def _bind(options: ServeOptions, given: ConnectionInfo | None, listening: tuple[int, ...]) -> Sockets:
    if given is not None:
        transport, ip, ports = given.transport, given.ip, given.ports
    else:
        transport, ip = options.transport, address(options)
        ports = options.ports or (options.port, 0, 0, 0, 0)
    require_loopback(transport, ip)
    return bind_sockets(
        transport=transport,
        ip=ip,
        ports=ports,
        max_message_bytes=options.limits.max_message_size,
        listening=listening,
    )
