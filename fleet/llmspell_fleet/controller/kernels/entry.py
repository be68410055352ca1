"""One kernel as the controller holds it: its record, and the live things that belong to its present incarnation."""

import asyncio
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from llmspell_fleet.controller.kernels.grip import Grip
from llmspell_fleet.controller.kernels.hold import Hold
from llmspell_fleet.controller.kernels.output import Output
from llmspell_fleet.model.ids import KernelId, TenantId
from llmspell_fleet.model.kernel import Kernel
from llmspell_fleet.model.tenant import LEVELS, IsolationLevel
from llmspell_fleet.policy.lifecycle import HAS_PROCESS

if TYPE_CHECKING:
    from llmspell_fleet.router.channel import Channel
    from llmspell_fleet.spawner.spawner import Process
    from llmspell_kernel.connection import ConnectionInfo


class Entry:
    """A kernel's record, which is replaced, and its handles, which come and go with its processes."""

    __slots__ = (
        *("_waiters", "asked_at", "channel", "connection", "cull_reason", "early", "grip", "helper", "is_adopted"),
        *("kernel", "leases", "output", "process", "timer", "written"),
    )

    def __init__(self, kernel: Kernel, output: Output) -> None:
        self.kernel = kernel
        self.output = output
        self.process: Process | None = None
        self.grip = Grip(Hold(limits=kernel.spec.limits, isolation_level=kernel.spec.isolation_level))
        self.is_adopted = False
        """Whether its process was started by an earlier controller: it is nobody's child here."""
        self.helper: int | None = None
        """The pid of the spawner's helper that started its process, and tells what becomes of it."""
        self.channel: Channel | None = None
        self.connection: ConnectionInfo | None = None
        """Of its last incarnation: the next one has the same key and ports, so that clients find it again."""
        self.early: tuple[int, ConnectionInfo] | None = None
        """Which process said last that it serves, and where, and is not known: it is about to be, or it has ended."""
        self.written: asyncio.Future[None] | None = None
        """Done when the record of its present incarnation is on disk, or cannot be."""
        self.timer: asyncio.TimerHandle | None = None
        self.asked_at = 0.0
        """Loop time at which its present incarnation was asked for."""
        self.leases = 0
        self.cull_reason = ""
        """Why its present process was told to end as culled, if it was."""
        self._waiters: set[asyncio.Future[None]] = set()

    @property
    def id(self) -> KernelId:
        """The kernel's."""
        return self.kernel.spec.id

    @property
    def tenant(self) -> TenantId:
        """Whose it is."""
        return self.kernel.spec.tenant

    @property
    def isolation_level(self) -> IsolationLevel:
        """Its process's; without one, what the next will have."""
        return self.grip.hold.isolation_level

    @property
    def is_weaker(self) -> bool:
        """Whether its process is kept apart less than its spec says by now."""
        wanted = LEVELS.index(self.kernel.spec.isolation_level)
        return self.kernel.phase in HAS_PROCESS and LEVELS.index(self.isolation_level) < wanted

    @property
    def load(self) -> int:
        """Executions that run or wait in it."""
        return self.channel.load if self.channel is not None else 0

    def clear_timer(self) -> None:
        """What its timer was set for concerns it no more."""
        if self.timer is not None:
            self.timer.cancel()
            self.timer = None

    def is_written(self, later: Callable[[], None]) -> bool:
        """Whether the record of its present incarnation is on disk, or cannot be; if not, `later` is called then."""
        if self.written is None or self.written.done():
            return True
        self.written.add_done_callback(lambda _written: later())
        return False

    def changed(self) -> None:
        """The record was replaced: let those look who wait for something."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)
        self._waiters.clear()

    async def wait_until(self, condition: Callable[[Kernel], bool], timeout_s: float | None) -> bool:
        """Whether the record came to fulfil `condition` within the time; None = however long it takes."""
        try:
            async with asyncio.timeout(timeout_s):
                while not condition(self.kernel):
                    waiter = asyncio.get_running_loop().create_future()
                    self._waiters.add(waiter)
                    try:
                        await waiter
                    finally:
                        self._waiters.discard(waiter)
        except TimeoutError:
            return condition(self.kernel)
        return True


class Entries:
    """Those that there are, by the kernel's id."""

    def __init__(self) -> None:
        self._entries: dict[KernelId, Entry] = {}

    def get(self, kernel: KernelId) -> Entry | None:
        """One kernel."""
        return self._entries.get(kernel)

    def __iter__(self) -> Iterator[Entry]:
        return iter(list(self._entries.values()))

    def __len__(self) -> int:
        return len(self._entries)

    def told_by_others_than(self, helper: int | None) -> list[Entry]:
        """Those with a process of which `helper`, a spawner's, would not tell that it was suspended."""
        return [e for e in self._entries.values() if e.process is not None and (e.helper is None or e.helper != helper)]

    @property
    def channels(self) -> int:
        """ZeroMQ connections that are open."""
        return sum(entry.channel is not None for entry in self._entries.values())
