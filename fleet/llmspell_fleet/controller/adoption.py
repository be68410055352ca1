"""Taking up what is stored: tenants, kernels, and the processes that an earlier controller left running.

A stored kernel's process is looked for by the number and start time that were recorded, and among the processes that
say that they are that kernel's (`strays`): it may have been forked when there was nobody left to record it. What is
found is adopted; what says that it is a kernel that nobody wants is ended.
"""

import asyncio
import contextlib
import logging
import os
import time
from collections.abc import Callable
from typing import Final

from msgspec.structs import replace

from llmspell_fleet.controller.background import Background
from llmspell_fleet.controller.dates import date_now
from llmspell_fleet.controller.kernels.entry import Entry
from llmspell_fleet.controller.kernels.files import kill_tree
from llmspell_fleet.controller.pools.tenants import Tenants
from llmspell_fleet.controller.strays import Remnants, end_all, remnants, remove_stray_files
from llmspell_fleet.controller.supervision.supervisor import Supervisor
from llmspell_fleet.controller.work.unfinished import Unfinished
from llmspell_fleet.errors import is_own_shortage
from llmspell_fleet.model.ids import WARM
from llmspell_fleet.model.kernel import Kernel, Phase
from llmspell_fleet.paths import FleetPaths
from llmspell_fleet.policy.events import Adopted, DrainAsked, StopAsked
from llmspell_fleet.policy.lifecycle import IS_LIVE
from llmspell_fleet.router.channel import Channel, Lost
from llmspell_fleet.spawner.processes import has_ended
from llmspell_fleet.spawner.spawner import Process, Spawner
from llmspell_kernel.connection import ConnectionInfo, read_connection_file
from llmspell_kernel.errors import LlmspellError, RefusedError

_LOG: Final = logging.getLogger("llmspell.fleet")

SAME_CLOCK_S: Final = 60.0
"""A machine that sleeps counts that in one clock and not in the other: ages may differ by so much."""

LOOK_S: Final = 0.005
"""How often it is looked whether a kernel that was just forked serves."""

UNSEEN: Final = "it ended while there was no controller"
UNREACHABLE: Final = "its connection file or its sockets are gone: nobody could connect to it any more"


