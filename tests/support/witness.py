"""Counts executions from outside: subscribed to every kernel, it sees each begin, whatever the fleet says of it."""

import json
import re
import threading
from collections import Counter
from pathlib import Path

import zmq

from support.peers import endpoint

_LOOK_MS = 20
_BEGUN = re.compile(rb'"code":\s*"ledger = ledger or \{\} ledger\[(\d+)\]')
_RAN = re.compile(rb"ran (\d+)\.")
_RECONNECT_MS = 1
"""A kernel's next incarnation has the same address: it is subscribed to before it is given much."""


class Witness(threading.Thread):
    """Reads IOPub of all kernels whose connection files are in a runtime directory, those that come later too.

    It may miss what a kernel was about to say when it was killed; what it has seen twice was run twice.
    """

    def __init__(self, runtime: Path) -> None:
        super().__init__(daemon=True)
        self.begun: Counter[int] = Counter()
        """Begins of each execution (`execute_input`)."""
        self.ran: Counter[int] = Counter()
        """How often each said that it ran."""
        self._runtime = runtime
        self._addresses: set[str] = set()
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Returns when it has read what came."""
        self._stopping.set()
        self.join()

    @property
    def kernels(self) -> int:
        """Addresses that it listens to."""
        return len(self._addresses)

    def run(self) -> None:
        with zmq.Context() as context, context.socket(zmq.SUB) as socket:
            context.set(zmq.MAX_SOCKETS, 4096)
            socket.linger = 0
            socket.rcvhwm = 0
            socket.reconnect_ivl = _RECONNECT_MS
            socket.subscribe(b"")
            while not self._stopping.is_set():
                self._find(socket)
                while socket.poll(_LOOK_MS):
                    self._take(socket.recv_multipart())

    def _find(self, socket: "zmq.Socket[bytes]") -> None:
        for file in self._runtime.glob("kernel-*.json"):
            try:
                address = endpoint(json.loads(file.read_text()), "iopub")
            except (OSError, ValueError, LookupError, TypeError):
                continue  # it ended, or was damaged on purpose
            if address not in self._addresses:
                self._addresses.add(address)
                socket.connect(address)

    def _take(self, frames: list[bytes]) -> None:
        content = frames[-1]
        if found := _BEGUN.search(content):
            self.begun[int(found[1])] += 1
        elif b'"text"' in content:
            self.ran.update(int(number) for number in _RAN.findall(content))

    def doubled(self) -> dict[int, tuple[int, int]]:
        """Executions that were seen to begin or to run more than once: how often each."""
        numbers = {n for n, times in (*self.begun.items(), *self.ran.items()) if times > 1}
        return {number: (self.begun[number], self.ran[number]) for number in numbers}
