"""A real kernel as its supervisor sees it: a process, and the file that says what it began last."""

from typing import Any

import msgspec

from llmspell_fleet.router.progress import ProgressReader
from llmspell_kernel.connection import ConnectionInfo
from support.homes import wait_until
from support.kernels import KernelHome
from support.runs import Runner

PROOF = "what the supervisor told the kernel at its start"


class Supervised:
    """A kernel that is served as a fleet's is, in a process of its own."""

    def __init__(self, home: KernelHome, **options: Any) -> None:
        self.progress_path = str(home.path / "progress")
        given = {"transport": "ipc", "is_supervised": True, "progress_file": self.progress_path}
        self.kernel = home.start_ready(options={**given, "supervisor_proof": PROOF, **options})
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

    def connect(self, *, unread: int = 0) -> Runner:
        """Another supervisor, which reads no further ahead than that; 0 = without end."""
        return Runner(self.kernel.connection, proof=PROOF, unread=unread)
