"""The table of a kernel's life, row by row."""

from typing import Any

import pytest
from msgspec.structs import replace

from llmspell_fleet.model.ids import KernelId, TenantId
from llmspell_fleet.model.kernel import Cause, Death, Ending, Kernel, KernelSpec, Phase, Rung
from llmspell_fleet.model.tenant import RestartRule
from llmspell_fleet.policy.actions import Action, Circumstances, Emit, Kill, SetTimer, ShutDown, Spawn, Terminate
from llmspell_fleet.policy.events import (
    Adopted,
    Answered,
    Changed,
    DrainAsked,
    Drained,
    Exited,
    LifecycleEvent,
    RestartAsked,
    Silent,
    Spawned,
    SpawnFailed,
    StartAsked,
    StopAsked,
    TerminateAsked,
    TimerFired,
    Unresponsive,
)
from llmspell_fleet.policy.lifecycle import HAS_PROCESS, IS_LIVE, TAKES_WORK, shown, takes_work, transition, wakes
from llmspell_fleet.policy.restart import RestartPolicy

ID = KernelId("00000000-0000-4000-8000-000000000001")
SPEC = KernelSpec(id=ID, tenant=TenantId("default"))
POLICY = RestartPolicy(
    max_restarts=2,
    window_s=60,
    first_delay_s=0.1,
    start_deadline_s=10,
    drain_deadline_s=30,
    interrupt_deadline_s=3,
    shutdown_deadline_s=4,
    stop_deadline_s=5,
)
STORED = [phase for phase in Phase if phase is not Phase.BUSY]
NOW = 1000.0
GENERATION = 7
INCARNATION = 3
NEXT = GENERATION + 1
START = [Spawn(), SetTimer(NEXT, 10)]

OLD = replace(SPEC, max_age_s=120, max_age_variance=0.5)
TO_STOP = Ending("stopped", restarts=False)
TO_RESTART = Ending("restarted", restarts=True)
DRAINED = Ending("drained", restarts=False)


def at_rung(ending: Ending, rung: Rung) -> Ending:
    return replace(ending, step=rung, rung=rung)


def kernel_in(phase: Phase, **changes: Any) -> Kernel:
    kernel = Kernel(spec=SPEC, phase=phase, generation=GENERATION, incarnation=INCARNATION)
    if phase in HAS_PROCESS:
        kernel = replace(kernel, pid=100, start_time=5, spawned_at=900.0, started_at="then")
    if phase in {Phase.READY, Phase.DRAINING, Phase.STOPPING}:
        kernel = replace(kernel, ready_at=901.0)
    if phase in {Phase.DRAINING, Phase.STOPPING}:
        kernel = replace(kernel, ending=at_rung(TO_STOP, "drain" if phase is Phase.DRAINING else "terminate"))
        kernel = replace(kernel, is_wanted=False)
    return replace(kernel, **changes)


def death(cause: Cause = "signal", *, incarnation: int = INCARNATION, detail: str = "", rung: Rung | None = None) -> Death:  # fmt: skip
    return Death(
        kernel_id=ID, tenant=SPEC.tenant, incarnation=incarnation, pid=100, at="now", cause=cause, detail=detail,
        rung=rung,
    )  # fmt: skip


def spawned(incarnation: int = INCARNATION) -> Spawned:
    return Spawned(incarnation, pid=200, start_time=6, at=999.0, date="today")


def adopted(ending: Ending | None = None) -> Adopted:
    return Adopted(9, pid=300, start_time=7, at=990.0, date="yesterday", ending=ending)


def after(
    kernel: Kernel, event: LifecycleEvent, *, now: float = NOW, **circumstances: Any
) -> tuple[Kernel, list[Action]]:
    """What is told is looked at elsewhere."""
    kernel, actions = transition(kernel, event, Circumstances(now=now, policy=POLICY, jitter=0.0, **circumstances))
    return kernel, [action for action in actions if not isinstance(action, Emit)]


def told(kernel: Kernel, event: LifecycleEvent) -> list[str]:
    _, actions = transition(kernel, event, Circumstances(now=NOW, policy=POLICY, jitter=0.0))
    return [action.event_type for action in actions if isinstance(action, Emit)]


