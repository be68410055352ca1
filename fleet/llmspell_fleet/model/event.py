"""What happened, as clients of ``GET /v1/events`` see it."""

from typing import Any, Literal

import msgspec

from llmspell_fleet.model.ids import KernelId, TenantId

EventType = Literal[
    "fleet.started",
    "fleet.stopping",
    "fleet.reloaded",
    "fleet.upgrading",
    "fleet.upgraded",
    "zygote.started",
    "zygote.died",
    "tenant.created",
    "tenant.updated",
    "tenant.scaled",
    "tenant.deleted",
    "tenant.rolling",
    "tenant.rolled",
    "tenant.roll_failed",
    "kernel.starting",
    "kernel.ready",
    "kernel.died",
    "kernel.stopped",
    "kernel.backoff",
    "kernel.failed",
    "kernel.interrupted",
    "kernel.signalled",
    "kernel.draining",
    "kernel.waiting",
    "kernel.silent",
    "kernel.suspended",
    "kernel.resumed",
    "kernel.culling",
    "limit.unenforced",
]


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that happened."""

    seq: int
    """Grows by one with each event of this fleet, across restarts of the controller."""
    at: str
    type: EventType
    tenant: TenantId | None = None
    """None = of the fleet as a whole: admin and viewer only."""
    kernel_id: KernelId | None = None
    data: dict[str, Any] = {}
