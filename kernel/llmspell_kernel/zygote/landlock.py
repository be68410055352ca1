"""Landlock: from here on the process reaches no file but those of one folder, no TCP, and no other process."""

import ctypes
import os
import struct
from typing import Final

from llmspell_kernel.zygote.syscalls import (
    LANDLOCK_ADD_RULE,
    LANDLOCK_CREATE_RULESET,
    LANDLOCK_RESTRICT_SELF,
    check,
    syscall,
)

LEAST_ABI: Final = 6
"""Since Linux 6.12: the first that keeps signals and abstract sockets within the process."""

_VERSION: Final = 1
_PATH_BENEATH: Final = 1

_WRITE_FILE, _READ_FILE, _READ_DIR, _REMOVE_DIR, _REMOVE_FILE = (1 << bit for bit in range(1, 6))
_MAKE_DIR, _MAKE_REG, _TRUNCATE = 1 << 7, 1 << 8, 1 << 14
_EVERY_ACCESS: Final = (1 << 16) - 1
_GRANTED: Final = _WRITE_FILE | _READ_FILE | _READ_DIR | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _TRUNCATE
"""In its own folder: no links, no FIFOs, no devices, nothing to execute, no moves between folders."""
_BIND_AND_CONNECT: Final = 3
_SIGNALS_AND_ABSTRACT_SOCKETS: Final = 3


def abi() -> int:
    """The version that this system has; 0 = none, or not switched on."""
    return max(0, int(syscall(ctypes.c_long(LANDLOCK_CREATE_RULESET), None, ctypes.c_size_t(0), _VERSION)))


def restrict(folder: str | None) -> None:
    """Deny everything that Landlock knows, but for files in `folder`; None = no file at all. Takes no_new_privs."""
    handled = struct.pack("=QQQ", _EVERY_ACCESS, _BIND_AND_CONNECT, _SIGNALS_AND_ABSTRACT_SOCKETS)
    number = ctypes.c_long(LANDLOCK_CREATE_RULESET)
    rules = check(syscall(number, handled, ctypes.c_size_t(len(handled)), 0), "landlock_create_ruleset")
    try:
        if folder is not None:
            descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                rule = struct.pack("=Qi", _GRANTED, descriptor)
                check(syscall(ctypes.c_long(LANDLOCK_ADD_RULE), rules, _PATH_BENEATH, rule, 0), "landlock_add_rule")
            finally:
                os.close(descriptor)
        check(syscall(ctypes.c_long(LANDLOCK_RESTRICT_SELF), rules, 0), "landlock_restrict_self")
    finally:
        os.close(rules)