P = Phase
TABLE: list[tuple[str, Kernel, LifecycleEvent, Phase, list[Action]]] = [
    ("begun", kernel_in(P.PENDING), StartAsked(), P.STARTING, START),
    ("started again", kernel_in(P.STOPPED, is_wanted=False), StartAsked(), P.STARTING, START),
    ("started before its delay is over", kernel_in(P.BACKOFF), StartAsked(), P.STARTING, START),
    ("tried again", kernel_in(P.FAILED), StartAsked(), P.STARTING, START),
    ("woken", kernel_in(P.HIBERNATED), StartAsked(), P.STARTING, START),
    ("wanted again while it drains", kernel_in(P.DRAINING), StartAsked(), P.DRAINING, []),
    ("wanted again while it stops", kernel_in(P.STOPPING), StartAsked(), P.STOPPING, []),
    ("there is a process", kernel_in(P.STARTING, pid=None), spawned(), P.STARTING, [SetTimer(NEXT, 10)]),
    ("the answer was quicker than the spawner", kernel_in(P.READY, pid=None), spawned(), P.READY, []),
    ("spawned too late", kernel_in(P.STOPPING, pid=None), spawned(), P.STOPPING, [Terminate(), SetTimer(NEXT, 5)]),
    ("it answered", kernel_in(P.STARTING), Answered(3), P.READY, []),
    ("it answered before we know its pid", kernel_in(P.STARTING, pid=None), Answered(3), P.READY, []),
    ("crashed", kernel_in(P.READY), Exited(death()), P.STARTING, START),
    ("crashed again", kernel_in(P.READY, crashes=(990.0,)), Exited(death()), P.BACKOFF, [SetTimer(NEXT, 0.1)]),
    ("crashed once too often", kernel_in(P.READY, crashes=(980.0, 990.0)), Exited(death()), P.FAILED, []),
    ("crashed long ago", kernel_in(P.READY, crashes=(900.0, 940.0)), Exited(death()), P.STARTING, START),
    ("crashed as it started", kernel_in(P.STARTING), Exited(death()), P.STARTING, START),
    ("died before we knew its pid", kernel_in(P.STARTING, pid=None), Exited(death()), P.STARTING, START),
    ("left by itself", kernel_in(P.READY), Exited(death("exited")), P.STARTING, START),
    ("culled itself", kernel_in(P.READY), Exited(death("culled")), P.STOPPED, []),
    ("drained and died", kernel_in(P.DRAINING), Exited(death()), P.STOPPED, []),
    ("drained, died, comes back", kernel_in(P.DRAINING, ending=TO_RESTART), Exited(death()), P.STARTING, START),
    ("stopped", kernel_in(P.STOPPING), Exited(death("exited")), P.STOPPED, []),
    ("stopped for the next one", kernel_in(P.STOPPING, ending=TO_RESTART), Exited(death()), P.STARTING, START),
    ("no process", kernel_in(P.STARTING, pid=None), SpawnFailed(death("spawn_failed")), P.STARTING, START),
    ("never a process", kernel_in(P.STARTING, pid=None), SpawnFailed(death("spawn_failed"), True), P.FAILED, []),
    ("no process to stop", kernel_in(P.STOPPING, pid=None), SpawnFailed(death("spawn_failed")), P.STOPPED, []),
    ("no answer", kernel_in(P.STARTING), TimerFired(7), P.STOPPING, [Kill(), SetTimer(NEXT, 5)]),
    ("no answer from the spawner", kernel_in(P.STARTING, pid=None), TimerFired(7), P.STOPPING, [SetTimer(NEXT, 5)]),
    ("drained too long", kernel_in(P.DRAINING), TimerFired(7), P.STOPPING, [ShutDown(), SetTimer(NEXT, 4)]),
    ("does not stop", kernel_in(P.STOPPING), TimerFired(7), P.STOPPING, [Kill(), SetTimer(NEXT, 5)]),
    ("the spawner does not answer", kernel_in(P.STOPPING, pid=None), TimerFired(7), P.STOPPING, [SetTimer(7, 5)]),
    ("the delay is over", kernel_in(P.BACKOFF), TimerFired(7), P.STARTING, START),
    ("drain what is idle", kernel_in(P.READY), DrainAsked(), P.STOPPING, [ShutDown(), SetTimer(NEXT, 4)]),
    ("drain what has no work", kernel_in(P.STARTING), DrainAsked(), P.STOPPING, [Terminate(), SetTimer(NEXT, 5)]),
    ("roll what has no work", kernel_in(P.STARTING), DrainAsked("restarted"), P.STOPPING, [Terminate(), SetTimer(NEXT, 5)]),
    ("drain what drains", kernel_in(P.DRAINING, ending=TO_RESTART), DrainAsked(), P.DRAINING, []),
    ("drain what stops", kernel_in(P.STOPPING, ending=TO_RESTART), DrainAsked(), P.STOPPING, []),
    ("drain what waits", kernel_in(P.BACKOFF), DrainAsked(), P.STOPPED, []),
    ("drain what is pending", kernel_in(P.PENDING), DrainAsked(), P.STOPPED, []),
    ("drain what failed", kernel_in(P.FAILED), DrainAsked(), P.STOPPED, []),
    ("drain what was culled", kernel_in(P.STOPPED), DrainAsked(), P.STOPPED, []),
    ("drain what sleeps", kernel_in(P.HIBERNATED), DrainAsked(), P.STOPPED, []),
    ("nothing runs any more", kernel_in(P.DRAINING), Drained(), P.STOPPING, [ShutDown(), SetTimer(NEXT, 4)]),
    ("stop what is pending", kernel_in(P.PENDING), StopAsked(), P.STOPPED, []),
    ("stop what starts", kernel_in(P.STARTING), StopAsked(), P.STOPPING, [Terminate(), SetTimer(NEXT, 5)]),
    ("stop what is being spawned", kernel_in(P.STARTING, pid=None), StopAsked(), P.STOPPING, [SetTimer(NEXT, 5)]),
    ("stop", kernel_in(P.READY), StopAsked(), P.STOPPING, [ShutDown(), SetTimer(NEXT, 4)]),
    ("force", kernel_in(P.READY), StopAsked(is_forced=True), P.STOPPING, [Kill(), SetTimer(NEXT, 5)]),
    ("force what is being spawned", kernel_in(P.STARTING, pid=None), StopAsked(is_forced=True), P.STOPPING, [SetTimer(NEXT, 5)]),
    ("stop what drains", kernel_in(P.DRAINING), StopAsked(), P.STOPPING, [ShutDown(), SetTimer(NEXT, 4)]),
    ("stop what restarts", kernel_in(P.STOPPING, ending=TO_RESTART), StopAsked(), P.STOPPING, []),
    ("force what stops", kernel_in(P.STOPPING), StopAsked(is_forced=True), P.STOPPING, [Kill(), SetTimer(NEXT, 5)]),
    ("force what stops unborn", kernel_in(P.STOPPING, pid=None), StopAsked(is_forced=True), P.STOPPING, [SetTimer(NEXT, 5)]),
    ("stop what waits", kernel_in(P.BACKOFF), StopAsked(), P.STOPPED, []),
    ("stop what failed", kernel_in(P.FAILED), StopAsked(), P.STOPPED, []),
    ("stop what was culled", kernel_in(P.STOPPED), StopAsked(), P.STOPPED, []),
    ("stop what sleeps", kernel_in(P.HIBERNATED), StopAsked(), P.STOPPED, []),
    ("cull", kernel_in(P.READY), StopAsked("culled"), P.STOPPING, [ShutDown(), SetTimer(NEXT, 4)]),
    ("restart", kernel_in(P.READY), RestartAsked(), P.STOPPING, [ShutDown(), SetTimer(NEXT, 4)]),
    ("restart what starts", kernel_in(P.STARTING), RestartAsked(), P.STOPPING, [Terminate(), SetTimer(NEXT, 5)]),
    ("restart what drains", kernel_in(P.DRAINING), RestartAsked(), P.STOPPING, [ShutDown(), SetTimer(NEXT, 4)]),
    ("restart what stops", kernel_in(P.STOPPING), RestartAsked(), P.STOPPING, []),
    ("restart what is pending", kernel_in(P.PENDING), RestartAsked(), P.STARTING, START),
    ("restart what waits", kernel_in(P.BACKOFF), RestartAsked(), P.STARTING, START),
    ("restart what failed", kernel_in(P.FAILED), RestartAsked(), P.STARTING, START),
    ("restart what is stopped", kernel_in(P.STOPPED), RestartAsked(), P.STARTING, START),
    ("restart what sleeps", kernel_in(P.HIBERNATED), RestartAsked(), P.STARTING, START),
    ("silent", kernel_in(P.READY), Unresponsive(3, "…"), P.STOPPING, [Kill(), SetTimer(NEXT, 5)]),
    ("nonsense at its start", kernel_in(P.STARTING), Unresponsive(3, "…"), P.STOPPING, [Kill(), SetTimer(NEXT, 5)]),
    ("silent while it drains", kernel_in(P.DRAINING), Unresponsive(3, "…"), P.STOPPING, [Kill(), SetTimer(NEXT, 5)]),
    ("drain by hand what is idle", kernel_in(P.READY), DrainAsked("drained"), P.STOPPING, [ShutDown(), SetTimer(NEXT, 4)]),
    ("drain by hand what starts", kernel_in(P.STARTING), DrainAsked("drained"), P.STOPPING, [Terminate(), SetTimer(NEXT, 5)]),
    ("drain by hand what drains", kernel_in(P.DRAINING, ending=TO_RESTART), DrainAsked("drained"), P.DRAINING, []),
    ("drain by hand what stops", kernel_in(P.STOPPING, ending=TO_RESTART), DrainAsked("drained"), P.STOPPING, []),
    ("drain by hand what waits", kernel_in(P.BACKOFF), DrainAsked("drained"), P.STOPPED, []),
    ("drain by hand what is pending", kernel_in(P.PENDING), DrainAsked("drained"), P.STOPPED, []),
    ("drain by hand what failed", kernel_in(P.FAILED), DrainAsked("drained"), P.STOPPED, []),
    ("TERM", kernel_in(P.READY), TerminateAsked(), P.STOPPING, [Terminate(), SetTimer(NEXT, 5)]),
    ("TERM to what starts", kernel_in(P.STARTING), TerminateAsked(), P.STOPPING, [Terminate(), SetTimer(NEXT, 5)]),
    ("TERM to what drains", kernel_in(P.DRAINING), TerminateAsked(), P.STOPPING, [Terminate(), SetTimer(NEXT, 5)]),
    ("TERM to what was asked to go", kernel_in(P.STOPPING, ending=at_rung(TO_STOP, "shutdown")), TerminateAsked(), P.STOPPING, [Terminate(), SetTimer(NEXT, 5)]),
    ("old", kernel_in(P.READY, spec=OLD), TimerFired(7), P.STOPPING, [ShutDown(), SetTimer(NEXT, 4)]),
    ("its age may be another", kernel_in(P.READY, spec=OLD), Changed(), P.READY, [SetTimer(NEXT, 20)]),
    ("its age is over by now", kernel_in(P.READY, spec=OLD, spawned_at=1.0), Changed(), P.READY, [SetTimer(NEXT, 0.001)]),
    ("it has no age any more", kernel_in(P.READY), Changed(), P.READY, []),
    ("it answered, and ages", kernel_in(P.STARTING, spec=OLD), Answered(3), P.READY, [SetTimer(NEXT, 20)]),
    ("doubted", kernel_in(P.READY), Silent(3), P.READY, []),
    ("doubted while it drains", kernel_in(P.DRAINING), Silent(3), P.DRAINING, []),
    ("heard again", kernel_in(P.READY, is_silent=True), Answered(3), P.READY, []),
    ("found alive", kernel_in(P.PENDING), adopted(), P.STARTING, [SetTimer(NEXT, 10)]),
    ("found alive, stopped", kernel_in(P.STOPPED), adopted(), P.STARTING, [SetTimer(NEXT, 10)]),
    ("found alive, in backoff", kernel_in(P.BACKOFF), adopted(), P.STARTING, [SetTimer(NEXT, 10)]),
    ("found alive, failed", kernel_in(P.FAILED), adopted(), P.STARTING, [SetTimer(NEXT, 10)]),
    ("found alive, asleep", kernel_in(P.HIBERNATED), adopted(), P.STARTING, [SetTimer(NEXT, 10)]),
    ("found alive, unwanted", kernel_in(P.STOPPED, is_wanted=False), adopted(), P.STOPPING, [Terminate(), SetTimer(NEXT + 1, 5)]),
    ("found alive, draining", kernel_in(P.PENDING), adopted(at_rung(DRAINED, "drain")), P.DRAINING, [SetTimer(NEXT, 30)]),
    ("found alive, asked to go", kernel_in(P.PENDING), adopted(at_rung(DRAINED, "shutdown")), P.STOPPING, [Terminate(), SetTimer(NEXT + 1, 5)]),
    ("found alive, to be killed", kernel_in(P.PENDING), adopted(at_rung(TO_RESTART, "kill")), P.STOPPING, [Kill(), SetTimer(NEXT + 1, 5)]),
]  # fmt: skip


