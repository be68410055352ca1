"""One connection: what is taken for an answer, and what is not. The kernel is a socket that answers as it is told."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq
from jupyter_client.session import Session

from llmspell_fleet.router.link import Link, RunContent
from llmspell_fleet.router.progress import ProgressReader
from llmspell_kernel.connection import ConnectionInfo
from support.kernels import READY_S, short_folder
from support.spawning import eventually

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]

KEY = "the-key"


class Peer:
    """A kernel's end of the shell channel."""

    def __init__(self, folder: Path) -> None:
        self.session = Session(key=KEY.encode(), check_pid=False)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        self._socket.bind(f"ipc://{folder}/s-1")
        self.info = ConnectionInfo(
            shell_port=1,
            iopub_port=2,
            stdin_port=3,
            control_port=4,
            hb_port=5,
            key=KEY,
            ip=f"{folder}/s",
            transport="ipc",
        )

    def close(self) -> None:
        self._context.destroy(linger=0)

    def receive(self) -> tuple[bytes, Any]:
        """One request, with the identity that it came from."""
        assert self._socket.poll(READY_S * 1000)
        (identity,), frames = self.session.feed_identities(self._socket.recv_multipart())
        return identity, self.session.deserialize(frames)

    def reply(self, identity: bytes, parent: Any, kind: str = "run_reply", content: Any = None) -> list[bytes]:
        """The frames of a reply."""
        message = self.session.msg(kind, content or {}, parent=parent["header"] if parent else None)
        frames: list[bytes] = [identity, *self.session.serialize(message)]
        return frames

    def send(self, frames: list[bytes]) -> None:
        self._socket.send_multipart(frames)


@pytest.fixture
def peer() -> Iterator[Peer]:
    with short_folder() as folder:
        peer = Peer(folder)
        yield peer
        peer.close()


class Heard:
    """A link, and what it heard."""

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], info: ConnectionInfo) -> None:
        self.messages: list[tuple[str, int, bytes]] = []
        self.past: list[tuple[str, str, bytes]] = []
        self.link = Link(
            context,
            info,
            asyncio.get_running_loop(),
            lambda *heard: self.messages.append(heard),
            lambda *past: self.past.append(past),
        )

    async def until(self, count: int) -> None:
        await eventually(lambda: len(self.messages) >= count, f"{count} messages")


async def test_requests_are_signed_and_numbered(context: zmq.Context[zmq.Socket[bytes]], peer: Peer) -> None:
    heard = Heard(context, peer.info)
    numbers = [heard.link.hello(), heard.link.run(RunContent("return 1", 7, 2.5, True)), heard.link.statistics()]
    # `deserialize` checks the signatures.
    received = [peer.receive() for _ in range(3)]

    assert numbers == [1, 2, 3]
    kinds = [message["msg_type"] for _, message in received]
    assert kinds == ["kernel_info_request", "run_request", "statistics_request"]
    assert received[1][1]["content"] == {"code": "return 1", "ticket": 7, "timeout_s": 2.5, "stream": True}
    assert len({message["header"]["msg_id"] for _, message in received}) == 3
    heard.link.close()


async def test_answers_are_told_by_the_number_of_their_request(
    context: zmq.Context[zmq.Socket[bytes]], peer: Peer
) -> None:
    heard = Heard(context, peer.info)
    for _ in range(3):
        heard.link.run(RunContent("x", 1, 0, False))
    received = [peer.receive() for _ in range(3)]
    for identity, parent in reversed(received):
        peer.send(peer.reply(identity, parent, content={"status": "ok"}))
    await heard.until(3)

    assert [(kind, number) for kind, number, _ in heard.messages] == [("run_reply", n) for n in (3, 2, 1)]
    heard.link.close()


def _flip(frame: bytes) -> bytes:
    return frame[:-1] + bytes([frame[-1] ^ 1])


