"""Processes that an earlier controller left and that no record names: whose they are, and the end of those of nobody.

A controller may be killed between a fork and its record. Its zygote ends by itself when it hears of that, but what it
forked last lives on, and may not even have said yet whose it is: so it is looked until nothing is in between.
"""

import asyncio
import contextlib
import logging
import os
import select
import signal
from collections import defaultdict
from collections.abc import Callable, Collection
from typing import Final

from llmspell_fleet.model.ids import KernelId
from llmspell_fleet.paths import FleetPaths
from llmspell_fleet.spawner.processes import exit_status, find_process, has_ended
from llmspell_fleet.spawner.remains import Remnant, find_remnants
from llmspell_fleet.spawner.spawner import Process
from llmspell_kernel.pidfile import process_start_time

_LOG: Final = logging.getLogger("llmspell.fleet")

SETTLED_S: Final = 0.5
"""How long a dead controller's zygote may take to end, and a fork to say whose it is. Later, it is killed."""

LOOK_S: Final = 0.002

GONE_S: Final = 2.0
"""How long a process may take to end when it was killed."""


class Remnants:
    """What was found to live, by kernel; each is taken once."""

    def __init__(self, found: Collection[Remnant]) -> None:
        self._found: dict[str, list[Remnant]] = defaultdict(list)
        for one in found:
            self._found[one.kernel or ""].append(one)

    def take(self, kernel: KernelId, pid: int | None = None) -> Remnant | None:
        """A kernel's process: the one with this number, or without a number the one that was started last."""
        of_kernel = [one for one in self._found.get(short(kernel), []) if pid in (None, one.pid)]
        if not of_kernel:
            return None
        newest = max(of_kernel, key=lambda one: one.start_time)
        self._found[short(kernel)].remove(newest)
        return newest

    def rest(self) -> list[Remnant]:
        """Those that were not taken."""
        return [one for of_kernel in self._found.values() for one in of_kernel]


def short(kernel: KernelId) -> str:
    """The digits of a kernel's id that its process and its folder are called by."""
    return kernel.replace("-", "")[:12]


async def remnants(paths: FleetPaths, own: int | None, is_ours: Callable[[int], bool]) -> Remnants:
    """What earlier controllers have started and what lives, once all of it has said whose it is.

    `own` is our zygote; `is_ours` says which users are our tenants'.
    """
    loop = asyncio.get_running_loop()
    give_up_at = loop.time() + SETTLED_S
    while True:
        found = [one for one in find_remnants(paths.runtime, is_ours) if one.pid != own]
        unsettled = [one for one in found if one.kernel is None]
        if not unsettled:
            return Remnants(found)
        if loop.time() < give_up_at:
            await _until_changed(unsettled, give_up_at)
        else:
            await end_all(unsettled, "neither ended nor said which kernel it is")


async def _until_changed(unsettled: list[Remnant], give_up_at: float) -> None:
    """Until one of them has ended or said whose it is."""
    loop = asyncio.get_running_loop()
    names = {one.pid: _name(one.pid) for one in unsettled}
    while loop.time() < give_up_at:
        await asyncio.sleep(LOOK_S)
        for one in unsettled:
            if process_start_time(one.pid) != one.start_time or _name(one.pid) != names[one.pid]:
                return


def _name(pid: int) -> bytes:
    try:
        with open(f"/proc/{pid}/comm", "rb", buffering=0) as stream:
            return stream.read()
    except OSError:
        return b""


async def end_all(found: Collection[Remnant], why: str) -> None:
    """Kill processes of ours that nobody answers for, and return when they are gone."""
    held: list[Process] = []
    for one in found:
        process = find_process(one.pid, one.start_time)
        if process is None:
            continue
        held.append(process)
        whose = f"kernel {one.kernel}…" if one.kernel else "an earlier controller's zygote"
        _LOG.warning("process %d (%s) of an earlier controller is ended: it %s", one.pid, whose, why)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            signal.pidfd_send_signal(process.pidfd, signal.SIGKILL)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            if os.getsid(one.pid) == one.pid:
                os.killpg(one.pid, signal.SIGKILL)
    await asyncio.get_running_loop().run_in_executor(None, _wait_for, held)
    for process in held:
        if not has_ended(process.pidfd):
            _LOG.error("process %d was killed, and has not ended within %g s", process.pid, GONE_S)
        exit_status(process)  # reaps it when it has become our child
        os.close(process.pidfd)


def _wait_for(held: Collection[Process]) -> None:
    for process in held:
        poll = select.poll()
        poll.register(process.pidfd, select.POLLIN)
        poll.poll(GONE_S * 1000)


def remove_stray_files(paths: FleetPaths, kernels: Collection[KernelId]) -> int:
    """Remove what kernels that are not among these have left in the runtime directory; returns of how many.

    Only kernels that a fleet started, and that have no process any more: others' files are theirs.
    """
    known = {short(kernel) for kernel in kernels}
    removed = 0
    folder = os.path.join(paths.runtime, "k")
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(folder):
            path = os.path.join(folder, name)
            if name not in known and os.path.exists(os.path.join(path, "output")):
                _remove(paths, name, path)
                removed += 1
        with contextlib.suppress(OSError):
            os.rmdir(folder)
    return removed


def _remove(paths: FleetPaths, digits: str, folder: str) -> None:
    for path in [
        *(os.path.join(folder, name) for name in os.listdir(folder)),
        *(os.path.join(paths.runtime, name) for name in os.listdir(paths.runtime) if _kernel_in(name) == digits),
    ]:
        with contextlib.suppress(OSError):
            os.unlink(path)
    with contextlib.suppress(OSError):
        os.rmdir(folder)


def _kernel_in(name: str) -> str:
    """Whose a connection file or pid file is."""
    return name.removeprefix("kernel-").replace("-", "")[:12] if name.startswith("kernel-") else ""
