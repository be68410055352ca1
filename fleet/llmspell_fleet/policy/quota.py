"""Whether a tenant may have what it would have after a change: kernels, and the sum of what they may use. Pure.

A total that cgroups count is theirs to hold; of the others, what each kernel may use is promised to it, used or not.
"""

import math
from collections.abc import Container, Iterable
from typing import Final

import msgspec

from llmspell_fleet.model.tenant import Limits
from llmspell_fleet.policy.admit import ROOM_RETRY_S, Denied, Quota

OF_EACH: Final[tuple[tuple[Quota, str], ...]] = (
    ("total_memory_bytes", "memory_bytes"),
    ("total_cpu_percent", "cpu_percent"),
    ("total_storage_bytes", "storage_bytes"),
)
"""Each total, and the limit of a kernel that it is the sum of."""

_UNBOUNDED: Final = {"memory_bytes": math.inf, "cpu_percent": 0.0, "storage_bytes": math.inf}
"""What a kernel without such a limit counts as. Processor time that nobody holds it to is not promised to it."""


class Demand(msgspec.Struct, frozen=True):
    """What a tenant's kernels may use together."""

    kernels: int = 0
    memory_bytes: float = 0
    cpu_percent: float = 0
    storage_bytes: float = 0


def demand(kernels: Iterable[Limits]) -> Demand:
    """Of kernels with these limits."""
    each = list(kernels)
    sums = {name: sum(getattr(limits, name) or unbounded for limits in each) for name, unbounded in _UNBOUNDED.items()}
    return Demand(len(each), **sums)


def admit_quota(quota: Limits, before: Demand, after: Demand, *, counted: Container[str] = ()) -> Denied | None:
    """Why a tenant with these limits may not come from one demand to another; None = it may.

    Less than before is always allowed, also above a quota that was lowered. `counted` are totals that cgroups hold.
    """
    if quota.max_kernels and max(quota.max_kernels, before.kernels) < after.kernels:
        detail = (
            f"this tenant would have {after.kernels} kernels, and its limit max_kernels is {quota.max_kernels}; "
            "delete kernels, or raise it"
        )
        return Denied("max_kernels", detail, ROOM_RETRY_S)
    for total, name in OF_EACH:
        most, asked = getattr(quota, total), getattr(after, name)
        if not most or total in counted or asked <= max(most, getattr(before, name)):
            continue
        found = f"at {name} {asked:.15g} together" if math.isfinite(asked) else f"one without {name}"
        detail = (
            f"this tenant would have {after.kernels} kernels, {found}, and its limit {total} is {most:.15g}; "
            f"lower {name}, delete kernels, or raise the limit"
        )
        return Denied(total, detail, ROOM_RETRY_S)
    return None


def too_low(old: Limits, new: Limits, held: Demand, *, counted: Container[str] = ()) -> str:
    """Why a tenant's quotas must not be lowered from `old` to `new`: what it has is beyond one; "" = they may.

    `held` is what it has after the change. `counted` are totals that cgroups hold.
    """
    if _is_lowered(old.max_kernels, new.max_kernels) and held.kernels > new.max_kernels:
        return (
            f"max_kernels: expected 0 (no bound) or at least {held.kernels}, the kernels that there are, found "
            f"{new.max_kernels}: have fewer replicas or delete kernels first"
        )
    for total, name in OF_EACH:
        most, asked = getattr(new, total), getattr(held, name)
        if total in counted or not _is_lowered(getattr(old, total), most) or asked <= most:
            continue
        there = (
            f"0 (no bound) or at least {asked:.15g}, the {name} of its {held.kernels} kernels together"
            if math.isfinite(asked)
            else f"0 (no bound), since there are kernels without {name}"
        )
        return f"{total}: expected {there}, found {most:.15g}: lower {name} in the same change, or delete kernels first"
    return ""


def _is_lowered(old: float, new: float) -> bool:
    return 0 < new < (old or math.inf)
