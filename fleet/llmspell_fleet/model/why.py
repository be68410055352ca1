"""What is told of one kernel by `GET /v1/kernels/{id}/why`: what it is, why, and what becomes of it."""

import msgspec

from llmspell_fleet.model.ids import KernelId, TenantId
from llmspell_fleet.model.kernel import Death


class Coming(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that will happen to a kernel, or that something has to happen for."""

    what: str
    """In a word or two: "culled", "started again"."""
    in_s: float | None = None
    """Seconds from now; None = when what `detail` says comes about."""
    at: str | None = None
    """The same as a date."""
    setting: str
    """By which setting, with its value; empty = by none."""
    detail: str = ""
    """For people: on what condition."""


class WhyView(msgspec.Struct, frozen=True, kw_only=True):
    """All of it."""

    kernel_id: KernelId
    name: str
    tenant: TenantId
    phase: str
    """"GONE" = it has left for good."""
    summary: str
    """In a sentence: what it is, and why."""
    because: list[str]
    """What led there, in sentences."""
    next: list[Coming]
    """What will happen to it, the soonest first; then what would, if."""
    deaths: list[Death]
    """The ends of its incarnations that are kept, the newest first."""