@pytest.mark.parametrize(("case", "kernel", "event", "phase", "actions"), TABLE)
def test_each_row_of_the_table(
    case: str, kernel: Kernel, event: LifecycleEvent, phase: Phase, actions: list[Action]
) -> None:
    now, done = after(kernel, event)

    assert now.phase is phase, case
    assert done == actions, case


EVENTS: list[LifecycleEvent] = [
    StartAsked(),
    StopAsked(),
    DrainAsked(),
    RestartAsked(),
    spawned(),
    SpawnFailed(death("spawn_failed")),
    Answered(INCARNATION),
    Exited(death()),
    TimerFired(GENERATION),
    Drained(),
    Unresponsive(INCARNATION, "…"),
    DrainAsked("drained"),
    TerminateAsked(),
    Changed(),
    Silent(INCARNATION),
    adopted(),
]


@pytest.mark.parametrize("event", EVENTS, ids=lambda event: type(event).__name__)
@pytest.mark.parametrize("phase", STORED)
def test_what_is_not_in_the_table_changes_nothing(phase: Phase, event: LifecycleEvent) -> None:
    kernel = kernel_in(phase)
    rows = {(row.phase, row.pid, type(event)) for _, row, event, *_ in TABLE if row.spec is SPEC}

    if (phase, kernel.pid, type(event)) not in rows:
        assert transition(kernel, event, Circumstances(now=NOW, policy=POLICY, jitter=0.0)) == (kernel, ())


