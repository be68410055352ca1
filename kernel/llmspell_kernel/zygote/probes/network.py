"""Probes of sockets."""

import contextlib
import ctypes
import os
import socket
import struct
from collections.abc import Callable
from typing import Final

from llmspell_kernel.zygote.probes.outcome import call

_SOMEWHERE: Final = ("127.0.0.1", 9)


def connect_unix(path: str) -> str:
    """Connect to a unix socket by its path."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect(path)
        return f"connected to {path}"


def connect_abstract(name: str) -> str:
    """Connect to a unix socket that has no path."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.connect("\0" + name)
        return f"connected to @{name}"


def listen_abstract(name: str) -> str:
    """Listen on a unix socket without a path, where another may look for somebody else."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as server:
        server.bind("\0" + name)
        server.listen()
        return f"listening on @{name}"


def send_by_pair(path: str) -> str:
    """Send a datagram to another's unix socket from one half of a pair: it takes no socket(2) and no connect(2)."""
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with one, other:
        # The C function: Python's method would refuse to address a socket that is one of a pair.
        target = struct.pack("=H", socket.AF_UNIX) + os.fsencode(path) + b"\0"
        address = ctypes.create_string_buffer(target)
        call("sendto", one.fileno(), b"x", 1, 0, address, len(target))  # type: ignore[arg-type]
        return f"sent to {path}"


def connect_tcp(port: str) -> str:
    """Connect to a TCP port of this machine."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as client:
        client.connect(("127.0.0.1", int(port)))
        return f"connected to port {port}"


_held: list[socket.socket] = []


def hold_listener() -> None:
    """Have a TCP listener, as a kernel that serves has one: where sockets are not made any more, it is made before."""
    _held.append(socket.create_server(("127.0.0.1", 0)))


def connect_by_listener(port: str) -> str:
    """Connect to a TCP port of this machine by a listener that is shut down: its first data connects it.

    That takes no socket(2) and no connect(2), and Landlock does not see it.
    """
    if not _held:
        hold_listener()
    with _held.pop() as server:
        try:
            server.shutdown(socket.SHUT_RD)
        except OSError:
            with contextlib.suppress(OSError):
                server.shutdown(socket.SHUT_RDWR)
        server.sendto(b"x", socket.MSG_FASTOPEN, ("127.0.0.1", int(port)))
        return f"connected to port {port}"


def listen_tcp(_target: str) -> str:
    """Listen on a TCP port."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        return f"listening on port {server.getsockname()[1]}"


def send_udp(_target: str) -> str:
    """Send a datagram."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(b"x", _SOMEWHERE)
        return "a datagram was sent"


def open_netlink(_target: str) -> str:
    """Ask the system about its network."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as link:
        link.bind((0, 0))
        return "a netlink socket was opened"


def open_vsock(_target: str) -> str:
    """Reach for the machine that this one may be a guest of."""
    with socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM):
        return "a vsock socket was opened"


PROBES: Final[dict[str, Callable[[str], str]]] = {
    probe.__name__: probe
    for probe in (
        *(connect_unix, connect_abstract, listen_abstract, send_by_pair),
        *(connect_tcp, connect_by_listener, listen_tcp, send_udp, open_netlink, open_vsock),
    )
}
