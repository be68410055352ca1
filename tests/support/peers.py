"""A Jupyter client that looks at everything: signatures, schemas, parents, and what came on which channel.

Signing and reading are jupyter_client's own, so that nothing of the kernel's codec vouches for itself.
"""

import time
from collections import Counter
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

import zmq
from jupyter_client.session import Session
from jupyter_kernel_test.msgspec_v5 import validate_message

Json = dict[str, Any]

ANSWER_S = 30.0
"""How long an answer may take on a machine that does other things too."""

_KINDS = {"iopub": zmq.SUB, "shell": zmq.DEALER, "stdin": zmq.DEALER, "control": zmq.DEALER}


class Answer:
    """What one request brought: its reply, and what was published for it."""

    def __init__(self, request: str) -> None:
        self.request = request
        self.reply: Json | None = None
        self.published: list[Json] = []

    @property
    def content(self) -> Json:
        assert self.reply is not None, "there is no reply"
        content: Json = self.reply["content"]
        return content

    @property
    def status(self) -> str:
        return str(self.content["status"])

    @property
    def kinds(self) -> list[str]:
        """The types of what was published, in order."""
        return [message["msg_type"] for message in self.published]

    def of(self, kind: str) -> list[Json]:
        """The contents of the published messages of one type."""
        return [message["content"] for message in self.published if message["msg_type"] == kind]

    @property
    def states(self) -> list[str]:
        return [content["execution_state"] for content in self.of("status")]

    def text(self, name: str = "stdout") -> str:
        return "".join(content["text"] for content in self.of("stream") if content["name"] == name)

    @property
    def result(self) -> str | None:
        found = self.of("execute_result")
        assert len(found) <= 1, found
        return found[0]["data"]["text/plain"] if found else None

    @property
    def error(self) -> Json:
        (content,) = self.of("error")
        return content

    @property
    def is_over(self) -> bool:
        return self.reply is not None and self.states[-1:] == ["idle"]


