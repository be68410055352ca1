"""Rolling restarts: who is next, and that it ends, whatever happens to the kernels meanwhile."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from llmspell_fleet.model.ids import KernelId, TenantId
from llmspell_fleet.model.kernel import Cause, Death, Kernel, KernelSpec, Phase
from llmspell_fleet.policy.actions import Circumstances
from llmspell_fleet.policy.events import (
    Answered,
    DrainAsked,
    Drained,
    Exited,
    LifecycleEvent,
    RestartAsked,
    Spawned,
    StartAsked,
    StopAsked,
    TimerFired,
)
from llmspell_fleet.policy.lifecycle import HAS_PROCESS, TAKES_WORK, transition
from llmspell_fleet.policy.reconcile import plan
from llmspell_fleet.policy.restart import RestartPolicy
from llmspell_fleet.policy.rolling import Roll, Step, is_put_down, share, step

T = TenantId("t")
P = Phase


def kernel(name: str, phase: Phase = P.READY, incarnation: int = 1, *, is_wanted: bool = True) -> Kernel:
    return Kernel(
        spec=KernelSpec(id=KernelId(name), tenant=T), phase=phase, incarnation=incarnation, is_wanted=is_wanted
    )


def roll(targets: str, *, unavailable: int = 1, surge: int = 0) -> Roll:
    return Roll(
        tenant=T,
        max_unavailable=unavailable,
        max_surge=surge,
        targets={KernelId(name): 1 for name in targets},
        total=len(targets),
        started_at="",
    )


# --- one step


@pytest.mark.parametrize(
    ("case", "kernels", "asked", "running", "restart", "surge"),
    [
        ("the first", "a1 b1 c1", {}, {}, "a", 0),
        ("the least busy first", "a1 b1 c1", {}, {"a": 2, "b": 1}, "c", 0),
        ("so many as may be unavailable", "a1 b1 c1", {"unavailable": 2}, {}, "ab", 0),
        ("the next", "a2 b1 c1", {}, {}, "b", 0),
        ("one is on its way", "a2S b1 c1", {}, {}, "", 0),
        ("one drains", "a1D b1 c1", {}, {}, "", 0),
        ("somebody else is down", "a1 b1 x1B", {}, {}, "", 0),
        ("who is down anyway goes first", "a1 b1F", {}, {}, "b", 0),
        ("and takes its turn", "a1F b1F", {}, {}, "a", 0),
        ("one that sleeps needs nothing", "a1Z b1", {}, {}, "b", 0),
        ("nobody may leave before one stands in", "a1 b1", {"unavailable": 0, "surge": 1}, {}, "", 1),
        ("it stands in", "a1 b1 x1", {"unavailable": 0, "surge": 1}, {}, "a", 1),
        ("they stand in until the end", "a2 b1 x1 y1", {"unavailable": 0, "surge": 2}, {}, "b", 2),
        ("one that says nothing is not ready", "a1 b1Q c1", {}, {}, "", 0),
        ("both", "a1 b1 c1 x1", {"unavailable": 1, "surge": 1}, {}, "ab", 1),
        ("more may be unavailable than there are", "a1 b1", {"unavailable": 9}, {}, "ab", 0),
    ],
)
def test_who_is_next(
    case: str, kernels: str, asked: dict[str, int], running: dict[KernelId, int], restart: str, surge: int
) -> None:
    phases = {
        "": P.READY,
        "Q": P.READY,
        "S": P.STARTING,
        "D": P.DRAINING,
        "B": P.BACKOFF,
        "F": P.FAILED,
        "Z": P.STOPPED,
    }
    found = [kernel(word[0], phases[word[2:]], int(word[1])) for word in kernels.split()]
    found = [replace(one, is_silent="Q" in word) for one, word in zip(found, kernels.split(), strict=True)]
    targets = "".join(one.id for one in found if one.id in "abc")
    replicas = len(targets) + ("x1B" in kernels)

    todo = step(roll(targets, **asked), found, running, replicas)

    assert ("".join(todo.restart), todo.surge, todo.end) == (restart, surge, None), case


def test_it_is_done_when_all_are_new_gone_or_asleep() -> None:
    found = [kernel("a", incarnation=2), kernel("b", P.STOPPED), kernel("c", P.STOPPING, is_wanted=False)]

    assert step(roll("abcd"), found, {}, 2).end == "done"


@pytest.mark.parametrize(
    ("case", "of", "expected"),
    [
        ("drained", Death(kernel_id=KernelId("a"), tenant=T, incarnation=1, pid=1, at="", cause="drained", rung="drain"), True),
        ("drained before it began", None, True),
        ("culled", Death(kernel_id=KernelId("a"), tenant=T, incarnation=1, pid=1, at="", cause="culled"), False),
        ("it has done its work", Death(kernel_id=KernelId("a"), tenant=T, incarnation=1, pid=1, at="", cause="stopped"), False),
    ],
)  # fmt: skip
def test_what_a_person_put_down_is_told_from_what_sleeps_and_what_is_done(
    case: str, of: Death | None, expected: bool
) -> None:
    down = replace(kernel("a", P.STOPPED), last_death=of)
    down = replace(down, spec=replace(down.spec, restart="on-failure"))

    assert is_put_down(down) is expected, case


def test_what_was_put_down_is_started_and_waited_for() -> None:
    asked = replace(roll("ab", unavailable=2), put_down=frozenset({KernelId("a"), KernelId("b")}))

    todo = step(asked, [kernel("a", P.STOPPED), kernel("b", P.STOPPED)], {}, 2)
    assert (todo.restart, todo.end) == (("a", "b"), None)
    assert step(asked, [kernel("a", P.STARTING, 2), kernel("b", incarnation=2)], {}, 2).end is None
    assert step(asked, [kernel("a", P.STOPPED, 2), kernel("b", incarnation=2)], {}, 2).end == "done", "drained again"


def test_what_waits_for_another_kernel_does_not_make_a_roll_wait_for_ever() -> None:
    init, main = kernel("i"), kernel("a", P.PENDING)
    init = replace(init, spec=replace(init.spec, name="init"))
    main = replace(main, spec=replace(main.spec, depends_on={"init": "exited_ok"}))

    todo = step(roll("a"), [init, main], {}, 2)

    assert (todo.end, todo.reason) == (
        "failed",
        "kernel a waits for init (depends_on), and starts by itself once that is so far",
    )
    assert step(roll("a"), [replace(init, phase=P.STARTING), main], {}, 2).end is None


@pytest.mark.parametrize("phase", [P.BACKOFF, P.FAILED])
def test_a_new_incarnation_that_fails_ends_it_with_the_reason(phase: Phase) -> None:
    death = Death(kernel_id=KernelId("a"), tenant=T, incarnation=3, pid=1, at="", cause="not_ready", detail="too late")
    bad = replace(kernel("a", phase, 3), last_death=death)

    todo = step(roll("ab"), [bad, kernel("b")], {}, 2)

    assert (todo.end, todo.restart) == ("failed", ())
    assert "kernel a" in todo.reason
    assert "not_ready, too late" in todo.reason


def test_a_roll_that_could_only_wait_ends_with_the_reason() -> None:
    others = [kernel("x", P.FAILED), kernel("y", P.FAILED)]

    todo = step(roll("a"), [kernel("a"), *others], {}, 3)

    assert todo.end == "failed"
    assert "1 of 3 kernels are ready" in todo.reason
    assert "x, y" in todo.reason


@pytest.mark.parametrize(
    ("asked", "size", "down", "up"),
    [(3, 10, 3, 3), (0, 10, 0, 0), ("25%", 10, 2, 3), ("100%", 7, 7, 7), ("0%", 7, 0, 0), ("1%", 50, 0, 1)],
)
def test_a_share_is_a_number_or_a_percentage(asked: int | str, size: int, down: int, up: int) -> None:
    assert (share(asked, size, up=False), share(asked, size, up=True)) == (down, up)


# --- from its beginning to its end


class World:
    """Kernels that live by the lifecycle's rules, and a roll that is asked after everything that happens."""

    POLICY = RestartPolicy(max_restarts=2)

    def __init__(self, size: int, unavailable: int, surge: int) -> None:
        self.now = 0.0
        self.size = size
        self.surge = 0
        self.made = 0
        self.kernels: dict[KernelId, Kernel] = {}
        self.reconcile()
        for one in list(self.kernels):
            self.settle(one)
        self.at_first = dict(self.kernels)
        self.roll = Roll(
            tenant=T,
            max_unavailable=unavailable,
            max_surge=min(surge, size),
            targets={one.id: one.incarnation for one in self.kernels.values()},
            total=size,
            started_at="",
        )
        self.last: Step | None = None
        self.failed: set[KernelId] = set()

    def tell(self, kernel_id: KernelId, event: LifecycleEvent) -> None:
        self.now += 0.01
        was = self.kernels[kernel_id]
        now, _ = transition(was, event, Circumstances(now=self.now, policy=self.POLICY, jitter=0.0))
        if not now.is_wanted and now.phase not in HAS_PROCESS:
            del self.kernels[kernel_id]
        else:
            self.kernels[kernel_id] = now

    def reconcile(self) -> None:
        todo = plan(self.size + self.surge, list(self.kernels.values()), {})
        for one in todo.remove:
            self.tell(one, StopAsked())
        for _ in range(todo.add):
            self.made += 1
            made = kernel(f"k{self.made:02}", P.PENDING, 0)
            self.kernels[made.id] = made
            self.tell(made.id, StartAsked())

    def moves(self) -> list[KernelId]:
        """Kernels that something is about to happen to."""
        moving = (HAS_PROCESS - TAKES_WORK) | {P.BACKOFF}
        return [one.id for one in self.kernels.values() if one.phase in moving]

    def settle(self, kernel_id: KernelId, *, is_bad: bool = False) -> None:
        """What is about to happen to a kernel."""
        one = self.kernels[kernel_id]
        match one.phase:
            case P.STARTING if one.pid is None:
                self.tell(kernel_id, Spawned(one.incarnation, 100 + one.incarnation, 1, self.now, ""))
                if not is_bad:
                    self.tell(kernel_id, Answered(one.incarnation))
            case P.STARTING:
                self.die(kernel_id, "fault")
            case P.DRAINING:
                self.tell(kernel_id, Drained())
            case P.STOPPING if one.pid is None:
                self.tell(kernel_id, Spawned(one.incarnation, 100 + one.incarnation, 1, self.now, ""))
            case P.STOPPING:
                self.die(kernel_id, "exited")
            case P.BACKOFF:
                self.tell(kernel_id, TimerFired(one.generation))

    def die(self, kernel_id: KernelId, cause: Cause) -> None:
        one = self.kernels[kernel_id]
        self.tell(
            kernel_id,
            Exited(Death(kernel_id=one.id, tenant=T, incarnation=one.incarnation, pid=one.pid, at="", cause=cause)),
        )

    def ready(self) -> int:
        return sum(one.phase in TAKES_WORK and one.is_wanted for one in self.kernels.values())

    def advance(self, *, drains: bool) -> None:
        ready = self.ready()
        todo = step(self.roll, list(self.kernels.values()), {}, self.size)
        self.roll = todo.roll
        if todo.end is not None:
            assert not todo.restart
            self.last = todo
            self.surge = 0
            self.reconcile()
            return
        taken = [one for one in todo.restart if self.kernels[one].phase in TAKES_WORK]
        if taken:
            assert ready - len(taken) >= self.size - self.roll.max_unavailable, "too few would be ready"
        for one in todo.restart:
            self.tell(one, DrainAsked("restarted") if drains and one in taken else RestartAsked())
        assert 0 <= todo.surge <= self.roll.max_surge
        if todo.surge != self.surge:
            self.surge = todo.surge
            self.reconcile()
        wanted = sum(one.is_wanted for one in self.kernels.values())
        assert wanted <= self.size + self.roll.max_surge, "too many at one time"


