"""Whether a kernel is hung: asked rarely, believed slowly, and never taken for busy. Pure.

A kernel says who it is also while a script runs, so silence is not work. But its line of requests may be full, the
machine slow, or our own loop late; so what does not answer is looked at more closely before it is replaced::

    silent for interval_s ──► asked who it is ──timeout_s──► takes no new work, asked on its control channel and for
                                    ▲                        its heartbeat ──deadline_s──► replaced
                                    └───────── any answer ──────────┘
"""

import msgspec


class ProbePolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How kernels are asked whether they live. All times are seconds."""

    interval_s: float = 30.0
    """A kernel that was silent for so long is asked."""
    timeout_s: float = 2.0
    """What it gets to answer before it takes no new work and is looked at more closely."""
    deadline_s: float = 5.0
    """What it then gets to answer on any channel before it is replaced."""
    resumes: bool = True
    """Whether a kernel that a signal suspended (SIGSTOP) is told to go on."""


class Rest(msgspec.Struct, frozen=True):
    """Look again in so long."""

    for_s: float


class Ask(msgspec.Struct, frozen=True):
    """Ask it who it is, and look again after `timeout_s`."""


class Doubt(msgspec.Struct, frozen=True):
    """It did not answer in time: give it no new work, and look more closely."""


LATE_S = 0.25
"""A look that comes so much later than it was meant to says nothing of the kernel: we were slow, or suspended."""

MOST_SUSPENSIONS = 3
SUSPENSIONS_WITHIN_S = 2.5
"""A kernel that is suspended so often within this time is told to go on no more, and replaced."""


def look(
    *, heard_at: float, asked_at: float | None, patience_s: float, meant_for: float, now: float, policy: ProbePolicy
) -> Rest | Ask | Doubt:
    """What is to be done about a kernel that was last heard at `heard_at`.

    `asked_at` is when it was asked, None = never; `patience_s` is what it then gets to answer, `timeout_s` unless it
    was suspended; `meant_for` is when this look was to be.
    """
    silent_s = now - heard_at
    if asked_at is None or heard_at >= asked_at:
        return Ask() if silent_s >= policy.interval_s else Rest(policy.interval_s - silent_s)
    if now - meant_for > LATE_S:
        return Ask()
    left_s = asked_at + patience_s - now
    return Rest(left_s) if left_s > 0 else Doubt()


def is_given_up(suspended_at: tuple[float, ...], *, now: float) -> bool:
    """Whether a kernel that was suspended at these times, the last one included, is to be replaced."""
    return sum(now - at < SUSPENSIONS_WITHIN_S for at in suspended_at) >= MOST_SUSPENSIONS


def verdict(*, control: bool, heartbeat: bool, silent_s: float) -> str | None:
    """Why a doubted kernel is to be replaced; None = it lives.

    Its control channel is served by the thread that serves all others, and is read also when its line is full.
    """
    if control:
        return None
    what = "its heartbeat is answered, and nothing else" if heartbeat else "it answers on no channel"
    return f"{what}; it was silent for {silent_s:.1f} s"
