"""Kernels in a world where everything that can happen does, in any order, late and twice."""

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec.structs import replace

from llmspell_fleet.model.ids import KernelId, TenantId
from llmspell_fleet.model.kernel import Cause, Death, Kernel, KernelSpec, Phase
from llmspell_fleet.model.tenant import RestartRule
from llmspell_fleet.policy.actions import Action, Circumstances, Interrupt, Kill, SetTimer, ShutDown, Spawn, Terminate
from llmspell_fleet.policy.events import (
    Adopted,
    Answered,
    DrainAsked,
    Drained,
    Exited,
    LifecycleEvent,
    RestartAsked,
    Spawned,
    SpawnFailed,
    StartAsked,
    StopAsked,
    TerminateAsked,
    TimerFired,
    Unresponsive,
)
from llmspell_fleet.policy.lifecycle import HAS_PROCESS, transition
from llmspell_fleet.policy.restart import RestartPolicy

SPEC = KernelSpec(id=KernelId("00000000-0000-4000-8000-000000000001"), tenant=TenantId("default"))
POLICY = RestartPolicy(max_restarts=3, window_s=30)
OWN_CAUSES: list[Cause] = ["exited", "signal", "culled", "stuck", "fault", "stopped", "unknown"]
WAITS = {Phase.STARTING, Phase.BACKOFF, Phase.DRAINING, Phase.STOPPING}


def _death(incarnation: int, cause: Cause) -> Death:
    return Death(kernel_id=SPEC.id, tenant=SPEC.tenant, incarnation=incarnation, pid=None, at="", cause=cause)


