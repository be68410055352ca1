"""The life of a kernel: `transition` takes what happened and says what is now, and what is to be done. Pure.

::

                                 ┌────── delay over ──────┐
                                 ▼                        │
     PENDING ──StartAsked──► STARTING ──gone──►(decide)──BACKOFF
                              ▲  │  │              │
                  StartAsked  │  │  └─deadline───┐ └────► FAILED ──RestartAsked──► STARTING
                  RestartAsked│  │ Answered      │
                              │  ▼               ▼
        STOPPED, HIBERNATED ──┘ READY ──────► STOPPING ──gone──► STOPPED, or as after a crash, or STARTING
                                 │   StopAsked,  ▲
                       DrainAsked│   RestartAsked│
                                 ▼   Unresponsive│
                              DRAINING ──────────┘
                                      Drained, deadline

====================  ================================  ==========================================================
event                 in                                what follows
====================  ================================  ==========================================================
StartAsked            no process                        STARTING: Spawn, timer start_deadline_s
..                    DRAINING, STOPPING                as it was, and starts again once its process is gone
Spawned               process, pid not known            pid is known; told to end if STOPPING
Answered              STARTING                          READY
Exited, SpawnFailed   process                           see *gone* below
TimerFired            STARTING                          STOPPING as "not_ready": Kill
..                    DRAINING                          STOPPING: Terminate
..                    STOPPING                          Kill, and the timer again
..                    BACKOFF                           STARTING
DrainAsked            READY                             DRAINING, timer drain_deadline_s
..                    DRAINING                          "stopped": as it was, and stays down once its process is gone
..                    elsewhere                         "stopped": as StopAsked
..                    STARTING                          "restarted": STOPPING: Terminate; then STARTING
Drained               DRAINING                          STOPPING: Terminate
StopAsked             STARTING, READY, DRAINING         STOPPING: Terminate, timer stop_deadline_s
..                    STOPPING                          as it was, and stays down once its process is gone
..                    no process                        STOPPED
RestartAsked          STARTING, READY, DRAINING         STOPPING: Terminate, timer stop_deadline_s; then STARTING
..                    STOPPING                          as it was, and starts again once its process is gone
..                    no process                        STARTING; earlier crashes are forgotten
Unresponsive          READY, DRAINING                   STOPPING: Kill
Adopted               no process                        STARTING with that process; if it is not wanted, STOPPING:
..                    ..                                Terminate, or DRAINING if it was
====================  ================================  ==========================================================

Whatever is not in the table changes nothing.

*Gone*: STOPPED when no other incarnation was to follow, or when the kernel ended itself as unused ("culled"; it stays
wanted, so that the next request may start it). After a crash `decide_restart` says STARTING, BACKOFF or FAILED; an end
that somebody asked for ("stopped", "restarted", "stuck", …: `NOT_CRASHES`) is no crash, and STARTING follows at once.

Three things make late and doubled messages harmless. Every `Spawn` is answered by one `Spawned` or `SpawnFailed`, and
until then the kernel counts as having a process: it spawns only when it has none, so it never has two. What concerns
one process names its incarnation, and is dropped when that is not the present one. Timers name the generation that
they were set in, which every change of phase ends.
"""

from typing import Any, Final, Literal, assert_never

import msgspec
from msgspec.structs import replace

from llmspell_fleet.model.event import EventType
from llmspell_fleet.model.kernel import Cause, Death, Ending, Kernel, Phase
from llmspell_fleet.policy.events import (
    Adopted,
    Answered,
    Asked,
    DrainAsked,
    Drained,
    Exited,
    LifecycleEvent,
    RestartAsked,
    Seen,
    Spawned,
    SpawnFailed,
    StartAsked,
    StopAsked,
    TimerFired,
    Unresponsive,
)
from llmspell_fleet.policy.restart import Restart, RestartPolicy, StayDown, decide_restart, recent

HAS_PROCESS: Final = frozenset({Phase.STARTING, Phase.READY, Phase.BUSY, Phase.DRAINING, Phase.STOPPING})
"""A process exists, or its spawn is under way."""

IS_LIVE: Final = frozenset({Phase.READY, Phase.BUSY, Phase.DRAINING})
"""It answers."""

TAKES_WORK: Final = frozenset({Phase.READY, Phase.BUSY})
"""New executions may go to it."""

