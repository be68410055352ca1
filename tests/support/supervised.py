"""A real kernel as its supervisor sees it: a process, and the file that says what it began last."""

from typing import Any

import msgspec

from llmspell_fleet.router.progress import ProgressReader
from llmspell_kernel.connection import ConnectionInfo
from support.homes import wait_until
from support.kernels import KernelHome
from support.runs import Runner


class Supervised:
    """A kernel that is served as a fleet's is, in a process of its own."""

    def __init__(self, home: KernelHome, **options: Any) -> None:
        self.progress_path = str(home.path / "progress")
        given = {"transport": "ipc", "is_supervised": True, "progress_file": self.progress_path, **options}
        self.kernel = home.start_ready(options=given)
        self.info = msgspec.convert(self.kernel.connection, ConnectionInfo)
        self._progress = ProgressReader(self.progress_path)

    @property
    def begun(self) -> int:
        """The ticket that was begun last."""
        return self._progress.begun

    def wait_begun(self, ticket: int) -> None:
        """Wait until a run has begun, and none after it."""
        wait_until(lambda: self.begun >= ticket, f"ticket {ticket} to begin")
        assert self.begun == ticket

    def connect(self) -> Runner:
        """A caller of its own."""
        return Runner(self.kernel.connection)
