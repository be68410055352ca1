"""A spawner that, when asked to, runs a probe in a kernel's place: confined by the fleet as that kernel would be."""

import asyncio
from typing import Final

from msgspec.structs import replace

from llmspell_fleet.controller.kernels.entry import Entry
from llmspell_fleet.controller.supervision.supervisor import Supervisor
from llmspell_fleet.model.ids import KernelId
from llmspell_fleet.model.kernel import Death
from llmspell_fleet.policy.events import RestartAsked
from llmspell_fleet.policy.lifecycle import TAKES_WORK
from llmspell_fleet.spawner.spawner import Process, SpawnerListener
from llmspell_fleet.spawner.zygote import ZygoteSpawner
from llmspell_kernel.zygote.protocol import Probed, Spares, StartKernel

PROBE_S: Final = 15.0
"""How long a probe and the restarts around it may take."""


class ProbingSpawner:
    """A zygote's spawner in front of which probes are put in. Belongs to the event loop."""

    def __init__(self, real: ZygoteSpawner) -> None:
        self._real = real
        self._wanted: dict[KernelId, tuple[str, str]] = {}
        self._told: dict[KernelId, asyncio.Future[Probed]] = {}
        real.on_probed = self._probed

    def arm(self, kernel: KernelId, name: str, target: str) -> "asyncio.Future[Probed]":
        """The next process of `kernel` is this probe."""
        self._wanted[kernel] = name, target
        told = self._told[kernel] = asyncio.get_running_loop().create_future()
        return told

    def disarm(self, kernel: KernelId) -> None:
        """Nobody waits for the probe any more."""
        self._wanted.pop(kernel, None)
        self._told.pop(kernel, None)

    def _probed(self, probed: Probed) -> None:
        told = self._told.get(KernelId(probed.kernel_id))
        if told is not None and not told.done():
            told.set_result(probed)

    @property
    def report_descriptor(self) -> int:
        """Which descriptor every process has until it has reported."""
        return self._real.report_descriptor

    @property
    def pid(self) -> int | None:
        """The zygote's."""
        return self._real.pid

    @property
    def pids(self) -> tuple[int, ...]:
        """The real one's."""
        return self._real.pids

    @property
    def is_late(self) -> bool:
        """The real one's."""
        return self._real.is_late

    async def open(self, listener: SpawnerListener) -> None:
        """As the real one."""
        await self._real.open(listener)

    def start(self, request: StartKernel) -> None:
        """Start a kernel, or the probe that is wanted in its place."""
        wanted = self._wanted.pop(KernelId(request.kernel_id), None)
        if wanted is not None:
            request = replace(request, probe=wanted[0], probe_target=wanted[1])
        self._real.start(request)

    @property
    def spares(self) -> Spares | None:
        """None: nobody claims anything here."""
        return None

    def have_spares(self, number: int) -> None:
        """There are none."""

    def recover(self, kernel: KernelId, pid: int, start_time: int) -> Process | None:
        """As the real one."""
        return self._real.recover(kernel, pid, start_time)

    async def close(self) -> None:
        """As the real one."""
        await self._real.close()


async def probe(
    spawner: ProbingSpawner, supervisor: Supervisor, entry: Entry, name: str, target: str
) -> Probed | Death:
    """Run a probe in a kernel's place, and let the kernel come back; a Death when the probe did not live to tell.

    TimeoutError: neither came.
    """
    told = spawner.arm(entry.id, name, target)
    try:
        async with asyncio.timeout(PROBE_S):
            # Counted from before: a probe may be over by the time that we hear of its start.
            probes = entry.kernel.incarnation + 1
            supervisor.apply(entry, RestartAsked())
            await entry.wait_until(lambda kernel: told.done() or kernel.incarnation > probes, None)
            await entry.wait_until(lambda kernel: kernel.incarnation > probes and kernel.phase in TAKES_WORK, None)
    finally:
        spawner.disarm(entry.id)
    if told.done():
        return told.result()
    assert entry.kernel.last_death is not None
    return entry.kernel.last_death
