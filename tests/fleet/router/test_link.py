"""One connection: what is taken for an answer, and what is not. The kernel is a socket that answers as it is told."""

import asyncio
import contextlib
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq
from jupyter_client.session import Session

from llmspell_fleet.router import link as link_module
from llmspell_fleet.router.link import Link, RunContent
from llmspell_fleet.router.probe import take_vitals
from llmspell_fleet.router.progress import ProgressReader
from llmspell_kernel.connection import ConnectionInfo
from llmspell_kernel.wire.jupyter import DELIMITER
from llmspell_kernel.wire.zmtp import GREETING, packed
from support.kernels import READY_S, short_folder
from support.shortage import without_descriptors
from support.spawning import eventually

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]

KEY = "the-key"


def _info(folder: Path) -> ConnectionInfo:
    return ConnectionInfo(
        shell_port=1,
        iopub_port=2,
        stdin_port=3,
        control_port=4,
        hb_port=5,
        key=KEY,
        ip=f"{folder}/s",
        transport="ipc",
    )


class Peer:
    """A kernel's end of the shell channel."""

    def __init__(self, folder: Path) -> None:
        self.session = Session(key=KEY.encode(), check_pid=False)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        self._socket.setsockopt(zmq.ROUTER_HANDOVER, 1)
        self._socket.setsockopt(zmq.RCVHWM, 1)
        self._socket.bind(f"ipc://{folder}/s-1")
        self.info = _info(folder)

    def close(self) -> None:
        self._context.destroy(linger=0)

    async def receive(self) -> tuple[bytes, Any]:
        """One request, with the identity that it came from."""
        assert await asyncio.to_thread(self._socket.poll, READY_S * 1000)
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

    def __init__(self, info: ConnectionInfo, *, most_bytes: int = 1 << 20) -> None:
        self.messages: list[tuple[str, int, bytes]] = []
        self.past: list[tuple[str, str, bytes]] = []
        self.offences: list[str] = []
        self.link = Link(
            info,
            asyncio.get_running_loop(),
            proof="the proof",
            most_bytes=most_bytes,
            on_message=self._on_message,
            on_past=self._on_past,
            on_offence=self.offences.append,
        )

    def _on_message(self, *heard: Any) -> bool:
        self.messages.append(heard)
        return True

    def _on_past(self, *heard: Any) -> bool:
        self.past.append(heard)
        return False

    async def until(self, count: int) -> None:
        await eventually(lambda: len(self.messages) >= count, f"{count} messages")


async def test_requests_are_signed_and_numbered(peer: Peer) -> None:
    heard = Heard(peer.info)
    numbers = [heard.link.hello(), heard.link.run(RunContent("return 1", 7, 2.5, True)), heard.link.statistics()]
    # `deserialize` checks the signatures.
    received = [await peer.receive() for _ in range(3)]

    assert numbers == [1, 2, 3]
    kinds = [message["msg_type"] for _, message in received]
    assert kinds == ["kernel_info_request", "run_request", "statistics_request"]
    assert received[1][1]["content"] == {"code": "return 1", "ticket": 7, "timeout_s": 2.5, "stream": True}
    assert len({message["header"]["msg_id"] for _, message in received}) == 3
    heard.link.close()


async def test_answers_are_told_by_the_number_of_their_request(peer: Peer) -> None:
    heard = Heard(peer.info)
    for _ in range(3):
        heard.link.run(RunContent("x", 1, 0, False))
    received = [await peer.receive() for _ in range(3)]
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
async def test_what_is_no_answer_of_the_kernels_is_ignored(case: str, peer: Peer) -> None:
    heard = Heard(peer.info)
    heard.link.run(RunContent("x", 1, 0, False))
    identity, parent = await peer.receive()

    peer.send(FORGERIES[case](peer, identity, parent))
    peer.send(peer.reply(identity, parent, content={"status": "ok"}))
    await heard.until(1)

    assert [(kind, number) for kind, number, _ in heard.messages] == [("run_reply", 1)]
    heard.link.close()