@pytest.mark.parametrize(
    ("case", "kernel", "event"),
    [
        ("a spawn of an earlier incarnation", kernel_in(P.STARTING, pid=None), spawned(2)),
        ("a spawn told twice", kernel_in(P.STARTING), spawned()),
        ("a failed spawn after a process", kernel_in(P.STARTING), SpawnFailed(death("spawn_failed"))),
        ("a failed spawn of an earlier incarnation", kernel_in(P.STARTING, pid=None), SpawnFailed(death("spawn_failed", incarnation=2))),
        ("an answer of an earlier incarnation", kernel_in(P.STARTING), Answered(2)),
        ("an end of an earlier incarnation", kernel_in(P.READY), Exited(death(incarnation=2))),
        ("silence of an earlier incarnation", kernel_in(P.READY), Unresponsive(2, "…")),
        ("a timer of an earlier phase", kernel_in(P.STARTING), TimerFired(6)),
        ("a timer to start what was stopped since", kernel_in(P.STOPPED), TimerFired(6)),
        ("a start deadline after the answer", kernel_in(P.READY), TimerFired(6)),
        ("culling what is not idle in READY", kernel_in(P.STARTING), StopAsked("culled")),
        ("culling what restarts", kernel_in(P.STOPPING, ending=TO_RESTART), StopAsked("culled")),
        ("a rolling restart of what waits to be restarted", kernel_in(P.BACKOFF), DrainAsked("restarted")),
        ("a rolling restart of what failed", kernel_in(P.FAILED), DrainAsked("restarted")),
        ("a rolling restart of what stops", kernel_in(P.STOPPING), DrainAsked("restarted")),
        ("starting what starts", kernel_in(P.STARTING), StartAsked()),
        ("starting what is ready", kernel_in(P.READY), StartAsked()),
    ],
)  # fmt: skip
def test_what_comes_late_or_twice_changes_nothing(case: str, kernel: Kernel, event: LifecycleEvent) -> None:
    assert transition(kernel, event, Circumstances(now=NOW, policy=POLICY, jitter=0.0)) == (kernel, ()), case


