"""Input for scripts: asked of the client that sent the running cell, on its stdin channel."""

import time
from typing import Any, Final

import msgspec

from llmspell_kernel.diagnostics import Diagnostics
from llmspell_kernel.jupyter.clients import ClientRegistry
from llmspell_kernel.jupyter.contents import InputReply
from llmspell_kernel.jupyter.executions import Executions
from llmspell_kernel.jupyter.loop import Loop
from llmspell_kernel.jupyter.replies import Replies
from llmspell_kernel.runtime.outbox import Outbox
from llmspell_kernel.wire.jupyter import Message

ASK_AFTER_S: Final = 0.005
"""How long a request for input waits for the text before it, which goes another way, to be shown as its prompt."""

END_OF_INPUT: Final = "\x04"
"""What front ends answer when a person ends the input (Ctrl-D); the protocol has no word for it."""


class Input:
    """Whom is asked, and what is answered. Belongs to the I/O thread."""

    def __init__(
        self,
        stdin: Any,
        loop: Loop,
        executions: Executions,
        replies: Replies,
        outbox: Outbox,
        clients: ClientRegistry,
        diagnostics: Diagnostics,
    ) -> None:
        self._stdin = stdin
        self._loop = loop
        self._executions = executions
        self._replies = replies
        self._outbox = outbox
        self._clients = clients
        self._diagnostics = diagnostics
        self._asking: tuple[int | None, str] | None = None
        """The execution that waits for input, and the session that was asked for it."""
        self._asked = b""
        """The identity of the client that was."""
        self._to_ask: Message | None = None
        loop.timer("ask", self._send_question)

    def ask(self, message: Message) -> None:
        """The execution that `message` asked for waits for a line."""
        self._asking = (self._executions.running, message.header.session)
        self._asked = message.identities[0] if message.identities else b""
        self._to_ask = message
        self._loop.set("ask", time.monotonic() + ASK_AFTER_S)

    def _send_question(self, _now: float) -> None:
        if self._asking is not None and self._asking[0] == self._executions.running and self._to_ask is not None:
            self._replies.send(self._stdin, self._to_ask, "input_request", b'{"prompt":"","password":false}')
        self._to_ask = None

    def answered(self, message: Message, _descriptor: int) -> None:
        """A message on the stdin channel."""
        if message.header.msg_type != "input_reply":
            self._diagnostics.warn("message_unknown", f"stdin: unknown message type {message.header.msg_type!r}")
        elif self._asking != (self._executions.running, message.header.session):
            self._diagnostics.warn("input_unasked", "an input_reply came that nobody waits for")
        else:
            reply = msgspec.json.decode(message.content_bytes, type=InputReply)
            self._asking = None
            self._outbox.answer(None if reply.value == END_OF_INPUT else reply.value.encode("utf-8", "replace"))

    def departed(self) -> None:
        """Clients have left, perhaps the one that is asked."""
        is_asking = self._asking is not None and self._asking[0] == self._executions.running
        if is_asking and not self._clients.knows(self._asked):
            # Nobody is left to answer: for the script its input has ended.
            self._asking = None
            self._outbox.answer(None)