async def test_many_messages_are_read_although_the_descriptor_tells_of_them_once(peer: Peer) -> None:
    heard = Heard(peer.info)
    heard.link.run(RunContent("x", 1, 0, False))
    identity, parent = await peer.receive()
    for _ in range(1000):
        peer.send(peer.reply(identity, parent, "run_output"))
    await heard.until(1000)

    assert len(heard.messages) == 1000
    heard.link.close()


async def test_what_was_heard_may_close_the_link(peer: Peer) -> None:
    heard = Heard(peer.info)
    heard.link.run(RunContent("x", 1, 0, False))
    identity, parent = await peer.receive()
    take, taken = heard.link._connection._on_message, []
    heard.link._connection._on_message = lambda frames: (taken.append(take(frames)), heard.link.close())
    for _ in range(10):
        peer.send(peer.reply(identity, parent, "run_output"))
    await eventually(lambda: heard.messages, "a message")
    await asyncio.sleep(0)

    assert len(heard.messages) == 1


async def test_its_name_is_the_same_after_a_restart_and_its_requests_are_not(peer: Peer) -> None:
    identities, sessions = set(), set()
    for _ in range(2):
        heard = Heard(peer.info)
        heard.link.hello()
        identity, message = await peer.receive()
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


# --- hostile peers


class Rogue:
    """A peer that speaks bytes: what comes after its greeting is the test's."""

    def __init__(self, folder: Path) -> None:
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(f"{folder}/s-1")
        self.listener.listen()
        self.info = _info(folder)

    async def say(self, begin: bytes, more: bytes = b"", *, reads: bool = False) -> int:
        """Say something, and more of it until it is cut off; returns how much was said."""
        return await asyncio.to_thread(self._say, begin, more, reads=reads)

    def _say(self, begin: bytes, more: bytes, *, reads: bool) -> int:
        self.listener.settimeout(READY_S)
        peer, _address = self.listener.accept()
        with peer:
            peer.settimeout(READY_S)
            said = 0
            if reads:
                peer.recv(65536)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                said += peer.send(begin)
                while more:
                    said += peer.send(more)
        return said


@pytest.fixture
def rogue() -> Iterator[Rogue]:
    with short_folder() as folder:
        made = Rogue(folder)
        yield made
        made.listener.close()


READY = GREETING + b"\x04\x29\x05READY\x0bSocket-Type\0\0\0\x06ROUTER\x08Identity\0\0\0\0"
MOST_BYTES = 4 << 20
FLOODS: dict[str, tuple[bytes, bytes]] = {
    "a message of frames without end": (READY, b"\x01\x00" * 1000),
    "a frame without end": (READY + b"\x02" + (1 << 60).to_bytes(8), bytes(65536)),
    "a message that is too large": (READY, b"\x03" + (1 << 20).to_bytes(8) + bytes(1 << 20)),
    "messages of nobody": (READY, packed((DELIMITER, b"x" * 64, b"{}", b"{}", b"{}", b"{}")) * 100),
    "the same of one frame": (READY, packed((b"x",)) * 1000),
    "another protocol": (b"HTTP/1.1 200 OK\r\n", b"x" * 1000),
    "commands": (READY, b"\x04\x05\x04PING\0\0"),
}


async def test_who_has_no_descriptor_left_tries_again(peer: Peer) -> None:
    with without_descriptors():
        heard = Heard(peer.info)
        heard.link.hello()
    _, asked = await peer.receive()

    assert asked["msg_type"] == "kernel_info_request"
    assert heard.offences == []
    heard.link.close()


async def test_a_closer_look_without_a_descriptor_says_nothing(peer: Peer) -> None:
    with without_descriptors(), pytest.raises(OSError, match="Too many open files"):
        await take_vitals(peer.info, timeout_s=0.05)


