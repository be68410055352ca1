"""When a kernel that crashed comes back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmspell_fleet.policy.restart import Restart, RestartPolicy, StayDown, decide_restart, recent

POLICY = RestartPolicy(max_restarts=4, window_s=60, first_delay_s=0.1, longest_delay_s=0.3, jitter_share=0.5)

policies = st.builds(
    RestartPolicy,
    max_restarts=st.integers(0, 3000),
    window_s=st.floats(0.001, 1e6),
    first_delay_s=st.floats(0.001, 100),
    longest_delay_s=st.floats(0.001, 1000),
    jitter_share=st.floats(0, 1),
)
jitters = st.floats(0, 1, exclude_max=True)


@pytest.mark.parametrize(
    ("case", "crashes", "decision"),
    [
        ("the first is repaired at once", (100,), Restart(0.0, 1)),
        ("the second has a delay", (90, 100), Restart(0.1, 2)),
        ("the delay doubles", (80, 90, 100), Restart(0.2, 3)),
        ("up to the longest", (70, 80, 90, 100), Restart(0.3, 4)),
        ("old crashes do not count", (10, 20, 40, 100), Restart(0.0, 1)),
        ("the window ends when it is as old as that", (40, 40.001, 100), Restart(0.1, 2)),
    ],
)
def test_a_crash_is_repaired(case: str, crashes: tuple[float, ...], decision: Restart) -> None:
    assert decide_restart(crashes, POLICY, now=100, jitter=0.0) == decision, case


def test_one_crash_too_many_is_not_repaired() -> None:
    decision = decide_restart((60, 70, 80, 90, 100), POLICY, now=100, jitter=0.0)

    assert decision == StayDown("it crashed 5 times within 60 s, 4 are repaired")


def test_what_never_ran_is_not_given_up() -> None:
    decision = decide_restart((60, 70, 80, 90, 100), POLICY, now=100, jitter=0.0, gives_up=False)

    assert decision == Restart(0.3, 5)


def test_a_fleet_that_repairs_nothing_leaves_the_first_crash() -> None:
    assert isinstance(decide_restart((100,), RestartPolicy(max_restarts=0), now=100, jitter=0.0), StayDown)


def test_jitter_takes_off_up_to_its_share() -> None:
    assert decide_restart((90, 100), POLICY, now=100, jitter=0.5) == Restart(pytest.approx(0.075), 2)


@given(policy=policies, number=st.integers(1, 4000), jitter=jitters)
def test_a_delay_is_within_its_bounds(policy: RestartPolicy, number: int, jitter: float) -> None:
    decision = decide_restart((7.0,) * number, policy, now=7.0, jitter=jitter)

    if number > policy.max_restarts:
        assert isinstance(decision, StayDown)
    else:
        assert isinstance(decision, Restart)
        assert decision.attempt == number
        assert 0 <= decision.delay_s <= policy.longest_delay_s


@given(policy=policies, number=st.integers(1, 2998), jitter=jitters)
def test_the_next_delay_is_not_shorter(policy: RestartPolicy, number: int, jitter: float) -> None:
    now, later = (decide_restart((7.0,) * n, policy, now=7.0, jitter=jitter) for n in (number, number + 1))

    if isinstance(now, Restart) and isinstance(later, Restart):
        assert now.delay_s <= later.delay_s


@given(crashes=st.lists(st.floats(0, 1000)).map(tuple), policy=policies)
def test_what_is_forgotten_changes_no_decision(crashes: tuple[float, ...], policy: RestartPolicy) -> None:
    kept = recent(crashes, policy, now=1000.0)

    assert decide_restart(kept, policy, now=1000.0, jitter=0.3) == decide_restart(
        crashes, policy, now=1000.0, jitter=0.3
    )
