"""Replacing the controller's code by exec of itself: the same process, with the sockets that it had.

What a controller holds in memory is either in the store, or asked of the kernels again, as after `kill -9`
(`controller.adoption`). Handed over are the descriptors: the listening sockets, so that nobody is refused, and the
connections, so that whoever is connected stays so; what they send meanwhile waits in the system's buffers.
"""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final, NoReturn, TypeVar, cast

import msgspec

from llmspell_fleet.errors import ConflictError
from llmspell_fleet.model.requests import UpgradeRequest
from llmspell_fleet.model.views import UpgradeView
from llmspell_fleet.options import FleetOptions
from llmspell_kernel.errors import MisuseError

if TYPE_CHECKING:
    from llmspell_fleet.api.connection import Connection
    from llmspell_fleet.api.server import HttpServer
    from llmspell_fleet.controller.controller import Controller

_LOG: Final = logging.getLogger("llmspell.fleet")

T = TypeVar("T")

CHECK_WITHIN_S: Final = 60.0
"""How long the new code may take to be loaded and to say that it can start."""

LOOK_S: Final = 0.002

TURNS: Final = 4
"""Of the loop, from a connection's being accepted to its protocol's reading no more."""

SIGNALS: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""They wait between the two images: nobody listens then, and most of them would end the process."""


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """`FleetOptions`, as far as they can be written down."""

    config_file: str | None = None
    directory: str = ""
    port: int | None = None
    allow_weaker_isolation: bool = False
    is_rerooted: frozenset[str] = frozenset()
    log_file: str | None = None

    def options(self) -> FleetOptions:
        """As `FleetOptions`."""
        return FleetOptions(**msgspec.structs.asdict(self))


class Handover(msgspec.Struct, frozen=True, kw_only=True):
    """What a process image leaves to the one that takes its place. Numbers are descriptors."""

    settings: Settings
    from_version: str
    tcp: int
    unix: int
    connections: tuple[int, ...] = ()
    """Of clients that wait for nothing."""
    answer: int
    """The connection of whoever asked for this; -1 = it is gone."""
    zygote: int | None = None
    """The pid of the zygote that ends now: our child, to be reaped."""


class Checked(msgspec.Struct, frozen=True):
    """What the new code says of itself."""

    version: str


def settings_of(options: FleetOptions) -> Settings:
    """To hand over, or to check."""
    return Settings(**{name: getattr(options, name) for name in Settings.__struct_fields__})


def check_new_code(settings: Settings) -> Checked:
    """Ask the new code, in a process of its own, whether it can start; blocks. ConflictError: it cannot, and why."""
    descriptor = _written(msgspec.msgpack.encode(settings))
    try:
        done = subprocess.run(
            [*_python(), "--check", str(descriptor)],
            pass_fds=(descriptor,),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=CHECK_WITHIN_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ConflictError(f"the new code did not say within {CHECK_WITHIN_S:g} s whether it can start") from None
    except OSError as fault:
        raise ConflictError(f"the new code cannot be started with {sys.executable}: {fault.strerror}") from None
    finally:
        os.close(descriptor)
    if done.returncode:
        lines = done.stderr.decode("utf-8", "replace").strip().splitlines() or [f"exit code {done.returncode}"]
        raise ConflictError(f"the new code cannot start, and the present one goes on: {lines[-1][:1000]}")
    try:
        return msgspec.json.decode(done.stdout, type=Checked)
    except msgspec.DecodeError:
        raise ConflictError("the new code does not say its version: it is no llmspell that can take over") from None


def replace_process(handover: Handover, descriptors: Sequence[int]) -> NoReturn:
    """Become the new code. OSError: that could not be begun, and this is still the old one."""
    description = _written(msgspec.msgpack.encode(handover))
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    for descriptor in (description, *descriptors):
        os.set_inheritable(descriptor, True)
    os.execv(sys.executable, [*_python(), "--resume", str(description)])


def read_settings(descriptor: int) -> Settings:
    """What `check_new_code` wrote."""
    return _read(descriptor, Settings)


def read_handover(descriptor: int) -> Handover:
    """What `replace_process` wrote; its descriptors are ours alone from now on."""
    handover = _read(descriptor, Handover)
    for number in (handover.tcp, handover.unix, handover.answer, *handover.connections):
        if number >= 0:
            os.set_inheritable(number, False)
    return handover


def inherited_socket(descriptor: int) -> socket.socket:
    """A socket that was handed over."""
    taken = socket.socket(fileno=descriptor)
    taken.setblocking(False)
    return taken


def _python() -> list[str]:
    # -P: what lies in the working directory is not ours to import.
    return [sys.executable, "-P", "-m", "llmspell_fleet"]


def _written(content: bytes) -> int:
    descriptor = os.memfd_create("llmspell-fleet", os.MFD_CLOEXEC)
    os.write(descriptor, content)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _read(descriptor: int, kind: type[T]) -> T:
    try:
        with os.fdopen(descriptor, "rb") as written:
            return msgspec.msgpack.decode(written.read(), type=kind)
    except (OSError, msgspec.MsgspecError) as fault:
        raise MisuseError(f"expected what a running fleet hands over, found something else: {fault}") from None


class Upgrader:
    """Carries out `POST /v1/upgrade`. Belongs to the event loop."""

    def __init__(
        self,
        controller: "Controller",
        server: "HttpServer",
        settings: Settings,
        *,
        version: str,
        close_log: Callable[[], None],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._controller = controller
        self._server = server
        self._settings = settings
        self._version = version
        self._close_log = close_log
        self._is_running = False

    async def run(self, request: UpgradeRequest, connection: object) -> NoReturn:
        """Become the new code, which answers on `connection` (an `api.connection.Connection`)."""
        if self._is_running:
            raise ConflictError("an upgrade is under way already")
        self._is_running = True
        try:
            checked = await self._loop.run_in_executor(None, check_new_code, self._settings)
            give_up_at = self._loop.time() + request.wait_s
            await self._drain(request, connection, give_up_at)
            # Whoever was accepted just now is no connection yet, and would be cut off.
            self._server.stop_accepting()
            for _ in range(TURNS):
                await asyncio.sleep(0)
            await self._drain(request, connection, give_up_at)
            self._replace(checked, connection)
        finally:
            self._is_running = False
            self._server.intake.resume()
            await self._server.accept()

    async def _drain(self, request: UpgradeRequest, connection: object, give_up_at: float) -> None:
        """Until nobody waits for an answer that would be lost."""
        intake = self._server.intake
        intake.pause()
        self._server.end_streams()
        while True:
            await self._controller.recorded()
            if self._controller.supervisor.is_closing:
                raise ConflictError("the fleet is shutting down")
            busy = intake.busy(connection)
            if not busy:
                return
            if self._loop.time() >= give_up_at:
                lost = [one for one in busy if one.is_answering and not one.is_fetchable]
                if not lost or request.force:
                    return
                raise ConflictError(
                    f"{len(lost)} requests still run after {request.wait_s:g} s, and their answers would be lost: try "
                    "again later, wait for longer (wait_s, --wait), or let them be lost (force, --force)"
                )
            await asyncio.sleep(LOOK_S)

    def _replace(self, checked: Checked, connection: object) -> NoReturn:
        """Nothing else runs from here on."""
        server, spawner = self._server, self._controller.spawner
        _LOG.info("upgrading from version %s to %s", self._version, checked.version)
        data: dict[str, object] = {"from_version": self._version, "to_version": checked.version}
        self._controller.events.emit("fleet.upgrading", data=data)
        own = cast("Connection", connection)
        connections = server.intake.resting(connection)
        answer = os.dup(own.descriptor) if own.descriptor >= 0 else -1
        tcp, unix = (one.fileno() for one in server.sockets)
        handover = Handover(
            settings=self._settings,
            from_version=self._version,
            tcp=tcp,
            unix=unix,
            connections=tuple(connections),
            answer=answer,
            zygote=spawner.pid,
        )
        self._controller.let_go()
        self._close_log()
        try:
            replace_process(handover, [tcp, unix, *connections, *([answer] if answer >= 0 else [])])
        except OSError as fault:
            # What ran runs on: whoever starts a controller next adopts it.
            os.write(2, f"llmspell fleet: the new code could not be begun: {fault}\n".encode())
            os._exit(1)


async def answer_upgrade(handover: Handover, view: UpgradeView) -> None:
    """Tell whoever asked for the upgrade that it is done."""
    from llmspell_fleet.api.answers import json_answer

    if handover.answer < 0:
        return
    with inherited_socket(handover.answer) as asker:
        try:
            await asyncio.get_running_loop().sock_sendall(asker, json_answer(view).bytes("POST", (1, 1)))
        except OSError:
            return  # it has gone


async def reap_zygote(handover: Handover) -> None:
    """Take leave of the zygote of the image before this one: it ends by itself, since its socket is closed."""
    if handover.zygote is not None:
        with contextlib.suppress(ChildProcessError):
            await asyncio.get_running_loop().run_in_executor(None, os.waitpid, handover.zygote, 0)
