"""Which execution was begun last, where another process can read it after this one is gone.

A supervisor that loses a kernel must know which of its requests had begun to run: those are never run again, the
others are. A reply cannot say so, since whoever would send it is dead; a word of shared memory can.
"""

import mmap
import os
from typing import Final

PROGRESS_BYTES: Final = 8


class Progress:
    """A file of one number, mapped: the ticket of the execution that was begun last. Tickets only grow."""

    def __init__(self, path: str) -> None:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            os.ftruncate(descriptor, PROGRESS_BYTES)
            self._map = mmap.mmap(descriptor, PROGRESS_BYTES)
        finally:
            os.close(descriptor)
        self._begun = memoryview(self._map).cast("Q")
        self._begun[0] = 0

    def begin(self, ticket: int) -> None:
        """Say that `ticket` is about to run. Lua thread; one aligned store, so that no reader sees half of it."""
        self._begun[0] = ticket
