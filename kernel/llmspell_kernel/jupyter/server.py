"""The I/O thread: every socket, the signals' wake-up descriptor and the Lua thread's outbox, in one loop.

**Threads.** The loop runs in the process's main thread and never waits for Lua. It blocks in one poll; it is woken by
clients, by the outbox (an eventfd), by signals (a pipe) and by its own timers. The Lua thread is `runtime.worker`'s,
the echo thread `heartbeat`'s.
"""

import time
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import msgspec

from llmspell_kernel.diagnostics import Diagnostics
from llmspell_kernel.errors import PeerError
from llmspell_kernel.jupyter.clients import ClientRegistry, Monitor
from llmspell_kernel.jupyter.clock import DateClock
from llmspell_kernel.jupyter.contents import (
    STARTING,
    UNREADABLE,
    CommMessage,
    ExecuteRequest,
    ShutdownRequest,
    encode,
)
from llmspell_kernel.jupyter.exchange import Exchange
from llmspell_kernel.jupyter.executions import Executions
from llmspell_kernel.jupyter.history import History
from llmspell_kernel.jupyter.input import Input
from llmspell_kernel.jupyter.interrupts import Interrupts
from llmspell_kernel.jupyter.iopub import IOPub
from llmspell_kernel.jupyter.lifetime import Lifetime
from llmspell_kernel.jupyter.loop import Loop
from llmspell_kernel.jupyter.replies import FULL_BYTES, Replies
from llmspell_kernel.jupyter.requests import Requests
from llmspell_kernel.jupyter.runs import Run, RunRequest
from llmspell_kernel.jupyter.snapshots import Snapshots
from llmspell_kernel.jupyter.sockets import LINGER_MS, Sockets
from llmspell_kernel.jupyter.succession import Succession
from llmspell_kernel.jupyter.supervision import Supervision
from llmspell_kernel.limits import KernelLimits
from llmspell_kernel.runtime.outbox import Outbox
from llmspell_kernel.runtime.wakeup import Wakeup
from llmspell_kernel.runtime.worker import Worker
from llmspell_kernel.transport import is_readable, receive
from llmspell_kernel.wire.jupyter import Decoder, Encoder, Message, Signer

READ_AT_ONCE: Final = 128
"""Messages read from one socket before the others get their turn."""

READ_AHEAD: Final = 10_000
"""Requests read when one failed, to abort those that were sent before anybody could know."""

ROW_GAP_MS: Final = 5
ROW_S: Final = 0.050
"""How far apart the cells are that a front end sends in a row, and how long a row is waited for."""

_decode_execute = msgspec.json.Decoder(ExecuteRequest).decode
_decode_run = msgspec.json.Decoder(RunRequest).decode
_decode = msgspec.json.decode


