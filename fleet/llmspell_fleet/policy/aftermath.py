"""What follows the end of a process: the next incarnation, at once or later, or none. Pure.

*Gone*: STOPPED when no other incarnation was to follow, or when the kernel ended itself as unused ("culled"; it stays
wanted, so that the next request may start it). For an end of the kernel's own, or one that it gave cause for, its
restart rule is asked first: where that wants no other incarnation, STOPPED after a good end and FAILED after a crash.
Then, after a crash, `decide_restart` says STARTING, BACKOFF or FAILED; what could not be started at all is tried again
without end. An end that somebody asked for (`NOT_CRASHES`) is no crash, and STARTING follows at once. Whatever is to
start is PENDING instead while it is blocked by a kernel that it depends on; but what was ended to come again comes:
what it had waited for was met when it first began, and a good end that it needed (`exited_ok`) may be long past.
"""

from typing import Any, Final

from msgspec.structs import replace

from llmspell_fleet.model.kernel import Cause, Death, Kernel, Phase
from llmspell_fleet.policy import ladder
from llmspell_fleet.policy.actions import Action, Circumstances, Emit, Outcome, SetTimer, Spawn
from llmspell_fleet.policy.restart import Restart, StayDown, decide_restart, follows, recent

NOT_CRASHES: Final[frozenset[Cause]] = frozenset(
    {"stopped", "restarted", "culled", "drained", "max_age", "stuck", "execution_limit"}
)
"""Ends that say nothing against starting the kernel again."""

PLANNED: Final[frozenset[Cause]] = frozenset({"stopped", "restarted", "culled", "drained", "max_age"})
"""Ends that are told as "kernel.stopped"; the others are "kernel.died"."""


OWN_FAULTS: Final[frozenset[Cause]] = frozenset({"not_ready", "unresponsive"})
"""Ends that we brought about, for a fault of the kernel's: its restart rule says what follows."""


def gone(kernel: Kernel, death: Death, at: Circumstances, *, is_permanent: bool = False) -> Outcome:
    """Its process is gone, and `death` is how that looked from outside."""
    ending = kernel.ending
    if ending is not None and kernel.phase is Phase.STOPPING and death.cause != "spawn_failed":
        # What it said itself of an end that we asked for ("stopped") is not why it ended.
        seen = "" if death.cause in PLANNED else death.detail
        death = replace(death, cause=ending.cause, detail=ending.detail or seen, rung=ending.rung)
    if ending is not None and ending.cause not in OWN_FAULTS:
        at = replace(at, is_blocked=False)
    is_crash = death.cause not in NOT_CRASHES
    crashes = recent((*kernel.crashes, at.now), at.policy, now=at.now) if is_crash else kernel.crashes
    kernel = replace(_without_process(kernel), crashes=crashes, last_death=death)
    told = Emit("kernel.stopped" if death.cause in PLANNED else "kernel.died", _told(death))

    if not (ending.restarts if ending is not None else death.cause != "culled"):
        return ladder.enter(kernel, Phase.STOPPED), (told,)
    if (ending is None or ending.cause in OWN_FAULTS) and not follows(kernel.spec.restart, death.cause):
        return _then(told, _stay_down(kernel, death))
    if not is_crash:
        return _then(told, start(kernel, at))
    if is_permanent:
        return _then(told, _fail(kernel, death.detail))
    gives_up = death.cause != "spawn_failed"
    match decide_restart(crashes, at.policy, now=at.now, jitter=at.jitter, gives_up=gives_up):
        case Restart(0.0):
            return _then(told, start(kernel, at))
        case Restart(delay_s, attempt):
            waiting = ladder.enter(kernel, Phase.BACKOFF)
            backoff = Emit("kernel.backoff", {"delay_s": round(delay_s, 3), "attempt": attempt})
            return waiting, (told, SetTimer(waiting.generation, delay_s), backoff)
        case StayDown(reason):
            return _then(told, _fail(kernel, reason))


def _stay_down(kernel: Kernel, death: Death) -> Outcome:
    """Its restart rule has it so: STOPPED when it ended well, FAILED when somebody should look."""
    if death.cause in NOT_CRASHES:
        return ladder.enter(kernel, Phase.STOPPED), ()
    return _fail(kernel, f'it ended ({death.signal or death.cause}), and restart is "{kernel.spec.restart}"')


def start(kernel: Kernel, at: Circumstances) -> Outcome:
    """The next incarnation; or, while it is blocked, waiting for what it depends on, or for the next controller."""
    if at.is_blocked or at.is_closing:
        if kernel.phase is Phase.PENDING:
            return replace(kernel, is_wanted=True), ()
        told = Emit("kernel.waiting", {"depends_on": kernel.spec.depends_on})
        return ladder.enter(kernel, Phase.PENDING, is_wanted=True), () if at.is_closing else (told,)
    level = kernel.spec.isolation_level
    number = kernel.incarnation + 1
    starting = ladder.enter(kernel, Phase.STARTING, is_wanted=True, incarnation=number, isolation_level=level)
    told = Emit("kernel.starting", {"incarnation": starting.incarnation})
    return starting, (Spawn(), SetTimer(starting.generation, at.policy.start_deadline_s), told)


def _fail(kernel: Kernel, reason: str) -> Outcome:
    return ladder.enter(kernel, Phase.FAILED), (Emit("kernel.failed", {"reason": reason}),)


def _then(first: Action, outcome: Outcome) -> Outcome:
    kernel, actions = outcome
    return kernel, (first, *actions)


def _without_process(kernel: Kernel) -> Kernel:
    return replace(
        kernel, pid=None, start_time=None, spawned_at=0.0, ready_at=0.0, started_at="", is_silent=False, ending=None
    )


def _told(death: Death) -> dict[str, Any]:
    return {
        "incarnation": death.incarnation,
        "pid": death.pid,
        "cause": death.cause,
        "rung": death.rung,
        "exit_code": death.exit_code,
        "signal": death.signal,
        "detail": death.detail,
        "uptime_s": death.uptime_s,
    }