class Client:
    """One client: shell, stdin and control under one identity, and a subscription."""

    def __init__(
        self,
        connection: Json,
        *,
        checks: bool = True,
        identity: bytes | None = None,
        channels: tuple[str, ...] = ("shell", "iopub", "stdin", "control"),
        topic: bytes = b"",
    ) -> None:
        self.connection = connection
        self.session = Session(key=connection["key"].encode(), username="tester", check_pid=False)
        self.answers: dict[str, Answer] = {}
        self.asked: list[Json] = []
        """What came on stdin."""
        self.unasked: list[Json] = []
        """What was published for nobody's request, or for somebody else's."""
        self.order: list[str] = []
        """The requests that were replied to, in order."""
        self._checks = checks
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._poller = zmq.Poller()
        self.sockets: dict[str, zmq.Socket[bytes]] = {}
        for channel in channels:
            socket = self._context.socket(_KINDS[channel])
            socket.linger = 0
            socket.rcvhwm = socket.sndhwm = 0
            if channel == "iopub":
                socket.subscribe(topic)
            else:
                socket.identity = identity or self.session.bsession
            socket.connect(endpoint(connection, channel))
            self.sockets[channel] = socket
            self._poller.register(socket, zmq.POLLIN)

    def __enter__(self) -> Self:
        try:
            if "iopub" in self.sockets:
                self.until(lambda: any(m["msg_type"] == "iopub_welcome" for m in self.unasked), "the welcome")
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Leave, without a word to the kernel."""
        self._context.destroy(linger=0)

    def reconnect(self, channel: str) -> None:
        """Connect a channel anew, so that options of its socket hold; returns when it is welcomed."""
        socket, address = self.sockets[channel], endpoint(self.connection, channel)
        socket.disconnect(address)
        self.unasked.clear()
        socket.connect(address)
        self.__enter__()

    # --- out -------------------------------------------------------------------------------------------------------

    def send(self, channel: str, kind: str, content: Json | None = None, **header: str) -> str:
        """Send a message and return its id; `header` replaces members of the header."""
        request, frames = self.prepare(kind, content, **header)
        self.sockets[channel].send_multipart(frames)
        return request

    def prepare(self, kind: str, content: Json | None = None, **header: str) -> tuple[str, list[bytes]]:
        """A message's id and its frames."""
        message = self.session.msg(kind, {} if content is None else content)
        message["header"].update(header)
        request: str = message["header"]["msg_id"]
        self.answers[request] = Answer(request)
        return request, self.session.serialize(message)

    def send_execute(self, code: str, **options: Any) -> str:
        return self.send("shell", "execute_request", execute_content(code, **options))

    def send_row(self, *codes: str, **options: Any) -> list[str]:
        """Send cells one directly after the other."""
        row = [self.prepare("execute_request", execute_content(code, **options)) for code in codes]
        for _, frames in row:
            self.sockets["shell"].send_multipart(frames)
        return [request for request, _ in row]

    # --- out and in ------------------------------------------------------------------------------------------------

    def ask(self, kind: str, content: Json | None = None, *, channel: str = "shell") -> Answer:
        """Send a request and wait until it is over."""
        return self.finish(self.send(channel, kind, content))

    def execute(self, code: str, **options: Any) -> Answer:
        """Run a cell to its end."""
        return self.finish(self.send_execute(code, **options))

    def finish(self, request: str) -> Answer:
        """Wait until a request has its reply and its idle."""
        answer = self.answers[request]
        if "iopub" in self.sockets:
            self.until(lambda: answer.is_over, f"the end of {request}")
        else:
            self.until(lambda: answer.reply is not None, f"the reply to {request}")
        return answer

    def finish_all(self, requests: list[str]) -> list[Answer]:
        return [self.finish(request) for request in requests]

    def start(self, code: str, **options: Any) -> Answer:
        """Send a cell that prints `running`, and wait until it has."""
        request = self.send_execute(code, **options)
        answer = self.answers[request]
        self.until(lambda: "running" in answer.text(), "the cell to run")
        return answer

    def states_of(self, request: str) -> list[str]:
        """The states published for a request of somebody else."""
        return [
            message["content"]["execution_state"]
            for message in self.unasked
            if message["msg_type"] == "status" and message["parent_header"].get("msg_id") == request
        ]

    def until_reply(self, request: str) -> Json:
        """Wait for the reply alone, whatever is published meanwhile."""
        self.until(lambda: self.answers[request].reply, f"the reply to {request}")
        return self.answers[request].content

    def kernel_info(self) -> Json:
        """Show that the kernel answers."""
        return self.ask("kernel_info_request").content

    # --- in --------------------------------------------------------------------------------------------------------

    def until(self, is_so: Callable[[], object], what: str, within_s: float = ANSWER_S) -> None:
        """Take what comes until something holds."""
        give_up_at = time.monotonic() + within_s
        while not is_so():
            left = give_up_at - time.monotonic()
            assert left > 0, f"waited {within_s:g} s in vain for {what}"
            self.take(left)

    def take(self, timeout_s: float, *, at_once: int = 100) -> bool:
        """Take what is there, or comes within the time; False when nothing did."""
        ready = dict(self._poller.poll(timeout_s * 1000))
        for channel, socket in self.sockets.items():
            if socket in ready:
                self._drain(channel, socket, at_once)
        return bool(ready)

    def _drain(self, channel: str, socket: "zmq.Socket[bytes]", at_once: int) -> None:
        # Not until there is nothing more: a kernel can publish faster than this reads.
        for _ in range(at_once):
            try:
                frames = socket.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            identities, rest = self.session.feed_identities(frames)
            message = self.session.deserialize(rest)
            if self._checks:
                check(message)
            self._sort(channel, message, identities)

    def _sort(self, channel: str, message: Json, identities: list[bytes]) -> None:
        if channel == "iopub":
            assert len(identities) == 1, "a topic"
            answer = self.answers.get(message["parent_header"].get("msg_id", ""))
            (self.unasked if answer is None else answer.published).append(message)
        elif channel == "stdin":
            self.asked.append(message)
        else:
            answer = self.answers[message["parent_header"]["msg_id"]]
            assert answer.reply is None, "a second reply"
            answer.reply = message
            self.order.append(answer.request)


def execute_content(code: str, **options: Any) -> Json:
    """An execute_request of a front end that answers no questions, unless `options` say otherwise."""
    defaults = {
        "silent": False,
        "store_history": True,
        "user_expressions": {},
        "allow_stdin": False,
        "stop_on_error": True,
    }
    return {"code": code, **defaults, **options}


def endpoint(connection: Json, channel: str) -> str:
    """The address of one channel."""
    port, ip = connection[f"{channel}_port"], connection["ip"]
    return f"ipc://{ip}-{port}" if connection["transport"] == "ipc" else f"tcp://{ip}:{port}"


def check(message: Json) -> None:
    """Fail unless a message is as the specification says."""
    kind, content = message["msg_type"], message["content"]
    if kind == "iopub_welcome":
        assert content.keys() == {"subscription"}
    elif kind == "comm_close":
        assert content.keys() == {"comm_id", "data"}
    elif kind == "input_request":
        assert {name: type(value) for name, value in content.items()} == {"prompt": str, "password": bool}
    elif kind == "statistics_reply":
        assert content["status"] == "ok"
    elif content.get("status") == "aborted" or (kind == "is_complete_reply" and content.get("status") == "error"):
        # jupyter_kernel_test knows none of these, or has them wrong.
        assert kind.endswith("_reply")
    else:
        validate_message(message)


def bracketed(answer: Answer) -> bool:
    """Whether busy comes first, idle last, and each once."""
    return answer.states == ["busy", "idle"] and answer.kinds[0] == answer.kinds[-1] == "status"


def count(answers: list[Answer]) -> Counter[str]:
    """How many ended in which status."""
    return Counter(answer.status for answer in answers)
