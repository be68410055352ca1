"""How many kernels a tenant should have for what it has to do. Pure; time is an argument.

What the load wants is the number of kernels of which `busy_share` would be busy with it. There are more kernels once
that number was higher than theirs throughout `up_after_s`, and fewer once it was lower throughout `down_after_s`: as
many as the least that was wanted in the first window, or the most that was wanted in the second. A queue is thus
answered in a fraction of a second, a spike of milliseconds is not, and a load that comes and goes keeps its kernels.
"""

import math
from typing import Final

import msgspec

from llmspell_fleet.model.pool import Autoscale

_ROUNDING: Final = 1e-9
"""8 busy kernels at a share of 0.8 want 10, however the division is rounded."""


class Wanted(msgspec.Struct, frozen=True):
    """How many kernels the load wanted, from a moment on until the next."""

    kernels: int
    at: float
    """Monotonic."""


class Trend(msgspec.Struct, frozen=True):
    """What was wanted lately. Only what can still be a window's least or most is kept, so it stays short."""

    since: float
    """Monotonic time from which on the load is known."""
    least: tuple[Wanted, ...] = ()
    """Growing numbers: each is the least since the one before it."""
    most: tuple[Wanted, ...] = ()
    """Falling numbers: each is the most since the one before it."""


class Scale(msgspec.Struct, frozen=True):
    """How many kernels there should be, and why."""

    kernels: int
    reason: str = ""
    """Empty when there are as many already."""


def begin(now: float) -> Trend:
    """Of a tenant whose load is not known yet."""
    return Trend(now)


def wanted(load: int, settings: Autoscale) -> int:
    """How many kernels `load` executions and leases want, those that wait included."""
    return settings.clipped(math.ceil(load / settings.busy_share - _ROUNDING))


def decide(trend: Trend, settings: Autoscale, *, load: int, kernels: int, now: float) -> tuple[Trend, Scale]:
    """How many kernels there should be instead of `kernels`, and what to go on with."""
    newest = Wanted(wanted(load, settings), now)
    trend = Trend(
        trend.since,
        _windowed([one for one in trend.least if one.kernels < newest.kernels], newest, now - settings.up_after_s),
        _windowed([one for one in trend.most if one.kernels > newest.kernels], newest, now - settings.down_after_s),
    )
    known_s = now - trend.since
    bounded = settings.clipped(kernels)
    if bounded != kernels:
        return trend, Scale(bounded, f"autoscale is between {settings.min} and {settings.max}")
    least, most = trend.least[0].kernels, trend.most[0].kernels
    if known_s >= settings.up_after_s and least > kernels:
        return trend, Scale(
            least, f"{load} to do, busy_share {settings.busy_share:g}, for {settings.up_after_s:g} s or longer"
        )
    if known_s >= settings.down_after_s and most < kernels:
        return trend, Scale(most, f"at most {most} were needed for {settings.down_after_s:g} s")
    return trend, Scale(kernels)


def shrinks_at(trend: Trend, settings: Autoscale, *, kernels: int) -> float | None:
    """Monotonic time at which there will be fewer than `kernels` if nothing more comes; None = there will not."""
    if trend.most and trend.most[-1].kernels >= kernels:
        return None
    needed = [one.at for one in trend.most if one.kernels >= kernels]
    return (needed[-1] if needed else trend.since) + settings.down_after_s


def _windowed(kept: list[Wanted], newest: Wanted, begins: float) -> tuple[Wanted, ...]:
    """Without what was over before the window began; the last one before it still held when it began."""
    return tuple(one for one in (*kept, newest) if one.at >= begins)
