"""jupyter_client on a kernel that others started, for whoever wants every kind of request answered."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
import zmq
from jupyter_client.blocking.client import BlockingKernelClient

from llmspell_kernel.connection import ConnectionInfo
from support.homes import DEADLINE_S, wait_until


@dataclass(frozen=True)
class Executed:
    """What a cell came to."""

    status: str
    result: str | None


class Front:
    """A front end."""

    def __init__(self, client: BlockingKernelClient, connection: ConnectionInfo) -> None:
        self._client = client
        self._connection = connection

    def execute(self, code: str, *, answer: str | None = None) -> Executed:
        """Run a cell to its end, and answer when it asks."""
        msg_id = self._client.execute(code, allow_stdin=answer is not None)
        if answer is not None:
            self._client.get_stdin_msg(timeout=DEADLINE_S)
            self._client.input(answer)
        return self._outcome(msg_id)

    def interrupt(self, code: str) -> Executed:
        """Run a cell that does not end, and interrupt it."""
        msg_id = self._client.execute(code)
        while self._client.get_iopub_msg(timeout=DEADLINE_S)["msg_type"] != "execute_input":
            pass
        self._client.control_channel.send(self._client.session.msg("interrupt_request", {}))
        return self._outcome(msg_id)

    def _outcome(self, msg_id: str) -> Executed:
        result = None
        while True:
            message = self._client.get_iopub_msg(timeout=DEADLINE_S)
            if message["parent_header"].get("msg_id") != msg_id:
                continue
            if message["msg_type"] == "execute_result":
                result = message["content"]["data"]["text/plain"]
            if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                break
        return Executed(self._reply(msg_id)["content"]["status"], result)

    def _reply(self, msg_id: str) -> Any:
        while True:
            reply = self._client.get_shell_msg(timeout=DEADLINE_S)
            if reply["parent_header"].get("msg_id") == msg_id:
                return reply

    def ask(self, kind: str, content: dict[str, Any], *, is_answered: bool = True) -> None:
        """Any request on the shell channel."""
        message = self._client.session.msg(kind, content)
        self._client.shell_channel.send(message)
        if is_answered:
            self._reply(message["header"]["msg_id"])

    def garbage(self) -> None:
        """What no client sends: frames without sense, a wrong signature."""
        context = zmq.Context()
        try:
            with context.socket(zmq.DEALER) as socket:
                socket.connect(self._connection.endpoint("shell"))
                socket.send_multipart([b"x"])
                socket.send_multipart([b"<IDS|MSG>", b"0" * 64, b"{}", b"{}", b"{}", b"{}"])
                socket.send_multipart([b"<IDS|MSG>", b"\xff", b"\xfe", b"", b"", b"[" * 1000])
        finally:
            context.destroy(linger=1000)

    def beats(self) -> bool:
        """Whether the heartbeat answers."""
        self._client.hb_channel.unpause()
        wait_until(self._client.hb_channel.is_beating, "a beat")
        return bool(self._client.hb_channel.is_beating())


@contextlib.contextmanager
def front(connection: ConnectionInfo) -> Iterator[Front]:
    """A front end that is connected, and subscribed."""
    client = BlockingKernelClient()
    info = {name: value for name, value in msgspec.structs.asdict(connection).items() if value is not None}
    client.load_connection_info({**info, "key": info["key"].encode()})
    client.start_channels()
    try:
        client.wait_for_ready(timeout=DEADLINE_S)
        client.execute(
            "", silent=True, reply=True, timeout=DEADLINE_S
        )  # it asks again each second, and leaves late answers behind
        yield Front(client, connection)
    finally:
        client.stop_channels()
        client.context.destroy(linger=0)
