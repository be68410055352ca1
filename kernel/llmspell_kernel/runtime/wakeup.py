"""Waking a thread that waits on a descriptor."""

import os


class Wakeup:
    """An eventfd: one side writes, the other waits, in a poll or in `wait`."""

    __slots__ = ("descriptor",)

    def __init__(self) -> None:
        self.descriptor = os.eventfd(0, os.EFD_CLOEXEC)

    def wake(self) -> None:
        """Make the descriptor readable."""
        os.eventfd_write(self.descriptor, 1)

    def wait(self) -> None:
        """Sleep until somebody woke us, and forget that they did. After a poll that said so: only forget.

        May return without that: a signal that comes to this thread ends the sleep, and Python does not go on with it.
        """
        try:
            os.eventfd_read(self.descriptor)
        except InterruptedError:
            return