class Adoption:
    """One controller's start. Belongs to the event loop."""

    def __init__(
        self,
        tenants: Tenants,
        supervisor: Supervisor,
        spawner: Spawner,
        paths: FleetPaths,
        background: Background,
        unfinished: Unfinished,
        is_ours: Callable[[int], bool],
    ) -> None:
        """`is_ours` says which users are our tenants'."""
        self._tenants = tenants
        self._supervisor = supervisor
        self._spawner = spawner
        self._paths = paths
        self._background = background
        self._unfinished = unfinished
        self._is_ours = is_ours

    async def run(self, kernels: list[Kernel]) -> int:
        """Take the stored kernels in, and end what belongs to none of them; returns how many of them still run.

        RefusedError: we lack what it takes to look after them, and none is given up for that.
        """
        try:
            return await self._run(kernels)
        except OSError as fault:
            if not is_own_shortage(fault):
                raise
            raise RefusedError(
                f"the fleet's {len(kernels)} kernels cannot be taken over: {fault.strerror}. Let it have more open "
                "files (ulimit -n, or LimitNOFILE= of its service) or more memory"
            ) from None

    async def _run(self, kernels: list[Kernel]) -> int:
        self._unfinished.look(kernels, self._paths)
        found = await remnants(self._paths, self._spawner.pid, self._is_ours)
        adopted = sum(self._take(stored, found) for stored in kernels)
        strays = found.rest()
        if strays:
            await end_all(strays, "runs for a kernel that this fleet's state does not know, or knows elsewhere")
        removed = remove_stray_files(self._paths, [entry.id for entry in self._supervisor])
        if strays or removed:
            _LOG.warning(
                "this fleet's state knows nothing of %d processes and the files of %d kernels in %s: they are gone",
                len(strays),
                removed,
                self._paths.runtime,
            )
        return adopted

    def _take(self, stored: Kernel, found: Remnants) -> bool:
        """Whether a stored kernel has a process, which is taken over."""
        if stored.spec.tenant not in self._tenants and stored.spec.tenant != WARM:
            return False
        entry = self._tenants.adopt(_without_process(stored))
        process = self._process(stored, found)
        if process is None:
            if stored.pid is not None and stored.start_time is not None:
                event = self._adopted(stored, stored.pid, stored.start_time)
                self._supervisor.found_dead(entry, event, UNSEEN)
            elif not stored.is_wanted:
                self._supervisor.apply(entry, StopAsked())  # it was about to be forgotten
            elif stored.ending is not None and not stored.ending.restarts:
                self._supervisor.apply(entry, DrainAsked("drained"))  # it was to stay down, before it had a process
            return False
        self._supervisor.take_over(entry, process, self._adopted(stored, process.pid, process.start_time))
        served = stored.phase in IS_LIVE and stored.pid == process.pid
        if not self._connect(entry, process, served=served):
            self._background.run(self._connect_later(entry, process))
        return True

    def _process(self, stored: Kernel, found: Remnants) -> Process | None:
        """The one that was recorded; else one that says that it is this kernel's; else what is left of the former."""
        recorded = None
        if stored.pid is not None and stored.start_time is not None:
            recorded = self._spawner.recover(stored.id, stored.pid, stored.start_time)
            if recorded is not None and not has_ended(recorded.pidfd):
                found.take(stored.id, recorded.pid)
                return recorded
        remnant = found.take(stored.id)
        process = self._spawner.recover(stored.id, remnant.pid, remnant.start_time) if remnant is not None else None
        if process is not None and recorded is not None:
            os.close(recorded.pidfd)
        return process or recorded

    def _adopted(self, stored: Kernel, pid: int, start_time: int) -> Adopted:
        is_as_stored = (pid, start_time) == (stored.pid, stored.start_time)
        return Adopted(
            # A first process may be there before its record, which says that there was none yet.
            incarnation=max(1, stored.incarnation),
            pid=pid,
            start_time=start_time,
            at=_began_at(stored.spawned_at if is_as_stored else 0.0, start_time),
            date=stored.started_at if is_as_stored and stored.started_at else date_now(),
            ending=stored.ending,
        )

    async def _connect_later(self, entry: Entry, process: Process) -> None:
        """It was about to start, and has nobody to tell when it serves: its file says so. Else it will be late."""
        while entry.process is process and entry.kernel.phase in {Phase.STARTING, Phase.DRAINING}:
            if self._connect(entry, process):
                return
            await asyncio.sleep(LOOK_S)

    def _connect(self, entry: Entry, process: Process, *, served: bool = False) -> bool:
        """Whether nothing is to be waited for: it serves, and is asked now, or it `served` and nobody can ask it."""
        try:
            connection = self._connection(entry, process)
            if connection is None and not served:
                return False
            # It binds its sockets before it writes its file.
            if connection is None or not _has_socket(connection):
                raise FileNotFoundError
            self._supervisor.connect(entry, connection, self._unfinished.asked_of(entry.id))
        except OSError as fault:
            if is_own_shortage(fault):
                return False
            # What nobody can connect to is of no use to anybody, and does not mend by itself.
            self._supervisor.refused(entry.id, process.pid, UNREACHABLE)
            kill_tree(process)
            return True
        if entry.channel is not None and entry.tenant in self._tenants:
            self._background.run(self._carry(entry, entry.channel))
        return True

    def _connection(self, entry: Entry, process: Process) -> ConnectionInfo | None:
        """What the process's own file says; its predecessor's is not its own."""
        try:
            connection = read_connection_file(os.path.join(self._paths.runtime, f"kernel-{entry.id}.json"))
        except LlmspellError:
            return None
        except OSError as fault:
            if is_own_shortage(fault):
                raise
            return None
        return connection if connection.start_time == process.start_time else None

    async def _carry(self, entry: Entry, channel: Channel) -> None:
        """What it runs for others than us is its load too, until it is answered."""
        pool = self._tenants.get(entry.tenant).pool

        def answered(_answer: "asyncio.Future[bytes]") -> None:
            pool.add_load(entry.id, -1)

        with contextlib.suppress(Lost):
            for answer in (await channel.inherited()).line:
                pool.add_load(entry.id, 1)
                answer.add_done_callback(answered)


def _has_socket(connection: ConnectionInfo) -> bool:
    """Whether what is connected to is there, where that can be seen."""
    return connection.transport != "ipc" or os.path.exists(connection.endpoint("shell").removeprefix("ipc://"))


def _without_process(stored: Kernel) -> Kernel:
    """As stored, but where it said that there is a process, that has to be seen first."""
    is_down = stored.is_wanted and stored.phase in {Phase.STOPPED, Phase.FAILED}
    return replace(
        stored,
        phase=stored.phase if is_down else Phase.PENDING,
        pid=None,
        start_time=None,
        ready_at=0.0,
        crashes=(),
        ending=None,
    )


def _began_at(recorded: float, start_time: int) -> float:
    """When a process began, on this controller's clock: as it was recorded, unless that was on another clock."""
    age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - start_time / os.sysconf("SC_CLK_TCK")
    began_at = asyncio.get_running_loop().time() - max(0.0, age_s)
    return recorded if abs(recorded - began_at) < SAME_CLOCK_S else began_at