@pytest.mark.parametrize(
    ("case", "kernel", "reported", "certified"),
    [
        ("killed by somebody", kernel_in(P.READY), "signal", "signal"),
        ("killed because it did not stop", kernel_in(P.STOPPING), "signal", "stopped"),
        ("left when told to", kernel_in(P.STOPPING), "exited", "stopped"),
        ("left for its next incarnation", kernel_in(P.STOPPING, ending=TO_RESTART), "exited", "restarted"),
        ("killed because it did not answer", kernel_in(P.STOPPING, ending=Ending("not_ready", True)), "signal", "not_ready"),
        ("crashed while it drained", kernel_in(P.DRAINING), "signal", "signal"),
        ("never was, and should not be", kernel_in(P.STOPPING, pid=None), "spawn_failed", "spawn_failed"),
    ],
)  # fmt: skip
def test_the_certificate_says_why_it_was_ended_and_not_how(
    case: str, kernel: Kernel, reported: Cause, certified: Cause
) -> None:
    event = SpawnFailed(death(reported)) if reported == "spawn_failed" else Exited(death(reported))

    now, _ = after(kernel, event)

    rung = kernel.ending.rung if kernel.ending and kernel.phase is P.STOPPING and kernel.pid else None
    assert now.last_death == death(certified, rung=rung), case


def test_the_certificate_of_a_silent_kernel_says_what_was_seen() -> None:
    silent, _ = after(kernel_in(P.READY), Unresponsive(INCARNATION, "no heartbeat for 9 s"))
    dead, _ = after(silent, Exited(death("signal", detail="killed")))

    assert dead.last_death == death("unresponsive", detail="no heartbeat for 9 s", rung="kill")


