"""Whether an unused kernel is to end, and when it is worth looking again. Pure.

A kernel is idle since its last execution, or input to one. Looking at it does not make it used; a client that is
connected, or has it lent, keeps it all the same unless `cull_connected` says otherwise, and so does an execution unless
`cull_busy` does: then it is idle since that began.
"""

from typing import Final

import msgspec

from llmspell_fleet.model.kernel import KernelSpec
from llmspell_fleet.policy.telling import AT_WORK

UNUSED: Final = "unused for its idle_timeout_s"

LONGEST_NOTICE_S: Final = 5.0
"""How long before its end clients are told: this, or a tenth of the idle timeout."""

SHORTEST_LOOK_S: Final = 0.05
LONGEST_LOOK_S: Final = 30.0
"""How soon it is looked again at a kernel that is kept by what may end at any time."""


class CullRules(msgspec.Struct, frozen=True):
    """What the tenant wants."""

    idle_timeout_s: float
    """0 = a kernel is never culled."""
    cull_busy: bool = False
    cull_connected: bool = False


def rules_of(spec: KernelSpec) -> CullRules:
    """What holds for a kernel."""
    return CullRules(spec.idle_timeout_s, spec.cull_busy, spec.cull_connected)


class Use(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of a kernel's use."""

    idle_s: float
    """Since its last execution began or ended, or its last input came."""
    is_busy: bool = False
    clients: int = 0
    """Connected ones, without the fleet itself."""
    leases: int = 0


class Kept(msgspec.Struct, frozen=True):
    """It stays."""

    why: str
    """For people."""
    look_in_s: float
    """Seconds until it may be otherwise; infinity = it will not be."""
    ends_in_s: float | None = None
    """Seconds until it is culled if nobody uses it; None = something else has to happen first."""


class Culled(msgspec.Struct, frozen=True):
    """It is told to end."""

    in_s: float
    """From now on; used until then, it stays after all, unless the end is forced."""
    reason: str
    is_forced: bool


def notice_s(rules: CullRules) -> float:
    """How long before its end a kernel's clients are told."""
    return min(LONGEST_NOTICE_S, rules.idle_timeout_s / 10)


def judge(rules: CullRules, use: Use) -> Kept | Culled:
    """What is to become of a kernel."""
    if not rules.idle_timeout_s:
        return Kept("idle_timeout_s is 0: it is never culled", float("inf"))
    often_s = min(max(rules.idle_timeout_s / 10, SHORTEST_LOOK_S), LONGEST_LOOK_S)
    if use.is_busy and not rules.cull_busy:
        return Kept("it runs something, and cull_busy is false", often_s)
    if not rules.cull_connected:
        if use.leases:
            return Kept("it is lent, and cull_connected is false", often_s)
        if use.clients:
            connected = "a client is" if use.clients == 1 else f"{use.clients} clients are"
            return Kept(f"{connected} connected, and cull_connected is false", often_s)
    left_s = rules.idle_timeout_s - use.idle_s
    if left_s > notice_s(rules):
        return Kept(
            f"it was used {use.idle_s:.0f} s ago", max(SHORTEST_LOOK_S, left_s - notice_s(rules)), max(0.0, left_s)
        )
    reason = f"{AT_WORK if use.is_busy else UNUSED}, {rules.idle_timeout_s:g}"
    # Also when its time was over before: its tenant may just have said so, or its last client have left.
    return Culled(notice_s(rules), reason, is_forced=use.is_busy)
