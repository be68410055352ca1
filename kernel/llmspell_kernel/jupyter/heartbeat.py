"""The heartbeat channel: an echo in a thread of its own, so that it answers whatever else goes on.

**Threads.** One, inside `zmq.proxy` and so outside the interpreter lock for all of its life; it ends when the context
does.
"""

import threading

import zmq


def start_heartbeat(socket: "zmq.Socket[bytes]") -> threading.Thread:
    """Echo what comes in on a bound ROUTER socket until its context ends. The socket belongs to the new thread."""
    thread = threading.Thread(target=_echo, args=(socket,), name="heartbeat", daemon=True)
    thread.start()
    return thread


def _echo(socket: "zmq.Socket[bytes]") -> None:
    try:
        zmq.proxy(socket, socket)
    except zmq.ContextTerminated:
        pass
    finally:
        socket.close(linger=0)
