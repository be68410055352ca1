"""A kernel's start, played once in the zygote before it forks, with nothing of it kept.

What Python and its libraries set up at their first use (specialised code, tables, caches) is then the parent's, and
shared: a child copies 230 KiB of pages less, and starts sooner. No thread and no ZeroMQ context outlives it.
"""

import contextlib
import os
import threading
import time
from typing import Final

import zmq

from llmspell_kernel import pidfile, runtime_dir
from llmspell_kernel.connection import new_kernel_id, new_key
from llmspell_kernel.diagnostics import Diagnostics
from llmspell_kernel.errors import LlmspellError
from llmspell_kernel.jupyter.heartbeat import Heartbeat
from llmspell_kernel.jupyter.server import JupyterServer
from llmspell_kernel.jupyter.sockets import bind_sockets
from llmspell_kernel.limits import KernelLimits
from llmspell_kernel.options import LogOptions, ServeOptions
from llmspell_kernel.runtime.prepared import Prepared
from llmspell_kernel.runtime.wakeup import Wakeup
from llmspell_kernel.runtime.worker import Worker
from llmspell_kernel.safe_files import ensure_directory
from llmspell_kernel.taken import take_hold
from llmspell_kernel.transport import receive, send
from llmspell_kernel.wire.jupyter import Encoder, Signer
from llmspell_kernel.zygote.lockdown import lock_down
from llmspell_kernel.zygote.namespaces import Namespaces, cover
from llmspell_kernel.zygote.protocol import Confinement

_LOOK_S: Final = 0.0005
LONGEST_S = 1.0
"""An answer takes a millisecond; a zygote that had none starts kernels all the same."""


def rehearse(prepared: Prepared) -> None:
    """Build what a kernel serves with, and take it down."""
    limits = KernelLimits()
    # An abstract address: no file, and nobody has it from us.
    address = f"@llmspell-rehearsal-{os.getpid()}-{new_key()[:8]}"
    sockets = bind_sockets(
        transport="ipc", ip=address, ports=(0, 0, 0, 0, 0), max_message_bytes=limits.max_message_size
    )
    wakeup, key = Wakeup(), new_key()
    worker = Worker(prepared.engine, prepared.outbox)
    worker.start()
    server = JupyterServer(
        sockets,
        key=key,
        kernel_id="rehearsal",
        limits=limits,
        worker=worker,
        outbox=prepared.outbox,
        outbox_wakeup=wakeup,
        diagnostics=Diagnostics(LogOptions()),
    )
    heartbeat = Heartbeat(sockets.hb, server.loop)
    pidfile.own_record()
    client = sockets.context.socket(zmq.DEALER)
    client.connect(f"ipc://{address}-1")
    _ask(client, server, key)
    client.close(0)
    server.close()
    heartbeat.close()
    sockets.context.term()
    os.close(wakeup.descriptor)
    worker.stop(LONGEST_S)
    worker.close()


def rehearse_strict() -> None:
    """Play what a kernel at `strict` does before it serves, in a thread that takes along what it gave up.

    Of the process itself it takes limits only that every such kernel has. To be called with no other thread.
    """
    thread = threading.Thread(target=_give_up, name="rehearsal")
    thread.start()
    thread.join()
    while len(os.listdir("/proc/self/task")) > 1:
        time.sleep(_LOOK_S)  # it was joined, and the system may still see it


def _give_up() -> None:
    namespaces: Namespaces = "none"
    with contextlib.suppress(OSError):
        cover(runtime_dir.runtime_dir())
        namespaces = "mount"
    # Where a thread cannot have a folder of its own, what a start writes is played by the start only.
    with contextlib.suppress(OSError, LlmspellError):
        if namespaces == "mount":
            _take_hold()
        lock_down(Confinement(level="strict", namespaces=namespaces))


def _take_hold() -> None:
    kernel_id = new_kernel_id()
    folder = ensure_directory(runtime_dir.socket_dir(kernel_id))
    options = ServeOptions(kernel_id=kernel_id, transport="ipc", progress_file=os.path.join(folder, "progress"))
    for descriptor in take_hold(options).listening:
        os.close(descriptor)


def _ask(client: "zmq.Socket[bytes]", server: JupyterServer, key: str) -> None:
    """Have one request answered, as a supervisor's first one will be."""
    loop = server.loop
    request = Encoder(Signer(key.encode()), session="rehearsal")
    send(client, request.encode("kernel_info_request", b"{}", date=b"1970-01-01T00:00:00.000000Z"))

    def answered() -> None:
        receive(client)
        loop.end("answered")

    loop.read(client, answered)
    loop.timer("rehearsal", lambda _now: loop.end("not answered"))
    loop.set("rehearsal", time.monotonic() + LONGEST_S)
    server.run()
    loop.forget_socket(client)
