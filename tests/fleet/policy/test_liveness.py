"""When a silent kernel is asked, doubted and replaced, and when it is left alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmspell_fleet.policy.liveness import (
    LATE_S,
    SUSPENSIONS_WITHIN_S,
    Ask,
    Doubt,
    ProbePolicy,
    Rest,
    is_given_up,
    look,
    verdict,
)

POLICY = ProbePolicy(interval_s=30, timeout_s=2, deadline_s=5)


@pytest.mark.parametrize(
    ("case", "heard_at", "asked_at", "now", "step"),
    [
        ("heard a moment ago", 99.0, None, 100.0, Rest(29.0)),
        ("silent for the whole interval", 70.0, None, 100.0, Ask()),
        ("asked, and answered", 99.0, 98.0, 100.0, Rest(29.0)),
        ("asked long ago, answered, silent again", 60.0, 50.0, 100.0, Ask()),
        ("asked, and given time", 60.0, 99.0, 100.0, Rest(1.0)),
        ("asked, and no answer in time", 60.0, 98.0, 100.0, Doubt()),
    ],
)
def test_what_is_done_at_a_look(
    case: str, heard_at: float, asked_at: float | None, now: float, step: Rest | Ask | Doubt
) -> None:
    found = look(heard_at=heard_at, asked_at=asked_at, patience_s=2, meant_for=now, now=now, policy=POLICY)

    assert found == step, case


def test_a_look_that_comes_late_doubts_nobody() -> None:
    found = look(heard_at=60, asked_at=90, patience_s=2, meant_for=100 - LATE_S - 0.1, now=100, policy=POLICY)

    assert found == Ask()


@given(heard_at=st.floats(0, 100), ago_s=st.floats(0, 100))
def test_whoever_answered_after_being_asked_is_never_doubted(heard_at: float, ago_s: float) -> None:
    asked_at = heard_at - ago_s

    assert look(heard_at=heard_at, asked_at=asked_at, patience_s=2, meant_for=100, now=100, policy=POLICY) != Doubt()


@pytest.mark.parametrize(
    ("case", "control", "heartbeat", "reason"),
    [
        ("its line is full, and it works", True, True, None),
        ("its heartbeat is slow", True, False, None),
        ("its loop hangs", False, True, "its heartbeat is answered, and nothing else; it was silent for 37.0 s"),
        ("it hangs altogether", False, False, "it answers on no channel; it was silent for 37.0 s"),
    ],
)
def test_what_answers_on_its_control_channel_lives(
    case: str, control: bool, heartbeat: bool, reason: str | None
) -> None:
    assert verdict(control=control, heartbeat=heartbeat, silent_s=37.0) == reason, case


@pytest.mark.parametrize(
    ("case", "ages", "is_over"),
    [
        ("once", [0.0], False),
        ("twice", [0.1, 0.0], False),
        ("again and again", [0.2, 0.1, 0.0], True),
        ("as often, but long ago", [2 * SUSPENSIONS_WITHIN_S, SUSPENSIONS_WITHIN_S, 0.0], False),
    ],
)
def test_who_is_suspended_again_and_again_is_given_up(case: str, ages: list[float], is_over: bool) -> None:
    assert is_given_up(tuple(100 - age for age in ages), now=100) is is_over, case
