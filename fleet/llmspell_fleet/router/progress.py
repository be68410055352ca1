"""The reading side of `llmspell_kernel.runtime.progress`: which execution a kernel began last."""

import errno
import os
import stat

PROGRESS_BYTES = 8


class ProgressReader:
    """A kernel's progress, also when the kernel is dead and its files are gone.

    It is read by a call, not from a mapping: whoever broke out of Lua could cut the file off, and a mapping of what is
    not there would end the controller.
    """

    __slots__ = ("_descriptor",)

    def __init__(self, path: str) -> None:
        """OSError: there is none."""
        # Of what else there may be instead, no FIFO is waited for.
        self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        if not stat.S_ISREG(os.fstat(self._descriptor).st_mode):
            self.close()
            raise OSError(errno.EINVAL, "expected a file", path)

    @property
    def begun(self) -> int:
        """The ticket of the execution that was begun last; 0 = none was."""
        return int.from_bytes(os.pread(self._descriptor, PROGRESS_BYTES, 0), "little")

    def close(self) -> None:
        """Look no more."""
        os.close(self._descriptor)
