"""Real spawners, what they tell, and the processes that they start: all ended by pidfd."""

import asyncio
import contextlib
import itertools
import os
import select
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

from llmspell_fleet.model.ids import KernelId
from llmspell_fleet.spawner.scripted import ScriptedSpawner
from llmspell_fleet.spawner.spawner import Process, Spawner
from llmspell_fleet.spawner.subprocess import SubprocessSpawner
from llmspell_fleet.spawner.zygote import ZygoteSpawner
from llmspell_kernel.client.kernel_client import ExecuteOutcome, KernelClient
from llmspell_kernel.connection import ConnectionInfo, new_kernel_id
from llmspell_kernel.zygote.confine import kernel_environment
from llmspell_kernel.zygote.protocol import Probed, Spares, StartKernel
from support.kernels import READY_S, short_folder

SPAWNERS: dict[str, Callable[[dict[str, str]], Spawner]] = {
    "zygote": ZygoteSpawner,
    "subprocess": SubprocessSpawner,
    "scripted": lambda environ: ScriptedSpawner(ZygoteSpawner(environ), environ=environ),
}


class Told:
    """A SpawnerListener that keeps what it hears, in order, and lets a test wait for it."""

    def __init__(self) -> None:
        self.order: list[tuple[str, object]] = []
        """What was told, and of which kernel or process."""
        self.processes: dict[KernelId, Process] = {}
        self.connections: dict[KernelId, ConnectionInfo] = {}
        self.failures: dict[KernelId, str] = {}
        self.refusals: dict[KernelId, str] = {}
        self.statuses: dict[int, int] = {}
        """Wait statuses by pid."""
        self.losses: list[str] = []
        self.probed: dict[KernelId, Probed] = {}
        self._news = asyncio.Event()

    def started(self, kernel: KernelId, process: Process) -> None:
        self.processes[kernel] = process
        self._note("started", kernel)

    def start_failed(self, kernel: KernelId, reason: str) -> None:
        self.failures[kernel] = reason
        self._note("start_failed", kernel)

    def serving(self, kernel: KernelId, pid: int, connection: ConnectionInfo) -> None:
        assert connection.pid == pid
        self.connections[kernel] = connection
        self._note("serving", kernel)

    def refused(self, kernel: KernelId, pid: int, reason: str) -> None:  # noqa: ARG002
        self.refusals[kernel] = reason
        self._note("refused", kernel)

    def exited(self, pid: int, status: int) -> None:
        self.statuses[pid] = status
        self._note("exited", pid)

    def suspended(self, pid: int, *, is_suspended: bool) -> None:
        self._note("suspended" if is_suspended else "resumed", pid)

    def lost(self, reason: str) -> None:
        self.losses.append(reason)
        self._note("lost", reason)

    def spares_changed(self) -> None:
        self._news.set()

    def hear_probe(self, probed: Probed) -> None:
        """What became of a probe (`on_probed` of the spawners)."""
        kernel = KernelId(probed.kernel_id)
        self.probed[kernel] = probed
        self._note("probed", kernel)

    def of(self, whom: object) -> list[str]:
        """What was told of a kernel or a pid, in order."""
        return [what for what, about in self.order if about == whom]

    def _note(self, what: str, about: object) -> None:
        self.order.append((what, about))
        self._news.set()

    async def until(self, is_so: Callable[[], object], what: str) -> None:
        """Wait for more news until something holds."""
        try:
            async with asyncio.timeout(READY_S):
                while not is_so():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            raise AssertionError(f"waited {READY_S:g} s in vain for {what}; heard {self.order}") from None


