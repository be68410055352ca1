"""How processes end: noticed by pidfd within milliseconds, explained by an exit status, told by a death certificate.

The pidfd tells at once that a process has ended. Its status comes from whoever reaps it (the zygote reports it, or it
is our own child), or from the system: while it is a zombie, and to the holder of its pidfd afterwards (Linux 6.15).
"""

import asyncio
import os
import signal
from collections.abc import Callable, Mapping
from typing import Final

from llmspell_fleet.controller.dates import date_now
from llmspell_fleet.controller.kernels.entry import Entry
from llmspell_fleet.model.ids import KernelId
from llmspell_fleet.model.kernel import Cause, Death
from llmspell_fleet.policy.death import how_it_ended
from llmspell_fleet.spawner.processes import exit_status

ASK_AGAIN_S: Final = 0.010
GIVE_UP_S: Final = 0.200
"""How long a status is waited for, once a process is known to have ended."""

STDERR_LINES: Final = 20


class Endings:
    """Watches the processes of all entries. Belongs to the event loop."""

    def __init__(
        self,
        entries: Mapping[KernelId, Entry],
        on_end: Callable[[Entry, Death], None],
        why_killed: Callable[[Entry], str] = lambda _entry: "",
    ) -> None:
        """`why_killed` says how the memory of a process that ended by SIGKILL had run out; "" = it had not."""
        self._loop = asyncio.get_running_loop()
        self._entries = entries
        self._on_end = on_end
        self._why_killed = why_killed
        self._watched: dict[int, Entry] = {}
        self._reasons: dict[int, str] = {}
        self._statuses: dict[int, int] = {}
        """Statuses of processes that were reaped before we heard that they had begun."""

    def watch(self, entry: Entry) -> None:
        """From now on its process's end is noticed."""
        assert entry.process is not None
        pid = entry.process.pid
        self._watched[pid] = entry
        status = self._statuses.pop(pid, None)
        if status is not None:
            self._loop.call_soon(self.reaped, pid, status)
        self._loop.add_reader(entry.process.pidfd, self._seen, pid, self._loop.time() + GIVE_UP_S)

    def _seen(self, pid: int, give_up_at: float) -> None:
        """It has ended. Its status may take the zygote a moment."""
        entry = self._watched.get(pid)
        if entry is None or entry.process is None:
            return
        self._loop.remove_reader(entry.process.pidfd)
        give_up_at = max(give_up_at, self._loop.time() + GIVE_UP_S)
        # Not yet: what it said before its end (`explain`) is read in this turn of the loop.
        self._loop.call_soon(self._ask, pid, give_up_at)

    def _ask(self, pid: int, give_up_at: float) -> None:
        entry = self._watched.get(pid)
        if entry is None or entry.process is None:
            return
        status = exit_status(entry.process)
        if status is not None:
            self.reaped(pid, status)
        elif self._loop.time() >= give_up_at:
            self._end(entry, None)
        else:
            self._loop.call_later(ASK_AGAIN_S, self._ask, pid, give_up_at)

    def reaped(self, pid: int, status: int) -> None:
        """Its status is known."""
        entry = self._watched.get(pid)
        if entry is None:
            self._statuses[pid] = status
            # Of a process that was over before `watch`: kept for a moment, since the number may come again.
            self._loop.call_later(GIVE_UP_S, self._statuses.pop, pid, None)
        else:
            self._end(entry, status)

    def watched(self, pid: int) -> Entry | None:
        """Whose process it is."""
        return self._watched.get(pid)

    def explain(self, pid: int, reason: str) -> None:
        """It said itself why it is about to end."""
        self._reasons[pid] = reason

    def _end(self, entry: Entry, status: int | None) -> None:
        process = entry.process
        assert process is not None
        del self._watched[process.pid]
        self._loop.remove_reader(process.pidfd)
        ended = how_it_ended(status, entry.output.last(STDERR_LINES))
        detail = self._reasons.pop(process.pid, ended.detail)
        cause, why_culled = ended.cause, entry.cull_reason
        entry.cull_reason = ""
        if cause == "culled" and why_culled:
            detail = why_culled
        if ended.signal == signal.SIGKILL and (found := self._why_killed(entry)):
            cause, detail = "out_of_memory", found
        death = self.certificate(entry, cause, detail, exit_code=ended.exit_code, number=ended.signal)
        os.close(process.pidfd)
        self._on_end(entry, death)

    def certificate(
        self, entry: Entry, cause: Cause, detail: str, *, exit_code: int | None = None, number: int | None = None
    ) -> Death:
        """Why the present incarnation of `entry` ended."""
        kernel = entry.kernel
        return Death(
            kernel_id=kernel.id,
            tenant=kernel.spec.tenant,
            incarnation=kernel.incarnation,
            pid=entry.process.pid if entry.process is not None else None,
            at=date_now(),
            cause=cause,
            exit_code=exit_code,
            signal=_signal_name(number),
            detail=detail,
            uptime_s=round(self._loop.time() - kernel.spawned_at, 6) if kernel.spawned_at else 0.0,
            executions=entry.channel.ended_with() if entry.channel is not None else (),
            stderr=entry.output.last(STDERR_LINES),
        )

    def close(self) -> None:
        """Watch nothing more; the processes that are left go on."""
        for entry in self._watched.values():
            if entry.process is not None:
                self._loop.remove_reader(entry.process.pidfd)
                os.close(entry.process.pidfd)
        self._watched.clear()


def _signal_name(number: int | None) -> str | None:
    if number is None:
        return None
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
