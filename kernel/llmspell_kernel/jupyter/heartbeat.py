"""The heartbeat channel: an echo in a thread of its own, so that it answers whatever else goes on.

**Threads.** One, inside `zmq.proxy` and so outside the interpreter lock for all of its life; it begins with the first
beat, since most kernels of a fleet never hear one and a thread costs them memory, and ends when the context does.
"""

import threading

import zmq

from llmspell_kernel.jupyter.loop import Loop


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
        self._thread = threading.Thread(target=_echo, args=(self._socket,), name="heartbeat", daemon=True)
        self._thread.start()

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
