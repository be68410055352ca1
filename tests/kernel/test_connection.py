"""The connection file."""

import contextlib
import json
import os
import stat
import uuid
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmspell_kernel import pidfile
from llmspell_kernel.connection import (
    CHANNELS,
    ConnectionInfo,
    client_connection_file,
    decode_connection,
    is_loopback,
    new_kernel_id,
    new_key,
    read_connection_file,
    remove_connection_file,
    write_connection_file,
)
from llmspell_kernel.errors import MisuseError, NotRunningError, RefusedError
from support.foreign import foreign_file

JUPYTERS = {
    "shell_port": 50001,
    "iopub_port": 50002,
    "stdin_port": 50003,
    "control_port": 50004,
    "hb_port": 50005,
    "ip": "127.0.0.1",
    "key": "f00d",
    "transport": "tcp",
    "signature_scheme": "hmac-sha256",
    "kernel_name": "llmspell",
    "jupyter_session": "/notebooks/one.ipynb",
}


def _own(**changes: Any) -> ConnectionInfo:
    record = pidfile.own_record()
    known = {key: value for key, value in JUPYTERS.items() if key != "jupyter_session"}
    ours = {"kernel_id": new_kernel_id(), "pid": record.pid, "start_time": record.start_time, "name": "work"}
    return ConnectionInfo(**{**known, **ours, **changes})


def test_a_file_reads_back_as_it_was_written(tmp_path: Path) -> None:
    info = _own()
    path = tmp_path / "k.json"

    write_connection_file(str(path), info)

    assert read_connection_file(str(path)) == info
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_what_is_not_known_is_not_written(tmp_path: Path) -> None:
    path = tmp_path / "k.json"

    write_connection_file(str(path), _own(name=None))

    written = json.loads(path.read_text())
    assert "name" not in written
    assert {*JUPYTERS} - {"jupyter_session"} <= written.keys()


def test_jupyter_s_own_file_is_understood() -> None:
    info = decode_connection(json.dumps(JUPYTERS).encode())

    assert info.ports == (50001, 50002, 50003, 50004, 50005)
    assert (info.kernel_id, info.pid, info.start_time, info.name) == (None, None, None, None)


@pytest.mark.parametrize(
    ("case", "changes", "endpoint"),
    [
        ("tcp", {}, "tcp://127.0.0.1:50001"),
        ("a version 6 address", {"ip": "::1"}, "tcp://[::1]:50001"),
        ("unix sockets", {"transport": "ipc", "ip": "/run/k/s"}, "ipc:///run/k/s-50001"),
    ],
)
def test_an_endpoint_is_what_jupyter_makes_of_it(case: str, changes: dict[str, Any], endpoint: str) -> None:
    assert _own(**changes).endpoint("shell") == endpoint, case


def test_every_channel_has_its_endpoint() -> None:
    info = _own()

    assert [info.endpoint(channel) for channel in CHANNELS] == [f"tcp://127.0.0.1:{port}" for port in info.ports]


@pytest.mark.parametrize(
    ("case", "changes", "message"),
    [
        ("an empty key", {"key": ""}, "its key is empty"),
        (
            "another signature",
            {"signature_scheme": "hmac-md5"},
            "expected signature_scheme hmac-sha256, found 'hmac-md5'",
        ),
        ("another transport", {"transport": "pgm"}, "transport"),
        ("a port in words", {"shell_port": "many"}, r"Expected `int`, got `str` - at `\$.shell_port`"),
        ("no port", {"shell_port": 0}, "expected shell_port between 1 and 65535, found 0"),
        ("a port too large", {"hb_port": 65536}, "expected hb_port between 1 and 65535, found 65536"),
        ("the same port twice", {"hb_port": 50001}, "five ports should differ"),
        ("an empty address", {"ip": ""}, "its ip is empty"),
        ("an address with a NUL", {"ip": "a\0b"}, "holds a NUL byte"),
        ("a key that is no text", {"key": 7}, r"at `\$.key`"),
    ],
)
def test_a_file_that_cannot_be_obeyed_says_why(
    tmp_path: Path, case: str, changes: dict[str, Any], message: str
) -> None:
    path = tmp_path / "k.json"
    path.write_text(json.dumps({**JUPYTERS, **changes}))

    with pytest.raises(MisuseError, match=message) as refusal:
        read_connection_file(str(path), client_written=True)

    assert str(path) in str(refusal.value), case


@pytest.mark.parametrize("key", ["shell_port", "iopub_port", "stdin_port", "control_port", "hb_port", "key"])
def test_a_missing_key_is_named(key: str) -> None:
    content = {name: value for name, value in JUPYTERS.items() if name != key}

    with pytest.raises(ValueError, match=f"missing required field `{key}`"):
        decode_connection(json.dumps(content).encode())


@given(st.binary())
def test_any_bytes_are_a_connection_or_a_value_error(content: bytes) -> None:
    with contextlib.suppress(ValueError):
        decode_connection(content)


def test_our_own_file_must_be_ours_alone(tmp_path: Path) -> None:
    path = tmp_path / "k.json"
    write_connection_file(str(path), _own())
    path.chmod(0o644)

    with pytest.raises(RefusedError, match="has mode 0644"):
        read_connection_file(str(path))
    with pytest.raises(RefusedError, match="belongs to user"):
        read_connection_file(str(foreign_file(tmp_path)))


def test_a_client_s_file_is_obeyed_whatever_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "k.json"
    path.write_text(json.dumps(JUPYTERS))
    path.chmod(0o644)

    assert client_connection_file(str(path)) == decode_connection(path.read_bytes())


def test_no_file_leaves_the_path_to_us_and_a_client_without_a_kernel(tmp_path: Path) -> None:
    path = str(tmp_path / "k.json")

    assert client_connection_file(path) is None
    with pytest.raises(NotRunningError, match="there is no connection file"):
        read_connection_file(path)


def test_what_a_dead_kernel_left_leaves_the_path_to_us(tmp_path: Path) -> None:
    path = str(tmp_path / "k.json")
    write_connection_file(path, _own(start_time=1))

    assert client_connection_file(path) is None


def test_a_living_kernel_s_file_is_refused_with_its_pid(tmp_path: Path) -> None:
    path = str(tmp_path / "k.json")
    write_connection_file(path, _own())

    with pytest.raises(RefusedError, match=f"in use by a running kernel, process {os.getpid()}"):
        client_connection_file(path)


def test_only_the_file_that_we_wrote_is_removed(tmp_path: Path) -> None:
    mine, theirs = tmp_path / "mine.json", tmp_path / "theirs.json"
    info = _own()
    write_connection_file(str(mine), info)
    write_connection_file(str(theirs), _own())

    for path in (mine, theirs, tmp_path / "none.json"):
        remove_connection_file(str(path), info)

    assert not mine.exists()
    assert theirs.exists()


@pytest.mark.parametrize(
    ("ip", "is_local"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("*", False),
        ("::", False),
        ("192.168.1.2", False),
        ("127.example.com", False),
        ("example.com", False),
        ("", False),
    ],
)
def test_only_this_machine_s_addresses_are_loopback(ip: str, is_local: bool) -> None:
    assert is_loopback(ip) is is_local


def test_an_id_is_a_random_uuid_and_a_key_256_bits() -> None:
    ids = {new_kernel_id() for _ in range(100)}

    assert len(ids) == 100
    assert {uuid.UUID(kernel_id).version for kernel_id in ids} == {4}
    assert all(str(uuid.UUID(kernel_id)) == kernel_id for kernel_id in ids)
    assert len(bytes.fromhex(new_key())) == 32
    assert new_key() != new_key()
