"""The reading side of `llmspell_kernel.runtime.progress`: which execution a kernel began last."""

import mmap
import os

PROGRESS_BYTES = 8


class ProgressReader:
    """A kernel's progress, also when the kernel is dead and its files are gone."""

    __slots__ = ("_map",)

    def __init__(self, path: str) -> None:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        try:
            self._map = mmap.mmap(descriptor, PROGRESS_BYTES, prot=mmap.PROT_READ)
        finally:
            os.close(descriptor)

    @property
    def begun(self) -> int:
        """The ticket of the execution that was begun last; 0 = none was."""
        return int.from_bytes(self._map[:PROGRESS_BYTES], "little")

    def close(self) -> None:
        """Give the page back."""
        self._map.close()
