"""The Jupyter wire protocol, version 5.4: multipart frames to messages and back.

A message is `identities… <IDS|MSG> signature header parent_header metadata content buffers…`; the signature is
the hex HMAC-SHA256 of the four JSON frames (https://jupyter-client.readthedocs.io/en/stable/messaging.html).

This is the hot path of a kernel. Three things make it fast: the HMAC key is hashed once and its two midstates are
copied for each message; outgoing headers are cut from templates instead of being serialised; and the incoming
header's bytes are put back verbatim as the parent of every answer.
"""

from collections import deque
from hashlib import sha256
from hmac import compare_digest
from typing import Final

import msgspec

from llmspell_kernel.errors import PeerError

PROTOCOL_VERSION: Final = "5.4"
DELIMITER: Final = b"<IDS|MSG>"
EMPTY_OBJECT: Final = b"{}"
REPLAY_WINDOW: Final = 32_768
"""How many recent signatures are remembered to refuse replays (jupyter_client keeps 65,536)."""

MAX_HEADER_BYTES: Final = 16 * 1024
"""The longest header taken: it is put into everything that a request brings about. Real ones have 250 bytes."""

_BLOCK_BYTES = 64
_MAX_IDENTITIES = 16
_MAX_FRAMES = 1024
_SIGNATURE_BYTES = 64
_MOST_TEMPLATES = 64
"""More types than there are: a refused client chooses those of its replies, and must not fill our memory by it."""


class Header(msgspec.Struct, gc=False):
    """The part of a message header that decides what happens; unknown members are kept in the raw bytes only."""

    msg_id: str
    msg_type: str
    session: str = ""
    username: str = ""
    date: str = ""
    version: str = ""


class Message(msgspec.Struct, gc=False):
    """One verified message. JSON frames other than the header stay bytes until a handler wants them."""

    identities: list[bytes]
    header: Header
    header_bytes: bytes
    parent_bytes: bytes
    metadata_bytes: bytes
    content_bytes: bytes
    buffers: list[bytes]


class Signer:
    """HMAC-SHA256 (RFC 2104) over the four JSON frames, with the key's two midstates computed once."""

    __slots__ = ("_inner", "_outer")

    def __init__(self, key: bytes) -> None:
        if not key:
            raise PeerError("expected a signing key, found an empty one: unsigned messages are refused")
        block = (sha256(key).digest() if len(key) > _BLOCK_BYTES else key).ljust(_BLOCK_BYTES, b"\0")
        self._inner = sha256(bytes(b ^ 0x36 for b in block))
        self._outer = sha256(bytes(b ^ 0x5C for b in block))

    def sign(self, header: bytes, parent: bytes, metadata: bytes, content: bytes) -> bytes:
        """Return the signature frame: 64 lower-case hex digits."""
        inner = self._inner.copy()
        inner.update(header + parent + metadata)
        inner.update(content)
        outer = self._outer.copy()
        outer.update(inner.digest())
        return outer.hexdigest().encode()


class ReplayGuard:
    """The signatures of the most recent messages; a signature seen twice is a replay."""

    __slots__ = ("_order", "_seen", "_window")

    def __init__(self, window: int = REPLAY_WINDOW) -> None:
        self._window = window
        self._order: deque[int] = deque()
        self._seen: set[int] = set()

    def is_replay(self, signature: bytes) -> bool:
        """Remember `signature` and say whether it was remembered before."""
        # 64 bits of a keyed hash instead of the 97 bytes of the frame: a kernel should stay small under load.
        mark = hash(signature)
        if mark in self._seen:
            return True
        self._seen.add(mark)
        self._order.append(mark)
        if len(self._order) > self._window:
            self._seen.discard(self._order.popleft())
        return False


_decode_header = msgspec.json.Decoder(Header).decode


class Decoder:
    """Frames to verified messages. One decoder per kernel, so that a replay on another channel is seen too."""

    __slots__ = ("_replays", "_sign", "max_bytes")

    def __init__(self, signer: Signer, *, max_message_bytes: int) -> None:
        self._sign = signer.sign
        self._replays = ReplayGuard()
        self.max_bytes = max_message_bytes

    def decode(self, frames: list[bytes]) -> Message:
        """Return the message in `frames`, or raise `PeerError` saying what was wrong with it."""
        try:
            cut = frames.index(DELIMITER, 0, _MAX_IDENTITIES + 1)
        except ValueError:
            raise PeerError(f"expected {DELIMITER.decode()} within {_MAX_IDENTITIES} frames, found none") from None
        if not cut + 6 <= len(frames) <= _MAX_FRAMES:
            raise PeerError(f"expected 5 to {_MAX_FRAMES} frames after the delimiter, found {len(frames) - cut - 1}")
        size = sum(map(len, frames))
        if size > self.max_bytes:
            raise PeerError(f"expected at most {self.max_bytes} bytes in a message, found {size}")
        _, signature, header, parent, metadata, content = frames[cut : cut + 6]
        if len(signature) != _SIGNATURE_BYTES or not compare_digest(
            signature, self._sign(header, parent, metadata, content)
        ):
            raise PeerError("the signature does not match the message: it was signed with another key, or altered")
        if self._replays.is_replay(signature):
            raise PeerError("the message was received before: a replay")
        if len(header) > MAX_HEADER_BYTES:
            raise PeerError(f"expected at most {MAX_HEADER_BYTES} bytes in a header, found {len(header)}")
        try:
            header.decode()  # whatever is in it goes to every subscriber
            decoded = _decode_header(header)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as fault:
            raise PeerError(f"expected a JSON header with msg_id and msg_type: {fault}") from None
        return Message(frames[:cut], decoded, header, parent, metadata, content, frames[cut + 6 :])


class Encoder:
    """Messages to frames, for one sender (`session`).

    Message ids are `<session>_<number>`; the number is this encoder's count, so ids never repeat within a session.
    """

    __slots__ = ("_count", "_sign", "_templates", "_username", "session")

    def __init__(self, signer: Signer, *, session: str, username: str = "kernel") -> None:
        self.session = session
        self._username = username
        self._sign = signer.sign
        self._count = 0
        self._templates: dict[str, tuple[bytes, bytes]] = {}

    def encode(
        self,
        msg_type: str,
        content: bytes,
        *,
        date: bytes,
        parent: bytes = EMPTY_OBJECT,
        metadata: bytes = EMPTY_OBJECT,
    ) -> tuple[bytes, bytes, bytes, bytes, bytes, bytes]:
        """Return `(delimiter, signature, header, parent, metadata, content)`; `date` is ISO 8601, ASCII."""
        template = self._templates.get(msg_type) or self._make_template(msg_type)
        self._count += 1
        header = b'%b%d","date":"%b%b' % (template[0], self._count, date, template[1])
        return DELIMITER, self._sign(header, parent, metadata, content), header, parent, metadata, content

    def last_msg_id(self) -> str:
        """The id of the message that was encoded last."""
        return f"{self.session}_{self._count}"

    def _make_template(self, msg_type: str) -> tuple[bytes, bytes]:
        encode = msgspec.json.encode
        before = b'{"msg_type":%b,"session":%b,"username":%b,"msg_id":"%b_' % (
            encode(msg_type),
            encode(self.session),
            encode(self._username),
            encode(self.session)[1:-1],
        )
        template = (before, b'","version":"%b"}' % PROTOCOL_VERSION.encode())
        if len(self._templates) < _MOST_TEMPLATES:
            self._templates[msg_type] = template
        return template
