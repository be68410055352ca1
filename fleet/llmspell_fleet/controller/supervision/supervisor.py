"""The one loop over kernels: what happened goes to `policy.lifecycle`, and what that says is done here.

**Threads.** None of its own; everything is called on the event loop. The only waiting is for the store, before a spawn.
"""

import asyncio
import contextlib
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Protocol, assert_never

from msgspec.structs import replace

from llmspell_fleet.controller.dates import date_now
from llmspell_fleet.controller.events import Events
from llmspell_fleet.controller.kernels import files
from llmspell_fleet.controller.kernels.dependencies import Dependencies
from llmspell_fleet.controller.kernels.entry import Entries, Entry
from llmspell_fleet.controller.kernels.output import Output
from llmspell_fleet.controller.limits.holding import Holder
from llmspell_fleet.controller.supervision.endings import Endings
from llmspell_fleet.controller.supervision.orphans import Orphans
from llmspell_fleet.controller.supervision.starting import Starts
from llmspell_fleet.controller.supervision.stopping import step
from llmspell_fleet.errors import is_own_shortage
from llmspell_fleet.model.event import EventType
from llmspell_fleet.model.ids import KernelId, TenantId
from llmspell_fleet.model.kernel import Cause, Death, Kernel, KernelSpec, Phase
from llmspell_fleet.paths import FleetPaths
from llmspell_fleet.policy.actions import (
    Action,
    Circumstances,
    Emit,
    Interrupt,
    Kill,
    SetTimer,
    ShutDown,
    Spawn,
    Terminate,
)
from llmspell_fleet.policy.events import (
    Adopted,
    Answered,
    Changed,
    Drained,
    Exited,
    LifecycleEvent,
    Spawned,
    SpawnFailed,
    StartAsked,
    TimerFired,
    Unresponsive,
)
from llmspell_fleet.policy.lifecycle import HAS_PROCESS, transition
from llmspell_fleet.policy.restart import RestartPolicy
from llmspell_fleet.router.channel import Channel
from llmspell_fleet.spawner.spawner import Process, Spawner
from llmspell_fleet.store.store import Store
from llmspell_kernel.connection import ConnectionInfo

AGAIN_S: Final = 0.1
"""When it is tried again to connect to a kernel after we had nothing to do it with."""


class SupervisionMetrics(Protocol):
    """What is counted here."""

    def kernel_started(self, tenant: TenantId, seconds: float) -> None:
        """A kernel answered, so long after it was asked for."""
        ...

    def kernel_died(self, tenant: TenantId, cause: Cause) -> None:
        """An incarnation ended."""
        ...

    def kernel_restarted(self, tenant: TenantId, cause: Cause) -> None:
        """Another one follows it at once."""
        ...


