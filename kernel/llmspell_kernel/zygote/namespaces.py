"""A root of its own: an empty file system in memory, of a bounded size, in place of everything.

The process then sees neither the machine's files nor its processes (there is no /proc), and what it writes is gone
with it. It takes a mount namespace; who is not root gets the right to make one by a user namespace.
"""

import ctypes
import os
import struct
from typing import Final, Literal

from llmspell_kernel.zygote.syscalls import (
    MACHINE,
    NUMBERS,
    PR_SET_DUMPABLE,
    check,
    mount,
    prctl,
    syscall,
    umount,
    unshare,
)

Namespaces = Literal["none", "mount", "user"]
"""none: the machine's files are there, and out of reach; mount: a root of its own; user: the same, without root."""

DEFAULT_BYTES: Final = 16 * 1024 * 1024
"""Of its root where no `storage_bytes` is set: at `strict`, no kernel writes without a bound."""
MOST_FILES: Final = 1024

_CLONE_NEWNS: Final = 0x00020000
_CLONE_NEWUSER: Final = 0x10000000
_MS_PRIVATE_RECURSIVE: Final = 0x40000 | 0x4000
_MS_NOSUID_NODEV_NOEXEC: Final = 2 | 4 | 8
_MNT_DETACH: Final = 2
_CAPABILITY_VERSION_3: Final = 0x20080522

_ANYWHERE: Final = b"/proc"
"""A folder that is on every machine; what lies there is not seen again."""


def enter_own_root(kind: Namespaces, *, size_bytes: int, uid: int, gid: int) -> None:
    """Leave the machine's files behind; `uid` and `gid` own the new root. Takes a process with one thread."""
    if kind == "user":
        check(unshare(_CLONE_NEWUSER | _CLONE_NEWNS), "unshare (user and mount namespaces)")
        # Its own /proc files were root's: the parent cannot be dumped, and neither can its forks.
        check(prctl(PR_SET_DUMPABLE, 1, 0, 0, 0), "prctl")
        for name, text in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            _write(f"/proc/self/{name}", text)
    else:
        check(unshare(_CLONE_NEWNS), "unshare (mount namespace)")
    check(mount(None, b"/", None, ctypes.c_ulong(_MS_PRIVATE_RECURSIVE), None), "mount (private)")
    options = f"size={size_bytes},nr_inodes={MOST_FILES},mode=0700,uid={uid},gid={gid}"
    flags = ctypes.c_ulong(_MS_NOSUID_NODEV_NOEXEC)
    check(mount(b"llmspell", _ANYWHERE, b"tmpfs", flags, options.encode()), "mount (tmpfs)")
    os.chdir(_ANYWHERE)
    check(syscall(ctypes.c_long(NUMBERS[MACHINE]["pivot_root"]), b".", b"."), "pivot_root")
    check(umount(b".", _MNT_DETACH), "umount")
    os.chdir("/")


def cover(folder: str) -> None:
    """Let this thread find nothing in a folder; what it makes there from now on is gone with it. Takes root."""
    check(unshare(_CLONE_NEWNS), "unshare (mount namespace)")
    check(mount(None, b"/", None, ctypes.c_ulong(_MS_PRIVATE_RECURSIVE), None), "mount (private)")
    flags = ctypes.c_ulong(_MS_NOSUID_NODEV_NOEXEC)
    check(mount(b"llmspell", os.fsencode(folder), b"tmpfs", flags, b"mode=0700"), "mount (tmpfs)")


def drop_capabilities() -> None:
    """Give up what a user namespace gave."""
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    check(syscall(ctypes.c_long(NUMBERS[MACHINE]["capset"]), header, bytes(24)), "capset")


def _write(path: str, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
