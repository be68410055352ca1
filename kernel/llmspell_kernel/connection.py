"""The connection file: how clients find and are recognised by a kernel. Jupyter's keys, and four of ours.

A file that a Jupyter client wrote before it started us is that client's: obeyed, never changed, never
removed.
"""

import os
from typing import Literal

import msgspec

from llmspell_kernel.errors import LlmspellError, MisuseError, NotRunningError, RefusedError
from llmspell_kernel.pidfile import process_start_time
from llmspell_kernel.safe_files import read_private, write_private

CHANNELS = ("shell", "iopub", "stdin", "control", "hb")
SIGNATURE_SCHEME = "hmac-sha256"

_LONGEST_BYTES = 64 * 1024
_LARGEST_PORT = 65535
_NAMESPACE = "6c6c6d73-7065-5c6c-8c6b-65726e656c73"
"""Of the UUIDs that belong to names (RFC 9562, version 5). Changing it would rename every named kernel."""


class ConnectionInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A connection file's content; keys that are not listed here are Jupyter's own business and ignored."""

    shell_port: int
    iopub_port: int
    stdin_port: int
    control_port: int
    hb_port: int
    key: str
    ip: str = "127.0.0.1"
    transport: Literal["tcp", "ipc"] = "tcp"
    signature_scheme: str = SIGNATURE_SCHEME
    kernel_name: str = "llmspell"

    kernel_id: str | None = None
    """A UUID; absent from files that a client wrote, as are the next three."""
    pid: int | None = None
    start_time: int | None = None
    """Of process `pid`, as in `pidfile.PidRecord`: tells a living kernel's file from one left behind."""
    name: str | None = None
    """What a person called this kernel."""

    @property
    def ports(self) -> tuple[int, int, int, int, int]:
        """In the order of `CHANNELS`."""
        return (self.shell_port, self.iopub_port, self.stdin_port, self.control_port, self.hb_port)

    def endpoint(self, channel: str) -> str:
        """The ZeroMQ address of one of `CHANNELS`; for ``ipc``, `ip` is what five socket paths begin with."""
        port = self.ports[CHANNELS.index(channel)]
        if self.transport == "ipc":
            return f"ipc://{self.ip}-{port}"
        host = f"[{self.ip}]" if ":" in self.ip else self.ip
        return f"tcp://{host}:{port}"


def is_loopback(ip: str) -> bool:
    """Whether only this machine reaches an address; names other than ``localhost`` are not looked up."""
    if ip in ("localhost", "::1"):
        return True
    parts = ip.split(".")
    # Numbers all through: 127.example.com is somebody's name.
    return len(parts) == 4 and parts[0] == "127" and all(part.isdecimal() for part in parts)


def new_key() -> str:
    """A fresh signing key: 256 random bits in hexadecimal."""
    return os.urandom(32).hex()


def new_kernel_id() -> str:
    """A random UUID (version 4), made without importing ``uuid`` on the start path."""
    bits = bytearray(os.urandom(16))
    bits[6] = bits[6] & 0x0F | 0x40
    bits[8] = bits[8] & 0x3F | 0x80
    digits = bits.hex()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def kernel_id_of(text: str) -> str:
    """The UUID that `text` is, or that belongs to the name `text`: the same one for ever.

    ValueError: it is neither a UUID nor a name.
    """
    import re
    import uuid

    try:
        return str(uuid.UUID(text))
    except ValueError:
        if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,62}", text):
            raise ValueError(
                f"expected a UUID, or a name of up to 63 characters from a-z, 0-9, _ and -, found {text!r}"
            ) from None
        return str(uuid.uuid5(uuid.UUID(_NAMESPACE), text))


def read_connection_file(path: str, *, client_written: bool = False) -> ConnectionInfo:
    """Read and check a connection file.

    One that is not `client_written` must be ours alone (owner and mode), since its key is a secret.
    NotRunningError: there is no such file. MisuseError: its content cannot be obeyed, and why.
    """
    try:
        content = read_private(path, what="connection file", limit_bytes=_LONGEST_BYTES, check_owner=not client_written)
    except FileNotFoundError:
        raise NotRunningError(
            f"there is no connection file {path}: is the kernel running? `llmspell kernel list` shows those that are"
        ) from None
    try:
        return decode_connection(content)
    except ValueError as error:
        raise MisuseError(f"the connection file {path} cannot be used: {error}") from None


def client_connection_file(path: str) -> ConnectionInfo | None:
    """What a client wrote to `path` for us to obey, or None when the path is free for a file of our own.

    Free is also what a kernel that is gone left behind; the file of one that lives is refused.
    """
    try:
        info = read_connection_file(path, client_written=True)
    except NotRunningError:
        return None
    if info.pid is None:
        return info
    if info.start_time is not None and process_start_time(info.pid) == info.start_time:
        raise RefusedError(
            f"the connection file {path} is in use by a running kernel, process {info.pid}: "
            "stop it with `llmspell kernel stop`, or name another file"
        )
    return None


def decode_connection(content: bytes) -> ConnectionInfo:
    """A connection file's bytes as a checked ConnectionInfo; ValueError says what is wrong with them."""
    try:
        info = msgspec.json.decode(content, type=ConnectionInfo)
    except msgspec.DecodeError as error:
        raise ValueError(str(error)) from None
    _check(info)
    return info


def _check(info: ConnectionInfo) -> None:
    if not info.key:
        raise ValueError("its key is empty, and a kernel without a key would obey anybody")
    if info.signature_scheme != SIGNATURE_SCHEME:
        raise ValueError(f"expected signature_scheme {SIGNATURE_SCHEME}, found {info.signature_scheme!r}")
    if not info.ip or "\0" in info.ip:
        raise ValueError("its ip is empty or holds a NUL byte")
    for channel, port in zip(CHANNELS, info.ports, strict=True):
        if not 0 < port <= _LARGEST_PORT:
            raise ValueError(f"expected {channel}_port between 1 and {_LARGEST_PORT}, found {port}")
    if len(set(info.ports)) < len(info.ports):
        raise ValueError(f"its five ports should differ, found {', '.join(map(str, info.ports))}")


def write_connection_file(path: str, info: ConnectionInfo) -> None:
    """Write `info` to `path` in one step with mode 0600."""
    content = {key: value for key, value in msgspec.structs.asdict(info).items() if value is not None}
    text = msgspec.json.format(msgspec.json.encode(content), indent=2)
    write_private(path, text + b"\n", what="connection file")


def remove_connection_file(path: str, info: ConnectionInfo) -> None:
    """Remove the file at `path` if it is still the one that `info` was written to."""
    try:
        found = read_connection_file(path)
        if (found.kernel_id, found.pid, found.key) == (info.kernel_id, info.pid, info.key):
            os.unlink(path)
    except (LlmspellError, FileNotFoundError):
        return
