"""What a supervisor and a zygote say to each other comes over as it was said."""

import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmspell_kernel.connection import ConnectionInfo
from llmspell_kernel.limits import KernelLimits
from llmspell_kernel.zygote.protocol import (
    LONGEST_PACKET,
    Confinement,
    Exited,
    Probed,
    Refused,
    Serving,
    Started,
    StartFailed,
    StartKernel,
    decode_reply,
    decode_report,
    decode_request,
    encode,
    receive_with_descriptors,
    send_with_descriptor,
)

numbers = st.integers(0, 2**63 - 1)
ports = st.tuples(*[st.integers(0, 65535)] * 5)
words = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
confinements = st.builds(
    Confinement,
    level=st.sampled_from(["none", "process"]),
    memory_bytes=numbers,
    files=numbers,
    processes=numbers,
    file_bytes=numbers,
    cgroups=st.lists(words).map(tuple),
)
limits = st.builds(
    KernelLimits, memory_bytes=numbers, idle_timeout_s=st.floats(0, 1e9), module_paths=st.lists(words).map(tuple)
)
connections = st.builds(
    lambda five, **rest: ConnectionInfo(
        **dict(zip(("shell_port", "iopub_port", "stdin_port", "control_port", "hb_port"), five, strict=True)), **rest
    ),
    ports,
    key=words,
    ip=words,
    transport=st.sampled_from(["tcp", "ipc"]),
    kernel_id=st.none() | words,
    pid=st.none() | numbers,
)
requests = st.builds(
    StartKernel,
    ticket=numbers,
    kernel_id=words,
    name=words,
    transport=st.sampled_from(["tcp", "ipc"]),
    ports=st.none() | ports,
    key=st.none() | words,
    limits=limits,
    confinement=confinements,
    pid_file=st.none() | words,
    output=words,
    progress_file=st.none() | words,
    log_level=st.sampled_from(["debug", "info", "warning", "error"]),
    probe=words,
    probe_target=words,
)
replies = st.one_of(
    st.builds(Started, ticket=numbers, pid=numbers, start_time=numbers),
    st.builds(StartFailed, ticket=numbers, reason=words),
    st.builds(Exited, pid=numbers, status=numbers),
)
reports = st.one_of(
    st.builds(Serving, kernel_id=words, pid=numbers, connection=connections),
    st.builds(Refused, kernel_id=words, pid=numbers, reason=words),
    st.builds(
        Probed,
        kernel_id=words,
        pid=numbers,
        name=words,
        outcome=st.sampled_from(["refused", "stopped", "got_through"]),
        detail=words,
    ),
)


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with one, other:
        yield one, other


@given(requests)
def test_a_request_comes_over(request: StartKernel) -> None:
    assert decode_request(encode(request)) == request


@given(replies)
def test_a_reply_comes_over(reply: Any) -> None:
    assert decode_reply(encode(reply)) == reply


@given(reports)
def test_a_report_comes_over(report: Any) -> None:
    assert decode_report(encode(report)) == report


@given(st.binary(max_size=200))
def test_noise_is_told_from_messages(noise: bytes) -> None:
    for decode in (decode_request, decode_reply, decode_report):
        try:
            decode(noise)
        except msgspec.MsgspecError:
            continue
        pytest.fail(f"{noise!r} was taken for a message")


@given(requests, replies, reports)
def test_one_kind_is_not_taken_for_another(request: StartKernel, reply: Any, report: Any) -> None:
    for decode, others in [
        (decode_request, (reply, report)),
        (decode_reply, (request, report)),
        (decode_report, (request, reply)),
    ]:
        for other in others:
            with pytest.raises(msgspec.ValidationError):
                decode(encode(other))


def test_a_descriptor_comes_over_as_the_same_file_and_is_not_passed_on(
    pair: tuple[socket.socket, socket.socket],
) -> None:
    one, other = pair
    pidfd = os.pidfd_open(os.getpid())
    os.set_inheritable(pidfd, True)
    send_with_descriptor(one, encode(Started(1, 2, 3)), pidfd)

    packet, (received,) = receive_with_descriptors(other)

    assert decode_reply(packet) == Started(1, 2, 3)
    assert received != pidfd
    assert Path(f"/proc/self/fd/{received}").readlink().name == "anon_inode:[pidfd]"
    assert fcntl.fcntl(received, fcntl.F_GETFD) & fcntl.FD_CLOEXEC
    os.close(pidfd)
    os.close(received)


def test_packets_keep_their_borders_and_the_end_is_empty(pair: tuple[socket.socket, socket.socket]) -> None:
    one, other = pair
    sent = [encode(Exited(number, 9)) for number in range(3)]
    for packet in sent:
        one.send(packet)
    one.close()

    assert [receive_with_descriptors(other) for _ in range(4)] == [*((packet, []) for packet in sent), (b"", [])]


def test_the_longest_packet_comes_over_whole(pair: tuple[socket.socket, socket.socket]) -> None:
    one, other = pair
    one.send(b"x" * LONGEST_PACKET)

    assert receive_with_descriptors(other) == (b"x" * LONGEST_PACKET, [])
