"""One controller at a time: a lock beside the database for as long as the holder lives."""

import contextlib
import errno
import fcntl
import os

from llmspell_kernel.errors import RefusedError


def hold(path: str, *, what: str) -> int:
    """Lock the file at `path` and return its descriptor, whose closing is the release.

    RefusedError tells the process that holds it. The file stays: a lock on an unlinked file excludes nobody.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise RefusedError(
            f"the lock file {path} cannot be opened for writing: {error.strerror}. {_advice(error)}"
        ) from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()
        os.close(descriptor)
        raise RefusedError(
            f"{what} is locked by process {holder or 'of unknown number'}, and one controller at a time may use it: "
            "stop that with `llmspell fleet down`, or name another directory with --state-dir"
        ) from None
    # The number is for that message only: on a full disk the lock holds without it.
    with contextlib.suppress(OSError):
        pid = f"{os.getpid()}\n".encode()
        os.pwrite(descriptor, pid, 0)
        os.ftruncate(descriptor, len(pid))
    return descriptor


def _advice(error: OSError) -> str:
    if error.errno == errno.ENOSPC:
        return "Free some space there"
    return "Name a directory that can be written with --state-dir"