NOT_CRASHES: Final[frozenset[Cause]] = frozenset(
    {"stopped", "restarted", "culled", "drained", "max_age", "stuck", "execution_limit"}
)
"""Ends that say nothing against starting the kernel again."""

PLANNED: Final[frozenset[Cause]] = frozenset({"stopped", "restarted", "culled", "drained", "max_age"})
"""Ends that are told as "kernel.stopped"; the others are "kernel.died"."""


# --- what is to be done


class Spawn(msgspec.Struct, frozen=True):
    """Start the process of the kernel's present incarnation, and tell `Spawned` or `SpawnFailed`, once."""


class Terminate(msgspec.Struct, frozen=True):
    """SIGTERM to its process."""


class Kill(msgspec.Struct, frozen=True):
    """SIGKILL to its process and all of that one's descendants."""


class SetTimer(msgspec.Struct, frozen=True):
    """Tell `TimerFired(generation)` after `after_s` seconds."""

    generation: int
    after_s: float


class Emit(msgspec.Struct, frozen=True):
    """Tell the world."""

    event_type: EventType
    data: dict[str, Any]


Action = Spawn | Terminate | Kill | SetTimer | Emit
Outcome = tuple[Kernel, tuple[Action, ...]]


def shown(kernel: Kernel, running: int) -> Phase:
    """The phase that people see, with `running` executions in the kernel."""
    return Phase.BUSY if running and kernel.phase is Phase.READY else kernel.phase


def transition(kernel: Kernel, event: LifecycleEvent, *, now: float, policy: RestartPolicy, jitter: float) -> Outcome:
    """The kernel after `event`, and what is to be done, in order. `now` is monotonic; `jitter` is in [0, 1)."""
    if isinstance(event, Asked):
        return _asked(kernel, event, policy)
    return _seen(kernel, event, now=now, policy=policy, jitter=jitter)


def _asked(kernel: Kernel, event: Asked, policy: RestartPolicy) -> Outcome:
    match event:
        case StartAsked():
            return _start_asked(kernel, policy)
        case StopAsked(cause, is_forced):
            return _stop_asked(kernel, cause, policy, is_forced=is_forced)
        case DrainAsked(cause):
            return _drain_asked(kernel, cause, policy)
        case RestartAsked():
            return _restart_asked(kernel, policy)
        case _:
            assert_never(event)


def _seen(kernel: Kernel, event: Seen, *, now: float, policy: RestartPolicy, jitter: float) -> Outcome:
    match event:
        case Spawned():
            return _spawned(kernel, event, policy)
        case SpawnFailed():
            return _spawn_failed(kernel, event, now=now, policy=policy, jitter=jitter)
        case Answered(incarnation):
            return _answered(kernel, incarnation, now)
        case Exited(death):
            return _gone(kernel, death, now=now, policy=policy, jitter=jitter)
        case TimerFired(generation):
            return _timer_fired(kernel, policy) if generation == kernel.generation else (kernel, ())
        case Drained():
            return _end(kernel, kernel.ending, policy) if kernel.phase is Phase.DRAINING else (kernel, ())
        case Unresponsive(incarnation, reason):
            return _unresponsive(kernel, incarnation, reason, policy)
        case Adopted():
            return _adopted(kernel, event, policy)
        case _:
            assert_never(event)


# --- the rows of the table


def _start_asked(kernel: Kernel, policy: RestartPolicy) -> Outcome:
    if kernel.phase not in HAS_PROCESS:
        return _start(kernel, policy)
    if kernel.ending is not None:
        return replace(kernel, is_wanted=True, ending=replace(kernel.ending, restarts=True)), ()
    return kernel, ()


def _spawned(kernel: Kernel, event: Spawned, policy: RestartPolicy) -> Outcome:
    if kernel.phase not in HAS_PROCESS or kernel.pid is not None or event.incarnation != kernel.incarnation:
        return kernel, ()
    known = replace(kernel, pid=event.pid, start_time=event.start_time, spawned_at=event.at, started_at=event.date)
    if kernel.phase is Phase.STOPPING:
        return known, (Terminate(), SetTimer(known.generation, policy.stop_deadline_s))
    return known, ()


