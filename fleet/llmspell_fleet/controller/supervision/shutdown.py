"""The end of a fleet: what runs is let finish for a while, then every process ends."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Final

from msgspec.structs import replace

from llmspell_fleet.controller.kernels.entry import Entry
from llmspell_fleet.controller.supervision.supervisor import Supervisor
from llmspell_fleet.model.ids import KernelId
from llmspell_fleet.model.kernel import Kernel, Phase
from llmspell_fleet.policy.events import DrainAsked, StopAsked
from llmspell_fleet.policy.lifecycle import HAS_PROCESS

LOOK_S: Final = 0.1
"""How often it is asked whether the end is to be forced."""


async def stop_all(supervisor: Supervisor, *, is_forced: Callable[[], bool], spares_adopted: bool = False) -> None:
    """End every process, and come back when they are gone. What should be is not changed by it.

    With `spares_adopted` those that an earlier controller started go on, for a later one to adopt.
    """
    supervisor.is_closing = True
    supervisor.lasting = _lasting({entry.id: entry.kernel for entry in supervisor})
    ending = [entry for entry in supervisor if not (spares_adopted and entry.is_adopted and entry.process is not None)]
    waiting = [entry for entry in ending if entry.kernel.phase in HAS_PROCESS]
    for entry in ending:
        supervisor.apply(entry, DrainAsked() if entry.load else StopAsked(is_forced=is_forced()))
    was_forced = False  # those that drain have not heard of it yet
    while waiting := [entry for entry in waiting if entry.kernel.phase in HAS_PROCESS]:
        await _one_of(waiting)
        if is_forced() and not was_forced:
            was_forced = True
            for entry in waiting:
                supervisor.apply(entry, StopAsked(is_forced=True))


def _lasting(before: Mapping[KernelId, Kernel]) -> Callable[[Kernel], Kernel]:
    """What is recorded from now on: the ends of processes, which are no wish of anybody's for their kernels."""

    def lasting(kernel: Kernel) -> Kernel:
        was = before.get(kernel.id, kernel)
        if was.phase not in HAS_PROCESS:
            return was
        is_over = was.is_wanted and kernel.phase is Phase.STOPPED
        phase = Phase.PENDING if is_over else kernel.phase
        return replace(kernel, is_wanted=was.is_wanted, phase=phase, ending=None)

    return lasting


async def _one_of(entries: list[Entry]) -> None:
    """Until the first of them has no process, or it is time to look who asks."""
    await entries[0].wait_until(lambda kernel: kernel.phase not in HAS_PROCESS, LOOK_S)
    await asyncio.sleep(0)
