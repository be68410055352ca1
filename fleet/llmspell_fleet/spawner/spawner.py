"""What starts kernels' processes, and what it tells of them. One contract suite holds for every spawner."""

from typing import Protocol

import msgspec

from llmspell_fleet.model.ids import KernelId
from llmspell_kernel.connection import ConnectionInfo
from llmspell_kernel.zygote.protocol import Spares, StartKernel


class Process(msgspec.Struct, frozen=True):
    """A process that was started."""

    pid: int
    start_time: int
    """In clock ticks since boot: with the pid it names the process for ever."""
    pidfd: int
    """Readable once it has ended. Whoever gets a Process owns this descriptor."""
    was_spare: bool = False
    """Whether it was made before it was asked for."""


class SpawnerListener(Protocol):
    """Hears what becomes of what was started, on the event loop.

    In the order in which it happened, but `serving` may come before `started`: they take different roads.
    """

    def started(self, kernel: KernelId, process: Process) -> None:
        """There is a process."""
        ...

    def start_failed(self, kernel: KernelId, reason: str) -> None:
        """There is none, and there will be none for this request."""
        ...

    def serving(self, kernel: KernelId, pid: int, connection: ConnectionInfo) -> None:
        """It listens on its sockets, and answers there in a moment: whoever has to know asks it."""
        ...

    def refused(self, kernel: KernelId, pid: int, reason: str) -> None:
        """It cannot serve, says why, and ends."""
        ...

    def exited(self, pid: int, status: int) -> None:
        """It ended, and was reaped; `status` is as from waitpid(2)."""
        ...

    def suspended(self, pid: int, *, is_suspended: bool) -> None:
        """A signal suspended it, or let it go on: told by who learns of it without asking, a zygote."""
        ...

    def lost(self, reason: str) -> None:
        """The spawner's own helper died; a new one is on its way. Kernels live on."""
        ...

    def spares_changed(self) -> None:
        """There are more or fewer spares (`Spawner.spares`)."""
        ...


class Spawner(Protocol):
    """Starts processes for kernels. Belongs to the event loop."""

    @property
    def pid(self) -> int | None:
        """The helper process's, where there is one."""
        ...

    @property
    def pids(self) -> tuple[int, ...]:
        """All processes of its own: one helper may take another's place."""
        ...

    @property
    def is_late(self) -> bool:
        """Whether the helper has not answered for as long as starts do not take."""
        ...

    async def open(self, listener: SpawnerListener) -> None:
        """Get ready. RefusedError says what is missing."""
        ...

    def start(self, request: StartKernel) -> None:
        """Start a process for a kernel; the listener hears `started` or `start_failed`, once, and then the rest."""
        ...

    @property
    def spares(self) -> Spares | None:
        """Processes made before they are asked for, which can become any kernel; None = it has no such."""
        ...

    def have_spares(self, number: int) -> None:
        """Come to so many now: `spares` says when they are there. Those that are used up are not replaced."""
        ...

    def recover(self, kernel: KernelId, pid: int, start_time: int) -> Process | None:
        """The process that an earlier controller started, if it still runs. Its end is told by its pidfd alone."""
        ...

    async def close(self) -> None:
        """Start nothing more, and end the helper. Kernels live on."""
        ...
