"""A spawner that does as it is told to go wrong: for trying out what a fleet does when starts fail, hang or crash.

It stands before a real one, and its processes are real.
"""

import os
import signal
from collections import deque
from collections.abc import Iterable, Mapping
from typing import Literal, get_args

from llmspell_fleet.model.ids import KernelId
from llmspell_fleet.spawner.misbehaving import Misbehaviour
from llmspell_fleet.spawner.spawner import Process, Spawner, SpawnerListener
from llmspell_fleet.spawner.subprocess import SubprocessSpawner
from llmspell_kernel.connection import ConnectionInfo
from llmspell_kernel.zygote.confine import kernel_environment
from llmspell_kernel.zygote.protocol import Spares, StartKernel

Step = Literal["pass", "fail", "hang", "crash_early", "crash_late", "refuse"] | Misbehaviour
"""pass: as the real one does; fail: no process; hang: a process that never reports; crash_early: killed once it exists;
crash_late: killed when it reports; refuse: says that it cannot serve, and is killed. The rest: see `misbehaving`."""


class ScriptedSpawner:
    """Plays a script of steps, one for each start, and then passes."""

    def __init__(self, real: Spawner, script: Iterable[Step] = (), *, environ: Mapping[str, str] | None = None) -> None:
        """`environ` is for what misbehaves: None = a kernel's in this process's."""
        self._real = real
        self.script: deque[Step] = deque(script)
        self._steps: dict[KernelId, Step] = {}
        given = kernel_environment(dict(os.environ)) if environ is None else dict(environ)
        self._misbehaving = {
            how: SubprocessSpawner(given, module=("llmspell_fleet.spawner.misbehaving", how))
            for how in get_args(Misbehaviour)
        }
        self._listener: SpawnerListener

    @property
    def pid(self) -> int | None:
        """The real one's."""
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
        """Open the real one, and listen in its listener's place."""
        self._listener = listener
        await self._real.open(self)
        for spawner in self._misbehaving.values():
            await spawner.open(self)

    def start(self, request: StartKernel) -> None:
        """Play the next step."""
        kernel = KernelId(request.kernel_id)
        step = self.script.popleft() if self.script else "pass"
        if step == "fail":
            self._listener.start_failed(kernel, "scripted: no process")
            return
        self._steps[kernel] = step
        self._misbehaving.get(step, self._real).start(request)

    @property
    def spares(self) -> Spares | None:
        """The real one's."""
        return self._real.spares

    def have_spares(self, number: int) -> None:
        """As the real one."""
        self._real.have_spares(number)

    def recover(self, kernel: KernelId, pid: int, start_time: int) -> Process | None:
        """As the real one."""
        return self._real.recover(kernel, pid, start_time)

    async def close(self) -> None:
        """As the real one."""
        for spawner in self._misbehaving.values():
            await spawner.close()
        await self._real.close()

    # --- what the real one tells

    def started(self, kernel: KernelId, process: Process) -> None:
        """Pass it on, and crash early."""
        if self._steps.get(kernel) == "crash_early":
            signal.pidfd_send_signal(process.pidfd, signal.SIGKILL)
        self._listener.started(kernel, process)

    def start_failed(self, kernel: KernelId, reason: str) -> None:
        """Pass it on."""
        self._listener.start_failed(kernel, reason)

    def serving(self, kernel: KernelId, pid: int, connection: ConnectionInfo) -> None:
        """Pass it on, swallow it, or crash late."""
        match self._steps.get(kernel):
            case "hang" | "crash_early":
                return
            case "refuse":
                self._listener.refused(kernel, pid, "scripted: it cannot serve")
                os.kill(pid, signal.SIGKILL)
            case "crash_late":
                os.kill(pid, signal.SIGKILL)
                self._listener.serving(kernel, pid, connection)
            case _:
                self._listener.serving(kernel, pid, connection)

    def refused(self, kernel: KernelId, pid: int, reason: str) -> None:
        """Pass it on."""
        self._listener.refused(kernel, pid, reason)

    def exited(self, pid: int, status: int) -> None:
        """Pass it on."""
        self._listener.exited(pid, status)

    def suspended(self, pid: int, *, is_suspended: bool) -> None:
        """Pass it on."""
        self._listener.suspended(pid, is_suspended=is_suspended)

    def lost(self, reason: str) -> None:
        """Pass it on."""
        self._listener.lost(reason)

    def spares_changed(self) -> None:
        """Pass it on."""
        self._listener.spares_changed()
