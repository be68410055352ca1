"""The composition root of a fleet: builds the controller from its parts, serves, and leaves nothing behind.

**Threads.** Everything is on one event loop, in the main thread; the store has a writer thread, the log a listener.
"""

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

import msgspec

from llmspell_fleet import presence
from llmspell_fleet.config import FleetConfig, apply_command_line, load_fleet_config, refuse_weaker, rerooted
from llmspell_fleet.config_reload import reload_plan
from llmspell_fleet.options import FleetOptions
from llmspell_fleet.paths import Address, FleetPaths, make_paths
from llmspell_fleet.spawner.spawner import Spawner
from llmspell_fleet.spawner.subprocess import SubprocessSpawner
from llmspell_fleet.spawner.zygote import ZygoteSpawner
from llmspell_kernel import __version__, pidfile, runtime_dir
from llmspell_kernel.daemon.logs import LogSink, configure
from llmspell_kernel.errors import LlmspellError
from llmspell_kernel.options import LogOptions
from llmspell_kernel.safe_files import write_private
from llmspell_kernel.zygote.confine import kernel_environment
from llmspell_kernel.zygote.tree import become_reaper

if TYPE_CHECKING:
    from llmspell_fleet.controller.controller import Controller

_LOG: Final = logging.getLogger("llmspell.fleet")


def serve(options: FleetOptions) -> int:
    """Run a fleet until it ends; returns the exit code. Must be called in the main thread.

    RefusedError: one runs already, a port is taken, a directory cannot be used. MisuseError: the configuration.
    """
    os.umask(0o077)
    paths = make_paths()
    config = _configured(options, paths)
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

        fleet = Fleet(options, config, paths, sink)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(fleet.run())
    return 0


def _configured(options: FleetOptions, paths: FleetPaths) -> FleetConfig:
    with contextlib.chdir(options.directory or "."):  # where relative paths in the file mean what they say
        config = load_fleet_config(options.config_file, environ=os.environ)
    config = apply_command_line(config, port=options.port)
    config, moved = rerooted(
        config,
        runtime_dir=paths.runtime if "runtime" in options.is_rerooted else None,
        log_dir=paths.logs if "log" in options.is_rerooted else None,
    )
    config = refuse_weaker(config, allow_weaker=options.allow_weaker_isolation)
    return msgspec.structs.replace(config, notices=(*moved, *config.notices))


def _make_spawner(config: FleetConfig, paths: FleetPaths) -> Spawner:
    # By name: what the directories follow from (HOME, XDG_…) is not told to kernels.
    directories = {"LLMSPELL_RUNTIME_DIR": paths.runtime, "LLMSPELL_STATE_DIR": paths.state}
    environ = {**kernel_environment(dict(os.environ)), **directories}
    return ZygoteSpawner(environ) if config.spawner == "zygote" else SubprocessSpawner(environ)


class Fleet:
    """One fleet process, between its start and its end."""

    def __init__(self, options: FleetOptions, config: FleetConfig, paths: FleetPaths, sink: LogSink) -> None:
        self._options = options
        self._config = config
        self._paths = paths
        self._sink = sink
        self._is_debug = config.log_level == "debug"
        self._stops_asked = 0
        self._stopping: asyncio.Event
        self._on_reload: Callable[..., None] = lambda *_hosts, **_rest: None

    async def run(self) -> None:
        """Serve until told to stop; then end every kernel."""
        self._stopping = asyncio.Event()
        from llmspell_fleet.controller.controller import Controller

        spawner = _make_spawner(self._config, self._paths)
        controller = Controller(self._config, self._paths, spawner, version=__version__)
        self._listen_to_signals(controller)
        try:
            await controller.start()
            for notice in self._config.notices:
                _LOG.warning("%s", notice)
            await self._serve(controller)
        finally:
            await controller.close(is_forced=lambda: self._stops_asked > 1)

    async def _serve(self, controller: "Controller") -> None:
        # After the controller has begun to start kernels: they come up while this is imported.
        from llmspell_fleet.api.options import HttpOptions
        from llmspell_fleet.api.server import serve_http

        config = self._config
        server = await serve_http(
            controller.service,
            controller.tokens.principal,
            controller.sampling,
            HttpOptions(
                socket=self._paths.socket,
                version=__version__,
                host=config.host,
                port=config.port,
                allowed_hosts=config.hosts,
                allowed_origins=config.allowed_origins,
                is_metrics_public=config.metrics_public,
            ),
        )
        controller.sampling.http_connections = lambda: server.connections
        self._on_reload = server.allow
        try:
            self._announce(server.url, len(controller.supervisor))
            controller.service.is_ready = True
            await self._stopping.wait()
            await controller.stop(is_forced=lambda: self._stops_asked > 1)
        finally:
            controller.service.is_ready = False
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self._paths.address_file)
            await server.close()

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
            signal.SIGHUP: lambda: self._reload(controller),
            signal.SIGUSR1: lambda: _LOG.info(
                "statistics: %s", msgspec.json.encode(controller.health.statistics()).decode()
            ),
            signal.SIGUSR2: self._toggle_debug,
        }
        loop = asyncio.get_running_loop()
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)

    def _stop(self) -> None:
        self._stops_asked += 1
        self._stopping.set()

    def _reload(self, controller: "Controller") -> None:
        """Read the configuration again; what cannot be meant changes nothing."""
        self._sink.reopen()
        try:
            plan = reload_plan(self._config, _configured(self._options, self._paths))
        except LlmspellError as fault:
            _LOG.error("SIGHUP: what held before holds on: %s", fault)
            return
        self._config = plan.config
        self._sink.set_level(plan.config.log_level)
        controller.reload(plan.config)
        self._on_reload(plan.config.hosts, plan.config.allowed_origins, is_metrics_public=plan.config.metrics_public)
        for key in plan.needs_restart:
            _LOG.warning("SIGHUP: %s has changed, and holds after a restart of the fleet", key)
        _LOG.info("SIGHUP: the configuration was read again; changed: %s", ", ".join(plan.applied) or "nothing")

    def _toggle_debug(self) -> None:
        self._is_debug = not self._is_debug
        quiet = "info" if self._config.log_level == "debug" else self._config.log_level
        level = "debug" if self._is_debug else quiet
        self._sink.set_level(level)
        _LOG.info("SIGUSR2: the log level is now %s", level)