class Life(RuleBasedStateMachine):
    """One kernel and the world around it: spawns under way, processes, letters not yet delivered, timers."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.kernel = Kernel(spec=SPEC)
        self.spawning: list[int] = []
        """Incarnations."""
        self.alive: list[int] = []
        self.answered: set[int] = set()
        self.letters: list[LifecycleEvent] = []
        self.delivered: list[LifecycleEvent] = []
        self.timers: list[int] = []
        """Generations."""
        self.expired: list[int] = []
        self.executions = 0
        self.is_closing = False

    def happens(self, event: LifecycleEvent, jitter: float = 0.5) -> None:
        before = self.kernel
        at = Circumstances(
            now=self.now, policy=POLICY, jitter=jitter, executions=self.executions, is_closing=self.is_closing
        )
        self.kernel, actions = transition(before, event, at)
        assert not (self.is_closing and Spawn() in actions), "no process begins when the fleet ends"
        is_new_rung = self.kernel.ending is not None and before.ending is not None
        is_new_rung = is_new_rung and self.kernel.ending.step != before.ending.step
        if self.kernel.phase is not before.phase or Spawn() in actions or is_new_rung:
            assert self.kernel.generation > before.generation
        if not before.is_wanted and not isinstance(event, StartAsked | RestartAsked):
            assert not self.kernel.is_wanted, "stopped stays stopped"
            assert Spawn() not in actions, "stopped stays stopped"
        for action in actions:
            self.perform(action)

    def perform(self, action: Action) -> None:
        match action:
            case Spawn():
                assert not self.spawning, "two spawns under way"
                assert not self.alive, "two processes"
                self.spawning.append(self.kernel.incarnation)
            case SetTimer(generation, after_s):
                assert generation == self.kernel.generation
                assert after_s > 0
                self.timers.append(generation)
            case Interrupt() | ShutDown() | Terminate() | Kill():
                assert self.kernel.pid is not None, "a signal to nobody"
                if isinstance(action, Kill) and self.kernel.incarnation in self.alive:
                    self.dies("signal")
            case _:
                pass

    def dies(self, cause: Cause) -> None:
        incarnation = self.alive.pop()
        self.letters.append(Exited(_death(incarnation, cause)))

    def deliver(self, letter: LifecycleEvent) -> None:
        self.letters.remove(letter)
        self.delivered.append(letter)
        self.happens(letter)

    # --- what may happen

    @initialize(
        alive=st.booleans(),
        is_wanted=st.booleans(),
        rule=st.sampled_from(["always", "on-failure", "never"]),
        max_age_s=st.sampled_from([0.0, 20.0]),
    )
    def begin(self, *, alive: bool, is_wanted: bool, rule: RestartRule, max_age_s: float) -> None:
        self.kernel = Kernel(spec=replace(SPEC, restart=rule, max_age_s=max_age_s), is_wanted=is_wanted)
        if alive:
            self.alive.append(5)
            self.happens(Adopted(5, 1005, 5, self.now, ""))

    @rule(seconds=st.floats(0, 40))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(asked=st.sampled_from([StartAsked(), StartAsked(), RestartAsked(), StopAsked(), StopAsked(is_forced=True), StopAsked("culled"), DrainAsked(), DrainAsked("restarted"), DrainAsked("culled"), DrainAsked("drained"), TerminateAsked()]))  # fmt: skip
    def somebody_asks(self, asked: LifecycleEvent) -> None:
        self.happens(asked)

    @precondition(lambda self: self.spawning)
    @rule()
    def a_spawn_succeeds(self) -> None:
        incarnation = self.spawning.pop()
        self.alive.append(incarnation)
        self.letters.append(Spawned(incarnation, 1000 + incarnation, incarnation, self.now, ""))

    @precondition(lambda self: self.spawning)
    @rule(is_permanent=st.booleans())
    def a_spawn_fails(self, *, is_permanent: bool) -> None:
        self.letters.append(SpawnFailed(_death(self.spawning.pop(), "spawn_failed"), is_permanent))

    @precondition(lambda self: self.alive)
    @rule()
    def the_process_answers(self) -> None:
        self.answered.add(self.alive[0])
        self.letters.append(Answered(self.alive[0]))

    @precondition(lambda self: self.alive)
    @rule()
    def the_process_falls_silent(self) -> None:
        self.letters.append(Unresponsive(self.alive[0], "…"))

    @precondition(lambda self: self.alive)
    @rule(cause=st.sampled_from(OWN_CAUSES))
    def the_process_dies(self, cause: Cause) -> None:
        self.dies(cause)

    @rule()
    def its_work_ends(self) -> None:
        self.executions = 0
        self.happens(Drained())

    @rule()
    def work_is_given_to_it(self) -> None:
        self.executions += 1

    @precondition(lambda self: self.letters)
    @rule(data=st.data())
    def a_letter_arrives(self, data: st.DataObject) -> None:
        self.deliver(data.draw(st.sampled_from(self.letters)))

    @precondition(lambda self: self.delivered)
    @rule(data=st.data())
    def a_letter_arrives_again(self, data: st.DataObject) -> None:
        self.happens(data.draw(st.sampled_from(self.delivered)))

    @precondition(lambda self: self.timers)
    @rule(data=st.data(), jitter=st.floats(0, 1, exclude_max=True))
    def a_timer_fires(self, data: st.DataObject, jitter: float) -> None:
        generation = data.draw(st.sampled_from(self.timers))
        self.timers.remove(generation)
        self.expired.append(generation)
        self.happens(TimerFired(generation), jitter)

    @precondition(lambda self: self.expired)
    @rule(data=st.data())
    def a_timer_of_an_earlier_phase_fires(self, data: st.DataObject) -> None:
        generation = data.draw(st.sampled_from(self.expired))
        if generation != self.kernel.generation:
            before = self.kernel
            self.happens(TimerFired(generation))
            assert self.kernel is before

    @rule()
    def the_fleet_ends(self) -> None:
        self.is_closing = True
        self.happens(StopAsked())

    @rule()
    def its_next_controller_begins(self) -> None:
        self.is_closing = False

    # --- what is always so

    @invariant()
    def there_is_one_process_at_most(self) -> None:
        assert len(self.alive) + len(self.spawning) <= 1

    @invariant()
    def a_phase_without_process_has_none(self) -> None:
        if self.kernel.phase not in HAS_PROCESS:
            assert not self.alive
            assert not self.spawning
            assert self.kernel.pid is None

    @invariant()
    def a_phase_with_process_has_one_or_will_hear_of_its_end(self) -> None:
        if self.kernel.phase in HAS_PROCESS:
            mine = self.kernel.incarnation
            ends = [letter.death.incarnation for letter in self.letters if isinstance(letter, Exited | SpawnFailed)]
            assert mine in [*self.alive, *self.spawning, *ends]

    @invariant()
    def what_is_ready_has_answered(self) -> None:
        if self.kernel.phase is Phase.READY:
            assert self.kernel.incarnation in self.answered

    @invariant()
    def a_pid_is_that_of_the_present_incarnation(self) -> None:
        assert self.kernel.pid in {None, 1000 + self.kernel.incarnation}

    @invariant()
    def what_waits_has_a_deadline(self) -> None:
        if self.kernel.phase in WAITS:
            assert self.kernel.generation in self.timers

    @invariant()
    def what_ends_knows_why(self) -> None:
        assert (self.kernel.ending is not None) == (self.kernel.phase in {Phase.DRAINING, Phase.STOPPING})

    @invariant()
    def what_crashes_too_often_is_not_started_again(self) -> None:
        if self.kernel.phase is Phase.BACKOFF:
            assert len(self.kernel.crashes) <= POLICY.max_restarts

    def teardown(self) -> None:
        """Whatever it has been through, it can be stopped: by its deadlines if it must."""
        self.happens(StopAsked())
        for _ in range(8):
            if self.spawning:
                self.a_spawn_succeeds()
            while self.letters:
                self.deliver(self.letters[0])
            if self.kernel.phase is Phase.STOPPING:
                self.timers.remove(self.kernel.generation)
                self.happens(TimerFired(self.kernel.generation))
        assert self.kernel.phase is Phase.STOPPED
        assert not self.alive


TestLife = Life.TestCase
TestLife.settings = settings(max_examples=150, stateful_step_count=40)

BEGUN = [StartAsked(), Spawned(1, 10, 1, 0.0, ""), Answered(1)]


@pytest.mark.parametrize(
    ("phase", "events"),
    [
        (Phase.PENDING, []),
        (Phase.STARTING, [StartAsked()]),
        (Phase.READY, BEGUN),
        (Phase.DRAINING, [*BEGUN, DrainAsked()]),
        (Phase.STOPPING, [*BEGUN, DrainAsked(), Drained()]),
        (Phase.STOPPED, [*BEGUN, DrainAsked(), Exited(_death(1, "exited"))]),
        (Phase.BACKOFF, [*BEGUN, Exited(_death(1, "signal")), Exited(_death(2, "signal"))]),
        (Phase.FAILED, [StartAsked(), SpawnFailed(_death(1, "spawn_failed"), is_permanent=True)]),
    ],
)
def test_every_phase_is_reached(phase: Phase, events: list[LifecycleEvent]) -> None:
    kernel = Kernel(spec=SPEC)
    for event in events:
        kernel, _ = transition(kernel, event, Circumstances(now=1.0, policy=POLICY, jitter=0.0, executions=1))

    assert kernel.phase is phase
