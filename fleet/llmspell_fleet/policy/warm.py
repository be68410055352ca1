"""Which kernels are kept ready before anybody needs them. Pure."""

from collections.abc import Mapping, Sequence
from typing import Final, Literal

import msgspec

from llmspell_fleet.model.ids import KernelId
from llmspell_fleet.model.kernel import KernelSpec
from llmspell_fleet.model.tenant import IsolationLevel, Limits

OF_TENANTS: Final = frozenset(
    {
        *("max_executions", "executions_per_s"),
        *("max_kernels", "total_memory_bytes", "total_cpu_percent", "total_storage_bytes"),
    }
)
"""Limits that no kernel's process is made with: they bound a tenant as a whole."""

LEAST_MAX_AGE_S: Final = 120.0
"""Who wants younger processes than this is given fresh ones."""

_NO_LIMITS: Final = Limits()


class SpecKey(msgspec.Struct, frozen=True):
    """What a kernel's process is made with, and cannot be given later: those of one key are interchangeable."""

    limits: Limits
    """Those of the kernel; those of its tenant are as if there were none."""
    isolation_level: IsolationLevel
    spawner: Literal["zygote", "subprocess"]


SPARE: Final = SpecKey(_NO_LIMITS, "strict", "zygote")
"""The key of all kernels at `strict`: what is kept for them is made with nothing yet (`llmspell_kernel.zygote.spares`).

A process at `strict` is locked to its tenant before it serves, so that none can wait as a kernel. It waits before that.
"""


def key_of(limits: Limits, isolation_level: IsolationLevel, spawner: Literal["zygote", "subprocess"]) -> SpecKey:
    """The key of kernels that are made so."""
    if isolation_level == "strict":
        return SPARE
    own = {name: getattr(_NO_LIMITS, name) for name in OF_TENANTS & set(Limits.__struct_fields__)}
    return SpecKey(msgspec.structs.replace(limits, **own), isolation_level, spawner)


def key(spec: KernelSpec) -> SpecKey:
    """The key of a kernel."""
    return key_of(spec.limits, spec.isolation_level, spec.spawner)


def why_not(spec: KernelSpec, *, has_spares: bool = True) -> str:
    """Why no warm kernel can become this one; empty when one can.

    Name, labels and timeouts are given at the claim. What is bound or locked before the first answer is not; a spare
    is given that too, where there are spares.
    """
    if spec.isolation_level == "strict":
        return "" if has_spares else "what waits for level strict is a fork, and [fleet] spawner is subprocess"
    if spec.port is not None:
        return "it is to have a port of its own, which is bound at the start"
    if spec.log_file is not None or spec.pid_file is not None:
        return "it is to have files of its own, which are opened at the start"
    if 0 < spec.max_age_s < LEAST_MAX_AGE_S:
        return f"a process that waits would soon be as old as its max_age_s, {spec.max_age_s:g}, lets it be"
    if any(getattr(spec.limits, name, 0) for name in OF_TENANTS if name.startswith("total_")):
        return "its tenant's limits as a whole (total_…) hold its process from the start"
    return ""


def is_fresh(spec: KernelSpec, age_s: float) -> bool:
    """Whether a process of this age is young enough to become `spec`'s: it has half of its time before it."""
    return not spec.max_age_s or age_s <= spec.max_age_s / 2


class Warm(msgspec.Struct, frozen=True):
    """A warm kernel, as far as that matters here."""

    id: KernelId
    key: SpecKey
    is_ready: bool
    """Else it is on its way there."""


class WarmPlan(msgspec.Struct, frozen=True):
    """What makes the warm kernels those that are wanted."""

    start: tuple[SpecKey, ...]
    stop: tuple[KernelId, ...]


def plan(
    wanted: Mapping[SpecKey, int], there: Sequence[Warm], *, room: int, may_start: bool, most_at_once: int
) -> WarmPlan:
    """How to come to the `wanted` numbers of warm kernels by key.

    `room` is how many the fleet may hold besides its tenants': beyond it, warm ones leave, and those that nobody wants
    leave first. `may_start` is false while a tenant's kernel starts, which comes first; `most_at_once` of the warm
    ones start at one time.
    """
    left = dict(wanted)
    kept: list[Warm] = []
    stop: list[KernelId] = []
    for one in sorted(there, key=lambda warm: not warm.is_ready):
        if left.get(one.key, 0) > 0:
            left[one.key] -= 1
            kept.append(one)
        else:
            stop.append(one.id)
    surplus = max(0, len(kept) - max(0, room))
    stop += [one.id for one in kept[len(kept) - surplus :]]
    if surplus or not may_start:
        return WarmPlan((), tuple(stop))
    starting = sum(not one.is_ready for one in kept)
    free = max(0, min(most_at_once - starting, room - len(there)))
    missing = [key for key, number in left.items() for _ in range(min(number, free))]
    return WarmPlan(tuple(missing[:free]), tuple(stop))
