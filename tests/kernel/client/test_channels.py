"""The client's sockets: what it takes for an answer."""

from collections.abc import Iterator
from typing import Any

import pytest
import zmq

from llmspell_kernel.client.channels import Channels, Deadline
from llmspell_kernel.connection import ConnectionInfo
from llmspell_kernel.wire.jupyter import Encoder, Signer

pytestmark = pytest.mark.integration

KEY = "f00d"


@pytest.fixture
def shell() -> Iterator[Any]:
    """The kernel's side of a shell channel, without a kernel."""
    context = zmq.Context()
    router = context.socket(zmq.ROUTER)
    router.linger = 0
    router.rcvtimeo = 20_000
    yield router
    context.destroy(linger=0)


@pytest.fixture
def channels(shell: Any) -> Iterator[Channels]:
    port = shell.bind_to_random_port("tcp://127.0.0.1")
    # Nobody listens on the other four.
    made = Channels(ConnectionInfo(shell_port=port, iopub_port=1, stdin_port=2, control_port=3, hb_port=4, key=KEY))
    yield made
    made.close()


def _answer(shell: Any, identity: bytes, key: str, msg_type: str) -> None:
    frames = Encoder(Signer(key.encode()), session="s").encode(msg_type, b"{}", date=b"2024-01-01T00:00:00Z")
    shell.send_multipart([identity, *frames])


def test_what_another_key_signed_is_not_heard(shell: Any, channels: Channels) -> None:
    channels.send("shell", "kernel_info_request", {})
    identity = shell.recv_multipart()[0]
    shell.send_multipart([identity, b"nonsense"])
    _answer(shell, identity, "another key", "forged")
    _answer(shell, identity, KEY, "kernel_info_reply")

    heard: list[str] = []
    while not heard:
        heard += [received.msg_type for received in channels.receive(20)]

    assert heard == ["kernel_info_reply"]


def test_an_id_is_returned_for_each_message(shell: Any, channels: Channels) -> None:
    sent = [channels.send("shell", "kernel_info_request", {}) for _ in range(3)]

    received = [shell.recv_multipart() for _ in range(3)]

    assert len(set(sent)) == 3
    assert all(message_id.encode() in frames[3] for message_id, frames in zip(sent, received, strict=True))


def test_silence_ends_in_time(channels: Channels) -> None:
    assert channels.receive(0.01) == []


def test_a_deadline_passes_and_none_never_does() -> None:
    assert Deadline(0).has_passed
    assert Deadline(0).left_s(5) == 0
    assert not Deadline(60).has_passed
    assert 0 < Deadline(60).left_s(5) <= 5
    assert not Deadline(None).has_passed
    assert Deadline(None).left_s(5) == 5
