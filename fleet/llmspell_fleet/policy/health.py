"""How the fleet is, from what is known of its parts. Pure."""

from collections.abc import Iterable, Mapping
from typing import Final, Literal

import msgspec

from llmspell_fleet.model.kernel import Phase
from llmspell_fleet.model.views import CheckView

Status = Literal["healthy", "degraded", "unhealthy"]

_WORST_FIRST: Final[tuple[Status, ...]] = ("unhealthy", "degraded", "healthy")


class Vitals(msgspec.Struct, frozen=True, kw_only=True):
    """What the checks look at. Empty texts and tuples mean that all is well."""

    zygote_fault: str
    """Why no kernel can be started now."""
    zygote_delay: str = ""
    """Why starts take long now."""
    store_fault: str
    """Why nothing can be recorded now."""
    phases: Mapping[Phase, int]
    """How many kernels are in each phase."""
    unenforced_limits: tuple[str, ...] = ()
    """Limits that are set, and that nobody holds a kernel to; each with the reason."""
    weaker_isolation: tuple[str, ...] = ()
    """Where isolation is weaker than was asked, as --allow-weaker-isolation permits."""
    unreachable: Mapping[str, str] = {}
    """Services outside that are configured, such as "discovery" and "alerts": why each does not answer, or nothing."""


def examine(vitals: Vitals) -> dict[str, CheckView]:
    """The checks by name. Without a zygote or a store the fleet is unhealthy; all else degrades it."""
    down = ((phase, vitals.phases.get(phase, 0)) for phase in (Phase.FAILED, Phase.BACKOFF))
    return {
        "zygote": _check([vitals.zygote_fault], otherwise="unhealthy")
        if vitals.zygote_fault
        else _check([vitals.zygote_delay]),
        "store": _check([vitals.store_fault], otherwise="unhealthy"),
        "kernels": _check(f"{number} {phase.value}" for phase, number in down if number),
        "limits": _check(vitals.unenforced_limits),
        "isolation": _check(vitals.weaker_isolation),
        **{service: _check([fault]) for service, fault in vitals.unreachable.items()},
    }


def judge(checks: Mapping[str, CheckView]) -> Status:
    """As the worst of the checks; nothing checked is healthy."""
    found = {check.status for check in checks.values()}
    return next((status for status in _WORST_FIRST if status in found), "healthy")


def _check(faults: Iterable[str], *, otherwise: Status = "degraded") -> CheckView:
    detail = "; ".join(fault for fault in faults if fault)
    return CheckView(status=otherwise if detail else "healthy", detail=detail)
