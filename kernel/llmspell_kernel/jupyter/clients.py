"""Who is connected: a registry by ROUTER identity and by connection, fed by requests and by the socket monitor."""

import os
import struct
from typing import Final

import msgspec
import zmq

_EVENT: Final = struct.Struct("=HI")


class Client(msgspec.Struct):
    """One connection to the shell channel. Times are seconds since the epoch."""

    identity: bytes
    session: str
    username: str
    connected_at: float
    last_active: float
    requests: int = 0


class ClientRegistry:
    """At most `limit` clients; those beyond are answered with the reason until others leave.

    A client is counted from its first request on, since a connection that says nothing has no identity yet. The
    monitor reports connections by descriptor, and ZeroMQ gives each message's descriptor with it. The system gives the
    number of an ended connection to the next one, and news of the two arrive in any order: a connection is told from
    its successor by its inode. The monitor speaks up shortly before the system closes a connection: the last look is
    taken when the number of clients matters.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        """How many clients may be connected at once."""
        self._by_identity: dict[bytes, Client] = {}
        self._by_descriptor: dict[int, bytes] = {}
        self._inodes: dict[int, int | None] = {}
        self.refused = 0

    def admit(self, identity: bytes, descriptor: int, session: str, username: str, now: float) -> bool:
        """Note a request. False when this client would be one too many."""
        is_new = descriptor >= 0 and self._by_descriptor.get(descriptor) != identity
        if is_new:
            self._forget(descriptor)
        client = self._by_identity.get(identity)
        if client is None:
            if len(self._by_identity) >= self.limit and len(self.all()) >= self.limit:
                self.refused += 1
                return False
            client = self._by_identity[identity] = Client(identity, session, username, now, now)
        if is_new:
            # A client that reconnects under its old identity: the old connection's end must not remove it.
            self._by_descriptor = {d: i for d, i in self._by_descriptor.items() if i != identity}
            self._by_descriptor[descriptor] = identity
            self._inodes[descriptor] = _inode(descriptor)
            if self._inodes[descriptor] is None:
                # It left before its request was read.
                self._forget(descriptor)
        client.last_active = now
        client.requests += 1
        return True

    def disconnected(self, descriptor: int) -> None:
        """Forget whoever used this connection. While it stands, the news is of an earlier one with its number."""
        if descriptor in self._by_descriptor and _inode(descriptor) != self._inodes[descriptor]:
            self._forget(descriptor)

    def _forget(self, descriptor: int) -> None:
        self._inodes.pop(descriptor, None)
        identity = self._by_descriptor.pop(descriptor, None)
        if identity is not None:
            self._by_identity.pop(identity, None)

    def knows(self, identity: bytes) -> bool:
        """Whether this client is connected."""
        return identity in self._by_identity

    def all(self) -> list[Client]:
        """The clients, the longest connected first."""
        for descriptor in tuple(self._by_descriptor):
            self.disconnected(descriptor)
        return list(self._by_identity.values())


def _inode(descriptor: int) -> int | None:
    try:
        return os.fstat(descriptor).st_ino
    except OSError:
        return None


class Monitor:
    """The end of connections to one socket, as its ZeroMQ monitor reports them."""

    def __init__(self, context: "zmq.Context[zmq.Socket[bytes]]", watched: "zmq.Socket[bytes]") -> None:
        self._watched = watched
        address = f"inproc://monitor-{watched.FD}"
        watched.monitor(address, int(zmq.Event.DISCONNECTED))
        self.socket = context.socket(zmq.PAIR)
        self.socket.linger = 0
        self.socket.connect(address)

    def ended(self) -> list[int]:
        """The descriptors of connections that ended since the last call."""
        descriptors: list[int] = []
        while True:
            try:
                frames = self.socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return descriptors
            event, value = _EVENT.unpack(frames[0])
            if event == zmq.Event.DISCONNECTED:
                descriptors.append(value)

    def close(self) -> None:
        """Stop watching."""
        self._watched.disable_monitor()
        self.socket.close(linger=0)