@pytest.mark.parametrize("case", FLOODS)
async def test_a_flood_is_cut_off_before_it_costs_more_than_a_reply_may(rogue: Rogue, case: str) -> None:
    heard = Heard(rogue.info, most_bytes=MOST_BYTES)
    said = await asyncio.wait_for(rogue.say(*FLOODS[case]), READY_S)
    await eventually(lambda: heard.offences, "it is told")

    assert len(heard.offences) == 1
    assert heard.messages == []
    # What was said is what was read, and what the system keeps for a reader.
    assert said < MOST_BYTES + (2 << 20)
    heard.link.run(RunContent("x", 1, 0, False))  # to nobody
    heard.link.close()


@pytest.mark.parametrize("reads", [True, False])
async def test_who_closes_its_connection_has_a_moment_to_end(
    rogue: Rogue, monkeypatch: pytest.MonkeyPatch, reads: bool
) -> None:
    monkeypatch.setattr(link_module, "LEFT_S", 0.05)
    ended = Heard(rogue.info)
    await rogue.say(READY, reads=reads)
    ended.link.read_all()
    ended.link.close()
    lives = Heard(rogue.info)
    await rogue.say(READY, reads=reads)
    lives.link.hello()
    await eventually(lambda: lives.offences, "it is told")

    assert len(lives.offences) == 1
    assert ended.offences == []
    lives.link.close()


async def test_what_waits_for_a_slow_reader_arrives_whole_and_in_order(peer: Peer) -> None:
    heard = Heard(peer.info)
    codes = [str(number) * 100_000 for number in range(20)]
    for code in codes:
        heard.link.run(RunContent(code, 1, 0, False))
    received = [await peer.receive() for _ in codes]

    assert [message["content"]["code"] for _, message in received] == codes
    heard.link.close()


async def test_what_is_not_taken_costs_no_more_for_being_much(peer: Peer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "MOST_UNSENT_BYTES", 100_000_000)
    heard = Heard(peer.info)
    heard.link.hello()
    await peer.receive()  # and no more: its queue is short, and so fills
    began = time.process_time()
    code = "x" * 5_000_000
    for number in range(24):
        assert not heard.link.is_full, number
        heard.link.run(RunContent(code, 1, 0, False))
        await asyncio.sleep(0)
        if heard.link.is_full:
            break
    assert heard.link.is_full
    received = [await peer.receive() for _ in range(number + 1)]

    assert [len(message["content"]["code"]) for _, message in received] == [len(code)] * (number + 1)
    assert not heard.link.is_full
    assert time.process_time() - began < 10  # what was quadratic took 50 s
    heard.link.close()


async def test_nobody_beyond_this_machine_is_connected_to(rogue: Rogue) -> None:
    elsewhere = msgspec.structs.replace(rogue.info, transport="tcp", ip="192.0.2.1")
    with pytest.raises(ConnectionRefusedError, match="expected a kernel on this machine"):
        Heard(elsewhere)


async def test_a_kernel_that_listens_later_is_connected_to_then() -> None:
    with short_folder() as folder:
        (folder / "nobody").mkdir()
        early = Rogue(folder / "nobody")
        info = msgspec.structs.replace(early.info, ip=f"{folder}/s")
        heard = Heard(info)
        heard.link.hello()
        peer = Peer(folder)
        _identity, message = await peer.receive()

        assert message["msg_type"] == "kernel_info_request"
        heard.link.close()
        peer.close()
        early.listener.close()


@pytest.mark.parametrize("case", ["a FIFO", "a folder", "a link"])
async def test_what_is_no_progress_file_is_not_waited_for(case: str, tmp_path: Path) -> None:
    path = tmp_path / "progress"
    match case:
        case "a FIFO":
            os.mkfifo(path)
        case "a folder":
            path.mkdir()
        case _:
            path.symlink_to("/dev/zero")

    with pytest.raises(OSError, match=r"expected a file|Too many levels"):
        ProgressReader(str(path))
