"""A pool of kernels in a world where everything happens in any order: what is true of all of them together."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from msgspec.structs import replace

from llmspell_fleet.model.ids import KernelId, TenantId
from llmspell_fleet.model.kernel import Cause, Death, Kernel, KernelSpec, Phase
from llmspell_fleet.model.tenant import RestartRule
from llmspell_fleet.policy.actions import Circumstances, Kill, SetTimer, ShutDown, Spawn, Terminate
from llmspell_fleet.policy.events import (
    Answered,
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
from llmspell_fleet.policy.lifecycle import HAS_PROCESS, IS_LIVE, takes_work, transition
from llmspell_fleet.policy.reconcile import plan
from llmspell_fleet.policy.restart import RestartPolicy

TENANT = TenantId("t")
POLICY = RestartPolicy(max_restarts=3, window_s=30)
QUOTA = 5
CAUSES: list[Cause] = ["exited", "signal", "culled", "stuck", "memory_limit", "stopped", "restarted", "unknown"]
ASKED: list[LifecycleEvent] = [RestartAsked(), TerminateAsked(), DrainAsked("drained"), DrainAsked("restarted")]


class One:
    """A kernel and what is true of it in the world."""

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.spawning: int | None = None
        self.alive: int | None = None
        self.is_asked_to_go = False
        self.load = 0
        self.timers: list[int] = []

    @property
    def processes(self) -> int:
        return (self.spawning is not None) + (self.alive is not None)


class Pool(RuleBasedStateMachine):
    """A tenant's kernels, held at as many as are wanted, as the controller does it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.count = 0
        self.replicas = 0
        self.rule: RestartRule = "always"
        self.max_age_s = 0.0
        self.kernels: list[One] = []

    @initialize(rule=st.sampled_from(["always", "on-failure", "never"]), max_age_s=st.sampled_from([0.0, 15.0]))
    def begin(self, rule: RestartRule, max_age_s: float) -> None:
        self.rule, self.max_age_s = rule, max_age_s

    def apply(self, one: One, event: LifecycleEvent, jitter: float = 0.5) -> None:
        before = one.kernel
        one.kernel, actions = transition(
            before, event, Circumstances(now=self.now, policy=POLICY, jitter=jitter, executions=one.load)
        )
        if not before.is_wanted and not isinstance(event, StartAsked | RestartAsked):
            assert Spawn() not in actions, "stopped stays stopped"
        for action in actions:
            if isinstance(action, Spawn):
                assert one.processes == 0, "two processes for one kernel"
                one.spawning, one.is_asked_to_go = one.kernel.incarnation, False
            elif isinstance(action, SetTimer):
                one.timers = [*one.timers[-5:], action.generation]
            elif isinstance(action, ShutDown | Terminate):
                one.is_asked_to_go = True
            elif isinstance(action, Kill) and one.alive is not None:
                self.dies(one, "signal")
        if not one.kernel.is_wanted and one.kernel.phase not in HAS_PROCESS and one in self.kernels:
            self.kernels.remove(one)

    def dies(self, one: One, cause: Cause) -> None:
        incarnation, one.alive, one.load = one.alive, None, 0
        assert incarnation is not None
        self.apply(one, Exited(_death(one.kernel, incarnation, cause)))

    def reconcile(self) -> None:
        kernels = {one.kernel.id: one for one in self.kernels}
        loads = {kernel: one.load for kernel, one in kernels.items()}
        todo = plan(self.replicas, [one.kernel for one in self.kernels], loads)
        leaving = [kernels[kernel] for kernel in todo.remove]
        staying = [one for one in self.kernels if one.kernel.is_wanted and one not in leaving]
        for one in leaving:
            if one.load:
                idle = [other for other in staying if not other.load]
                assert not idle, "a busy kernel is stopped while an idle one would do"
            self.apply(one, DrainAsked() if one.load else StopAsked())
        for _ in range(todo.add):
            self.count += 1
            spec = KernelSpec(id=KernelId(f"k{self.count}"), tenant=TENANT, restart=self.rule, max_age_s=self.max_age_s)
            self.kernels.append(One(Kernel(spec=spec)))
        for one in list(self.kernels):
            if one.kernel.is_wanted and one.kernel.phase is Phase.PENDING:
                self.apply(one, StartAsked())
        assert sum(one.kernel.is_wanted for one in self.kernels) == self.replicas

    def pick(self, data: st.DataObject, ones: list[One]) -> One:
        return data.draw(st.sampled_from(ones), label="kernel")

    # --- what may happen

    @rule(seconds=st.floats(0, 40))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds

    @rule(replicas=st.integers(0, QUOTA))
    def somebody_scales(self, replicas: int) -> None:
        self.replicas = replicas
        self.reconcile()

    @precondition(lambda self: any(one.spawning is not None for one in self.kernels))
    @rule(data=st.data(), fails=st.booleans())
    def a_spawn_is_answered(self, data: st.DataObject, *, fails: bool) -> None:
        one = self.pick(data, [one for one in self.kernels if one.spawning is not None])
        incarnation, one.spawning = one.spawning, None
        assert incarnation is not None
        if fails:
            self.apply(one, SpawnFailed(_death(one.kernel, incarnation, "spawn_failed")))
        else:
            one.alive = incarnation
            self.apply(one, Spawned(incarnation, 1000 + incarnation, 1, self.now, ""))

    @precondition(lambda self: any(one.alive is not None for one in self.kernels))
    @rule(data=st.data(), cause=st.sampled_from(CAUSES), what=st.sampled_from(["answers", "dies", "silent", "hangs"]))
    def a_process_does_something(self, data: st.DataObject, cause: Cause, what: str) -> None:
        one = self.pick(data, [one for one in self.kernels if one.alive is not None])
        incarnation = one.alive
        assert incarnation is not None
        if what == "answers":
            self.apply(one, Answered(incarnation))
        elif what == "silent":
            self.apply(one, Silent(incarnation))
        elif what == "hangs":
            self.apply(one, Unresponsive(incarnation, "…"))
        else:
            self.dies(one, "stopped" if one.is_asked_to_go else cause)

    @precondition(lambda self: any(takes_work(one.kernel) for one in self.kernels))
    @rule(data=st.data())
    def work_comes(self, data: st.DataObject) -> None:
        self.pick(data, [one for one in self.kernels if takes_work(one.kernel)]).load += 1

    @precondition(lambda self: any(one.load for one in self.kernels))
    @rule(data=st.data())
    def work_ends(self, data: st.DataObject) -> None:
        one = self.pick(data, [one for one in self.kernels if one.load])
        one.load -= 1
        if not one.load:
            self.apply(one, Drained())

    @precondition(lambda self: self.kernels)
    @rule(data=st.data(), asked=st.sampled_from(ASKED))
    def somebody_asks(self, data: st.DataObject, asked: LifecycleEvent) -> None:
        one = self.pick(data, self.kernels)
        if one.kernel.is_wanted:
            self.apply(one, asked)

    @precondition(lambda self: any(one.timers for one in self.kernels))
    @rule(data=st.data(), jitter=st.floats(0, 1, exclude_max=True))
    def a_timer_fires_perhaps_late(self, data: st.DataObject, jitter: float) -> None:
        one = self.pick(data, [one for one in self.kernels if one.timers])
        generation = data.draw(st.sampled_from(one.timers), label="generation")
        before, is_late = one.kernel, generation != one.kernel.generation
        self.apply(one, TimerFired(generation), jitter)
        if is_late:
            assert one.kernel is before, "a late timer did something"

    # --- what is always so

    @invariant()
    def no_kernel_has_two_processes(self) -> None:
        assert all(one.processes <= 1 for one in self.kernels)

    @invariant()
    def the_pool_is_never_above_its_size(self) -> None:
        assert sum(one.kernel.is_wanted for one in self.kernels) <= max(self.replicas, 0) <= QUOTA
        not_leaving = [one for one in self.kernels if one.processes and one.kernel.ending is None]
        assert len(not_leaving) <= self.replicas

    @invariant()
    def what_takes_work_is_wanted_and_answers(self) -> None:
        for one in self.kernels:
            if takes_work(one.kernel):
                assert one.kernel.is_wanted
                assert one.alive == one.kernel.incarnation

    @invariant()
    def whoever_works_is_let_work_or_is_told(self) -> None:
        for one in self.kernels:
            assert one.kernel.phase in IS_LIVE | {Phase.STOPPING} or not one.load

    def teardown(self) -> None:
        """It can always be brought to nothing: by deadlines alone."""
        self.replicas = 0
        self.reconcile()
        for _ in range(12):
            for one in list(self.kernels):
                if one.spawning is not None:
                    incarnation, one.spawning = one.spawning, None
                    one.alive = incarnation
                    self.apply(one, Spawned(incarnation, 1000 + incarnation, 1, self.now, ""))
                elif one.kernel.phase in HAS_PROCESS:
                    self.apply(one, TimerFired(one.kernel.generation))
        assert not self.kernels


def _death(kernel: Kernel, incarnation: int, cause: Cause) -> Death:
    death = Death(kernel_id=kernel.id, tenant=TENANT, incarnation=incarnation, pid=None, at="", cause=cause)
    return replace(death, exit_code=0 if cause == "stopped" else None)


TestPool = Pool.TestCase
TestPool.settings = settings(max_examples=100, stateful_step_count=50)
