"""What ended kernels left behind: no descendant of a kernel outlives it.

The zygote does this for the kernels that it forked (`llmspell_kernel.zygote.tree`). Here it is done for those that have
no zygote above them: of the subprocess spawner, or of a zygote that has ended, whose orphans are the controller's
children; and of an earlier controller, whose orphans go to the system, and are found by the kernel's session, name and
mark (`llmspell_kernel.zygote.marks`).
"""

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Callable, Collection, Mapping
from typing import Final

import msgspec

from llmspell_fleet.model.ids import KernelId
from llmspell_kernel.zygote.marks import descendant_name, kernel_name, was_started_by
from llmspell_kernel.zygote.tree import children, is_reaper, kill_orphans

_LOG: Final = logging.getLogger("llmspell.fleet")

SWEEP_S: Final = 0.010
"""How long ends are collected: one look finds the orphans of all."""

AGAIN_S: Final = 1.0
"""When it is looked again after that was not possible."""

_PARENT: Final = 4 - 3
_SESSION: Final = 6 - 3
"""Fields of proc_pid_stat(5), counted from the state, which follows the command's name."""

_LONGEST_ENVIRON: Final = 128 * 1024


class Orphans:
    """Kills what is left when processes end. Belongs to the event loop."""

    def __init__(self, own: Callable[[], Collection[int]]) -> None:
        """`own` says which children of this process are not orphans: kernels, and who helps to start them.

        Nor are those of our own session, which no descendant of a kernel can come into.
        """
        self._loop = asyncio.get_running_loop()
        self._own = own
        self._is_reaper = is_reaper()
        self._ended: dict[int, KernelId] = {}
        """Processes of kernels whose descendants are nobody's: by number."""
        self._timer: asyncio.TimerHandle | None = None

    def look(self, kernel: KernelId, pid: int | None, *, is_adopted: bool) -> None:
        """A kernel's process has ended; `is_adopted`: whose children go to the system, if there was one."""
        if is_adopted and pid is not None:
            self._ended[pid] = kernel
        if is_adopted or self._is_reaper:
            self.look_soon()

    def look_soon(self) -> None:
        """Something may be left."""
        if self._timer is None:
            self._timer = self._loop.call_later(SWEEP_S, self.sweep)

    def sweep(self) -> None:
        """Kill what is there now, and come back for what that leaves."""
        self._timer = None
        try:
            self._sweep()
        except OSError as fault:
            _LOG.warning("it cannot be seen what ended kernels have left: %s", fault)
            self._timer = self._loop.call_later(AGAIN_S, self.sweep)

    def _sweep(self) -> None:
        own = self._own()
        others = [pid for pid in children() if pid not in own] if self._is_reaper else []
        # As a rule there are none, and of those that are own, which may be many, nothing more is asked.
        killed = kill_orphans({*own, *filter(_is_in_our_session, others)}) if others else []
        for pid in killed:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
        left = _left_by(self._ended, own) if self._ended else []
        for pid in left:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL)
        if not left:
            self._ended.clear()
        if killed or left:
            _LOG.info("killed %d processes that ended kernels had left", len(killed) + len(left))
            self._timer = self._loop.call_later(SWEEP_S, self.sweep)

    def close(self) -> None:
        """Look once more, and then no more."""
        if self._timer is not None:
            self._timer.cancel()
            self.sweep()
        if self._timer is not None:
            self._timer.cancel()


def _is_in_our_session(child: int) -> bool:
    try:
        return os.getsid(child) == os.getsid(0)
    except ProcessLookupError:
        return True  # whoever started it has reaped it


class _Seen(msgspec.Struct, frozen=True):
    """A process as proc_pid_stat(5) shows it."""

    name: bytes
    parent: int
    session: int


def _left_by(ended: Mapping[int, KernelId], own: Collection[int]) -> list[int]:
    """Living processes that these processes of kernels have left, whatever became of their parents.

    Those of a kernel's session; what was forked and has its name; and what became another program and has its mark.
    What is below one of our `own` processes is that one's.
    """
    seen = _processes()
    names = {name(kernel) for kernel in ended.values() for name in (kernel_name, descendant_name)}
    left = []
    for pid, process in seen.items():
        # A leader that lives has such a number anew.
        is_member = process.session in ended and process.session not in seen
        if is_member or (not _is_below(pid, own, seen) and _is_ours(pid) and _is_marked(pid, process, ended, names)):
            left.append(pid)
    return left


def _processes() -> dict[int, _Seen]:
    found = {}
    for name in filter(str.isdecimal, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb", buffering=0) as stream:
            content = stream.read(4096) or b""
            before, _, after = content.rpartition(b") ")
            fields = after.split()
            if fields and fields[0] not in (b"Z", b"X"):
                found[int(name)] = _Seen(before.partition(b" (")[2], int(fields[_PARENT]), int(fields[_SESSION]))
    return found


def _is_below(pid: int, own: Collection[int], seen: Mapping[int, _Seen]) -> bool:
    """Whether it is one of our own processes, or a descendant of one."""
    while pid in seen and pid not in own:
        pid = seen[pid].parent
    return pid in own


def _is_ours(pid: int) -> bool:
    """Others' processes may say what they like."""
    try:
        return os.stat(f"/proc/{pid}").st_uid == os.geteuid()
    except OSError:
        return False


def _is_marked(pid: int, process: _Seen, ended: Mapping[int, KernelId], names: Collection[bytes]) -> bool:
    if process.name in names:
        return True
    try:
        with open(f"/proc/{pid}/environ", "rb", buffering=0) as stream:
            environ = stream.read(_LONGEST_ENVIRON) or b""
    except OSError:
        return False
    return any(was_started_by(environ, kernel, of) for of, kernel in ended.items())
