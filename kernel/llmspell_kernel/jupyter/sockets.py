"""The five sockets of a kernel, bound. The kernel binds first and reports afterwards, so ports are never raced for."""

from typing import Final, Literal

import msgspec
import zmq

from llmspell_kernel.connection import CHANNELS
from llmspell_kernel.errors import RefusedError
from llmspell_kernel.jupyter.iopub import PIPE

Socket = zmq.Socket[bytes]

_TYPES: Final = {
    "shell": zmq.ROUTER,
    "iopub": zmq.XPUB,
    "stdin": zmq.ROUTER,
    "control": zmq.ROUTER,
    "hb": zmq.ROUTER,
}

LINGER_MS: Final = 1000
"""How long a closing kernel still delivers what it has sent."""

REPLIES: Final = 512
"""Replies that wait for one client inside ZeroMQ; more of them wait with `replies`."""

BACKLOG: Final = 512
"""Connections that may wait to be accepted: a hundred clients come with five each at the same moment."""


class Sockets(msgspec.Struct):
    """The bound sockets and the ports that they have."""

    context: "zmq.Context[Socket]"
    shell: Socket
    iopub: Socket
    stdin: Socket
    control: Socket
    hb: Socket
    ports: tuple[int, int, int, int, int]


def bind_sockets(
    *,
    transport: Literal["tcp", "ipc"],
    ip: str,
    ports: tuple[int, int, int, int, int],
    max_message_bytes: int,
    listening: tuple[int, ...] = (),
) -> Sockets:
    """Bind all five; port 0 = whichever is free. RefusedError says which address was taken.

    `listening` are descriptors of sockets that listen at these addresses already, in the order of CHANNELS.
    """
    context: zmq.Context[Socket] = zmq.Context()
    context.linger = LINGER_MS
    sockets: dict[str, Socket] = {}
    bound: list[int] = []
    try:
        for number, (channel, port) in enumerate(zip(CHANNELS, ports, strict=True), start=1):
            socket = sockets[channel] = context.socket(_TYPES[channel])
            socket.setsockopt(zmq.MAXMSGSIZE, max_message_bytes)
            socket.setsockopt(zmq.BACKLOG, BACKLOG)
            if _TYPES[channel] == zmq.ROUTER:
                # A client that comes back under its identity gets the replies of what it asked before.
                socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
                if channel != "hb":
                    # Who has no room for more is told of, and so is who has left.
                    # The heartbeat's echo would end at the first client that has left.
                    socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
                    socket.setsockopt(zmq.SNDHWM, REPLIES)
            else:
                socket.setsockopt(zmq.SNDHWM, PIPE)
                socket.setsockopt(zmq.XPUB_NODROP, 1)
                socket.setsockopt(zmq.XPUB_MANUAL, 1)
            if ":" in ip and transport == "tcp":
                socket.setsockopt(zmq.IPV6, 1)
            if listening:
                socket.setsockopt(zmq.USE_FD, listening[number - 1])
            bound.append(_bind(socket, channel, transport, ip, port, number))
    except BaseException:
        for socket in sockets.values():
            socket.close(linger=0)
        context.term()
        raise
    shell, iopub, stdin, control, hb = bound
    return Sockets(context, **sockets, ports=(shell, iopub, stdin, control, hb))


def _bind(socket: Socket, channel: str, transport: str, ip: str, port: int, number: int) -> int:
    if transport == "ipc":
        port = port or number
        address = f"ipc://{ip}-{port}"
    else:
        host = f"[{ip}]" if ":" in ip else ip
        address = f"tcp://{host}:{port or '*'}"
    try:
        socket.bind(address)
    except zmq.ZMQError as fault:
        raise RefusedError(
            f"the {channel} channel cannot listen on {address}: {fault.strerror or fault}. "
            "Choose another port, or leave it to the kernel (--port 0)"
        ) from None
    if port:
        return port
    endpoint = socket.getsockopt(zmq.LAST_ENDPOINT)
    assert isinstance(endpoint, bytes)
    return int(endpoint.rstrip(b"\0").rpartition(b":")[2])
