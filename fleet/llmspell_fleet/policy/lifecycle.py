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
                       DrainAsked│   RestartAsked│  the stop ladder: `policy.ladder`
                          max_age▼   Unresponsive│
                              DRAINING ──────────┘
                                      Drained, deadline

====================  ================================  ==========================================================
event                 in                                what follows
====================  ================================  ==========================================================
StartAsked            no process                        STARTING: Spawn, timer start_deadline_s; PENDING while blocked
..                    DRAINING, STOPPING                as it was, and starts again once its process is gone
Spawned               STARTING, pid not known           pid is known, timer start_deadline_s
..                    READY, STOPPING, pid not known    pid is known; its rung of the ladder if STOPPING
Answered              STARTING                          READY, timer of its age where that has a bound
..                    silent                            takes work again
Exited, SpawnFailed   process                           `policy.aftermath`
TimerFired            STARTING                          STOPPING as "not_ready": kill
..                    READY                             as DrainAsked("max_age"); then STARTING
..                    DRAINING, STOPPING                STOPPING: the next rung
..                    BACKOFF                           STARTING
DrainAsked            READY, used                       DRAINING, timer drain_deadline_s
..                    READY, unused                     STOPPING: shutdown
..                    DRAINING                          "stopped", "drained": as it was, and stays down afterwards
..                    STOPPING                          the same
..                    STARTING                          "restarted", "drained": STOPPING: terminate
..                    no process                        "drained": STOPPED, and stays wanted
..                    elsewhere                         "stopped": as StopAsked
Drained               DRAINING, STOPPING by interrupt   STOPPING: shutdown
StopAsked             STARTING, READY, DRAINING         STOPPING: the first rung that has a point; kill when forced
..                    STOPPING                          as it was, and stays down afterwards; kill when forced
..                    no process                        STOPPED
TerminateAsked        STARTING, READY, DRAINING         STOPPING: terminate; then STARTING if restart is "always"
..                    STOPPING                          terminate, unless it is past that
RestartAsked          STARTING, READY, DRAINING         STOPPING: the first rung that has a point; then STARTING
..                    STOPPING                          as it was, and starts again once its process is gone
..                    no process                        STARTING; earlier crashes are forgotten
Silent                READY, DRAINING                   takes no new work
Unresponsive          STARTING, READY, DRAINING         STOPPING: kill
Changed               READY                             the timer of its age anew
Adopted               no process                        STARTING with that process; DRAINING if it was; if it was
..                    ..                                STOPPING, or is not wanted, STOPPING: terminate, or kill
====================  ================================  ==========================================================

Whatever is not in the table changes nothing. Readiness (`Silent`) takes work away and kills nothing; what kills is the
start deadline, which is ours, and a kernel that answers on no channel, or what no kernel answers (`Unresponsive`).

