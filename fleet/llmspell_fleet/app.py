"""The composition root of a fleet: builds the controller from its parts, serves, and leaves nothing behind.

**Threads.** Everything is on one event loop, in the main thread; the store has a writer thread, the log a listener.
"""

import asyncio
import contextlib
import gc
import logging
import os
import signal
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import msgspec

from llmspell_fleet import presence
from llmspell_fleet.config.fleet import FleetConfig
from llmspell_fleet.config.source import ConfigSource
from llmspell_fleet.model.views import UpgradeView
from llmspell_fleet.options import FleetOptions
from llmspell_fleet.paths import Address, FleetPaths, choose_paths, make_paths
from llmspell_fleet.spawner.spawner import Spawner
from llmspell_fleet.spawner.subprocess import SubprocessSpawner
from llmspell_fleet.spawner.zygote import ZygoteSpawner
from llmspell_kernel import __version__, pidfile, runtime_dir
from llmspell_kernel.daemon.logs import LogSink, configure
from llmspell_kernel.errors import LlmspellError
from llmspell_kernel.options import LogOptions
from llmspell_kernel.safe_files import write_private
from llmspell_kernel.zygote.confine import keep_others_out, kernel_environment
from llmspell_kernel.zygote.tree import become_reaper

if TYPE_CHECKING:
    from llmspell_fleet.api.server import HttpServer
    from llmspell_fleet.controller.applying import Applying
    from llmspell_fleet.controller.controller import Controller
    from llmspell_fleet.upgrade import Handover

_LOG: Final = logging.getLogger("llmspell.fleet")


def check(options: FleetOptions) -> str:
    """Whether a fleet with these options could start here, next to the one that runs; returns our version.

    RefusedError and MisuseError say what is in the way.
    """
    import llmspell_fleet.api.server
    import llmspell_fleet.controller.controller  # noqa: F401 - what it takes can be loaded
    from llmspell_fleet.store.opening import check_version

    paths = choose_paths()
    ConfigSource(options, paths).load()
    check_version(paths.database)
    return __version__


def serve(options: FleetOptions, handover: "Handover | None" = None) -> int:
    """Run a fleet until it ends; returns the exit code. Must be called in the main thread.

    With a `handover` the process has been one already, whose place this takes.

    RefusedError: one runs already, a port is taken, a directory cannot be used. MisuseError: the configuration.
    """
    gc.disable()  # what a start makes is there to stay; looking for garbage in it is a tenth of its time
    os.umask(0o077)
    keep_others_out()
    paths = make_paths()
    source = ConfigSource(options, paths)
    config = source.load()
    if handover is None:
        presence.require_none(paths)
    sink = configure(
        LogOptions(
            file=options.log_file or config.log_file,
            level=config.log_level,
            json_lines=config.log_format == "json",
            rotate_bytes=config.log_rotate_bytes,
            rotate_count=config.log_rotate_count,
            owns_stdio=options.log_file is not None,
        )
    )
    with contextlib.ExitStack() as files:
        files.callback(sink.close)
        for path in (paths.pid_file, config.pid_file):
            if path is not None:
                pidfile.claim(
                    path,
                    lock_path=runtime_dir.lock_path(),
                    connection_file=paths.address_file,
                    # Another controller that lives holds the store's lock, whatever became of its file.
                    replaces_damaged=path == paths.pid_file,
                )
                files.callback(pidfile.release, path)
        # Kernels whose zygote has ended are our children then, and are reaped here.
        become_reaper()
        import uvloop

        fleet = Fleet(options, source, config, paths, sink, handover)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(fleet.run())
    return 0


def _make_spawner(config: FleetConfig, paths: FleetPaths) -> Spawner:
    # By name: what the directories follow from (HOME, XDG_…) is not told to kernels.
    directories = {"LLMSPELL_RUNTIME_DIR": paths.runtime, "LLMSPELL_STATE_DIR": paths.state}
    environ = {**kernel_environment(dict(os.environ)), **directories}
    if config.spawner == "subprocess":
        return SubprocessSpawner(environ)
    return ZygoteSpawner(environ, config.zygote_forks)


