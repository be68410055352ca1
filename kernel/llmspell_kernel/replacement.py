"""Putting a fresh process image in place of a kernel's: the same pid, ports, key and files, and no Lua state."""

import os
import sys
from typing import NoReturn

import msgspec

from llmspell_kernel.connection import ConnectionInfo
from llmspell_kernel.options import ServeOptions
from llmspell_kernel.runtime.engine import ScriptError


class Predecessor(msgspec.Struct, frozen=True):
    """What a process image leaves to the one that takes its place."""

    options: ServeOptions
    connection: ConnectionInfo
    is_clients_file: bool


def replace_process(predecessor: Predecessor) -> NoReturn:
    """Become a fresh image. A Lua thread that never returns from C dies with the old one; nothing else could end it."""
    descriptor = os.memfd_create("llmspell-kernel", 0)
    os.write(descriptor, msgspec.msgpack.encode(predecessor))
    os.lseek(descriptor, 0, os.SEEK_SET)
    # -P: what lies in the working directory is not ours to import.
    arguments = [sys.executable, "-P", "-m", "llmspell_kernel", "--replacing", str(descriptor)]
    os.execv(sys.executable, arguments)


def read_predecessor(descriptor: int) -> Predecessor:
    """What the image before this one left."""
    with os.fdopen(descriptor, "rb") as state:
        return msgspec.msgpack.decode(state.read(), type=Predecessor)


def _replaced(text: str) -> ScriptError:
    return ScriptError("KernelReplaced", text, (f"KernelReplaced: {text}",))


STUCK = _replaced(
    "the script was in one call that never returns to Lua, and had to be ended with its process. "
    "A fresh one has taken its place: variables are lost"
)
BROKEN = _replaced(
    "the kernel met a fault of its own and was replaced by a fresh one: variables are lost. Its log has the details"
)
