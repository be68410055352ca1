"""What ended kernels left behind: no descendant of a kernel outlives it.

The zygote does this for the kernels that it forked (`llmspell_kernel.zygote.tree`). Here it is done for those that have
no zygote above them: of the subprocess spawner, or of a zygote that has ended, whose orphans are the controller's
children; and of an earlier controller, whose orphans go to the system, and are found by the kernel's session.
"""

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Callable, Collection
from typing import Final

from llmspell_fleet.spawner.spawner import Process
from llmspell_kernel.zygote.tree import is_reaper, kill_orphans

_LOG: Final = logging.getLogger("llmspell.fleet")

SWEEP_S: Final = 0.010
"""How long ends are collected: one look finds the orphans of all."""

_SESSION: Final = 6 - 3
"""Field of proc_pid_stat(5), counted from the state, which follows the command's name."""


class Orphans:
    """Kills what is left when processes end. Belongs to the event loop."""

    def __init__(self, own: Callable[[], Collection[int]]) -> None:
        """`own` says which children of this process are not orphans: kernels, and who helps to start them."""
        self._loop = asyncio.get_running_loop()
        self._own = own
        self._is_reaper = is_reaper()
        self._sessions: set[int] = set()
        self._timer: asyncio.TimerHandle | None = None

    def look(self, process: Process, *, is_adopted: bool) -> None:
        """A kernel's process has ended."""
        if is_adopted:
            self._sessions.add(process.pid)
        if is_adopted or self._is_reaper:
            self.look_soon()

    def look_soon(self) -> None:
        """Something may be left."""
        if self._timer is None:
            self._timer = self._loop.call_later(SWEEP_S, self.sweep)

    def sweep(self) -> None:
        """Kill what is there now, and come back for what that leaves."""
        self._timer = None
        killed = kill_orphans(self._own()) if self._is_reaper else []
        for pid in killed:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        members = _members(self._sessions) if self._sessions else []
        for pid in members:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if not members:
            self._sessions.clear()
        if killed or members:
            _LOG.info("killed %d processes that ended kernels had left", len(killed) + len(members))
            self._timer = self._loop.call_later(SWEEP_S, self.sweep)

    def close(self) -> None:
        """Look once more, and then no more."""
        if self._timer is not None:
            self._timer.cancel()
            self.sweep()
        if self._timer is not None:
            self._timer.cancel()


def _members(sessions: Collection[int]) -> list[int]:
    """Processes in sessions whose leaders have ended. A leader that lives has such a number anew."""
    found: dict[int, int] = {}
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as stream:
            content = stream.read()
            fields = content[content.rindex(b")") + 2 :].split()
            if int(fields[_SESSION]) in sessions and fields[0] not in (b"Z", b"X"):
                found[int(name)] = int(fields[_SESSION])
    return [pid for pid, session in found.items() if session not in found]
