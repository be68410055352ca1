"""A process in a kernel's place that is none: `scripted` has it started as a kernel is, by `subprocess`.

`python -m llmspell_fleet.spawner.misbehaving HOW --start FD --report FD`, where HOW is one of `Misbehaviour`.
"""

import os
import select
import signal
import socket
import sys
from typing import Final, Literal

from llmspell_kernel.connection import ConnectionInfo, new_key
from llmspell_kernel.wire.jupyter import DELIMITER, Signer
from llmspell_kernel.zygote.protocol import Serving, decode_request, encode

Misbehaviour = Literal["never_binds", "never_answers", "answers_garbage"]
"""never_binds: lives, and says nothing; never_answers: says that it serves, and takes no connection;
answers_garbage: talks ZeroMQ, and nonsense in it, some of which is well signed."""

_PORTS: Final = (1, 2, 3, 4, 5)
_GREETING: Final = b"\xff" + bytes(8) + b"\x7f\x03\x00" + b"NULL".ljust(20, b"\0") + bytes(32)
"""ZMTP 3.0, without security, not as server."""

_READY: Final = b"\x05READY\x0bSocket-Type\x00\x00\x00\x06ROUTER\x08Identity\x00\x00\x00\x00"


def main(how: str, start: int, report: int) -> None:
    """Misbehave until a signal ends it."""
    with open(start, "rb") as stream:
        request = decode_request(stream.read())
    os.setsid()
    output = os.open(request.output or os.devnull, os.O_RDWR)
    os.dup2(output, 1)
    os.dup2(output, 2)
    if how != "never_binds":
        place = os.path.join(os.path.dirname(request.output), "s")
        key = request.key or new_key()
        listeners = [_listen(f"{place}-{port}") for port in _PORTS]
        with socket.socket(fileno=report) as reporting:
            reporting.send(encode(Serving(request.kernel_id, os.getpid(), _connection(place, key))))
        if how == "answers_garbage":
            _babble(listeners, _nonsense(key))
    while True:
        signal.pause()


def _connection(place: str, key: str) -> ConnectionInfo:
    shell, iopub, stdin, control, heartbeat = _PORTS
    return ConnectionInfo(
        shell_port=shell,
        iopub_port=iopub,
        stdin_port=stdin,
        control_port=control,
        hb_port=heartbeat,
        key=key,
        ip=place,
        transport="ipc",
        pid=os.getpid(),
    )


def _listen(path: str) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    if os.path.exists(path):
        os.unlink(path)
    listener.bind(path)
    listener.listen()
    return listener


def _babble(listeners: list[socket.socket], nonsense: bytes) -> None:
    """Greet whoever connects, and answer everything with nonsense."""
    peers: list[socket.socket] = []
    while True:
        readable, _, _ = select.select([*listeners, *peers], [], [])
        for ready in readable:
            if ready in listeners:
                peer, _address = ready.accept()
                peer.sendall(_GREETING + _frame(_READY, 0x04))
                peers.append(peer)
                continue
            try:
                heard = ready.recv(65536)
                if heard:
                    ready.sendall(nonsense)
                    continue
            except OSError:
                pass  # it has left
            peers.remove(ready)
            ready.close()


def _nonsense(key: str) -> bytes:
    signer = Signer(key.encode())
    parent = b'{"msg_id":"fleet_1"}'
    messages: list[tuple[bytes, ...]] = [
        (b"",),
        (b"\xff" * 300,),
        (DELIMITER, b"0" * 64, b"{}", b"{}", b"{}", b"{}"),
        _signed(signer, b"\xff\xfe", b"{", b"", b"[" * 200),
        _signed(signer, b'{"msg_type":"kernel_info_reply"}', parent, b"{}", b"{}"),
        _signed(signer, b'{"msg_type":7,"msg_id":[]}', b'{"msg_id":7}', b"{}", b"null"),
        _signed(
            signer, b'{"msg_type":"run_reply","msg_id":"x"}', b'{"msg_id":"_99999999999999999999"}', b"{}", b"\x00"
        ),
    ]
    return b"".join(_message(frames) for frames in messages)


def _signed(signer: Signer, header: bytes, parent: bytes, metadata: bytes, content: bytes) -> tuple[bytes, ...]:
    signature = signer.sign(header, parent, metadata, content)
    return DELIMITER, signature, header, parent, metadata, content


def _message(frames: tuple[bytes, ...]) -> bytes:
    return b"".join(
        _frame(frame, 0x01 if position + 1 < len(frames) else 0x00) for position, frame in enumerate(frames)
    )


def _frame(content: bytes, flags: int) -> bytes:
    if len(content) > 255:
        return bytes([flags | 0x02]) + len(content).to_bytes(8, "big") + content
    return bytes([flags, len(content)]) + content


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[3]), int(sys.argv[5]))
