"""Which kernel gets the next request."""

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from llmspell_fleet.model.ids import KernelId
from llmspell_fleet.model.tenant import Strategy
from llmspell_fleet.policy.balance import Pool

STRATEGIES: list[Strategy] = ["round_robin", "least_loaded", "sticky"]


def name(number: int) -> KernelId:
    return KernelId(f"k{number}")


def pool_of(*loads: int | None) -> Pool:
    """Kernels k0, k1, … with these loads; None = takes no work."""
    pool = Pool()
    for number, load in enumerate(loads):
        pool.add(name(number))
        pool.add_load(name(number), load or 0)
        pool.set_ready(name(number), load is not None)
    return pool


def choices(pool: Pool, strategy: Strategy, times: int) -> list[KernelId | None]:
    return [pool.choose(strategy) for _ in range(times)]


@pytest.mark.parametrize(
    ("case", "strategy", "loads", "chosen"),
    [
        ("nobody there", "round_robin", (), [None]),
        ("nobody there", "least_loaded", (), [None]),
        ("nobody there", "sticky", (), [None]),
        ("nobody ready", "round_robin", (None, None), [None]),
        ("nobody ready", "least_loaded", (None, None), [None]),
        ("nobody ready", "sticky", (None, None), [None]),
        ("in strict order", "round_robin", (0, 0, 0), ["k0", "k1", "k2", "k0", "k1"]),
        ("busy or not", "round_robin", (9, 0, 1), ["k0", "k1", "k2", "k0", "k1"]),
        ("past those not ready", "round_robin", (None, 0, None, 0), ["k1", "k3", "k1", "k3"]),
        ("the least loaded", "least_loaded", (2, 1, 3), ["k1", "k1"]),
        ("idle ones in turn", "least_loaded", (0, 1, 0), ["k0", "k2", "k0", "k2"]),
        ("an idle one that is not ready", "least_loaded", (None, 4, 5), ["k1", "k1"]),
        ("without a session the least loaded", "sticky", (2, 1, 3), ["k1", "k1"]),
    ],
)
def test_without_a_session_the_strategy_decides(
    case: str, strategy: Strategy, loads: tuple[int | None, ...], chosen: list[str | None]
) -> None:
    assert choices(pool_of(*loads), strategy, len(chosen)) == chosen, case


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_session_stays_with_its_kernel_under_every_strategy(strategy: Strategy) -> None:
    pool = pool_of(0, 9, 0)

    assert [pool.choose(strategy, "mine", {"mine": name(1)}) for _ in range(5)] == [name(1)] * 5


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_session_waits_for_the_next_incarnation_of_its_kernel(strategy: Strategy) -> None:
    pool = pool_of(0, None, 0)

    assert pool.choose(strategy, "mine", {"mine": name(1)}) is None
    pool.set_ready(name(1), True)
    assert pool.choose(strategy, "mine", {"mine": name(1)}) == name(1)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_session_whose_kernel_is_gone_is_placed_anew(strategy: Strategy) -> None:
    pool = pool_of(0, 0)
    pool.remove(name(1))

    assert pool.choose(strategy, "mine", {"mine": name(1)}) == name(0)


@pytest.mark.parametrize(
    ("case", "sessions", "loads", "chosen"),
    [
        ("fewest sessions", (2, 1, 3), (0, 7, 0), "k1"),
        ("then the least load", (1, 1, 3), (2, 1, 0), "k1"),
        ("then the next in turn", (1, 1, 1), (0, 0, 0), "k0"),
        ("of those ready", (1, 0, 2), (0, None, 0), "k0"),
    ],
)
def test_a_new_session_is_placed_with_few_others(
    case: str, sessions: tuple[int, ...], loads: tuple[int | None, ...], chosen: str
) -> None:
    pool = pool_of(*loads)
    for number, count in enumerate(sessions):
        pool.add_session(name(number), count)

    assert pool.choose("sticky", "new", {}) == chosen, case


def test_a_session_that_leaves_makes_room() -> None:
    pool = pool_of(0, 0)
    pool.add_session(name(0), 1)
    pool.add_session(name(1), 2)
    pool.add_session(name(1), -2)

    assert pool.choose("sticky", "new", {}) == name(1)


def test_requests_of_sessions_do_not_disturb_the_rotation() -> None:
    pool = pool_of(0, 0, 0)
    visited = []
    for _ in range(3):
        visited.append(pool.choose("round_robin"))
        pool.choose("round_robin", "mine", {"mine": name(2)})

    assert visited == ["k0", "k1", "k2"]


@pytest.mark.parametrize(
    ("case", "removed", "following"),
    [
        ("the one visited last", 1, ["k2", "k3", "k0"]),
        ("one before", 0, ["k2", "k3", "k1"]),
        ("the next", 2, ["k3", "k0", "k1"]),
        ("one later", 3, ["k2", "k0", "k1"]),
    ],
)
def test_the_rotation_goes_on_when_one_leaves(case: str, removed: int, following: list[str]) -> None:
    pool = pool_of(0, 0, 0, 0)
    choices(pool, "round_robin", 2)
    pool.remove(name(removed))

    assert choices(pool, "round_robin", 3) == following, case


def test_a_newcomer_is_last_in_the_rotation() -> None:
    pool = pool_of(0, 0)
    choices(pool, "round_robin", 2)
    pool.add(name(2))
    pool.set_ready(name(2), True)

    assert choices(pool, "round_robin", 3) == ["k2", "k0", "k1"]