shapes: Any = st.tuples(st.integers(0, 7), st.integers(0, 3), st.integers(0, 3)).filter(lambda shape: any(shape[1:]))


@settings(max_examples=300)
@given(shapes, st.data())
def test_it_ends_with_all_kernels_new_and_the_same_and_never_too_few_or_too_many(
    shape: tuple[int, int, int], data: st.DataObject
) -> None:
    world = World(*shape)
    for _ in range(1000):
        world.advance(drains=data.draw(st.booleans()))
        if world.last is not None:
            break
        # Nobody dies by itself: whoever is not ready is so because of the roll.
        assert world.ready() >= world.size - world.roll.max_unavailable
        assert len(world.kernels) <= world.size + world.roll.max_surge
        world.settle(data.draw(st.sampled_from(world.moves())))
    assert world.last is not None
    assert world.last.end == "done"
    while moving := world.moves():
        world.settle(moving[0])
    assert set(world.kernels) == set(world.at_first), "every kernel keeps its id"
    assert all(world.kernels[one].incarnation == was.incarnation + 1 for one, was in world.at_first.items())


@settings(max_examples=300)
@given(shapes, st.data())
def test_it_ends_whatever_happens_to_the_kernels(shape: tuple[int, int, int], data: st.DataObject) -> None:
    world = World(*shape)
    happened = 0
    while world.last is None:
        world.advance(drains=data.draw(st.booleans()))
        if world.last is not None:
            break
        ready = [one.id for one in world.kernels.values() if one.phase in TAKES_WORK]
        may_go_wrong = happened < 30
        happened += 1
        assert happened < 1000, "it goes on for ever"
        choices = ["settle"] * bool(world.moves())
        if may_go_wrong:
            choices += ["crash"] * bool(ready) + ["fail"] * bool(world.moves()) + ["scale", "delete"]
        assert choices, "it waits for nothing"
        match data.draw(st.sampled_from(choices)):
            case "settle":
                world.settle(data.draw(st.sampled_from(world.moves())))
            case "fail":
                world.settle(data.draw(st.sampled_from(world.moves())), is_bad=True)
            case "crash":
                world.die(data.draw(st.sampled_from(ready)), "signal")
            case "scale":
                world.size = data.draw(st.integers(0, 7))
                world.reconcile()
            case "delete" if wanted := sorted(one.id for one in world.kernels.values() if one.is_wanted):
                world.size = max(0, world.size - 1)
                world.tell(data.draw(st.sampled_from(wanted)), StopAsked())
    assert world.last.end == "done" or world.last.reason


@settings(max_examples=200)
@given(shapes.filter(lambda shape: shape[0] > 0))
def test_when_no_new_incarnation_can_be_had_the_rest_goes_on_serving(shape: tuple[int, int, int]) -> None:
    world = World(*shape)
    for _ in range(1000):
        world.advance(drains=True)
        if world.last is not None:
            break
        world.settle(world.moves()[0], is_bad=world.kernels[world.moves()[0]].phase is P.STARTING)
    assert world.last is not None
    assert world.last.end == "failed"
    assert world.last.reason
    assert world.ready() >= world.size - world.roll.max_unavailable
