"""A process in a kernel's place that is none: `scripted` has it started as a kernel is, by `subprocess`.

`python -m llmspell_fleet.spawner.misbehaving HOW --start FD --report FD`, where HOW is one of `Misbehaviour`.
"""

import os
import select
import signal
import socket
import sys
from collections.abc import Callable
from functools import partial
from typing import Final, Literal

import msgspec

from llmspell_kernel.connection import ConnectionInfo, new_key
from llmspell_kernel.wire.jupyter import DELIMITER, Signer
from llmspell_kernel.wire.zmtp import GREETING, Reader, packed
from llmspell_kernel.zygote.protocol import Serving, decode_request, encode

Misbehaviour = Literal["never_binds", "never_answers", "answers_garbage", "answers_as_told"]
"""never_binds: lives, and says nothing; never_answers: says that it serves, and takes no connection;
answers_garbage: talks ZeroMQ, and nonsense in it, some of which is well signed; answers_as_told: is a kernel until it
is given an execution, and answers with the execution's code, byte for byte, unless that is `FLOOD` or `CRAM`."""

FLOOD: Final = "flood"
"""Code that is answered with a message of which there is no end."""

CRAM: Final = "cram"
"""Code that is answered with replies to nobody, for ever."""

_PORTS: Final = (1, 2, 3, 4, 5)
_READY: Final = b"\x04\x29\x05READY\x0bSocket-Type\x00\x00\x00\x06ROUTER\x08Identity\x00\x00\x00\x00"

Answer = Callable[[socket.socket, list[list[bytes]]], None]


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
        _begin(request.progress_file or "", 0)
        listeners = [_listen(f"{place}-{port}") for port in _PORTS]
        with socket.socket(fileno=report) as reporting:
            reporting.send(encode(Serving(request.kernel_id, os.getpid(), _connection(place, key))))
        if how == "answers_garbage":
            nonsense = _nonsense(key)
            _serve(listeners, lambda peer, _heard: peer.sendall(nonsense))
        if how == "answers_as_told":
            _serve(listeners, partial(_answer_as_told, Signer(key.encode()), request.progress_file or ""))
    while True:
        signal.pause()


def _begin(progress_file: str, ticket: int) -> None:
    with open(progress_file, "wb") as stream:
        stream.write(ticket.to_bytes(8, "little"))


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


def _serve(listeners: list[socket.socket], answer: Answer) -> None:
    """Greet whoever connects, and answer everything."""
    peers: dict[socket.socket, Reader] = {}
    while True:
        readable, _, _ = select.select([*listeners, *peers], [], [])
        for ready in readable:
            if ready in listeners:
                peer, _address = ready.accept()
                peer.sendall(GREETING + _READY)
                peers[peer] = Reader(1 << 30)
                continue
            try:
                heard = ready.recv(65536)
                if heard:
                    answer(ready, peers[ready].feed(heard))
                    continue
            except OSError:
                pass  # it has left
            del peers[ready]
            ready.close()


def _answer_as_told(signer: Signer, progress_file: str, peer: socket.socket, heard: list[list[bytes]]) -> None:
    for _delimiter, _signature, header, _parent, _metadata, content in heard:
        kind = msgspec.json.decode(header)["msg_type"]
        reply = b'{"msg_type":"%b","msg_id":"x"}' % kind.replace("_request", "_reply").encode()
        asked = msgspec.json.decode(content)
        code = asked.get("code", "{}")
        _begin(progress_file, asked.get("ticket", 0))
        if code == FLOOD:
            while True:
                peer.sendall(b"\x01\xff" + bytes(255))
        if code == CRAM:
            nobodys = b"".join([packed(_signed(signer, reply, b'{"msg_id":"x","msg_type":""}', b"{}", b"{}"))] * 100)
            while True:
                peer.sendall(nobodys)
        peer.sendall(packed(_signed(signer, reply, header, b"{}", code.encode("latin-1"))))


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
    return b"".join(map(packed, messages))


def _signed(signer: Signer, header: bytes, parent: bytes, metadata: bytes, content: bytes) -> tuple[bytes, ...]:
    signature = signer.sign(header, parent, metadata, content)
    return DELIMITER, signature, header, parent, metadata, content


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[3]), int(sys.argv[5]))