class Fleet:
    """One fleet process, between its start and its end."""

    def __init__(
        self,
        options: FleetOptions,
        source: ConfigSource,
        config: FleetConfig,
        paths: FleetPaths,
        sink: LogSink,
        handover: "Handover | None" = None,
    ) -> None:
        self._options = options
        self._source = source
        self._config = config
        self._paths = paths
        self._sink = sink
        self._handover = handover
        self._is_debug = config.log_level == "debug"
        self._stops_asked = 0
        self._stopping: asyncio.Event
        self._applying: Applying
        self._on_reload: Callable[..., None] = lambda *_hosts, **_rest: None

    async def run(self) -> None:
        """Serve until told to stop; then end every kernel."""
        self._stopping = asyncio.Event()
        # First of all: an address that is taken must not cost a kernel that is about to be adopted.
        tcp, unix = self._sockets()
        with tcp, unix:
            try:
                await self._run(tcp, unix)
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(self._paths.socket)

    async def _run(self, tcp: socket.socket, unix: socket.socket) -> None:
        from llmspell_fleet.controller.applying import Applying
        from llmspell_fleet.controller.controller import Controller

        spawner = _make_spawner(self._config, self._paths)
        controller = Controller(self._config, self._paths, spawner, version=__version__)
        self._applying = Applying(controller, self._source, self._config, self._hold)
        controller.service.configure = self._applying.apply
        self._listen_to_signals(controller)
        is_orderly = False
        try:
            await controller.start()
            self._source.tidy()
            for notice in self._config.notices:
                _LOG.warning("%s", notice)
            if self._source.said:
                _LOG.info("%s", self._source.said)
            await self._serve(controller, tcp, unix)
            is_orderly = True
        finally:
            await controller.close(is_forced=lambda: self._stops_asked > 1, spares_adopted=not is_orderly)

    def _sockets(self) -> tuple[socket.socket, socket.socket]:
        """Where clients are listened to; RefusedError: it cannot be had."""
        from llmspell_fleet.api import sockets
        from llmspell_fleet.upgrade import inherited_socket

        if self._handover is not None:
            return inherited_socket(self._handover.tcp), inherited_socket(self._handover.unix)
        return sockets.take(self._config.host, self._config.port, self._paths.socket)

    async def _serve(self, controller: "Controller", tcp: socket.socket, unix: socket.socket) -> None:
        # After the controller has begun to start kernels: they come up while this is imported.
        from llmspell_fleet.api.options import HttpOptions
        from llmspell_fleet.api.server import serve_http
        from llmspell_fleet.upgrade import Upgrader, settings_of

        config, handover = self._config, self._handover
        server = await serve_http(
            controller.service,
            controller.tokens.principal,
            controller.sampling,
            HttpOptions(
                socket=self._paths.socket,
                version=__version__,
                host=config.host,
                allowed_hosts=config.hosts,
                allowed_origins=config.allowed_origins,
                is_metrics_public=config.metrics_public,
            ),
            tcp,
            unix,
        )
        upgrader = Upgrader(
            controller, server, settings_of(self._options), version=__version__, close_log=self._sink.close
        )
        controller.sampling.http_connections = lambda: server.connections
        self._on_reload = server.allow
        try:
            self._announce(server.url, len(controller.supervisor))
            controller.service.is_ready = True
            gc.freeze()
            gc.enable()
            controller.service.on_upgrade = upgrader.run
            if handover is not None:
                await self._take_over(controller, server, handover)
            await self._stopping.wait()
            await controller.stop(is_forced=lambda: self._stops_asked > 1)
        finally:
            controller.service.is_ready = False
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._paths.address_file)
            await server.close()

    async def _take_over(self, controller: "Controller", server: "HttpServer", handover: "Handover") -> None:
        """Serve who was connected to the image before this one, and say that it was replaced."""
        from llmspell_fleet.upgrade import answer_upgrade, inherited_socket, reap_zygote

        await server.take_up(inherited_socket(number) for number in handover.connections)
        view = UpgradeView(
            from_version=handover.from_version,
            to_version=__version__,
            adopted=controller.adopted,
            kernels=len(controller.supervisor),
            pid=os.getpid(),
        )
        controller.events.emit("fleet.upgraded", data=msgspec.to_builtins(view))
        await answer_upgrade(handover, view)
        await reap_zygote(handover)

    def _announce(self, url: str, kernels: int) -> None:
        own = pidfile.own_record()
        address = Address(
            pid=own.pid,
            start_time=own.start_time,
            url=url,
            socket=self._paths.socket,
            version=__version__,
            kernels=kernels,
            log_file=self._options.log_file or self._config.log_file,
        )
        write_private(self._paths.address_file, msgspec.json.encode(address), what="address file")
        _LOG.info("the fleet serves on %s", url)
        if self._options.on_ready is not None:
            self._options.on_ready(address)

    # --- signals

    def _listen_to_signals(self, controller: "Controller") -> None:
        handlers: dict[signal.Signals, Callable[[], None]] = {
            signal.SIGTERM: self._stop,
            signal.SIGINT: self._stop,
            signal.SIGHUP: self._reload,
            signal.SIGUSR1: lambda: _LOG.info(
                "statistics: %s", msgspec.json.encode(controller.health.statistics()).decode()
            ),
            signal.SIGUSR2: self._toggle_debug,
        }
        loop = asyncio.get_running_loop()
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        # Those that came while the image before this one was replaced have waited.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, handlers)

    def _stop(self) -> None:
        self._stops_asked += 1
        self._stopping.set()

    def _reload(self) -> None:
        """Read the configuration again; what cannot be meant changes nothing."""
        self._sink.reopen()
        try:
            done = self._applying.reload()
        except LlmspellError as fault:
            _LOG.error("SIGHUP: what held before holds on: %s", fault)
            return
        if self._source.said:
            _LOG.info("SIGHUP: %s", self._source.said)
        for change in done.changes:
            if change.how == "restart":
                _LOG.warning("SIGHUP: %s has changed, and holds after a restart of the fleet", change.key)
        for drift in done.drift:
            _LOG.info("SIGHUP: %s %s was changed at runtime, and stays so %s", drift.target, drift.key, drift.detail)
        names = [f"{change.target} {change.key}".strip() for change in done.changes if change.how != "restart"]
        _LOG.info("SIGHUP: the configuration was read again; changed: %s", ", ".join(names) or "nothing")

    def _hold(self, config: FleetConfig) -> None:
        """Another configuration holds from now on."""
        self._config = config
        self._sink.set_level(config.log_level)
        self._on_reload(config.hosts, config.allowed_origins, is_metrics_public=config.metrics_public)

    def _toggle_debug(self) -> None:
        self._is_debug = not self._is_debug
        quiet = "info" if self._config.log_level == "debug" else self._config.log_level
        level = "debug" if self._is_debug else quiet
        self._sink.set_level(level)
        _LOG.info("SIGUSR2: the log level is now %s", level)