class Supervisor(Entries):
    """Owns every kernel's `Entry`; a `spawner.SpawnerListener`."""

    def __init__(
        self,
        *,
        spawner: Spawner,
        store: Store,
        events: Events,
        metrics: SupervisionMetrics,
        paths: FleetPaths,
        holder: Holder,
        policy: RestartPolicy,
        log_level: str = "info",
    ) -> None:
        super().__init__()
        self._loop, self._spawner = asyncio.get_running_loop(), spawner
        self._store, self._paths = store, paths
        self._events, self._metrics = events, metrics
        self.holder, self.policy = holder, policy
        self._endings = Endings(self._entries, self._ended, holder.why_killed)
        self.dependencies = Dependencies(self._entries)
        self._orphans = Orphans(lambda: _own_children(self, spawner))
        self.starts = Starts(spawner, store, paths, holder, self.start_failed, log_level=log_level)
        self.is_closing = False
        """The fleet ends: processes do, and what should be is left as it is."""
        self.lasting: Callable[[Kernel], Kernel] = lambda kernel: kernel
        """What is recorded of a kernel."""
        self.on_change: Callable[[Entry, Kernel], None] = lambda _entry, _was: None
        """Called with an entry and its record before, each time that the record was replaced."""
        self.on_spares: Callable[[], None] = lambda: None
        """Called when the spawner has more or fewer spares."""
        self.on_suspended: Callable[[Entry, bool], None] = lambda _entry, _is_suspended: None

    # --- what there is

    def add(self, kernel: Kernel) -> Entry:
        """Take a kernel in; it has no process of ours yet."""
        output = Output(files.fifo_path(self._paths, kernel.id), _log_files(self._paths, kernel.spec))
        entry = self._entries[kernel.id] = Entry(kernel, output)
        self._store.save_kernel(kernel)
        self.holder.take_in(entry)
        return entry

    def forget(self, entry: Entry) -> None:
        """A kernel without a process leaves for good, and its files with it."""
        assert entry.kernel.phase not in HAS_PROCESS
        entry.clear_timer()
        entry.output.end(self._loop)
        files.remove_kernel_files(self._paths, entry.kernel.spec)
        self.holder.forget(entry)
        del self._entries[entry.id]
        self._store.delete_kernel(entry.id)

    def change_spec(self, entry: Entry, spec: KernelSpec) -> None:
        """What it should be: its limits now, where that can be, and the rest from its next incarnation on."""
        is_aging = _aging(spec) != _aging(entry.kernel.spec)
        entry.kernel = replace(entry.kernel, spec=spec)
        entry.output.log_files = _log_files(self._paths, spec)
        self._store.save_kernel(entry.kernel)
        if is_aging:
            self.apply(entry, Changed())
        self.holder.change(entry)

    # --- events to actions

    def apply(self, entry: Entry, event: LifecycleEvent) -> None:
        """Something happened to a kernel: decide, then do."""
        was = entry.kernel
        kernel, actions = transition(was, event, _circumstances(self, entry))
        if kernel is was and not actions:
            return
        entry.kernel = kernel
        if kernel.generation != was.generation:
            entry.clear_timer()
        for action in actions:
            self._act(entry, action)
        self._store.save_kernel(self.lasting(kernel))
        if kernel.phase is Phase.READY and was.phase is Phase.STARTING:
            self._metrics.kernel_started(entry.tenant, self._loop.time() - entry.asked_at)
            self.holder.ready(entry)
        self.on_change(entry, was)
        entry.changed()
        if kernel.phase is not was.phase or kernel.pid != was.pid:
            for freed in self.dependencies.freed_by(entry):
                self._loop.call_soon(self._free, freed)

    def _free(self, entry: Entry) -> None:
        if entry.kernel.is_wanted and entry.kernel.phase is Phase.PENDING:
            self.apply(entry, StartAsked())

    def _act(self, entry: Entry, action: Action) -> None:
        match action:
            case Spawn():
                entry.asked_at = self._loop.time()
                if entry.kernel.last_death is not None:
                    self._metrics.kernel_restarted(entry.tenant, entry.kernel.last_death.cause)
                self.starts.ask(entry)
            case Interrupt() | ShutDown() | Terminate() | Kill():
                step(entry, action)
            case SetTimer(generation, after_s):
                entry.clear_timer()
                entry.timer = self._loop.call_later(after_s, self.apply, entry, TimerFired(generation))
            case Emit(event_type, data):
                self.emit(entry, event_type, data)
            case _:
                assert_never(action)

    def emit(self, entry: Entry, event_type: EventType, data: dict[str, object] | None = None) -> None:
        """Something that happened to a kernel, for whoever follows the events."""
        self._events.emit(event_type, entry.tenant, entry.id, data)

    # --- starting

    def started(self, kernel: KernelId, process: Process) -> None:
        """There is a process (SpawnerListener)."""
        entry = self._entries[kernel]
        entry.process, entry.is_adopted, entry.helper = process, False, self._spawner.pid
        self._endings.watch(entry)
        now = self._loop.time()
        self.apply(entry, Spawned(entry.kernel.incarnation, process.pid, process.start_time, now, date_now()))
        if entry.early is not None:
            self.serving(kernel, *entry.early)

    def take_over(self, entry: Entry, process: Process, event: Adopted) -> None:
        """A process of an earlier controller's is this kernel's."""
        entry.process, entry.is_adopted, entry.helper, entry.asked_at = process, True, None, self._loop.time()
        self._endings.watch(entry)
        self.holder.adopt(entry)
        self.apply(entry, event)
        entry.output.begin(event.incarnation)
        # Who has lost its folder is heard no more, and serves on.
        with contextlib.suppress(OSError):
            entry.output.open(self._loop)

    def found_dead(self, entry: Entry, event: Adopted, reason: str) -> None:
        """A process of an earlier controller's has ended, and nobody knows how."""
        self.apply(entry, event)
        self._ended(entry, replace(self._endings.certificate(entry, "unknown", reason), pid=event.pid))

    def start_failed(self, kernel: KernelId, reason: str, is_permanent: bool = False) -> None:
        """There is no process (SpawnerListener); `is_permanent`: nor would there be at another try."""
        entry = self._entries[kernel]
        death = self._endings.certificate(entry, "spawn_failed", reason)
        self.apply(entry, SpawnFailed(death, is_permanent))
        self._record(entry, death)

    def serving(self, kernel: KernelId, pid: int, connection: ConnectionInfo) -> None:
        """It has bound its sockets (SpawnerListener): greet it, and when it answers it is ready."""
        entry = self._entries.get(kernel)
        if entry is None or entry.kernel.phase is not Phase.STARTING:
            return
        if entry.process is None or entry.process.pid != pid:
            entry.early = pid, connection
            return
        if not entry.is_written(lambda: self.serving(kernel, pid, connection)):
            return
        try:
            self.connect(entry, connection)
        except OSError as fault:
            if is_own_shortage(fault):
                self._loop.call_later(AGAIN_S, self.serving, kernel, pid, connection)
            else:
                self.apply(entry, Unresponsive(entry.kernel.incarnation, f"it says that it serves, and {fault}"))

    def connect(self, entry: Entry, connection: ConnectionInfo, executions: Sequence[str] | None = None) -> None:
        """Open the connection to an incarnation that serves; `executions` of an earlier controller are asked for."""
        incarnation, entry.connection = entry.kernel.incarnation, connection
        entry.channel = Channel(
            entry.id,
            connection,
            progress_path=files.progress_path(self._paths, entry.id),
            proof=self.holder.proof(entry.id),
            output_bytes=entry.kernel.spec.limits.output_bytes,
            on_answered=lambda: self.apply(entry, Answered(incarnation)),
            on_idle=lambda: self.idle(entry),
            on_offence=lambda reason: self.apply(entry, Unresponsive(incarnation, reason)),
        )
        if executions is not None:
            entry.channel.adopt(executions)
        entry.channel.greet()

    def idle(self, entry: Entry) -> None:
        """An execution or a lease ended: it may have been the last."""
        if entry.kernel.ending is not None and not entry.load and not entry.leases:
            self.apply(entry, Drained())

    def refused(self, kernel: KernelId, pid: int, reason: str) -> None:
        """It cannot serve (SpawnerListener): its end, which follows, is told with this reason."""
        if kernel in self._entries:
            self._endings.explain(pid, reason)

    def exited(self, pid: int, status: int) -> None:
        """It was reaped (SpawnerListener)."""
        self._endings.reaped(pid, status)

    def suspended(self, pid: int, *, is_suspended: bool) -> None:
        """A signal suspended it, or let it go on (SpawnerListener)."""
        if (entry := self._endings.watched(pid)) is not None:
            self.on_suspended(entry, is_suspended)

    def lost(self, reason: str) -> None:
        """The spawner's helper died (SpawnerListener)."""
        self._events.emit("zygote.died", data={"reason": reason})
        self._orphans.look_soon()  # what it had forked for nobody yet is our child now

    def spares_changed(self) -> None:
        """What waits to become a kernel (SpawnerListener)."""
        self.on_spares()

    # --- ending

    def _ended(self, entry: Entry, death: Death) -> None:
        """The process of `entry` is gone, and it is known why."""
        channel, entry.channel = entry.channel, None
        if entry.process is not None:
            files.remove_process_files(self._paths, entry.kernel.spec, entry.process.pid, entry.isolation_level)
        self._orphans.look(entry.id, death.pid, is_adopted=entry.is_adopted or entry.process is None)
        entry.process = None
        self.holder.ended(entry)
        self.apply(entry, Exited(death))
        recorded = self._record(entry, death)
        if channel is not None:
            channel.end(recorded)

    def _record(self, entry: Entry, seen: Death) -> Death:
        """Keep the certificate; `policy.lifecycle` knows more of the cause than was seen from outside."""
        death = entry.kernel.last_death or seen
        self._store.record_death(death)
        self._metrics.kernel_died(entry.tenant, death.cause)
        return death

    def close(self) -> None:
        """Let go of everything; the kernels' files go with their processes."""
        self._orphans.close()
        for entry in self:
            entry.clear_timer()
            entry.output.end(self._loop)
            if entry.kernel.phase not in HAS_PROCESS:
                files.remove_kernel_files(self._paths, entry.kernel.spec)
        self._endings.close()


def _circumstances(of: Supervisor, entry: Entry) -> Circumstances:
    return Circumstances(
        now=asyncio.get_running_loop().time(),
        policy=of.policy,
        jitter=random.random(),
        executions=entry.load,
        leases=entry.leases,
        is_blocked=of.dependencies.blocks(entry),
        is_closing=of.is_closing,
    )


def _log_files(paths: FleetPaths, spec: KernelSpec) -> list[str]:
    return [paths.kernel_log(spec.id), *filter(None, [spec.log_file])]


def _aging(spec: KernelSpec) -> tuple[float, float]:
    return spec.max_age_s, spec.max_age_variance


def _own_children(entries: Iterable[Entry], spawner: Spawner) -> set[int]:
    """Children of this process that are to be: whoever helps to start kernels, and kernels themselves."""
    own = {entry.process.pid for entry in entries if entry.process is not None}
    return {*own, *spawner.pids}
