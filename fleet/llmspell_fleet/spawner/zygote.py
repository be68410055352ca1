"""Kernels as forks of a zygote: the supervisor's side of `llmspell_kernel.zygote`."""

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Callable
from typing import Final

from llmspell_fleet.model.ids import KernelId
from llmspell_fleet.spawner.helper import Helper
from llmspell_fleet.spawner.processes import find_process
from llmspell_fleet.spawner.reports import Reports
from llmspell_fleet.spawner.spawner import Process, SpawnerListener
from llmspell_kernel.zygote.protocol import (
    Exited,
    Probed,
    Ready,
    Reply,
    Spares,
    StartFailed,
    StartKernel,
    Suspended,
)

_LOG: Final = logging.getLogger("llmspell.fleet")

SHORTEST_LIFE_S: Final = 1.0
"""A zygote that dies sooner is not replaced at once: something is wrong that forking will not mend."""


class ZygoteSpawner:
    """Starts kernels by asking a zygote to fork.

    When it dies or hangs, another one is made; requests that it had not answered fail, and are asked again by whoever
    asked.
    After `forks` of them it is renewed: its forks have one address layout, which is then worth less to who learned it.
    The next one is made and ready before the last one goes, so that no start waits for it.
    """

    def __init__(self, environ: dict[str, str], forks: int = 0) -> None:
        """`forks` = 0: a zygote is never renewed."""
        self._environ = environ
        self._forks = forks
        self.on_probed: Callable[[Probed], None] = lambda _probed: None
        """Hears what became of probes (`StartKernel.probe`); to be set before `open`. A fleet starts none."""
        self._loop: asyncio.AbstractEventLoop
        self._listener: SpawnerListener
        self._reports: Reports
        self._helper: Helper | None = None
        self._next: Helper | None = None
        """The one that will take its place, and is not ready yet."""
        self._retired: tuple[Helper, ...] = ()
        """Those whose place was taken, and that have not answered everything."""
        self._waiting: list[StartKernel] = []
        """What was asked for while there was none."""
        self._is_closing = False

    @property
    def report_descriptor(self) -> int:
        """The number under which kernels have the socket that they report on, until they have."""
        return self._reports.writer.fileno()

    @property
    def pid(self) -> int | None:
        """The zygote's."""
        return self._helper.pid if self._helper is not None else None

    @property
    def spares(self) -> Spares:
        """The zygote's."""
        return self._helper.spares if self._helper is not None else Spares()

    def have_spares(self, number: int) -> None:
        """Forks that wait to become kernels."""
        if self._helper is not None:
            self._helper.have_spares(number)
            self._renew(self._helper)

    @property
    def pids(self) -> tuple[int, ...]:
        """Those of all zygotes that have something to fork, or may."""
        there = (*self._retired, self._helper, self._next)
        return tuple(helper.pid for helper in there if helper is not None and helper.is_needed)

    @property
    def is_late(self) -> bool:
        """Whether the zygote lets starts wait."""
        return self._helper is not None and self._helper.is_late

    async def open(self, listener: SpawnerListener) -> None:
        """Start the zygote; it takes requests at once and answers them once it has imported everything."""
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._reports = Reports(self._loop, listener, self.on_probed)
        self._helper = self._make()

    def _make(self) -> Helper:
        return Helper(
            self._loop,
            self._environ,
            self._reports.writer.fileno(),
            on_reply=self._hear,
            on_ready=self._is_ready,
            on_end=self._ended,
        )

    def start(self, request: StartKernel) -> None:
        """Ask for a fork."""
        helper = self._helper
        if helper is None:
            self._waiting.append(request)
            return
        helper.start(request)
        self._renew(helper)

    def _renew(self, helper: Helper) -> None:
        if self._forks and helper.asked >= self._forks and self._next is None:
            with contextlib.suppress(OSError):  # the next start asks again
                self._next = self._make()

    def _is_ready(self, helper: Helper) -> None:
        if helper is self._next:
            last, self._helper, self._next = self._helper, helper, None
            if last is not None:
                last.retire()
                self._retired = tuple(one for one in (*self._retired, last) if one.is_needed)
            self._listener.spares_changed()

    def _hear(self, kernel: KernelId | None, reply: Reply, descriptors: list[int]) -> None:
        match reply:
            case Exited(pid, status):
                self._listener.exited(pid, status)
            case Suspended(pid, is_suspended):
                self._listener.suspended(pid, is_suspended=is_suspended)
            case StartFailed(_, reason):
                assert kernel is not None
                self._listener.start_failed(kernel, reason)
            case Spares():
                self._listener.spares_changed()
            case Ready():
                return  # the helper's own matter
            case _:
                assert kernel is not None
                if not descriptors:
                    # The system drops those for which a process has no room. It was forked just now: its number is its.
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(reply.pid, signal.SIGKILL)
                    self._listener.start_failed(kernel, "the controller has too many open files to watch its process")
                    return
                (pidfd,) = descriptors
                self._listener.started(kernel, Process(reply.pid, reply.start_time, pidfd, reply.was_spare))

    def _ended(self, helper: Helper, status: int) -> None:
        unanswered = helper.give_up()
        if self._is_closing:
            return
        if helper is self._next:
            self._next = None  # the one that is there goes on, and the next start asks again
            return
        is_present = helper is self._helper
        if is_present:
            self._helper, self._next = self._next, None
        self._listener.lost(helper.fault or f"the zygote ended ({_describe(status)})")
        for kernel in unanswered:
            self._listener.start_failed(kernel, "the zygote ended before it could fork")
        if is_present:
            self._listener.spares_changed()
        if not is_present:
            return  # a retired one: its successor is there
        age_s = self._loop.time() - helper.made_at
        if self._helper is not None or age_s >= SHORTEST_LIFE_S:
            self._remake()
        else:
            self._loop.call_later(SHORTEST_LIFE_S - age_s, self._remake)

    def _remake(self) -> None:
        if self._is_closing:
            return
        if self._helper is None:
            try:
                self._helper = self._make()
            except OSError as fault:
                _LOG.error("no zygote can be started, which is tried again: %s", fault)
                self._loop.call_later(SHORTEST_LIFE_S, self._remake)
                return
        waiting, self._waiting = self._waiting, []
        for request in waiting:
            self._helper.start(request)

    def recover(self, kernel: KernelId, pid: int, start_time: int) -> Process | None:  # noqa: ARG002
        """A kernel of an earlier controller's zygote."""
        return find_process(pid, start_time)

    async def close(self) -> None:
        """End the zygote by closing its socket."""
        self._is_closing = True
        self._reports.close()
        for helper in (self._next, self._helper):
            if helper is not None:
                await helper.close()
        self._helper = self._next = None


def _describe(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"exit code {os.waitstatus_to_exitcode(status << 8)}"
