"""Whether a kernel that crashed is started again, and when. Pure."""

import msgspec

from llmspell_fleet.model.kernel import Cause
from llmspell_fleet.model.tenant import RestartRule


class RestartPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How patient the fleet is with a kernel. All times are seconds."""

    max_restarts: int = 5
    """Crashes within `window_s` that are repaired; one more, and the kernel stays down."""
    window_s: float = 60.0
    first_delay_s: float = 0.1
    """Before the restart after the second crash of a window; the first is repaired at once. Doubles with each crash."""
    longest_delay_s: float = 30.0
    jitter_share: float = 0.2
    """Up to this share of a delay is taken off at random, so that kernels that died together do not start together."""
    start_deadline_s: float = 10.0
    """From the spawn to the first answer."""
    drain_deadline_s: float = 30.0
    """What running work gets before it is interrupted. This and the next ones: see `policy.ladder`."""
    interrupt_deadline_s: float = 2.0
    """What interrupted work gets to end. A kernel ends itself after one second when its script does not stop."""
    shutdown_deadline_s: float = 5.0
    """From the shutdown_request to SIGTERM."""
    stop_deadline_s: float = 5.0
    """From SIGTERM to SIGKILL."""


def follows(rule: RestartRule, cause: Cause) -> bool:
    """Whether an end by itself is followed by another incarnation. A client that asks for a restart gets one."""
    match rule:
        case "always":
            return True
        case "on-failure":
            return cause != "stopped"
        case "never":
            return cause == "restarted"


class Restart(msgspec.Struct, frozen=True):
    """Start it again."""

    delay_s: float
    attempt: int
    """1 = the first restart of this window."""


class StayDown(msgspec.Struct, frozen=True):
    """Leave it to a person."""

    reason: str


def recent(crashes: tuple[float, ...], policy: RestartPolicy, *, now: float) -> tuple[float, ...]:
    """Those of `crashes` that still count."""
    return tuple(crash for crash in crashes if now - crash < policy.window_s)


def decide_restart(
    crashes: tuple[float, ...], policy: RestartPolicy, *, now: float, jitter: float, gives_up: bool = True
) -> Restart | StayDown:
    """What follows the newest of `crashes` (monotonic times, the newest included); `jitter` is in [0, 1).

    Who never ran is no loop of crashes, and is not to be given up.
    """
    attempt = len(recent(crashes, policy, now=now))
    if attempt > policy.max_restarts and gives_up:
        return StayDown(f"it crashed {attempt} times within {policy.window_s:g} s, {policy.max_restarts} are repaired")
    if attempt < 2:
        return Restart(0.0, attempt)
    # The exponent is bounded so that a generous max_restarts cannot overflow the float.
    doubled = policy.first_delay_s * 2.0 ** min(attempt - 2, 1000)
    return Restart(min(doubled, policy.longest_delay_s) * (1.0 - policy.jitter_share * jitter), attempt)
