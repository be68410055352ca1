"""The codec against jupyter_client's own, and against frames that nobody should send."""

import hmac
import json
from collections.abc import Callable
from hashlib import sha256
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jupyter_client.session import Session

from llmspell_kernel.errors import PeerError
from llmspell_kernel.wire.jupyter import (
    DELIMITER,
    MAX_HEADER_BYTES,
    PROTOCOL_VERSION,
    Decoder,
    Encoder,
    Message,
    ReplayGuard,
    Signer,
)

KEY = b"a-key-of-the-tests"
THEIRS = Session(key=KEY, check_pid=False)
DATE = b"2031-04-05T06:07:08.000009Z"
HEADER = b'{"msg_id":"m1","msg_type":"execute_request","session":"s","username":"u","date":"","version":"5.4"}'

json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
json_objects = st.dictionaries(st.text(max_size=8), json_values, max_size=4)


def decoder(*, max_message_bytes: int = 1 << 20) -> Decoder:
    return Decoder(Signer(KEY), max_message_bytes=max_message_bytes)


def encoder(session: str = "kernel-1") -> Encoder:
    return Encoder(Signer(KEY), session=session)


def signed(*frames: bytes, key: bytes = KEY) -> list[bytes]:
    """A message of the four JSON frames, and buffers, with the signature that they should have."""
    signature = hmac.new(key, b"".join(frames[:4]), sha256).hexdigest().encode()
    return [b"client", DELIMITER, signature, *frames]


def with_header(header: bytes) -> list[bytes]:
    return signed(header, b"{}", b"{}", b"{}")


# --- with jupyter_client ------------------------------------------------------------------------------------------


@given(content=json_objects, metadata=json_objects, username=st.text(max_size=40))
def test_what_jupyter_client_sends_is_read(content: Any, metadata: Any, username: str) -> None:
    THEIRS.username = username
    sent = THEIRS.msg("execute_request", content, metadata=metadata)

    message = decoder().decode(THEIRS.serialize(sent, ident=[b"client"]))

    assert message.identities == [b"client"]
    assert (message.header.msg_id, message.header.msg_type) == (sent["msg_id"], "execute_request")
    assert (message.header.session, message.header.username) == (THEIRS.session, username)
    assert json.loads(message.content_bytes) == content
    assert json.loads(message.metadata_bytes) == metadata
    assert message.parent_bytes == b"{}"
    assert message.buffers == []


@given(content=json_objects, metadata=json_objects, session=st.uuids().map(str) | st.text(max_size=40))
def test_what_is_sent_jupyter_client_reads(content: Any, metadata: Any, session: str) -> None:
    request = THEIRS.msg("execute_request")
    parent = decoder().decode(THEIRS.serialize(request)).header_bytes

    frames = encoder(session).encode(
        "execute_reply",
        json.dumps(content).encode(),
        date=DATE,
        parent=parent,
        metadata=json.dumps(metadata).encode(),
    )
    identities, rest = THEIRS.feed_identities(list(frames))
    message = THEIRS.deserialize(rest)

    assert identities == []
    assert message["content"] == content
    assert message["metadata"] == metadata
    assert message["header"]["session"] == session
    assert message["header"]["username"] == "kernel"
    assert message["header"]["version"] == PROTOCOL_VERSION
    assert message["header"]["date"].isoformat() == "2031-04-05T06:07:08.000009+00:00"
    assert message["parent_header"]["msg_id"] == request["msg_id"]


@given(content=json_objects, session=st.text(min_size=1, max_size=40))
def test_what_is_sent_can_be_read_back(content: Any, session: str) -> None:
    sender = encoder(session)
    frames = sender.encode("status", json.dumps(content).encode(), date=DATE)

    message = decoder().decode([b"topic", *frames])

    assert json.loads(message.content_bytes) == content
    assert message.header.session == session
    assert message.header.msg_id == sender.last_msg_id() == f"{session}_1"


def test_the_parents_header_is_put_back_byte_for_byte() -> None:
    header = HEADER.replace(b'"session"', b' "of":{ "another": [1.50] }, "session"')

    parent = decoder().decode(with_header(header)).header_bytes
    answer = decoder().decode([b"", *encoder().encode("status", b"{}", date=DATE, parent=parent)])

    assert answer.parent_bytes == header


