"""A kernel's start, played once in the zygote before it forks, with nothing of it kept.

What Python and its libraries set up at their first use (specialised code, tables, caches) is then the parent's, and
shared: a child copies 230 KiB of pages less, and starts sooner. No thread and no ZeroMQ context outlives it.
"""

import os
import time

import zmq

from llmspell_kernel import pidfile
from llmspell_kernel.connection import new_key
from llmspell_kernel.diagnostics import Diagnostics
from llmspell_kernel.jupyter.heartbeat import Heartbeat
from llmspell_kernel.jupyter.server import JupyterServer
from llmspell_kernel.jupyter.sockets import bind_sockets
from llmspell_kernel.limits import KernelLimits
from llmspell_kernel.options import LogOptions
from llmspell_kernel.runtime.prepared import Prepared
from llmspell_kernel.runtime.wakeup import Wakeup
from llmspell_kernel.runtime.worker import Worker
from llmspell_kernel.transport import receive, send
from llmspell_kernel.wire.jupyter import Encoder, Signer

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