@pytest.mark.parametrize(
    ("case", "cause", "counted"),
    [
        ("a crash", "signal", True),
        ("an end of its own", "exited", True),
        ("a fault of the kernel", "fault", True),
        ("nobody saw why", "unknown", True),
        ("a client's shutdown_request", "stopped", False),
        ("a client's restart", "restarted", False),
        ("a script that could not be interrupted", "stuck", False),
        ("a script that could not be stopped in time", "execution_limit", False),
        ("memory that ran out", "memory_limit", True),
        ("memory that ran out, as its cgroup saw", "out_of_memory", True),
    ],
)
def test_only_crashes_are_counted(case: str, cause: Cause, counted: bool) -> None:
    kernel = kernel_in(P.READY, crashes=(980.0, 990.0))

    now, _ = after(kernel, Exited(death(cause)))

    assert now.phase is (P.FAILED if counted else P.STARTING), case
    assert now.crashes == (980.0, 990.0, NOW)[: 3 if counted else 2], case


def test_crashes_that_do_not_count_any_more_are_forgotten() -> None:
    now, _ = after(kernel_in(P.READY, crashes=(900.0, 940.0, 941.0)), Exited(death()))

    assert now.crashes == (941.0, NOW)


def test_a_kernel_that_does_not_answer_in_time_has_crashed() -> None:
    late, _ = after(kernel_in(P.STARTING, crashes=(980.0, 990.0)), TimerFired(GENERATION))
    dead, _ = after(late, Exited(death()))

    assert dead.phase is P.FAILED
    assert dead.last_death == death("not_ready", detail="no answer within 10 s", rung="kill")


@pytest.mark.parametrize("phase", [phase for phase in STORED if phase not in HAS_PROCESS])
def test_an_operators_restart_forgets_the_crashes(phase: Phase) -> None:
    now, _ = after(kernel_in(phase, crashes=(980.0, 990.0)), RestartAsked())

    assert (now.crashes, now.is_wanted) == ((), True)


def test_a_start_after_a_failure_is_one_try() -> None:
    tried, _ = after(kernel_in(P.FAILED, crashes=(980.0, 990.0)), StartAsked())
    dead, _ = after(tried, Exited(death(incarnation=4)))

    assert dead.phase is P.FAILED


@pytest.mark.parametrize("event", [StopAsked(), DrainAsked()])
@pytest.mark.parametrize("phase", STORED)
def test_a_stopped_kernel_stays_stopped(phase: Phase, event: LifecycleEvent) -> None:
    kernel = kernel_in(phase, is_wanted=True, ending=TO_RESTART if phase in {P.DRAINING, P.STOPPING} else None)
    kernel, _ = after(kernel, event)
    kernel, _ = after(kernel, Exited(death()))

    assert (kernel.phase, kernel.is_wanted) == (P.STOPPED, False)


@pytest.mark.parametrize("ends", [Exited(death("culled")), StopAsked("culled"), DrainAsked("culled")])
def test_a_culled_kernel_may_be_started_by_the_next_request(ends: LifecycleEvent) -> None:
    kernel, _ = after(kernel_in(P.READY), ends)
    kernel, _ = after(kernel, Exited(death("exited")))

    assert (kernel.phase, kernel.is_wanted, wakes(kernel)) == (P.STOPPED, True, True)
    assert kernel.last_death == death("culled", rung=None if isinstance(ends, Exited) else "shutdown")


def test_a_kernel_that_a_person_drained_waits_for_a_person() -> None:
    kernel, _ = after(kernel_in(P.READY), DrainAsked("drained"))
    kernel, _ = after(kernel, Exited(death("stopped")))

    assert (kernel.phase, kernel.is_wanted, wakes(kernel)) == (P.STOPPED, True, False)
    assert kernel.last_death == death("drained", rung="shutdown")


def test_a_silent_kernel_takes_no_work_until_it_answers() -> None:
    silent, _ = after(kernel_in(P.READY), Silent(INCARNATION))
    heard, _ = after(silent, Answered(INCARNATION))

    assert (takes_work(kernel_in(P.READY)), takes_work(silent), takes_work(heard)) == (True, False, True)
    assert silent.generation == heard.generation == GENERATION, "the timer of its age still holds"


RULES: list[tuple[RestartRule, Cause, Phase]] = [
    ("always", "signal", P.STARTING),
    ("always", "stopped", P.STARTING),
    ("always", "culled", P.STOPPED),
    ("on-failure", "signal", P.STARTING),
    ("on-failure", "exited", P.STARTING),
    ("on-failure", "stuck", P.STARTING),
    ("on-failure", "stopped", P.STOPPED),
    ("on-failure", "restarted", P.STARTING),
    ("on-failure", "culled", P.STOPPED),
    ("never", "signal", P.FAILED),
    ("never", "memory_limit", P.FAILED),
    ("never", "stopped", P.STOPPED),
    ("never", "execution_limit", P.STOPPED),
    ("never", "restarted", P.STARTING),
]


