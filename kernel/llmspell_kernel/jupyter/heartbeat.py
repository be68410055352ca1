"""The heartbeat channel: an echo in a thread of its own, so that it answers whatever else goes on.

**Threads.** One, inside `zmq.proxy` and so outside the interpreter lock for all of its life; it begins with the first
beat, since most kernels of a fleet never hear one and a thread costs them memory, and ends when the context does.
Where no thread can be made any more, the loop echoes.
"""

import contextlib
import threading

import zmq

from llmspell_kernel.jupyter.loop import Loop
from llmspell_kernel.transport import receive, send


class Heartbeat:
    """The bound ROUTER socket: the loop's until somebody beats, the echo thread's from then on."""

    def __init__(self, socket: "zmq.Socket[bytes]", loop: Loop) -> None:
        self._socket = socket
        self._loop = loop
        self._thread: threading.Thread | None = None
        loop.read(socket, self._first_beat)

    def _first_beat(self) -> None:
        """Hand the socket over, with the beat in it that nobody has read."""
        self._loop.forget_socket(self._socket)
        thread = threading.Thread(target=_echo, args=(self._socket,), name="heartbeat", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            # By a bound of processes, or of memory.
            self._loop.read(self._socket, self._echo_once)
        else:
            self._thread = thread

    def _echo_once(self) -> None:
        with contextlib.suppress(zmq.Again):
            beat, _descriptor = receive(self._socket)
            send(self._socket, beat)
        self._loop.touch(self._socket)

    def close(self) -> None:
        """Close the socket if it is still ours; its thread closes it when the context ends."""
        if self._thread is None:
            self._socket.close()


def _echo(socket: "zmq.Socket[bytes]") -> None:
    try:
        zmq.proxy(socket, socket)
    except zmq.ContextTerminated:
        pass
    finally:
        socket.close(linger=0)
