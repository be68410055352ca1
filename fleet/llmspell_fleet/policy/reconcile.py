"""What a tenant's kernels lack or have too much, measured by what was asked for. Pure."""

from collections.abc import Collection, Mapping, Sequence

import msgspec

from llmspell_fleet.model.ids import KernelId
from llmspell_fleet.model.kernel import Kernel
from llmspell_fleet.policy.lifecycle import HAS_PROCESS, TAKES_WORK


class Plan(msgspec.Struct, frozen=True):
    """What makes the kernels as many as wanted."""

    add: int
    remove: tuple[KernelId, ...]
    """In this order."""


NOTHING_TO_DO = Plan(0, ())


def plan(wanted: int, kernels: Sequence[Kernel], running: Mapping[KernelId, int], pinned: Collection[str] = ()) -> Plan:
    """How to come to `wanted` kernels.

    `kernels` are a tenant's, oldest first; those that are not wanted any more are leaving already, and count no more.
    `running` holds executions and leases; none = idle. `pinned` are the names that the configuration declares: such
    kernels leave when there are no others. Of the rest, those without a process leave first, then those that have not
    answered, then the idle, then the least busy; among equals, the newest.
    """
    staying = [kernel for kernel in kernels if kernel.is_wanted]
    surplus = len(staying) - wanted
    if surplus == 0:
        return NOTHING_TO_DO
    if surplus < 0:
        return Plan(-surplus, ())

    def dearness(kernel: Kernel) -> tuple[bool, bool, int, bool]:
        is_pinned = kernel.spec.name != "" and kernel.spec.name in pinned
        return is_pinned, kernel.phase in HAS_PROCESS, running.get(kernel.id, 0), kernel.phase in TAKES_WORK

    newest_first = reversed(staying)
    return Plan(0, tuple(kernel.id for kernel in sorted(newest_first, key=dearness)[:surplus]))
