"""A caller of `run_request`: one DEALER on the shell channel, signed by jupyter_client, as a supervisor's is by us."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import zmq
from jupyter_client.session import Session

from support.peers import ANSWER_S, Json, endpoint


class Runner:
    """Sends runs to one kernel and keeps what comes for each."""

    def __init__(self, connection: Json, *, proof: str = "", unread: int = 0) -> None:
        """`proof` shows it to be the kernel's supervisor; it reads no further ahead than `unread`, 0 = without end."""
        self._metadata = {"proof": proof} if proof else {}
        self.session = Session(key=connection["key"].encode(), username="runner", check_pid=False)
        self.replies: dict[str, Json] = {}
        self.outputs: dict[str, list[Json]] = {}
        """What was streamed for each request before its reply."""
        self.parts: dict[str, list[Json]] = {}
        """What was said of each before its reply, which is joined with it."""
        self.order: list[str] = []
        """Requests as they were answered."""
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.linger = 0
        self.socket.rcvhwm, self.socket.sndhwm = unread, 0
        self.socket.connect(endpoint(connection, "shell"))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._context.destroy(linger=0)

    def send(self, code: str, **options: Any) -> str:
        """Ask for a run; returns the request's id."""
        return self.ask("run_request", {"code": code, **options})

    def ask(self, kind: str, content: Any) -> str:
        message = self.session.msg(kind, content, metadata=self._metadata)
        self.socket.send_multipart(self.session.serialize(message))
        request: str = message["header"]["msg_id"]
        self.outputs[request] = []
        self.parts[request] = []
        return request

    def run(self, code: str, **options: Any) -> Json:
        """Run to the reply."""
        return self.reply(self.send(code, **options))

    def reply(self, request: str) -> Json:
        """Wait for the reply to a request."""
        self.until(lambda: request in self.replies, f"the reply to {request}")
        return self.replies[request]

    def all(self, requests: list[str]) -> list[Json]:
        return [self.reply(request) for request in requests]

    def until(self, is_so: Callable[[], object], what: str) -> None:
        give_up_at = time.monotonic() + ANSWER_S
        while not is_so():
            left = give_up_at - time.monotonic()
            assert left > 0, f"waited {ANSWER_S:g} s in vain for {what}"
            if self.socket.poll(min(left, 0.05) * 1000):
                self.take()

    def take(self) -> None:
        """Take one message."""
        _, frames = self.session.feed_identities(self.socket.recv_multipart())
        message = self.session.deserialize(frames)
        request = message["parent_header"]["msg_id"]
        assert request not in self.replies, f"{message['msg_type']} after the reply"
        if message["msg_type"] == "run_output":
            content = message["content"]
            self.outputs[request] += content.get("outputs", [content])
        elif message["msg_type"] == "run_part":
            self.parts[request].append(message["content"])
        else:
            assert message["msg_type"].endswith("_reply")
            self.replies[request] = _whole(self.parts.pop(request, []), message["content"])
            self.order.append(request)


def _whole(parts: list[Json], reply: Json) -> Json:
    """A reply with what went before it; others than a run's have no parts."""
    if not parts:
        return reply
    for name in ("stdout", "stderr"):
        reply[name] = "".join(part[name] for part in (*parts, reply))
    if displays := [display for part in (*parts, reply) for display in part.get("displays", ())]:
        reply["displays"] = displays
    return reply