def test_message_ids_never_repeat() -> None:
    sender = encoder()
    ids = set()
    for number in range(100):
        sender.encode("status" if number % 2 else "stream", b"{}", date=DATE)
        ids.add(sender.last_msg_id())

    assert len(ids) == 100


def test_any_number_of_message_types_takes_bounded_memory() -> None:
    sender = encoder()
    for number in range(1000):
        frames = sender.encode(f"type_{number}", b"{}", date=DATE)
        assert json.loads(frames[2])["msg_type"] == f"type_{number}"

    assert len(sender._templates) < 100


def test_a_golden_message_has_the_signature_that_was_computed_elsewhere() -> None:
    # echo -n 'HEADER{}{}{"code":"1+1"}' | openssl dgst -sha256 -hmac a-key-of-the-tests
    signature = b"88e9128714ed30bc2a4fe508e779659dd984b946213a5ae16356c879a414cb84"
    frames = [b"c", DELIMITER, signature, HEADER, b"{}", b"{}", b'{"code":"1+1"}']

    assert decoder().decode(frames).content_bytes == b'{"code":"1+1"}'


@pytest.mark.parametrize("length", [1, 63, 64, 65, 200])
def test_keys_of_any_length_sign_as_hmac_does(length: int) -> None:
    key = bytes(range(1, 256))[:length]
    expected = hmac.new(key, b"abcd", sha256).hexdigest().encode()

    assert Signer(key).sign(b"a", b"b", b"c", b"d") == expected


@given(st.lists(st.binary(max_size=30), max_size=16), st.lists(st.binary(max_size=30), max_size=5))
def test_identities_and_buffers_are_kept(identities: list[bytes], buffers: list[bytes]) -> None:
    identities = [identity for identity in identities if identity != DELIMITER]
    body = signed(HEADER, b"{}", b"{}", b"{}", *buffers)[1:]

    message = decoder().decode([*identities, *body])

    assert message.identities == identities
    assert message.buffers == buffers


# --- what is refused ----------------------------------------------------------------------------------------------


def test_an_empty_key_is_refused() -> None:
    with pytest.raises(PeerError, match="expected a signing key, found an empty one"):
        Signer(b"")


@given(st.lists(st.binary(max_size=40) | st.sampled_from([DELIMITER, b"{}", HEADER, b""]), max_size=12))
def test_any_frames_are_a_message_or_the_peers_fault(frames: list[bytes]) -> None:
    with pytest.raises(PeerError):
        decoder().decode(frames)


@given(
    header=st.binary(max_size=60) | json_values.map(lambda value: json.dumps(value).encode()),
    others=st.lists(st.binary(max_size=20), min_size=3, max_size=6),
)
def test_any_signed_frames_are_a_message_or_the_peers_fault(header: bytes, others: list[bytes]) -> None:
    try:
        message = decoder().decode(signed(header, *others))
    except PeerError:
        return
    assert isinstance(message, Message)


@given(st.integers(0, 6), st.integers(0, 200), st.integers(1, 255))
def test_one_changed_byte_is_noticed(frame: int, at: int, difference: int) -> None:
    frames = signed(HEADER, b'{"p":1}', b'{"m":1}', b'{"c":1}')
    frame = 2 + frame % (len(frames) - 2)
    changed = bytearray(frames[frame])
    changed[at % len(changed)] ^= difference
    frames[frame] = bytes(changed)

    with pytest.raises(PeerError, match="signature does not match"):
        decoder().decode(frames)


def test_another_key_is_noticed() -> None:
    with pytest.raises(PeerError, match="signature does not match"):
        decoder().decode(signed(HEADER, b"{}", b"{}", b"{}", key=b"another"))


def test_bytes_that_move_between_frames_are_noticed_by_what_they_then_say() -> None:
    # The signature covers the four frames in a row, as the protocol has it, and not where one ends.
    frames = signed(HEADER, b"{}", b"{}", b"{}")
    frames[3], frames[4] = HEADER[:-1], b"}" + b"{}"

    with pytest.raises(PeerError, match="JSON header"):
        decoder().decode(frames)


def test_a_message_is_obeyed_once() -> None:
    receiver = decoder()
    frames = with_header(HEADER)
    receiver.decode(frames)

    with pytest.raises(PeerError, match="received before: a replay"):
        receiver.decode([b"another-client", *frames[1:]])