def _spawn_failed(kernel: Kernel, event: SpawnFailed, *, now: float, policy: RestartPolicy, jitter: float) -> Outcome:
    if kernel.pid is not None:
        return kernel, ()
    return _gone(kernel, event.death, now=now, policy=policy, jitter=jitter, is_permanent=event.is_permanent)


def _answered(kernel: Kernel, incarnation: int, now: float) -> Outcome:
    """`Spawned` may still be on its way: it takes another road than the answer."""
    if kernel.phase is not Phase.STARTING or incarnation != kernel.incarnation:
        return kernel, ()
    ready = _enter(kernel, Phase.READY, ready_at=now)
    return ready, (Emit("kernel.ready", {"incarnation": incarnation, "pid": kernel.pid}),)


def _timer_fired(kernel: Kernel, policy: RestartPolicy) -> Outcome:
    match kernel.phase:
        case Phase.STARTING:
            late = Ending("not_ready", restarts=True, detail=f"no answer within {policy.start_deadline_s:g} s")
            return _end(kernel, late, policy, by=Kill())
        case Phase.DRAINING:
            return _end(kernel, kernel.ending, policy)
        case Phase.STOPPING:
            again = SetTimer(kernel.generation, policy.stop_deadline_s)
            return kernel, ((again,) if kernel.pid is None else (Kill(), again))
        case Phase.BACKOFF:
            return _start(kernel, policy)
        case _:
            return kernel, ()


def _stop_asked(
    kernel: Kernel, cause: Literal["stopped", "culled"], policy: RestartPolicy, *, is_forced: bool = False
) -> Outcome:
    if cause == "culled":
        culled = Ending("culled", restarts=False)
        return _end(kernel, culled, policy) if kernel.phase is Phase.READY else (kernel, ())
    unwanted = replace(kernel, is_wanted=False)
    match kernel.phase:
        case Phase.STOPPING:
            stays = replace(unwanted, ending=_with_restarts(kernel.ending, restarts=False))
            return stays, ((Kill(),) if is_forced and kernel.pid is not None else ())
        case Phase.STARTING | Phase.READY | Phase.BUSY | Phase.DRAINING:
            by = Kill() if is_forced else Terminate()
            return _end(unwanted, Ending("stopped", restarts=False), policy, by=by)
        case Phase.STOPPED:
            return unwanted, ()
        case _:
            return _enter(unwanted, Phase.STOPPED), (Emit("kernel.stopped", {"cause": cause}),)


def _drain_asked(kernel: Kernel, cause: Literal["stopped", "culled", "restarted"], policy: RestartPolicy) -> Outcome:
    if kernel.phase is Phase.READY:
        ending = Ending(cause, restarts=cause == "restarted")
        draining = _enter(kernel, Phase.DRAINING, ending=ending, is_wanted=cause != "stopped")
        return draining, (SetTimer(draining.generation, policy.drain_deadline_s),)
    if cause == "restarted" and kernel.phase is Phase.STARTING:
        return _end(kernel, Ending(cause, restarts=True), policy)
    if cause != "stopped":
        return kernel, ()
    if kernel.phase is Phase.DRAINING:
        return replace(kernel, is_wanted=False, ending=Ending(cause, restarts=False)), ()
    return _stop_asked(kernel, cause, policy)


def _restart_asked(kernel: Kernel, policy: RestartPolicy) -> Outcome:
    fresh = replace(kernel, is_wanted=True, crashes=())
    if kernel.phase not in HAS_PROCESS:
        return _start(fresh, policy)
    if kernel.phase is Phase.STOPPING:
        return replace(fresh, ending=_with_restarts(kernel.ending, restarts=True)), ()
    return _end(fresh, Ending("restarted", restarts=True), policy)


def _unresponsive(kernel: Kernel, incarnation: int, reason: str, policy: RestartPolicy) -> Outcome:
    if kernel.phase not in IS_LIVE or incarnation != kernel.incarnation:
        return kernel, ()
    restarts = kernel.ending is None or kernel.ending.restarts
    return _end(kernel, Ending("unresponsive", restarts=restarts, detail=reason), policy, by=Kill())


