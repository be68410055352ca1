"""Looks after live kernels: those that fall silent and those that are suspended (`policy.liveness` has the rules).

A zygote tells of suspensions of what it forked. Of other processes (an earlier controller's, or of a fresh interpreter)
the system says so in /proc, which is read once a second for each, a tenth of them at a time.
"""

import asyncio
import logging
import random
import signal
from collections.abc import Callable, Coroutine
from typing import Any, Final

from llmspell_fleet.controller.kernels.entry import Entry
from llmspell_fleet.controller.kernels.files import send_signal
from llmspell_fleet.controller.supervision.supervisor import Supervisor
from llmspell_fleet.model.ids import KernelId
from llmspell_fleet.model.kernel import Kernel
from llmspell_fleet.policy.events import Silent, Unresponsive
from llmspell_fleet.policy.lifecycle import IS_LIVE
from llmspell_fleet.policy.liveness import Ask, Doubt, ProbePolicy, Rest, is_given_up, look, verdict
from llmspell_fleet.router.probe import take_vitals
from llmspell_fleet.spawner.processes import is_suspended

_LOG: Final = logging.getLogger("llmspell.fleet")

SLICES: Final = 10
SLICE_S: Final = 0.1
"""Of the processes whose suspension nobody tells, so many slices are looked at in turn, one each time."""

RESUMED_S: Final = 0.5
"""What a kernel that was told to go on gets to answer, on each of the two looks: it was well a moment ago."""


class _Watch:
    """What is known of one incarnation's silence."""

    __slots__ = ("asked_at", "incarnation", "is_examined", "meant_for", "patience_s", "suspended_at", "timer")

    def __init__(self, incarnation: int) -> None:
        self.incarnation = incarnation
        self.asked_at: float | None = None
        self.meant_for = 0.0
        self.patience_s = 0.0
        self.is_examined = False
        self.suspended_at: tuple[float, ...] = ()
        self.timer: asyncio.TimerHandle | None = None


class Liveness:
    """Belongs to the event loop."""

    def __init__(
        self,
        supervisor: Supervisor,
        *,
        policy: ProbePolicy,
        helper: Callable[[], int | None],
        later: Callable[[Coroutine[Any, Any, None]], object],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._supervisor = supervisor
        self.policy = policy
        self._helper = helper
        """The pid of the spawner's helper now."""
        self._later = later
        """Runs a coroutine in the background."""
        self._watches: dict[KernelId, _Watch] = {}
        supervisor.on_suspended = self.suspended

    # --- silence

    def kernel_changed(self, entry: Entry, _was: Kernel) -> None:
        """A kernel's record was replaced: watch it while it is live."""
        watch = self._watches.get(entry.id)
        is_live = entry.kernel.phase in IS_LIVE
        if watch is not None and not (is_live and watch.incarnation == entry.kernel.incarnation):
            self._forget(entry.id, watch)
            watch = None
        if is_live and watch is None:
            watch = self._watches[entry.id] = _Watch(entry.kernel.incarnation)
            # Kernels that were started together are not asked together.
            self._look_in(entry, watch, self.policy.interval_s * (0.5 + 0.5 * random.random()))

    def _forget(self, kernel: KernelId, watch: _Watch) -> None:
        if watch.timer is not None:
            watch.timer.cancel()
        del self._watches[kernel]

    def _look_in(self, entry: Entry, watch: _Watch, after_s: float) -> None:
        if watch.timer is not None:
            watch.timer.cancel()
        watch.meant_for = self._loop.time() + after_s
        watch.timer = self._loop.call_later(after_s, self._look, entry, watch)

    def _look(self, entry: Entry, watch: _Watch) -> None:
        channel = entry.channel
        if channel is None or watch.is_examined:
            return
        step = look(
            heard_at=channel.heard_at,
            asked_at=watch.asked_at,
            patience_s=watch.patience_s,
            meant_for=watch.meant_for,
            now=self._loop.time(),
            policy=self.policy,
        )
        match step:
            case Rest(for_s):
                self._look_in(entry, watch, for_s)
            case Ask():
                self._ask(entry, watch, self.policy.timeout_s)
            case Doubt():
                self._supervisor.apply(entry, Silent(watch.incarnation))
                self._later(self._examine(entry, watch))

    def _ask(self, entry: Entry, watch: _Watch, patience_s: float) -> None:
        if entry.channel is not None:
            watch.asked_at, watch.patience_s = self._loop.time(), patience_s
            entry.channel.greet()
            self._look_in(entry, watch, patience_s)

    async def _examine(self, entry: Entry, watch: _Watch) -> None:
        """Look more closely at a kernel that did not answer."""
        channel, connection = entry.channel, entry.connection
        if channel is None or connection is None:
            return
        watch.is_examined = True
        asked_at = watch.asked_at or 0.0
        is_resumed = watch.patience_s == RESUMED_S
        deadline_s = RESUMED_S if is_resumed else self.policy.deadline_s
        try:
            vitals = await take_vitals(connection, timeout_s=deadline_s)
        except OSError as fault:
            _LOG.warning("kernel %s is silent, and cannot be looked at: %s", entry.id, fault)
            vitals = None
        finally:
            watch.is_examined = False
        if self._watches.get(entry.id) is not watch:
            return  # another incarnation by now
        silent_s = self._loop.time() - channel.heard_at
        reason = None
        if vitals is not None:
            reason = verdict(control=vitals.control, heartbeat=vitals.heartbeat, silent_s=silent_s)
        if reason is None or channel.heard_at >= asked_at:
            self._ask(entry, watch, self.policy.interval_s)
        else:
            self._supervisor.apply(entry, Unresponsive(watch.incarnation, reason))

    # --- suspension

    def suspended(self, entry: Entry, is_suspended: bool) -> None:
        """A signal suspended a kernel's process, or let it go on."""
        kernel = entry.kernel
        self._supervisor.emit(entry, "kernel.suspended" if is_suspended else "kernel.resumed", {"pid": kernel.pid})
        watch = self._watches.get(entry.id)
        if not is_suspended or not self.policy.resumes or entry.process is None:
            return
        now = self._loop.time()
        if watch is not None:
            watch.suspended_at = (*watch.suspended_at[-8:], now)
            if is_given_up(watch.suspended_at, now=now):
                reason = "it is suspended (SIGSTOP) whenever it is told to go on"
                self._supervisor.apply(entry, Unresponsive(watch.incarnation, reason))
                return
        send_signal(entry.process, signal.SIGCONT)
        if watch is not None:
            self._ask(entry, watch, RESUMED_S)

    async def run(self) -> None:
        """Find suspended processes that nobody tells of, until cancelled."""
        suspended: set[KernelId] = set()
        while True:
            untold = self._supervisor.told_by_others_than(self._helper())
            suspended &= {entry.id for entry in untold}
            for turn in range(SLICES if untold else 0):
                await asyncio.sleep(SLICE_S)
                suspended = self._look_at(untold[turn::SLICES], suspended)
            if not untold:
                await asyncio.sleep(SLICES * SLICE_S)

    def _look_at(self, entries: list[Entry], suspended: set[KernelId]) -> set[KernelId]:
        """Of a few: what changed of those that were `suspended`; returns those that are."""
        for entry in entries:
            was, is_now = entry.id in suspended, entry.process is not None and is_suspended(entry.process.pid)
            if is_now or was:
                self.suspended(entry, is_now)
            suspended = suspended | {entry.id} if is_now else suspended - {entry.id}
        return suspended