FORGERIES: dict[str, Any] = {
    "another key": lambda peer, identity, parent: _signed_by("another", identity, parent),
    "no signature": lambda peer, identity, parent: _replace(peer.reply(identity, parent), 2, b""),
    "a signature of other bytes": lambda peer, identity, parent: _replace(peer.reply(identity, parent), 2, b"0" * 64),
    "an altered header": lambda peer, identity, parent: _alter(peer.reply(identity, parent), 3),
    "an altered content": lambda peer, identity, parent: _alter(peer.reply(identity, parent), 6),
    "another's request": lambda peer, identity, parent: peer.reply(identity, _asked("fleet-other_1")),
    "an earlier controller's request": lambda peer, identity, parent: peer.reply(
        identity, _asked(parent["header"]["msg_id"].rsplit("-", 1)[0] + "-00000000_1")
    ),
    "a number that is none": lambda peer, identity, parent: peer.reply(
        identity, _asked(parent["header"]["session"] + "_x")
    ),
    "a number of too many digits": lambda peer, identity, parent: peer.reply(
        identity, _asked(parent["header"]["session"] + "_" + "9" * 6000)
    ),
    "nobody's request": lambda peer, identity, parent: peer.reply(identity, None),
    "too few frames": lambda peer, identity, parent: peer.reply(identity, parent)[:5],
    "no delimiter": lambda peer, identity, parent: [identity, b"x", b"y"],
    "nothing": lambda peer, identity, parent: [identity, b""],
}


def _signed_by(key: str, identity: bytes, parent: Any) -> list[bytes]:
    session = Session(key=key.encode(), check_pid=False)
    frames: list[bytes] = [identity, *session.serialize(session.msg("run_reply", {}, parent=parent["header"]))]
    return frames


def _replace(frames: list[bytes], at: int, frame: bytes) -> list[bytes]:
    return [*frames[:at], frame, *frames[at + 1 :]]


def _alter(frames: list[bytes], at: int) -> list[bytes]:
    return _replace(frames, at, _flip(frames[at]))


def _asked(request: str) -> Any:
    return {"header": {"msg_id": request, "msg_type": "run_request"}}


@pytest.mark.parametrize("case", FORGERIES)
async def test_what_is_no_answer_of_the_kernels_is_ignored(
    case: str, context: zmq.Context[zmq.Socket[bytes]], peer: Peer
) -> None:
    heard = Heard(context, peer.info)
    heard.link.run(RunContent("x", 1, 0, False))
    identity, parent = peer.receive()

    peer.send(FORGERIES[case](peer, identity, parent))
    peer.send(peer.reply(identity, parent, content={"status": "ok"}))
    await heard.until(1)

    assert [(kind, number) for kind, number, _ in heard.messages] == [("run_reply", 1)]
    heard.link.close()


async def test_many_messages_are_read_although_the_descriptor_tells_of_them_once(
    context: zmq.Context[zmq.Socket[bytes]], peer: Peer
) -> None:
    heard = Heard(context, peer.info)
    heard.link.run(RunContent("x", 1, 0, False))
    identity, parent = peer.receive()
    for _ in range(1000):
        peer.send(peer.reply(identity, parent, "run_output"))
    await heard.until(1000)

    assert len(heard.messages) == 1000
    heard.link.close()


async def test_what_was_heard_may_close_the_link(context: zmq.Context[zmq.Socket[bytes]], peer: Peer) -> None:
    heard: list[int] = []
    link: Link

    def close(_kind: str, number: int, _content: bytes) -> None:
        heard.append(number)
        link.close()

    link = Link(context, peer.info, asyncio.get_running_loop(), close, lambda *_past: None)
    link.run(RunContent("x", 1, 0, False))
    identity, parent = peer.receive()
    for _ in range(10):
        peer.send(peer.reply(identity, parent, "run_output"))
    await eventually(lambda: heard, "a message")
    await asyncio.sleep(0)

    assert heard == [1]
    link.close()


async def test_its_name_is_the_same_after_a_restart_and_its_requests_are_not(
    context: zmq.Context[zmq.Socket[bytes]], peer: Peer
) -> None:
    identities, sessions = set(), set()
    for _ in range(2):
        heard = Heard(context, peer.info)
        heard.link.hello()
        identity, message = peer.receive()
        identities.add(identity)
        sessions.add(message["header"]["session"])
        heard.link.close()

    assert (len(identities), len(sessions)) == (1, 2)


async def test_progress_is_read_when_its_file_is_gone(tmp_path: Path) -> None:
    path = tmp_path / "progress"
    path.write_bytes((2**40 + 3).to_bytes(8, "little"))
    reader = ProgressReader(str(path))
    path.unlink()

    assert reader.begun == 2**40 + 3
    reader.close()
