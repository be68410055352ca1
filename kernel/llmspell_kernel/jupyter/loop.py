"""One wait for ZeroMQ sockets and descriptors, with timers by name.

`zmq.Poller` asks every socket twice for each wait, two system calls a time: half of the system calls of an execution.
Here the operating system's poll watches the sockets' descriptors. They are edge-triggered: one that was sent to or
received from may have something to read without its descriptor saying so again. So whoever touches a socket says so
(`touch`), and touched sockets are asked before the loop sleeps.
"""

import math
import select
import time
from collections.abc import Callable
from typing import Any, Final

from llmspell_kernel.transport import is_readable

Socket = Any

LONGEST_WAIT_S: Final = 60.0


class Loop:
    """Calls back when something can be read and when a time has come; belongs to the thread that runs it."""

    def __init__(self) -> None:
        self._poll = select.poll()
        self._readers: dict[Socket | int, Callable[[], None]] = {}
        self._sockets: dict[int, Socket] = {}
        self._touched: set[Socket] = set()
        self._paused: set[Socket] = set()
        self._due: dict[str, float] = {}
        self._actions: dict[str, Callable[[float], None]] = {}
        self._ended_by: str | None = None
        self.between: Callable[[], None] = lambda: None
        """Called after each round, when everything that was readable has been read."""

    def read(self, source: Socket | int, on_readable: Callable[[], None]) -> None:
        """Call `on_readable` whenever a socket or a descriptor has something to read."""
        self._readers[source] = on_readable
        descriptor = source if isinstance(source, int) else source.FD
        if descriptor is not source:
            self._sockets[descriptor] = source
            self._touched.add(source)
        self._poll.register(descriptor, select.POLLIN)

    def touch(self, socket: Socket) -> None:
        """A message was sent or received on `socket` outside its own callback, or more may wait than that one took."""
        self._touched.add(socket)

    def pause(self, socket: Socket, *, paused: bool) -> None:
        """Leave `socket` unread, or read it again."""
        if paused:
            self._paused.add(socket)
        elif socket in self._paused:
            self._paused.discard(socket)
            self._touched.add(socket)

    def forget(self, descriptor: int) -> None:
        """Watch a descriptor no more."""
        self._poll.unregister(descriptor)

    def forget_socket(self, socket: Socket) -> None:
        """Watch a ZeroMQ socket no more: it is somebody else's from now on."""
        descriptor = socket.FD
        self._poll.unregister(descriptor)
        del self._sockets[descriptor], self._readers[socket]
        self._touched.discard(socket)

    def timer(self, name: str, action: Callable[[float], None]) -> None:
        """Declare a timer; `action` is given the monotonic time."""
        self._actions[name] = action

    def set(self, name: str, due: float) -> None:
        """Let a timer ring at `due` (monotonic), and not at the time that it was set for before."""
        self._due[name] = due

    def set_if_unset(self, name: str, due: float) -> None:
        """Let a timer ring at `due` unless it is set already."""
        self._due.setdefault(name, due)

    def clear(self, *names: str) -> None:
        """Let timers not ring."""
        for name in names:
            self._due.pop(name, None)

    def end(self, why: str) -> None:
        """End `run` after the round at hand."""
        self._ended_by = self._ended_by or why

    def run(self) -> str:
        """Go round until `end`; returns why."""
        readers, sockets, paused = self._readers, self._sockets, self._paused
        while self._ended_by is None:
            ready = self._ready()
            for descriptor, _ in self._poll.poll(0 if ready else self._timeout_ms()):
                socket = sockets.get(descriptor)
                if socket is None:
                    readers[descriptor]()
                elif socket not in ready and is_readable(socket):
                    ready.append(socket)
            for socket in ready:
                if socket not in paused:
                    readers[socket]()
            if self._due:
                self._ring()
            self.between()
        return self._ended_by

    def _ready(self) -> list[Socket]:
        ready = [socket for socket in self._touched if socket not in self._paused and is_readable(socket)]
        self._touched.clear()
        return ready

    def _timeout_ms(self) -> float:
        wait_s = min(self._due.values()) - time.monotonic() if self._due else LONGEST_WAIT_S
        return max(0.0, min(wait_s, LONGEST_WAIT_S)) * 1000

    def _ring(self) -> None:
        now = time.monotonic()
        for name in [name for name, due in self._due.items() if due <= now]:
            # An action before this one may have cleared the timer, or set it anew.
            if self._due.get(name, math.inf) <= now:
                del self._due[name]
                self._actions[name](now)
