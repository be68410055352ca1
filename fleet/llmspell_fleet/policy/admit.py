"""Whether there is room for one more: executions of a tenant, kernels of the fleet. Pure.

What is admitted is reserved by the caller in the same step, before anything waits, so that no limit can be raced past.
"""

from typing import Final, Literal

import msgspec

from llmspell_fleet.model.tenant import Limits

ROOM_RETRY_S: Final = 1.0
"""When to ask again for room that somebody else must leave first: nobody knows when, so the shortest Retry-After."""

_ROUNDING: Final = 1e-6
"""Who waited as long as we said is not sent away for a rounding error."""


Quota = Literal[
    "max_executions",
    "executions_per_s",
    "max_kernels",
    "capacity",
    "total_memory_bytes",
    "total_cpu_percent",
    "total_storage_bytes",
]
"""What there is no room in: a limit of the tenant's, of the fleet's, or of the machine's."""


class Bucket(msgspec.Struct, frozen=True):
    """A token bucket: it fills with time up to its burst, and each execution takes one token."""

    tokens: float
    at: float
    """Monotonic time at which it held `tokens`."""


FULL: Final = Bucket(float("inf"), 0.0)
"""A bucket that nobody has taken from: as much as the burst is."""


class Admitted(msgspec.Struct, frozen=True):
    """There is room."""

    bucket: Bucket
    """What is left of the rate."""


class Denied(msgspec.Struct, frozen=True):
    """There is none."""

    limit: Quota
    detail: str
    retry_after_s: float


_UNLIMITED: Final = Admitted(FULL)


def admit(limits: Limits, executions: int, bucket: Bucket, *, now: float) -> Admitted | Denied:
    """One more execution for a tenant of which `executions` run or wait; `now` is monotonic."""
    if executions >= limits.max_executions:
        return Denied(
            "max_executions",
            f"{executions} executions of this tenant run or wait, and its limit max_executions is "
            f"{limits.max_executions}; wait for one to end",
            ROOM_RETRY_S,
        )
    rate = limits.executions_per_s
    if not rate:
        return _UNLIMITED
    burst = max(1.0, rate)  # below one token, a slow rate could never begin anything
    tokens = min(burst, bucket.tokens + max(0.0, now - bucket.at) * rate)
    if tokens < 1.0 - _ROUNDING:
        return Denied(
            "executions_per_s",
            f"this tenant begins more executions than its limit executions_per_s, {rate:g}, lets it; send fewer",
            (1.0 - tokens) / rate,
        )
    return Admitted(Bucket(max(0.0, tokens - 1.0), now))


def admit_kernels(reserved: int, asked: int, *, max_kernels: int, capacity: int) -> Denied | None:
    """`asked` more kernels in a fleet where `reserved` are promised already, running or not; None = there is room.

    `capacity` is what this machine's descriptors and sockets allow, `max_kernels` what its operator does.
    """
    room = min(max_kernels, capacity) - reserved
    if asked <= max(0, room):
        return None
    found = f"{asked} more kernels were asked for, {reserved} are promised already"
    if capacity < max_kernels:
        detail = (
            f"{found}, and the open files and sockets of this machine allow {capacity}; delete kernels, or raise them"
        )
        return Denied("capacity", detail, ROOM_RETRY_S)
    detail = f"{found}, and max_kernels is {max_kernels}; delete kernels, or raise max_kernels"
    return Denied("max_kernels", detail, ROOM_RETRY_S)
