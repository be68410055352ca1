"""One ZeroMQ connection to a kernel, read and written by the controller's own loop.

A kernel whose script broke out of Lua may send what it likes. libzmq's DEALER bounds one frame and the number of
complete messages, but not the frames of a message that never ends; and it queues in a thread of its own what we have
not asked for. Here nothing is queued: what is not read waits with whoever sent it. It is faster, too (decision 0020).
"""

import asyncio
import errno
import os
import socket
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import Final

from llmspell_kernel.connection import is_loopback
from llmspell_kernel.wire.zmtp import GREETING, ProtocolError, Reader, packed, ready

READ_BYTES: Final = 64 * 1024
"""What is read of one connection before the others get their turn."""

WRITES: Final = 16
"""Messages, or what is left of one, that are given to the system before the others get their turn."""

LAST_READS: Final = 256
"""The same of one whose end has come: far more than the system keeps for a reader."""

RETRY_S: Final = 0.02
"""How soon it is tried again to connect to one that does not listen yet, or whose queue is full."""

DESCRIPTORS: Final = 1
"""What a connection takes of RLIMIT_NOFILE."""


class Connection:
    """From the first try to the end, once: what was lost by a break is not sent to whoever listens there next."""

    __slots__ = (
        *("_endpoint", "_greeting", "_is_closed", "_is_ready", "_loop", "_may_write", "_on_end", "_on_message"),
        *("_reader", "_retry", "_socket", "_unsent", "shortage", "unsent_bytes"),
    )

    def __init__(
        self,
        endpoint: str,
        identity: bytes,
        loop: asyncio.AbstractEventLoop,
        *,
        most_bytes: int,
        on_message: Callable[[list[bytes]], None],
        on_end: Callable[[str, bool], None],
    ) -> None:
        """`on_end` hears once why there is no connection any more, and whether the peer broke the protocol."""
        self._endpoint = endpoint
        self._greeting = GREETING + ready(identity)
        self._loop = loop
        self._on_message = on_message
        self._on_end = on_end
        self._reader = Reader(most_bytes)
        self._retry: asyncio.TimerHandle | None = None
        self._is_closed = self._is_ready = self._may_write = False
        self._unsent: deque[bytes | memoryview] = deque()
        """What waits until that is so."""
        self.shortage: OSError | None = None
        """Why we could not make a socket when it was tried last."""
        self.unsent_bytes = 0
        """Of what was sent, what the peer and the system have not taken."""
        self._socket: socket.socket | None = None
        self._connect()

    @property
    def most_bytes(self) -> int:
        """The largest message that is taken."""
        return self._reader.most_bytes

    @most_bytes.setter
    def most_bytes(self, most_bytes: int) -> None:
        self._reader.most_bytes = most_bytes

    # --- beginning

    def _connect(self) -> None:
        self._retry = None
        family, address = _address(self._endpoint)
        try:
            made = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        except OSError as fault:
            # It is we who have no descriptor left, or no memory: the peer has nothing to do with it.
            self.shortage = fault
            self._try_again()
            return
        self.shortage = None
        failed = made.connect_ex(address)
        if failed not in {0, errno.EINPROGRESS}:
            made.close()
            self._try_again()
            return
        self._socket = made
        if failed:
            self._loop.add_writer(made.fileno(), self._connected)
        else:
            self._connected()

    def _try_again(self) -> None:
        self._retry = self._loop.call_later(RETRY_S, self._connect)

    def _connected(self) -> None:
        made = self._socket
        assert made is not None
        self._loop.remove_writer(made.fileno())
        if made.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            made.close()
            self._socket = None
            self._try_again()
            return
        if made.family != socket.AF_UNIX:
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._loop.add_reader(made.fileno(), self.read)
        self._write(self._greeting)

    # --- out

    def send(self, frames: tuple[bytes, ...]) -> None:
        """Send a message as soon as there is a connection; to nobody when it has ended."""
        if self._may_write:
            self._write(packed(frames))
        elif self._socket is not None or self._retry is not None:
            self._put(packed(frames))

    def _put(self, data: bytes | memoryview) -> None:
        self._unsent.append(data)
        self.unsent_bytes += len(data)

    def _write(self, data: bytes) -> None:
        assert self._socket is not None
        try:
            sent = self._socket.send(data)
        except BlockingIOError:
            sent = 0
        except OSError:
            self._broke()
            return
        if sent < len(data):
            self._may_write = False
            self._put(memoryview(data)[sent:])
            self._loop.add_writer(self._socket.fileno(), self._writable)

    def _broke(self) -> None:
        # What has arrived is still read, and then its end. Nobody else tells of that: where a peer left with
        # something unread, uvloop watches no more.
        assert self._socket is not None
        self._loop.remove_writer(self._socket.fileno())
        self._may_write = False
        self._loop.call_soon(self.read_all)

    def _writable(self) -> None:
        assert self._socket is not None
        unsent = self._unsent
        try:
            sent = self._socket.sendmsg(islice(unsent, WRITES)) if unsent else 0
        except BlockingIOError:
            return
        except OSError:
            self._broke()
            return
        self.unsent_bytes -= sent
        while unsent and sent >= len(unsent[0]):
            sent -= len(unsent.popleft())
        if unsent:
            # Of a large one no copy is made each time.
            unsent[0] = memoryview(unsent[0])[sent:]
            return
        self._loop.remove_writer(self._socket.fileno())
        self._may_write = True

    # --- in

    def read(self) -> bool:
        """Hear what has arrived, so much of it at once; whether there may be more."""
        if self._socket is None:
            return False
        try:
            data = self._socket.recv(READ_BYTES)
        except BlockingIOError:
            return False
        except OSError as fault:
            return self._end(f"its connection broke: {os.strerror(fault.errno or 0)}", is_fault=False)
        if not data:
            return self._end("it has closed its connection", is_fault=False)
        try:
            messages = self._reader.feed(data)
        except ProtocolError as fault:
            return self._end(str(fault), is_fault=True)
        if self._reader.is_ready and not self._is_ready:
            # No sooner: a message that comes before the peer has said that it is ready breaks the protocol.
            self._is_ready = True
            if self._unsent:
                self._loop.add_writer(self._socket.fileno(), self._writable)
            self._writable()
        for frames in messages:
            if self._is_closed:  # by what was heard before
                return False
            self._on_message(frames)
        return True

    def read_all(self) -> None:
        """Hear everything that arrived before the peer's end."""
        for _ in range(LAST_READS):
            if not self.read():
                return

    def _end(self, reason: str, *, is_fault: bool) -> bool:
        self.close()
        self._on_end(reason, is_fault)
        return False

    def close(self) -> None:
        """Hear no more."""
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None
        if self._socket is not None:
            self._loop.remove_reader(self._socket.fileno())
            self._loop.remove_writer(self._socket.fileno())
            self._socket.close()
            self._socket = None
        self._is_closed, self._may_write = True, False
        self._unsent.clear()
        self.unsent_bytes = 0


def _address(endpoint: str) -> tuple[socket.AddressFamily, str | tuple[str, int]]:
    """As the system wants it. The kernel says where it listens: no name is looked up, and no other machine asked."""
    transport, _, rest = endpoint.partition("://")
    if transport == "ipc":
        return socket.AF_UNIX, rest
    host, _, port = rest.rpartition(":")
    host = host.strip("[]")
    if not is_loopback(host):
        raise ConnectionRefusedError(f"expected a kernel on this machine, found {host}")
    if host == "localhost":
        host = "127.0.0.1"
    return (socket.AF_INET6 if ":" in host else socket.AF_INET), (host, int(port))