def test_the_load_of_one_that_takes_no_work_is_kept() -> None:
    pool = pool_of(3)
    pool.set_ready(name(0), False)
    pool.add_load(name(0), -1)

    assert (pool.load(name(0)), pool.is_ready(name(0)), pool.has_ready) == (2, False, False)
    pool.set_ready(name(0), True)
    assert (pool.load(name(0)), pool.is_ready(name(0)), pool.has_ready) == (2, True, True)


def test_what_is_said_of_one_that_left_is_nothing() -> None:
    pool = pool_of(0, 0)
    pool.remove(name(0))
    pool.remove(name(0))
    pool.add_load(name(0), 1)
    pool.add_session(name(0), 1)

    assert (len(pool), name(0) in pool, pool.is_ready(name(0)), pool.load(name(1))) == (1, False, False, 0)


def test_a_member_added_twice_stays_as_it_is() -> None:
    pool = pool_of(5)
    pool.add(name(0))

    assert (len(pool), pool.load(name(0)), pool.is_ready(name(0))) == (1, 5, True)


@given(loads=st.lists(st.integers(0, 9), min_size=1, max_size=30), rounds=st.integers(1, 200))
def test_round_robin_spreads_evenly(loads: list[int], rounds: int) -> None:
    counted = Counter(choices(pool_of(*loads), "round_robin", rounds))

    assert max(counted.values()) - min(counted[name(number)] for number in range(len(loads))) <= 1


@given(loads=st.lists(st.integers(0, 9), min_size=1, max_size=30), requests=st.integers(1, 200))
def test_least_loaded_fills_up_the_valleys(loads: list[int], requests: int) -> None:
    pool = pool_of(*loads)
    for _ in range(requests):
        chosen = pool.choose("least_loaded")
        assert chosen is not None
        before = [pool.load(name(number)) for number in range(len(loads))]
        assert pool.load(chosen) == min(before)
        pool.add_load(chosen, 1)


@given(number=st.integers(1, 20))
def test_least_loaded_uses_every_idle_kernel(number: int) -> None:
    assert set(choices(pool_of(*[0] * number), "least_loaded", number)) == {name(n) for n in range(number)}


class Membership(RuleBasedStateMachine):
    """Kernels come, go, die and come back while requests are placed: what holds for every visit."""

    members = Bundle("members")

    def __init__(self) -> None:
        super().__init__()
        self.pool = Pool()
        self.order: list[KernelId] = []
        """Members, oldest first."""
        self.ready: set[KernelId] = set()
        self.loads: Counter[KernelId] = Counter()
        self.homes: dict[str, KernelId] = {}
        self.since: dict[KernelId, list[KernelId]] = {}
        """Whom the rotation has visited since this one was visited, or became ready."""
        self.number = 0

    @rule(target=members, is_ready=st.booleans())
    def one_comes(self, *, is_ready: bool) -> KernelId:
        kernel = name(self.number)
        self.number += 1
        self.order.append(kernel)
        self.pool.add(kernel)
        self.turns(kernel, is_ready=is_ready)
        return kernel

    @rule(kernel=consumes(members))
    def one_leaves(self, kernel: KernelId) -> None:
        self.turns(kernel, is_ready=False)
        self.order.remove(kernel)
        del self.loads[kernel]
        self.pool.remove(kernel)

    @rule(kernel=members, is_ready=st.booleans())
    def turns(self, kernel: KernelId, *, is_ready: bool) -> None:
        self.pool.set_ready(kernel, is_ready)
        if is_ready and kernel not in self.ready:
            self.ready.add(kernel)
            self.since[kernel] = []
        elif not is_ready:
            self.ready.discard(kernel)
            self.since.pop(kernel, None)

    @rule(kernel=members, by=st.integers(0, 3))
    def works(self, kernel: KernelId, by: int) -> None:
        self.loads[kernel] += by
        self.pool.add_load(kernel, by)

    @rule()
    def a_turn(self) -> None:
        visited = self.pool.choose("round_robin")
        assert (visited is None) == (not self.ready)
        if visited is None:
            return
        assert visited in self.ready
        for kernel, others in self.since.items():
            if kernel != visited:
                assert visited not in others, f"{visited} was visited twice while {kernel} waited"
                others.append(visited)
        self.since[visited] = []

    @rule(strategy=st.sampled_from(["least_loaded", "sticky"]), session=st.sampled_from("abcdef"))
    def a_session(self, strategy: Strategy, session: str) -> None:
        home = self.homes.get(session)
        chosen = self.pool.choose(strategy, session, self.homes)
        if home in self.order:
            assert chosen == (home if home in self.ready else None)
            return
        # A placement moves the rotation on, and the next round begins there.
        self.since = {kernel: [] for kernel in self.ready}
        assert (chosen is None) == (not self.ready)
        if chosen is None:
            return
        assert chosen in self.ready
        if strategy == "least_loaded":
            assert self.loads[chosen] == min(self.loads[kernel] for kernel in self.ready)
        self.homes[session] = chosen

    @invariant()
    def the_numbers_are_right(self) -> None:
        assert len(self.pool) == len(self.order)
        assert self.pool.has_ready == bool(self.ready)
        for kernel in self.order:
            assert self.pool.load(kernel) == self.loads[kernel]
            assert self.pool.is_ready(kernel) == (kernel in self.ready)


TestMembership = Membership.TestCase


@given(number=st.integers(2, 10), visits=st.integers(0, 30), data=st.data())
def test_a_change_makes_nobody_visited_twice_in_a_row(number: int, visits: int, data: st.DataObject) -> None:
    pool = pool_of(*[0] * (number + 1))
    visited = choices(pool, "round_robin", visits)
    pool.remove(name(data.draw(st.integers(0, number))))
    visited += choices(pool, "round_robin", number)

    assert all(one != other for one, other in pairwise(visited))
    assert len(set(visited[-number:])) == number
