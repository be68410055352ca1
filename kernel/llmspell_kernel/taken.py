"""What a kernel takes hold of before it gives up its rights, and serves with afterwards.

A kernel at isolation level `strict` can neither make a socket nor write a file of the runtime directory. Its process
does both while it still may: the files are then the supervisor's, who removes them when it has ended.
"""

import contextlib
import os
import socket

import msgspec

from llmspell_kernel import pidfile, runtime_dir
from llmspell_kernel.connection import CHANNELS, ConnectionInfo, is_loopback, new_key, write_connection_file
from llmspell_kernel.errors import RefusedError
from llmspell_kernel.options import ServeOptions
from llmspell_kernel.runtime.progress import Progress

BACKLOG = 512
"""Connections that may wait to be accepted, as for sockets that the kernel binds itself."""


class Taken(msgspec.Struct, frozen=True):
    """Where a kernel is found, and the descriptors that make it so."""

    connection: ConnectionInfo
    listening: tuple[int, ...]
    """In the order of CHANNELS."""
    progress: Progress | None


def take_hold(options: ServeOptions) -> Taken:
    """Claim the pid files, listen on all five channels, and write the connection file. RefusedError says why not."""
    with contextlib.ExitStack() as undo:
        path = options.connection_file or runtime_dir.connection_path(options.kernel_id)
        for pid_path in claim_pid_files(options, path):
            undo.callback(pidfile.release, pid_path)
        sockets = _listen(options)
        for listener in sockets:
            undo.enter_context(listener)
        ports = tuple(range(1, 6)) if options.transport == "ipc" else tuple(s.getsockname()[1] for s in sockets)
        connection = describe(options, ports)
        progress = Progress(options.progress_file) if options.progress_file else None
        write_connection_file(path, connection)
        undo.pop_all()
    return Taken(connection, tuple(listener.detach() for listener in sockets), progress)


def claim_pid_files(options: ServeOptions, connection_file: str) -> list[str]:
    """Make the kernel's pid files this process's; returns their paths. AlreadyRunningError: they are another's."""
    own = runtime_dir.pid_path(options.kernel_id)
    paths = [own]
    if options.pid_file:
        paths.append(options.pid_file)
    with contextlib.ExitStack() as undo:
        for path in paths:
            pidfile.claim(
                path,
                lock_path=runtime_dir.lock_path(),
                connection_file=connection_file,
                replaces_damaged=path == own,
            )
            undo.callback(pidfile.release, path)
        undo.pop_all()
    return paths


def address(options: ServeOptions) -> str:
    """What a kernel of its own listens on: an address of this machine, or what five socket paths begin with."""
    return options.ip if options.transport == "tcp" else f"{runtime_dir.socket_dir(options.kernel_id)}/s"


def describe(options: ServeOptions, ports: tuple[int, ...]) -> ConnectionInfo:
    """The connection file of this process as a kernel that listens on `ports`."""
    record = pidfile.own_record()
    shell, iopub, stdin, control, hb = ports
    return ConnectionInfo(
        shell_port=shell,
        iopub_port=iopub,
        stdin_port=stdin,
        control_port=control,
        hb_port=hb,
        key=options.key or new_key(),
        ip=address(options),
        transport=options.transport,
        kernel_name=options.kernel_name,
        kernel_id=options.kernel_id,
        pid=record.pid,
        start_time=record.start_time,
        name=options.name or None,
    )


def require_loopback(transport: str, ip: str) -> None:
    """RefusedError when others than this machine could reach the channels."""
    if transport == "tcp" and not is_loopback(ip):
        raise RefusedError(
            f"expected a loopback address to listen on, found {ip}: beyond this machine the channels need encryption, "
            "which this version does not have. Use 127.0.0.1, or a tunnel such as ssh -L"
        )


def _listen(options: ServeOptions) -> list[socket.socket]:
    ip = address(options)
    require_loopback(options.transport, ip)
    ports = options.ports or (options.port, 0, 0, 0, 0)
    with contextlib.ExitStack() as undo:
        sockets = []
        for number, (channel, port) in enumerate(zip(CHANNELS, ports, strict=True), start=1):
            if options.transport == "ipc":
                where: str | tuple[str, int] = f"{ip}-{number}"
                # Of an incarnation that is gone: its folder is the supervisor's, and nobody else writes there.
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(f"{ip}-{number}")
                listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            else:
                where = (ip, port)
                listener = socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_STREAM)
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sockets.append(undo.enter_context(listener))
            listener.setblocking(False)
            try:
                listener.bind(where)
                listener.listen(BACKLOG)
            except OSError as fault:
                raise RefusedError(
                    f"the {channel} channel cannot listen on {options.transport}://{_shown(where)}: {fault.strerror}"
                ) from None
        undo.pop_all()
    return sockets


def _shown(where: str | tuple[str, int]) -> str:
    return where if isinstance(where, str) else f"{where[0]}:{where[1]}"