class JupyterServer:
    """The channels and what comes in on them; the rules are in the modules beside this one."""

    def __init__(
        self,
        sockets: Sockets,
        *,
        key: str,
        kernel_id: str,
        limits: KernelLimits,
        worker: Worker,
        outbox: Outbox,
        outbox_wakeup: Wakeup,
        diagnostics: Diagnostics,
    ) -> None:
        self._sockets = sockets
        self._diagnostics = diagnostics
        self._clock = DateClock()
        signer = Signer(key.encode())
        self._decoder = Decoder(signer, max_message_bytes=limits.max_message_size)
        encoder = Encoder(signer, session=kernel_id)
        self._subscriptions = Monitor(sockets.context, sockets.iopub)
        self.iopub = IOPub(
            sockets.iopub,
            self._subscriptions,
            encoder,
            kernel_id=kernel_id,
            date=self._clock.now,
            diagnostics=diagnostics,
        )
        self.loop = Loop()
        self.iopub.touch = self.loop.touch
        self._replies = Replies(encoder, self._clock, self.iopub, diagnostics, touch=self.loop.touch)
        self.clients = ClientRegistry(limits.max_clients)
        self._monitor = Monitor(sockets.context, sockets.shell)
        history = History()
        self._succession = Succession()
        self.executions = Executions(
            worker,
            self.iopub,
            history,
            reply=lambda *reply: self._replies.send(sockets.shell, *reply),
            answer=partial(self._replies.answer, sockets.shell),
            ask=lambda message: self._input.ask(message),  # noqa: PLW0108 - it is made later
            read_ahead=self._read_ahead,
        )
        self._input = Input(sockets.stdin, self.loop, self.executions, self._replies, outbox, self.clients, diagnostics)
        self._requests = Requests(self.executions, history, self.iopub.publish)
        self.executions.page = self._requests.page
        self.executions.breathe = lambda: self._receive(sockets.control, self._on_control, READ_AT_ONCE)
        self.interrupts = Interrupts(
            self.loop,
            self.executions,
            worker.engine.interrupter,
            diagnostics,
            timeout_s=limits.execution_timeout_s,
        )
        self._snapshots = Snapshots(
            self.loop, self.executions, worker, lambda message: self._answer(sockets.shell, message)
        )
        self.statistics: Callable[[], dict[str, object]] = dict
        """What `statistics_request` is answered with: llmspell's own message, on control, for listings."""
        self._exchange = Exchange(
            self.loop,
            self.executions,
            self._snapshots,
            self.iopub,
            self._replies,
            outbox,
            outbox_wakeup,
            on_change=self._running_changed,
        )
        self.lifetime = Lifetime(
            self.loop,
            self.executions,
            self.interrupts,
            self.iopub,
            diagnostics,
            idle_timeout_s=limits.idle_timeout_s,
        )
        self.supervision = Supervision(
            self._succession,
            self.lifetime,
            self.executions,
            diagnostics,
            reply=lambda *reply: self._replies.send(sockets.shell, *reply),
            on_limits=self.limit,
            on_interrupt=lambda: self.interrupts.interrupt("interrupt"),
            on_expire=worker.expire,
        )
        answer = partial(self._replies.answer, sockets.shell)
        self.supervision.say_again = lambda kept: answer(kept.message, kept.parts, kept.reply)
        # An old client's too: Jupyter once asked it here.
        self.supervision.handlers["shutdown_request"] = partial(self._shut_down, sockets.shell)
        self._fill_loop()

    def _fill_loop(self) -> None:
        loop, sockets = self.loop, self._sockets

        loop.read(sockets.control, lambda: self._receive(sockets.control, self._on_control, READ_AT_ONCE))
        loop.read(self._subscriptions.socket, self.iopub.departed)
        loop.read(sockets.iopub, self.iopub.welcome)
        loop.read(sockets.stdin, lambda: self._receive(sockets.stdin, self._on_input, READ_AT_ONCE))
        loop.read(self._monitor.socket, self._on_departures)
        loop.read(sockets.shell, lambda: self._receive(sockets.shell, self._on_shell, READ_AT_ONCE))

    # --- life --------------------------------------------------------------------------------------------------

    def run(self) -> str:
        """Serve until told to stop; returns why: "shutdown", "restart" or "idle"."""
        self.iopub.publish("status", STARTING)
        return self.loop.run()

    def limit(self, limits: KernelLimits) -> None:
        """Hold other limits from now on."""
        self.clients.limit = limits.max_clients
        self.interrupts.timeout_s = limits.execution_timeout_s
        self._decoder.max_bytes = limits.max_message_size
        self.lifetime.end_after_idle(limits.idle_timeout_s)

    def close(self) -> None:
        """Close the sockets; what is sent is still delivered, within the context's linger time."""
        sockets = self._sockets
        self._replies.finish(LINGER_MS / 1000)
        self._monitor.close()
        self._subscriptions.close()
        for socket in (sockets.shell, sockets.iopub, sockets.stdin, sockets.control):
            socket.close()

    # --- in ----------------------------------------------------------------------------------------------------

    def _receive(self, socket: Any, handle: Callable[[Message, int], None], most: int) -> None:
        for _ in range(most):
            if not is_readable(socket):
                return
            frames, descriptor = receive(socket)
            try:
                message = self._decoder.decode(frames)
            except PeerError as fault:
                self._diagnostics.warn("message_dropped", str(fault))
                continue
            try:
                handle(message, descriptor)
            except UNREADABLE as fault:
                self._replies.refuse(socket, message, "InvalidRequest", f"the content cannot be read: {fault}")
        self.loop.touch(socket)

    def _read_ahead(self, age_s: float) -> None:
        """Read what was sent along with a request that failed `age_s` after it began: it was too quick for the rest."""
        shell = self._sockets.shell
        wait_until = time.monotonic() + ROW_S - age_s
        self._receive(shell, self._on_shell, READ_AHEAD)
        while time.monotonic() < wait_until and shell.poll(ROW_GAP_MS):
            self._receive(shell, self._on_shell, READ_AHEAD)

    def _on_shell(self, message: Message, descriptor: int) -> None:
        header = message.header
        shell = self._sockets.shell
        identity = message.identities[0] if message.identities else b""
        if not self.clients.admit(identity, descriptor, header.session, header.username, self._clock.seconds()):
            limit = f"this kernel serves at most {self.clients.limit} clients at once (max_clients)"
            self._diagnostics.count("client_refused")
            self._replies.refuse(shell, message, "TooManyClients", f"{limit}; try again later")
        elif header.msg_type == "execute_request":
            self._submit(message, _decode_execute(message.content_bytes))
        elif header.msg_type == "run_request":
            if self._succession.is_past(header):
                self._diagnostics.count("run_of_past_supervisor")
                return
            request = _decode_run(message.content_bytes)
            send = partial(self._replies.send, shell, message)
            run = Run(request, time.monotonic(), send, partial(self._succession.keep, message))
            run.is_behind = partial(self._replies.is_behind, shell, message)
            run.is_far_behind = partial(self._replies.is_behind, shell, message, FULL_BYTES)
            self._submit(message, ExecuteRequest(request.code, allow_stdin=False, stop_on_error=False), run)
        elif header.msg_type in self.supervision.handlers:
            self.supervision.handlers[header.msg_type](message)
        elif header.msg_type == "statistics_request":
            self._replies.send(shell, message, "statistics_reply", encode(self.statistics()))
        elif header.msg_type in self._requests.needs_symbols:
            self._snapshots.answer(message)
        elif header.msg_type in self._requests.handlers:
            self._answer(shell, message)
        elif header.msg_type in {"comm_open", "comm_msg", "comm_close"}:
            comm = _decode(message.content_bytes, type=CommMessage)
            self.lifetime.used(time.monotonic())
            with self._replies.bracket(message):
                self._requests.comm(message, comm)
        else:
            self._diagnostics.warn("message_unknown", f"shell: unknown message type {header.msg_type!r}")

    def _on_input(self, message: Message, descriptor: int) -> None:
        self.lifetime.used(time.monotonic())
        self._input.answered(message, descriptor)

    def _submit(self, message: Message, request: ExecuteRequest, run: Run | None = None) -> None:
        self.executions.submit(message, request, run)
        if self.executions.is_full:
            self.loop.pause(self._sockets.shell, paused=True)

    def _answer(self, socket: Any, message: Message) -> None:
        kind, handler = self._requests.handlers[message.header.msg_type]
        try:
            request: Any = _decode(message.content_bytes, type=kind)
        except UNREADABLE as fault:
            self._replies.refuse(socket, message, "InvalidRequest", f"the content cannot be read: {fault}")
            return
        with self._replies.bracket(message):
            reply = message.header.msg_type.removesuffix("_request") + "_reply"
            self._replies.send(socket, message, reply, handler(message, request))

    def _on_control(self, message: Message, _descriptor: int) -> None:
        kind = message.header.msg_type
        control = self._sockets.control
        if kind == "interrupt_request":
            with self._replies.bracket(message):
                self.interrupts.interrupt("interrupt")
                self._replies.send(control, message, "interrupt_reply", b'{"status":"ok"}')
        elif kind == "shutdown_request":
            self._shut_down(control, message)
        elif kind == "statistics_request":
            with self._replies.bracket(message):
                self._replies.send(control, message, "statistics_reply", encode(self.statistics()))
        elif kind in self._requests.handlers:
            self._answer(control, message)
        else:
            self._diagnostics.warn("message_unknown", f"control: unknown message type {kind!r}")

    def _shut_down(self, socket: Any, message: Message) -> None:
        request = _decode(message.content_bytes, type=ShutdownRequest)
        content = encode({"status": "ok", "restart": request.restart})
        with self._replies.bracket(message):
            self._replies.send(socket, message, "shutdown_reply", content)
            self.iopub.publish("shutdown_reply", content, message.header_bytes)
        self.lifetime.answer_all()
        self.loop.end("restart" if request.restart else "shutdown")

    def _on_departures(self) -> None:
        for descriptor in self._monitor.ended():
            self.clients.disconnected(descriptor)
        self._input.departed()

    def _running_changed(self, running: int | None, now: float) -> None:
        self.lifetime.used(now)
        self.loop.pause(self._sockets.shell, paused=self.executions.is_full)
        self.interrupts.running_changed(now)
        if running is None:
            self._snapshots.idle(now)
        self.lifetime.running_changed()
