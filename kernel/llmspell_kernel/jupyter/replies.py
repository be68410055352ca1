"""Answers to requests: the reply to whom it is for, between the busy and the idle that everybody hears."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import zmq

from llmspell_kernel.diagnostics import Diagnostics
from llmspell_kernel.jupyter.clock import DateClock
from llmspell_kernel.jupyter.contents import BUSY, IDLE, ErrorContent, encode
from llmspell_kernel.jupyter.iopub import IOPub
from llmspell_kernel.transport import send
from llmspell_kernel.wire.jupyter import Encoder, Message


class Replies:
    """Sends replies. Belongs to the I/O thread."""

    def __init__(
        self,
        encoder: Encoder,
        clock: DateClock,
        iopub: IOPub,
        diagnostics: Diagnostics,
        *,
        touch: Callable[[Any], None],
    ) -> None:
        self._touch = touch
        self._encode = encoder.encode
        self._date = clock.now
        self._iopub = iopub
        self._diagnostics = diagnostics

    def send(self, socket: Any, message: Message, msg_type: str, content: bytes) -> None:
        """Send the reply to `message`."""
        frames = self._encode(msg_type, content, date=self._date(), parent=message.header_bytes)
        self._touch(socket)
        try:
            send(socket, (*message.identities, *frames))
        except zmq.Again:
            self._diagnostics.warn("reply_dropped", f"a client does not read its replies: {msg_type} dropped")
        except zmq.ZMQError as fault:
            if fault.errno != zmq.EHOSTUNREACH:
                raise
            self._diagnostics.count("reply_to_departed")

    @contextmanager
    def bracket(self, message: Message) -> Iterator[None]:
        """Say that the kernel is busy with `message`, and idle afterwards."""
        self._iopub.publish("status", BUSY, message.header_bytes)
        try:
            yield
        finally:
            self._iopub.publish("status", IDLE, message.header_bytes)

    def refuse(self, socket: Any, message: Message, name: str, text: str) -> None:
        """Answer a request that is understood as far as its type and cannot be served."""
        self._diagnostics.count("request_refused")
        kind = message.header.msg_type
        with self.bracket(message):
            if kind.endswith("_request"):
                content = encode(ErrorContent(name, text, (f"{name}: {text}",)))
                self.send(socket, message, kind.removesuffix("_request") + "_reply", content)