class Spawning:
    """One open spawner, its listener, and the folder of its kernels."""

    def __init__(self, spawner: Spawner, told: Told, folder: Path, owner: int | None) -> None:
        self._owner = owner
        self.spawner = spawner
        self.told = told
        self.folder = folder
        self._tickets = itertools.count(1)
        self._is_open = True

    async def close(self) -> None:
        """Close the spawner now."""
        if self._is_open:
            self._is_open = False
            await self.spawner.close()

    def request(self, **given: Any) -> StartKernel:
        """A request for a new kernel, with the files that a fleet gives one."""
        kernel = given.pop("kernel_id", new_kernel_id())
        output = self.folder / f"{kernel}.output"
        if not output.exists():
            os.mkfifo(output, 0o600)
            if self._owner is not None:
                os.chown(output, self._owner, self._owner)
        files = {"output": str(output), "progress_file": str(self.folder / f"{kernel}.progress")}
        return StartKernel(ticket=next(self._tickets), kernel_id=kernel, **{**files, **given})

    async def spare(self) -> None:
        """Have one process that waits, and wait until it does."""
        self.spawner.have_spares(1)
        await self.told.until(lambda: self.spawner.spares == Spares(1), "a spare")

    def ask(self, **given: Any) -> KernelId:
        """Ask for a kernel, and do not wait."""
        request = self.request(**given)
        self.spawner.start(request)
        return KernelId(request.kernel_id)

    async def start(self, **given: Any) -> Process:
        """Start a kernel, and wait until it serves."""
        kernel = self.ask(**given)
        await self.served(kernel)
        return self.told.processes[kernel]

    async def served(self, *kernels: KernelId) -> None:
        """Wait until they answer."""
        await self.reported(*kernels)
        await asyncio.gather(*(asyncio.to_thread(_connect, self.told.connections[kernel]) for kernel in kernels))

    async def reported(self, *kernels: KernelId) -> None:
        """Wait until they say that they serve."""
        told = self.told
        await told.until(
            lambda: all(kernel in told.connections and kernel in told.processes for kernel in kernels), "kernels"
        )

    async def probe(self, name: str, target: str = "", **given: Any) -> Probed:
        """Run a probe in a kernel's place, and wait for what becomes of it."""
        kernel = self.ask(probe=name, probe_target=target, **given)
        await self.told.until(
            lambda: kernel in self.told.processes and (kernel in self.told.probed or kernel in self.told.refusals),
            f"probe {name}",
        )
        assert kernel not in self.told.refusals, self.told.refusals[kernel]
        return self.told.probed[kernel]

    def connection(self, process: Process) -> ConnectionInfo:
        """Where the kernel of a process listens."""
        (found,) = (kernel for kernel, other in self.told.processes.items() if other == process)
        return self.told.connections[found]

    async def run(self, process: Process, code: str) -> str | None:
        """The text of a result."""
        outcome = await self.execute(process, code)
        assert outcome.status == "ok", outcome
        return None if outcome.result is None else str(outcome.result["text/plain"])

    async def execute(self, process: Process, code: str) -> ExecuteOutcome:
        """Run a cell as an ordinary client."""
        return await asyncio.to_thread(_execute, self.connection(process), code)

    async def status(self, process: Process) -> int:
        """The wait status that is told of a process."""
        await self.told.until(lambda: process.pid in self.told.statuses, f"the end of process {process.pid}")
        return self.told.statuses[process.pid]


def _connect(connection: ConnectionInfo) -> None:
    with KernelClient(connection) as client:
        client.connect(READY_S)


def _execute(connection: ConnectionInfo, code: str) -> ExecuteOutcome:
    with KernelClient(connection) as client:
        client.connect(READY_S)
        return client.execute(code, timeout_s=READY_S)


async def eventually(is_so: Callable[[], object], what: str) -> None:
    """Wait for something that nobody tells, while the loop goes on."""
    try:
        async with asyncio.timeout(READY_S):
            while not is_so():  # noqa: ASYNC110
                await asyncio.sleep(0.01)
    except TimeoutError:
        raise AssertionError(f"waited {READY_S:g} s in vain for {what}") from None


def has_ended(process: Process, within_s: float = READY_S) -> bool:
    """Whether a process ends in time, by its pidfd."""
    poll = select.poll()
    poll.register(process.pidfd, select.POLLIN)
    return bool(poll.poll(within_s * 1000))


def end(process: Process) -> None:
    """Kill a process, if it is still there, and let go of it."""
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(process.pidfd, signal.SIGKILL)
    assert has_ended(process)
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PIDFD, process.pidfd, os.WEXITED | os.WNOHANG)
    os.close(process.pidfd)


@contextlib.asynccontextmanager
async def spawning(
    kind: str, *, forks: int = 0, owner: int | None = None, environ: dict[str, str] | None = None, **supervisors: str
) -> AsyncIterator[Spawning]:
    """A spawner that is open; afterwards every process that it started is gone.

    `forks` is after how many a zygote is renewed; `supervisors` is the supervisor's environment, `environ` goes to the spawner's processes past the allow-list;
    the folders are `owner`'s.
    """
    with short_folder() as folder, _ended_afterwards() as told:
        dirs = {f"LLMSPELL_{name}_DIR": str(folder / name.lower()) for name in ("RUNTIME", "STATE", "LOG")}
        if owner is not None:
            os.chown(folder, owner, owner)
        given = {**kernel_environment({**os.environ, **dirs, **supervisors}), **(environ or {})}
        spawner = ZygoteSpawner(given, forks) if forks else SPAWNERS[kind](given)
        if isinstance(spawner, ZygoteSpawner | SubprocessSpawner):
            spawner.on_probed = told.hear_probe
        await spawner.open(told)
        site = Spawning(spawner, told, folder, owner)
        try:
            yield site
        finally:
            await site.close()


@contextlib.contextmanager
def _ended_afterwards() -> Iterator[Told]:
    told = Told()
    try:
        yield told
    finally:
        for process in told.processes.values():
            end(process)