@pytest.mark.parametrize(("rule", "cause", "phase"), RULES)
def test_what_follows_an_end_of_its_own_is_its_restart_rules(rule: RestartRule, cause: Cause, phase: Phase) -> None:
    now, _ = after(kernel_in(P.READY, spec=replace(SPEC, restart=rule)), Exited(death(cause)))

    assert (now.phase, now.is_wanted) == (phase, True)


@pytest.mark.parametrize("rule", ["always", "on-failure", "never"])
@pytest.mark.parametrize("asked", [RestartAsked(), DrainAsked("restarted"), TimerFired(GENERATION)])
def test_what_was_ended_for_its_next_incarnation_has_one_by_any_rule(asked: LifecycleEvent, rule: RestartRule) -> None:
    kernel, _ = after(kernel_in(P.READY, spec=replace(OLD, restart=rule)), asked)
    kernel, _ = after(kernel, Exited(death("stopped")))

    assert kernel.phase is P.STARTING


@pytest.mark.parametrize(("rule", "phase"), [("always", P.STARTING), ("on-failure", P.STOPPED), ("never", P.STOPPED)])
def test_an_operators_term_is_answered_by_the_restart_rule(rule: RestartRule, phase: Phase) -> None:
    kernel, _ = after(kernel_in(P.READY, spec=replace(SPEC, restart=rule)), TerminateAsked())
    kernel, _ = after(kernel, Exited(death("stopped")))

    assert (kernel.phase, kernel.is_wanted, wakes(kernel)) == (phase, True, False)
    assert kernel.last_death == death("stopped", detail="SIGTERM was asked for", rung="terminate")


@pytest.mark.parametrize("rule", ["on-failure", "never"])
def test_a_kernel_that_never_answered_has_crashed_by_its_rule_too(rule: RestartRule) -> None:
    kernel, _ = after(kernel_in(P.STARTING, spec=replace(SPEC, restart=rule)), TimerFired(GENERATION))
    kernel, _ = after(kernel, Exited(death()))

    assert kernel.phase is (P.STARTING if rule == "on-failure" else P.FAILED)


BLOCKED: list[tuple[str, Kernel, LifecycleEvent]] = [
    ("begun", kernel_in(P.PENDING), StartAsked()),
    ("started again", kernel_in(P.STOPPED, is_wanted=False), StartAsked()),
    ("restarted", kernel_in(P.FAILED), RestartAsked()),
    ("crashed", kernel_in(P.READY), Exited(death())),
    ("after its delay", kernel_in(P.BACKOFF), TimerFired(GENERATION)),
]


@pytest.mark.parametrize(("case", "kernel", "event"), BLOCKED)
def test_a_start_that_is_blocked_waits(case: str, kernel: Kernel, event: LifecycleEvent) -> None:
    waiting, done = after(kernel, event, is_blocked=True)
    begun, _ = after(waiting, StartAsked())

    assert (waiting.phase, waiting.is_wanted, done) == (P.PENDING, True, []), case
    assert (begun.phase, begun.incarnation) == (P.STARTING, INCARNATION + 1)


@pytest.mark.parametrize("asks", [RestartAsked(), DrainAsked("restarted"), TerminateAsked()])
@pytest.mark.parametrize("executions", [0, 1])
def test_what_is_ended_for_its_next_incarnation_does_not_wait_again(asks: LifecycleEvent, executions: int) -> None:
    ending, _ = after(kernel_in(P.READY), asks, executions=executions, is_blocked=True)
    for cause in ("exited", "signal"):
        kernel, done = after(ending, Exited(death(cause)), is_blocked=True)

        assert (kernel.phase, kernel.incarnation) == (P.STARTING, INCARNATION + 1)
        assert Spawn() in done


@pytest.mark.parametrize("restarts", [False, True])
def test_a_drain_outlives_the_controller(restarts: bool) -> None:
    ending = at_rung(TO_RESTART if restarts else DRAINED, "drain")
    kernel, _ = after(kernel_in(P.PENDING), adopted(ending))
    kernel, _ = after(kernel, Answered(9))
    assert (kernel.phase, takes_work(kernel), kernel.ending) == (P.DRAINING, False, ending)

    kernel, done = after(kernel, Drained())
    assert ShutDown() in done
    kernel, _ = after(kernel, Exited(replace(death("stopped"), incarnation=9)))

    assert kernel.phase is (P.STARTING if restarts else P.STOPPED)
    assert (kernel.is_wanted, kernel.last_death and kernel.last_death.cause) == (True, ending.cause)