Three things make late and doubled messages harmless. Every `Spawn` is answered by one `Spawned` or `SpawnFailed`, and
until then the kernel counts as having a process: it spawns only when it has none, so it never has two. What concerns
one process names its incarnation, and is dropped when that is not the present one. Timers name the generation that
they were set in, which every change of phase, and every rung of the ladder, ends.
"""

from typing import Any, Final, Literal, assert_never

from msgspec.structs import replace

from llmspell_fleet.model.kernel import Death, Ending, Kernel, Phase
from llmspell_fleet.policy import ladder
from llmspell_fleet.policy.actions import Circumstances, Emit, Outcome, SetTimer
from llmspell_fleet.policy.aftermath import gone, start
from llmspell_fleet.policy.events import (
    Adopted,
    Answered,
    Asked,
    Changed,
    DrainAsked,
    Drained,
    Exited,
    LifecycleEvent,
    RestartAsked,
    Seen,
    Silent,
    Spawned,
    SpawnFailed,
    StartAsked,
    StopAsked,
    TerminateAsked,
    TimerFired,
    Unresponsive,
)

HAS_PROCESS: Final = frozenset({Phase.STARTING, Phase.READY, Phase.BUSY, Phase.DRAINING, Phase.STOPPING})
"""A process exists, or its spawn is under way."""

IS_LIVE: Final = frozenset({Phase.READY, Phase.BUSY, Phase.DRAINING})
"""It answers."""

TAKES_WORK: Final = frozenset({Phase.READY, Phase.BUSY})
"""New executions may go to it."""

LEAST_S: Final = 0.001
"""The shortest timer."""


def shown(kernel: Kernel, running: int) -> Phase:
    """The phase that people see, with `running` executions in the kernel."""
    return Phase.BUSY if running and kernel.phase is Phase.READY else kernel.phase


def takes_work(kernel: Kernel) -> bool:
    """Whether new executions may go to it."""
    return kernel.phase in TAKES_WORK and not kernel.is_silent


def wakes(kernel: Kernel) -> bool:
    """Whether the next request may start it: it was ended as unused. Others that are down wait for a person."""
    is_unused = kernel.last_death is not None and kernel.last_death.cause == "culled"
    return kernel.phase is Phase.STOPPED and kernel.is_wanted and is_unused


def transition(kernel: Kernel, event: LifecycleEvent, at: Circumstances) -> Outcome:
    """The kernel after `event`, and what is to be done, in order."""
    if isinstance(event, Asked):
        return _asked(kernel, event, at)
    return _seen(kernel, event, at)


def _asked(kernel: Kernel, event: Asked, at: Circumstances) -> Outcome:
    match event:
        case StartAsked():
            return _start_asked(kernel, at)
        case StopAsked(cause, is_forced):
            return _stop_asked(kernel, cause, at, is_forced=is_forced)
        case DrainAsked(cause):
            return _drain_asked(kernel, cause, at)
        case TerminateAsked():
            return _terminate_asked(kernel, at)
        case RestartAsked():
            return _restart_asked(kernel, at)
        case _:
            assert_never(event)


def _seen(kernel: Kernel, event: Seen, at: Circumstances) -> Outcome:
    if isinstance(event, Spawned | SpawnFailed | Exited | Adopted):
        return _process_seen(kernel, event, at)
    match event:
        case Answered(incarnation):
            return _answered(kernel, incarnation, at)
        case TimerFired(generation):
            return _timer_fired(kernel, at) if generation == kernel.generation else (kernel, ())
        case Drained():
            return ladder.drained(kernel, at) if kernel.ending is not None else (kernel, ())
        case Silent(incarnation):
            return _silent(kernel, incarnation)
        case Unresponsive(incarnation, reason):
            return _unresponsive(kernel, incarnation, reason, at)
        case Changed():
            return _changed(kernel, at)
        case _:
            assert_never(event)


def _process_seen(kernel: Kernel, event: Spawned | SpawnFailed | Exited | Adopted, at: Circumstances) -> Outcome:
    match event:
        case Spawned():
            return _spawned(kernel, event, at)
        case SpawnFailed():
            return _spawn_failed(kernel, event, at)
        case Exited(death):
            return _gone(kernel, death, at)
        case Adopted():
            return _adopted(kernel, event, at)
        case _:
            assert_never(event)


# --- what is asked


def _start_asked(kernel: Kernel, at: Circumstances) -> Outcome:
    if kernel.phase not in HAS_PROCESS:
        return start(kernel, at)
    if kernel.ending is not None:
        return replace(kernel, is_wanted=True, ending=replace(kernel.ending, restarts=True)), ()
    return kernel, ()


def _stop_asked(
    kernel: Kernel, cause: Literal["stopped", "culled"], at: Circumstances, *, is_forced: bool = False
) -> Outcome:
    if cause == "culled":
        culled = Ending("culled", restarts=False)
        return ladder.end(kernel, culled, at) if kernel.phase is Phase.READY else (kernel, ())
    unwanted = replace(kernel, is_wanted=False)
    match kernel.phase:
        case Phase.STOPPING:
            stays = replace(unwanted, ending=_with_restarts(kernel.ending, restarts=False))
            return ladder.hasten(stays, "kill", at) if is_forced else (stays, ())
        case Phase.STARTING | Phase.READY | Phase.BUSY | Phase.DRAINING:
            return ladder.end(unwanted, Ending("stopped", restarts=False), at, first="kill" if is_forced else None)
        case Phase.STOPPED:
            return unwanted, ()
        case _:
            return ladder.enter(unwanted, Phase.STOPPED), (Emit("kernel.stopped", {"cause": cause}),)


def _drain_asked(
    kernel: Kernel, cause: Literal["stopped", "culled", "restarted", "drained"], at: Circumstances
) -> Outcome:
    ending = Ending(cause, restarts=cause == "restarted")
    if kernel.phase is Phase.READY:
        return ladder.drain(kernel, ending, at, is_wanted=cause != "stopped")
    if cause in {"restarted", "drained"} and kernel.phase is Phase.STARTING:
        return ladder.end(kernel, ending, at)
    if cause == "drained":
        return _drain_by_hand(kernel)
    if cause != "stopped":
        return kernel, ()
    if kernel.phase is Phase.DRAINING:
        return replace(kernel, is_wanted=False, ending=_with_cause(kernel.ending, ending)), ()
    return _stop_asked(kernel, cause, at)


def _drain_by_hand(kernel: Kernel) -> Outcome:
    """What is on its way down stays down, and what waits to come up does not come."""
    if kernel.phase in HAS_PROCESS:
        return replace(kernel, ending=_with_restarts(kernel.ending, restarts=False)), ()
    if kernel.phase is Phase.STOPPED:
        return kernel, ()
    return ladder.enter(kernel, Phase.STOPPED), (Emit("kernel.stopped", {"cause": "drained"}),)


def _terminate_asked(kernel: Kernel, at: Circumstances) -> Outcome:
    if kernel.phase is Phase.STOPPING:
        return ladder.hasten(kernel, "terminate", at)
    if kernel.phase not in HAS_PROCESS:
        return kernel, ()
    ending = Ending("stopped", restarts=kernel.spec.restart == "always", detail="SIGTERM was asked for")
    return ladder.end(kernel, ending, at, first="terminate")


def _restart_asked(kernel: Kernel, at: Circumstances) -> Outcome:
    fresh = replace(kernel, is_wanted=True, crashes=())
    if kernel.phase not in HAS_PROCESS:
        return start(fresh, at)
    if kernel.phase is Phase.STOPPING:
        return replace(fresh, ending=_with_restarts(kernel.ending, restarts=True)), ()
    return ladder.end(fresh, Ending("restarted", restarts=True), at)


# --- what is seen


def _spawned(kernel: Kernel, event: Spawned, at: Circumstances) -> Outcome:
    if kernel.phase not in HAS_PROCESS or kernel.pid is not None or event.incarnation != kernel.incarnation:
        return kernel, ()
    known = replace(kernel, pid=event.pid, start_time=event.start_time, spawned_at=event.at, started_at=event.date)
    if kernel.phase is Phase.STOPPING:
        return ladder.born(known, at)
    if kernel.phase is not Phase.STARTING:
        return known, ()
    # What it took to be spawned, among many, is not the kernel's.
    starting = ladder.enter(known, Phase.STARTING)
    return starting, (SetTimer(starting.generation, at.policy.start_deadline_s),)


def _spawn_failed(kernel: Kernel, event: SpawnFailed, at: Circumstances) -> Outcome:
    if kernel.pid is not None:
        return kernel, ()
    return _gone(kernel, event.death, at, is_permanent=event.is_permanent)


def _answered(kernel: Kernel, incarnation: int, at: Circumstances) -> Outcome:
    """`Spawned` may still be on its way: it takes another road than the answer."""
    if incarnation != kernel.incarnation:
        return kernel, ()
    if kernel.is_silent:
        return replace(kernel, is_silent=False), (Emit("kernel.ready", _identity(kernel)),)
    if kernel.phase is Phase.DRAINING and not kernel.ready_at:
        return replace(kernel, ready_at=at.now), ()  # adopted so
    if kernel.phase is not Phase.STARTING:
        return kernel, ()
    ready = ladder.enter(kernel, Phase.READY, ready_at=at.now)
    return ready, (*_aging(ready, at), Emit("kernel.ready", _identity(kernel)))


def _changed(kernel: Kernel, at: Circumstances) -> Outcome:
    if kernel.phase is not Phase.READY:
        return kernel, ()
    ready = ladder.enter(kernel, Phase.READY)
    return ready, _aging(ready, at)


def _aging(kernel: Kernel, at: Circumstances) -> tuple[SetTimer, ...]:
    """The timer of its age, where that has a bound."""
    spec = kernel.spec
    if not spec.max_age_s:
        return ()
    oldest_s = spec.max_age_s * (1.0 - spec.max_age_variance * at.jitter)
    return (SetTimer(kernel.generation, max(LEAST_S, (kernel.spawned_at or at.now) + oldest_s - at.now)),)


def _timer_fired(kernel: Kernel, at: Circumstances) -> Outcome:
    match kernel.phase:
        case Phase.STARTING:
            late = f"no answer within {at.policy.start_deadline_s:g} s"
            return ladder.end(kernel, Ending("not_ready", restarts=True, detail=late), at, first="kill")
        case Phase.READY if kernel.spec.max_age_s:
            old = Ending("max_age", restarts=True, detail=f"max_age_s is {kernel.spec.max_age_s:g}")
            return ladder.drain(kernel, old, at)
        case Phase.DRAINING | Phase.STOPPING:
            return ladder.overdue(kernel, at)
        case Phase.BACKOFF:
            return start(kernel, at)
        case _:
            return kernel, ()


def _silent(kernel: Kernel, incarnation: int) -> Outcome:
    if kernel.phase not in IS_LIVE or incarnation != kernel.incarnation or kernel.is_silent:
        return kernel, ()
    return replace(kernel, is_silent=True), (Emit("kernel.silent", _identity(kernel)),)


def _unresponsive(kernel: Kernel, incarnation: int, reason: str, at: Circumstances) -> Outcome:
    if kernel.phase not in {*IS_LIVE, Phase.STARTING} or incarnation != kernel.incarnation:
        return kernel, ()
    restarts = kernel.ending is None or kernel.ending.restarts
    return ladder.end(kernel, Ending("unresponsive", restarts=restarts, detail=reason), at, first="kill")


def _adopted(kernel: Kernel, event: Adopted, at: Circumstances) -> Outcome:
    if kernel.phase in HAS_PROCESS:
        return kernel, ()
    adopted = ladder.enter(
        kernel,
        Phase.STARTING,
        incarnation=event.incarnation,
        pid=event.pid,
        start_time=event.start_time,
        spawned_at=event.at,
        started_at=event.date,
    )
    ending = event.ending or (None if kernel.is_wanted else Ending("stopped", restarts=False))
    if ending is None:
        return adopted, (SetTimer(adopted.generation, at.policy.start_deadline_s),)
    if ending.step != "drain":
        return ladder.end(adopted, ending, at, first="kill" if ending.step == "kill" else "terminate")
    draining = replace(adopted, phase=Phase.DRAINING, ending=ending)
    return draining, (SetTimer(draining.generation, at.policy.drain_deadline_s),)


def _gone(kernel: Kernel, death: Death, at: Circumstances, *, is_permanent: bool = False) -> Outcome:
    if kernel.phase not in HAS_PROCESS or death.incarnation != kernel.incarnation:
        return kernel, ()
    return gone(kernel, death, at, is_permanent=is_permanent)


# --- what the rows are made of


def _with_restarts(ending: Ending | None, *, restarts: bool) -> Ending:
    """The first cause stands: it is why the process ends."""
    return replace(ending or Ending("stopped", restarts), restarts=restarts)


def _with_cause(old: Ending | None, new: Ending) -> Ending:
    """Another cause at the same rung."""
    return new if old is None else replace(new, step=old.step, rung=old.rung)


def _identity(kernel: Kernel) -> dict[str, Any]:
    return {"incarnation": kernel.incarnation, "pid": kernel.pid}