def _adopted(kernel: Kernel, event: Adopted, policy: RestartPolicy) -> Outcome:
    if kernel.phase in HAS_PROCESS:
        return kernel, ()
    adopted = _enter(
        kernel,
        Phase.STARTING,
        incarnation=event.incarnation,
        pid=event.pid,
        start_time=event.start_time,
        spawned_at=event.at,
        started_at=event.date,
    )
    if not kernel.is_wanted and event.is_draining:
        draining = replace(adopted, phase=Phase.DRAINING, ending=Ending("stopped", restarts=False))
        return draining, (SetTimer(draining.generation, policy.drain_deadline_s),)
    if not kernel.is_wanted:
        return _end(adopted, Ending("stopped", restarts=False), policy)
    return adopted, (SetTimer(adopted.generation, policy.start_deadline_s),)


def _gone(
    kernel: Kernel, death: Death, *, now: float, policy: RestartPolicy, jitter: float, is_permanent: bool = False
) -> Outcome:
    if kernel.phase not in HAS_PROCESS or death.incarnation != kernel.incarnation:
        return kernel, ()
    ending = kernel.ending
    if ending is not None and kernel.phase is Phase.STOPPING and death.cause != "spawn_failed":
        death = replace(death, cause=ending.cause, detail=ending.detail or death.detail)
    is_crash = death.cause not in NOT_CRASHES
    crashes = recent((*kernel.crashes, now), policy, now=now) if is_crash else kernel.crashes
    kernel = replace(_without_process(kernel), crashes=crashes, last_death=death)
    told = Emit("kernel.stopped" if death.cause in PLANNED else "kernel.died", _told(death))

    if not (ending.restarts if ending is not None else death.cause != "culled"):
        return _enter(kernel, Phase.STOPPED), (told,)
    if not is_crash:
        return _then(told, _start(kernel, policy))
    if is_permanent:
        return _then(told, _fail(kernel, death.detail))
    match decide_restart(crashes, policy, now=now, jitter=jitter):
        case Restart(0.0):
            return _then(told, _start(kernel, policy))
        case Restart(delay_s, attempt):
            waiting = _enter(kernel, Phase.BACKOFF)
            backoff = Emit("kernel.backoff", {"delay_s": round(delay_s, 3), "attempt": attempt})
            return waiting, (told, SetTimer(waiting.generation, delay_s), backoff)
        case StayDown(reason):
            return _then(told, _fail(kernel, reason))


# --- what the rows are made of


def _start(kernel: Kernel, policy: RestartPolicy) -> Outcome:
    starting = _enter(kernel, Phase.STARTING, is_wanted=True, incarnation=kernel.incarnation + 1)
    told = Emit("kernel.starting", {"incarnation": starting.incarnation})
    return starting, (Spawn(), SetTimer(starting.generation, policy.start_deadline_s), told)


def _end(
    kernel: Kernel, ending: Ending | None, policy: RestartPolicy, *, by: Terminate | Kill | None = None
) -> Outcome:
    """Without a pid there is nobody to tell yet: `Spawned` will find it STOPPING."""
    stopping = _enter(kernel, Phase.STOPPING, ending=ending)
    timer = SetTimer(stopping.generation, policy.stop_deadline_s)
    return stopping, ((timer,) if kernel.pid is None else (by or Terminate(), timer))


def _fail(kernel: Kernel, reason: str) -> Outcome:
    return _enter(kernel, Phase.FAILED), (Emit("kernel.failed", {"reason": reason}),)


def _then(first: Action, outcome: Outcome) -> Outcome:
    kernel, actions = outcome
    return kernel, (first, *actions)


def _enter(kernel: Kernel, phase: Phase, **changes: Any) -> Kernel:
    return replace(kernel, phase=phase, generation=kernel.generation + 1, **changes)


def _without_process(kernel: Kernel) -> Kernel:
    return replace(kernel, pid=None, start_time=None, spawned_at=0.0, ready_at=0.0, started_at="", ending=None)


def _with_restarts(ending: Ending | None, *, restarts: bool) -> Ending:
    """The first cause stands: it is why the process ends."""
    return replace(ending or Ending("stopped", restarts), restarts=restarts)


def _told(death: Death) -> dict[str, Any]:
    return {
        "incarnation": death.incarnation,
        "pid": death.pid,
        "cause": death.cause,
        "exit_code": death.exit_code,
        "signal": death.signal,
        "detail": death.detail,
        "uptime_s": death.uptime_s,
    }
