"""The stop ladder: which rungs are taken, which have no point, and which one the certificate names."""

from typing import Any

import pytest
from msgspec.structs import replace

from llmspell_fleet.model.ids import KernelId, TenantId
from llmspell_fleet.model.kernel import Death, Kernel, KernelSpec, Phase, Rung
from llmspell_fleet.policy.actions import Action, Circumstances, Emit, Interrupt, Kill, SetTimer, ShutDown, Terminate
from llmspell_fleet.policy.events import (
    DrainAsked,
    Drained,
    Exited,
    LifecycleEvent,
    Spawned,
    StopAsked,
    TerminateAsked,
    TimerFired,
)
from llmspell_fleet.policy.lifecycle import transition
from llmspell_fleet.policy.restart import RestartPolicy

SPEC = KernelSpec(id=KernelId("00000000-0000-4000-8000-000000000001"), tenant=TenantId("t"))
POLICY = RestartPolicy(drain_deadline_s=30, interrupt_deadline_s=3, shutdown_deadline_s=4, stop_deadline_s=5)
READY = Kernel(spec=SPEC, phase=Phase.READY, incarnation=1, pid=100, ready_at=1.0, spawned_at=1.0)
STARTING = replace(READY, phase=Phase.STARTING, ready_at=0.0)
UNBORN = replace(STARTING, pid=None)
OVERDUE = "its deadline"


class Stair:
    """A kernel on its way down."""

    def __init__(self, kernel: Kernel, **circumstances: Any) -> None:
        self.kernel = kernel
        self.circumstances = circumstances
        self.generations = [kernel.generation]

    def goes(self, event: LifecycleEvent | str) -> list[Action]:
        """What is done at an event, or when the last timer fires."""
        if isinstance(event, str):
            event = TimerFired(self.kernel.generation)
        self.kernel, actions = transition(
            self.kernel, event, Circumstances(now=50.0, policy=POLICY, jitter=0.0, **self.circumstances)
        )
        self.generations.append(self.kernel.generation)
        done = [action for action in actions if not isinstance(action, Emit)]
        for timer in done:
            assert not isinstance(timer, SetTimer) or timer.generation == self.kernel.generation
        return [replace(action, generation=0) if isinstance(action, SetTimer) else action for action in done]

    def dies(self) -> Death:
        self.goes(Exited(Death(kernel_id=SPEC.id, tenant=SPEC.tenant, incarnation=1, pid=100, at="", cause="signal")))
        assert self.kernel.last_death is not None
        return self.kernel.last_death


DRAIN = [SetTimer(0, 30)]
INTERRUPT = [Interrupt(), SetTimer(0, 3)]
ASK = [ShutDown(), SetTimer(0, 4)]
TERM = [Terminate(), SetTimer(0, 5)]
KILL = [Kill(), SetTimer(0, 5)]
NOBODY = [SetTimer(0, 5)]
BUSY, LENT, IDLE = {"executions": 1}, {"leases": 1}, {"executions": 0, "leases": 0}

Steps = list[tuple[LifecycleEvent | str, list[Action]]]
LADDERS: list[tuple[str, Kernel, dict[str, int], Steps, Rung]] = [
    ("all rungs", READY, BUSY, [(DrainAsked(), DRAIN), (OVERDUE, INTERRUPT), (OVERDUE, ASK), (OVERDUE, TERM), (OVERDUE, KILL), (OVERDUE, KILL)], "kill"),
    ("idle", READY, IDLE, [(StopAsked(), ASK)], "shutdown"),
    ("idle, drained", READY, IDLE, [(DrainAsked(), ASK)], "shutdown"),
    ("idle, deaf", READY, IDLE, [(StopAsked(), ASK), (OVERDUE, TERM)], "terminate"),
    ("busy", READY, BUSY, [(StopAsked(), INTERRUPT), (Drained(), ASK)], "interrupt"),
    ("busy, and not interrupted in time", READY, BUSY, [(StopAsked(), INTERRUPT), (OVERDUE, ASK)], "shutdown"),
    ("busy, drained", READY, BUSY, [(DrainAsked(), DRAIN), (Drained(), ASK)], "drain"),
    ("busy, drained, deaf", READY, BUSY, [(DrainAsked(), DRAIN), (Drained(), ASK), (OVERDUE, TERM)], "terminate"),
    ("lent", READY, LENT, [(DrainAsked(), DRAIN), (OVERDUE, ASK)], "shutdown"),
    ("lent, not drained", READY, LENT, [(StopAsked(), ASK)], "shutdown"),
    ("drained, then stopped", READY, BUSY, [(DrainAsked(), DRAIN), (StopAsked(), INTERRUPT)], "interrupt"),
    ("forced", READY, BUSY, [(StopAsked(is_forced=True), KILL)], "kill"),
    ("forced later", READY, BUSY, [(DrainAsked(), DRAIN), (StopAsked(is_forced=True), KILL)], "kill"),
    ("forced twice", READY, BUSY, [(StopAsked(is_forced=True), KILL), (StopAsked(is_forced=True), [])], "kill"),
    ("hastened", READY, IDLE, [(StopAsked(), ASK), (TerminateAsked(), TERM), (TerminateAsked(), [])], "terminate"),
    ("never answered", STARTING, IDLE, [(StopAsked(), TERM), (OVERDUE, KILL)], "kill"),
    ("not born", UNBORN, IDLE, [(StopAsked(), NOBODY), (OVERDUE, NOBODY), (Spawned(1, 100, 1, 1.0, ""), TERM)], "terminate"),
    ("forced, not born", UNBORN, IDLE, [(StopAsked(is_forced=True), NOBODY), (Spawned(1, 100, 1, 1.0, ""), KILL)], "kill"),
]  # fmt: skip


@pytest.mark.parametrize(("case", "kernel", "circumstances", "steps", "rung"), LADDERS)
def test_the_rungs_are_taken_in_order_and_the_one_that_worked_is_named(
    case: str, kernel: Kernel, circumstances: dict[str, int], steps: Steps, rung: Rung
) -> None:
    stair = Stair(kernel, **circumstances)

    for event, actions in steps:
        assert stair.goes(event) == actions, (case, event)

    death = stair.dies()
    assert (death.rung, death.cause) == (rung, "stopped"), case


def test_each_rung_ends_the_timer_of_the_one_before() -> None:
    stair = Stair(READY, **BUSY)
    stair.goes(DrainAsked())
    for _ in range(5):
        stair.goes(OVERDUE)

    assert stair.generations == list(range(7))
    assert stair.goes(TimerFired(stair.generations[-2])) == []


def test_a_kernel_that_goes_by_itself_while_it_drains_was_ended_by_no_rung() -> None:
    stair = Stair(READY, **BUSY)
    stair.goes(DrainAsked())

    death = stair.dies()
    assert (death.rung, death.cause) == (None, "signal")