def test_a_forged_message_does_not_make_the_real_one_a_replay() -> None:
    receiver = decoder()
    frames = with_header(HEADER)
    with pytest.raises(PeerError):
        receiver.decode([*frames[:3], b"[]", *frames[4:]])

    assert receiver.decode(frames).header.msg_id == "m1"


def test_replays_are_remembered_for_as_many_messages_as_the_window_holds() -> None:
    guard = ReplayGuard(window=100)
    assert not any(guard.is_replay(b"%d" % number) for number in range(100))

    assert all(guard.is_replay(b"%d" % number) for number in range(100))
    assert not guard.is_replay(b"100")
    assert not guard.is_replay(b"0")
    assert guard.is_replay(b"2")


def test_a_message_may_be_as_large_as_the_limit_and_not_larger() -> None:
    content = b'{"code":"%b"}' % (b"x" * 1000)
    frames = signed(HEADER, b"{}", b"{}", content)
    size = sum(map(len, frames))

    assert decoder(max_message_bytes=size).decode(frames).content_bytes == content
    with pytest.raises(PeerError, match=f"at most {size - 1} bytes in a message, found {size}"):
        decoder(max_message_bytes=size - 1).decode(frames)


def test_buffers_count_towards_the_size() -> None:
    with pytest.raises(PeerError, match="at most 2000 bytes"):
        decoder(max_message_bytes=2000).decode(signed(HEADER, b"{}", b"{}", b"{}", b"x" * 2000))


def deep(levels: int) -> bytes:
    return HEADER[:-1] + b',"x":' + b"[" * levels + b"]" * levels + b"}"


@pytest.mark.parametrize(
    ("case", "header"),
    [
        ("empty", b""),
        ("not JSON", b"{msg_id:1}"),
        ("a list", b"[]"),
        ("null", b"null"),
        ("no id", b'{"msg_type":"x"}'),
        ("no type", b'{"msg_id":"x"}'),
        ("an id that is a number", HEADER.replace(b'"m1"', b"1")),
        ("a type that is null", HEADER.replace(b'"execute_request"', b"null")),
        ("a session that is a list", HEADER.replace(b'"s"', b"[]")),
        ("something after the end", HEADER + b"x"),
        ("not UTF-8", HEADER.replace(b'"s"', b'"\xff"')),
        ("not UTF-8 where nobody looks", HEADER[:-1] + b',"x":"\xff"}'),
        ("half a surrogate pair", HEADER.replace(b'"s"', b'"\\ud800 "')),
        ("nested deeper than the stack", deep(20_000)),
        ("longer than a header is", HEADER[:-1] + b',"x":"' + b"x" * MAX_HEADER_BYTES + b'"}'),
    ],
)
def test_a_malformed_header_is_the_peers_fault(case: str, header: bytes) -> None:
    with pytest.raises(PeerError, match="header"):
        decoder().decode(with_header(header))


@pytest.mark.parametrize(
    ("case", "change"),
    [
        ("nothing", lambda _: []),
        ("one frame", lambda frames: frames[:1]),
        ("no delimiter", lambda frames: [*frames[:1], *frames[2:]]),
        ("a delimiter too late", lambda frames: [b""] * 17 + frames),
        ("nothing after the delimiter", lambda frames: frames[:2]),
        ("a frame too few", lambda frames: frames[:-1]),
        ("no signature", lambda frames: [*frames[:2], b"", *frames[3:]]),
        ("a short signature", lambda frames: [*frames[:2], frames[2][:-1], *frames[3:]]),
        ("a signature in capitals", lambda frames: [*frames[:2], frames[2].upper(), *frames[3:]]),
        ("a signature that is not ASCII", lambda frames: [*frames[:2], b"\xff" * 64, *frames[3:]]),
        ("ten thousand frames", lambda frames: frames + [b""] * 10_000),
        ("ten thousand identities", lambda frames: [b"x"] * 10_000 + frames),
    ],
)
def test_malformed_frames_are_the_peers_fault(case: str, change: Callable[[list[bytes]], list[bytes]]) -> None:
    with pytest.raises(PeerError):
        decoder().decode(change(with_header(HEADER)))


def test_what_is_unknown_in_a_header_does_no_harm() -> None:
    message = decoder().decode(with_header(b'{"msg_id":"a","msg_type":"b","new":{"x":[1]},"msg_id":"c"}'))

    assert message.header.msg_id == "c"
    assert message.header.session == ""
