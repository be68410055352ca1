"""ZMTP 3.0, the protocol of ZeroMQ's connections, as far as a DEALER speaks it to a ROUTER without encryption. Pure.

https://rfc.zeromq.org/spec/23: a greeting of 64 bytes each, one READY command each, and then messages: frames, of which
each says whether another one follows.
"""

from struct import pack as _pack
from typing import Final

_GREETING_BYTES: Final = 64
GREETING: Final = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)

_SHORT_HEAD: Final = 2
_LONG_HEAD: Final = 9
"""Bytes before a frame: its flags, and its length in one or eight."""

_MORE: Final = 1
_LONG: Final = 2
_COMMAND: Final = 4

MOST_FRAMES: Final = 64
"""Of one message; a kernel's replies have 6."""


class ProtocolError(Exception):
    """The peer said what no peer of ours says. Nothing that follows can be made sense of."""


def ready(identity: bytes) -> bytes:
    """The command that follows our greeting: we are a DEALER of this name."""
    body = b"\x05READY" + _property(b"Socket-Type", b"DEALER") + _property(b"Identity", identity)
    return bytes((_COMMAND, len(body))) + body


def _property(name: bytes, value: bytes) -> bytes:
    return bytes((len(name),)) + name + _pack(">I", len(value)) + value


def packed(frames: tuple[bytes, ...]) -> bytes:
    """One message."""
    parts = []
    for frame in frames:
        size = len(frame)
        parts.append(bytes((_MORE, size)) if size < 256 else _pack(">BQ", _MORE | _LONG, size))
        parts.append(frame)
    last = parts[-2]
    parts[-2] = bytes((last[0] & ~_MORE,)) + last[1:]
    return b"".join(parts)


class Reader:
    """Bytes to messages. Of a message that is not complete no more is held than `most_bytes`."""

    __slots__ = ("_frames", "_is_greeted", "_needed", "_rest", "_size", "is_ready", "most_bytes")

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        """The largest message that is taken, all its frames together."""
        self._rest = bytearray()
        self._needed = 0
        """How long `_rest` must be before it is worth another look."""
        self._frames: list[bytes] = []
        """Of the message that is not complete."""
        self._size = 0
        self._is_greeted = False
        self.is_ready = False
        """Whether messages may be sent to the peer."""

    def feed(self, data: bytes) -> list[list[bytes]]:
        """The messages that these bytes complete. ProtocolError: cut the peer off."""
        if self._rest:
            data = self._completed(data)
        at = 0 if self._is_greeted else self._greeted(data)
        messages: list[list[bytes]] = []
        needed = 0
        while len(data) - at >= _SHORT_HEAD:
            flags = data[at]
            if not flags & _LONG:
                begin = at + _SHORT_HEAD
                end = begin + data[at + 1]
            elif len(data) - at >= _LONG_HEAD:
                begin = at + _LONG_HEAD
                end = begin + int.from_bytes(data[at + 1 : begin])
            else:
                break
            if self._size + end - begin > self.most_bytes or len(self._frames) == MOST_FRAMES:
                raise ProtocolError(f"it sends a message of more than {self.most_bytes} bytes or {MOST_FRAMES} frames")
            if len(data) < end:
                needed = end - at
                break
            self._size += end - begin
            self._take(flags, data[begin:end])
            if not flags & _MORE and self._frames:
                messages.append(self._frames)
                self._frames, self._size = [], 0
            at = end
        self._keep(data[at:], needed)
        return messages

    def _completed(self, data: bytes) -> bytes:
        """What was kept with what followed it; nothing while that is not enough."""
        self._rest += data
        if len(self._rest) < self._needed:
            return b""
        data = bytes(self._rest)
        self._rest.clear()
        return data

    def _keep(self, rest: bytes, needed: int) -> None:
        if rest:
            self._rest += rest
            self._needed = needed

    def _greeted(self, data: bytes) -> int:
        """Where the greeting ends; everything is kept while it is not whole."""
        if len(data) < _GREETING_BYTES:
            self._keep(data, _GREETING_BYTES)
            return len(data)
        if (
            data[0] != GREETING[0]
            or data[9] != GREETING[9]
            or data[10] < GREETING[10]
            or data[12:32] != GREETING[12:32]
        ):
            raise ProtocolError("it does not speak ZMTP 3")
        self._is_greeted = True
        return _GREETING_BYTES

    def _take(self, flags: int, body: bytes) -> None:
        """A frame of a message, or the one command that there is: it follows the greeting."""
        if self.is_ready and not flags & ~(_MORE | _LONG):
            self._frames.append(body)
            return
        if self.is_ready or flags & ~_LONG != _COMMAND or not body.startswith(b"\x05READY"):
            raise ProtocolError("it does not speak ZMTP as a ROUTER does")
        self.is_ready, self._size = True, 0
