"""ZeroMQ's own framing, as the controller reads it: in whatever pieces it comes, and bounded whatever comes."""

import pytest

from llmspell_kernel.wire.zmtp import GREETING, MOST_FRAMES, ProtocolError, Reader, packed, ready

HEAD = GREETING + ready(b"me")
MESSAGES = [(b"<IDS|MSG>", b"", b"x" * 255, b"y" * 256), (b"alone",), (b"z" * 70_000, b"end")]
STREAM = HEAD + b"".join(map(packed, MESSAGES))


def fed(reader: Reader, stream: bytes, piece: int) -> list[list[bytes]]:
    """The messages of a stream that comes in pieces."""
    return [message for at in range(0, len(stream), piece) for message in reader.feed(stream[at : at + piece])]


@pytest.mark.parametrize("piece", [1, 2, 7, 63, 64, 65, 4096, len(STREAM)])
def test_messages_come_whole_in_whatever_pieces_they_arrive(piece: int) -> None:
    reader = Reader(1 << 20)

    assert fed(reader, STREAM, piece) == [list(message) for message in MESSAGES]
    assert reader.is_ready


def test_a_peer_is_ready_when_it_has_said_so() -> None:
    reader = Reader(1 << 20)
    assert reader.feed(HEAD[:-1]) == []
    assert not reader.is_ready
    assert reader.feed(HEAD[-1:]) == []
    assert reader.is_ready


REFUSED: dict[str, bytes] = {
    "another protocol": b"HTTP/1.1 400 Bad Request\r\n" + b" " * 64,
    "an older version": GREETING[:10] + b"\x01" + GREETING[11:],
    "encryption": GREETING[:12] + b"CURVE" + GREETING[17:],
    "a message before it is ready": GREETING + packed((b"x",)),
    "another command first": GREETING + b"\x04\x05\x04PING",
    "another command later": HEAD + b"\x04\x05\x04PING",
    "a second beginning": HEAD + ready(b"me"),
    "a command that goes on": HEAD + b"\x05\x01x",
    "flags that there are not": HEAD + b"\x08\x01x",
    "a frame that is too large": HEAD + b"\x02" + (1025).to_bytes(8),
    "a frame that is larger than memory": HEAD + b"\x02" + b"\xff" * 8,
    "frames that are too large together": HEAD + (b"\x01\xff" + bytes(255)) * 5,
    "too many frames": HEAD + b"\x01\x00" * (MOST_FRAMES + 1),
}


@pytest.mark.parametrize("case", REFUSED)
@pytest.mark.parametrize("piece", [1, 1 << 20])
def test_what_no_peer_of_ours_says_is_refused(case: str, piece: int) -> None:
    with pytest.raises(ProtocolError):
        fed(Reader(1024), REFUSED[case], piece)


def test_a_message_of_just_the_size_is_taken_and_the_next_counts_anew() -> None:
    reader = Reader(1024)
    message = packed((b"a" * 1000, b"b" * 24))
    assert len(reader.feed(HEAD + message * 3)) == 3