def test_what_we_asked_for_is_nobody_elses() -> None:
    by_others = "told to by somebody else than the fleet"
    asked, _ = after(kernel_in(P.READY), StopAsked())
    asked, _ = after(asked, Exited(death("stopped", detail=by_others)))
    not_asked, _ = after(kernel_in(P.READY), Exited(death("stopped", detail=by_others)))

    assert asked.last_death == death("stopped", rung="shutdown")
    assert not_asked.last_death == death("stopped", detail=by_others)


@pytest.mark.parametrize("asks", [StartAsked(), RestartAsked()])
def test_a_kernel_that_is_wanted_again_while_it_stops_comes_back(asks: LifecycleEvent) -> None:
    kernel, _ = after(kernel_in(P.STOPPING), asks)
    kernel, done = after(kernel, Exited(death()))

    assert (kernel.phase, kernel.is_wanted, done) == (P.STARTING, True, START)
    assert kernel.last_death == death("stopped", rung="terminate")


def test_a_kernel_that_drains_for_a_restart_comes_back() -> None:
    kernel, _ = after(kernel_in(P.READY), DrainAsked("restarted"))
    kernel, _ = after(kernel, Drained())
    kernel, _ = after(kernel, Exited(death("exited")))

    assert (kernel.phase, kernel.incarnation, kernel.crashes) == (P.STARTING, INCARNATION + 1, ())


def test_what_belonged_to_a_process_goes_with_it() -> None:
    kernel, _ = after(kernel_in(P.READY, ready_at=901.0), Exited(death("culled")))

    assert (kernel.pid, kernel.start_time, kernel.spawned_at, kernel.ready_at, kernel.started_at, kernel.ending) == (None, None, 0.0, 0.0, "", None)  # fmt: skip


def test_what_a_spawn_and_an_answer_say_is_kept() -> None:
    kernel, _ = after(kernel_in(P.STARTING, pid=None), spawned())
    kernel, _ = after(kernel, Answered(INCARNATION))

    assert (kernel.pid, kernel.start_time, kernel.spawned_at, kernel.started_at) == (200, 6, 999.0, "today")
    assert kernel.ready_at == NOW


def test_an_adopted_kernel_keeps_its_incarnation() -> None:
    kernel, _ = after(kernel_in(P.PENDING), adopted())

    assert (kernel.incarnation, kernel.pid, kernel.start_time) == (9, 300, 7)


@pytest.mark.parametrize(
    ("case", "kernel", "event", "events"),
    [
        ("started", kernel_in(P.PENDING), StartAsked(), ["kernel.starting"]),
        ("ready", kernel_in(P.STARTING), Answered(3), ["kernel.ready"]),
        ("crashed", kernel_in(P.READY), Exited(death()), ["kernel.died", "kernel.starting"]),
        ("crashed again", kernel_in(P.READY, crashes=(990.0,)), Exited(death()), ["kernel.died", "kernel.backoff"]),
        ("crashed too often", kernel_in(P.READY, crashes=(980.0, 990.0)), Exited(death()), ["kernel.died", "kernel.failed"]),
        ("cannot be started", kernel_in(P.STARTING, pid=None), SpawnFailed(death("spawn_failed"), True), ["kernel.died", "kernel.failed"]),
        ("stuck", kernel_in(P.READY), Exited(death("stuck")), ["kernel.died", "kernel.starting"]),
        ("told to stop", kernel_in(P.READY), StopAsked(), []),
        ("doubted", kernel_in(P.READY), Silent(3), ["kernel.silent"]),
        ("heard again", kernel_in(P.READY, is_silent=True), Answered(3), ["kernel.ready"]),
        ("stopped", kernel_in(P.STOPPING), Exited(death()), ["kernel.stopped"]),
        ("culled", kernel_in(P.READY), Exited(death("culled")), ["kernel.stopped"]),
        ("restarted", kernel_in(P.STOPPING, ending=TO_RESTART), Exited(death()), ["kernel.stopped", "kernel.starting"]),
        ("given up", kernel_in(P.BACKOFF), StopAsked(), ["kernel.stopped"]),
    ],
)  # fmt: skip
def test_the_world_is_told(case: str, kernel: Kernel, event: LifecycleEvent, events: list[str]) -> None:
    assert told(kernel, event) == events, case


@pytest.mark.parametrize(
    ("phase", "running", "seen"), [(P.READY, 0, P.READY), (P.READY, 2, P.BUSY), (P.DRAINING, 2, P.DRAINING)]
)
def test_a_ready_kernel_with_work_is_shown_busy(phase: Phase, running: int, seen: Phase) -> None:
    assert shown(kernel_in(phase), running) is seen


def test_what_takes_work_answers_and_what_answers_has_a_process() -> None:
    assert TAKES_WORK < IS_LIVE < HAS_PROCESS
