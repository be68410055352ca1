"""How many kernels a load wants, and when it gets them."""

import itertools
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmspell_fleet.model.pool import Autoscale
from llmspell_fleet.policy.autoscale import begin, decide, shrinks_at, wanted

TICK_S = 0.1

SETTINGS = st.builds(
    lambda low, more, share, up_s, further_s: Autoscale(
        min=low, max=low + more, busy_share=share, up_after_s=up_s, down_after_s=up_s + further_s
    ),
    st.integers(1, 5),
    st.integers(0, 20),
    st.sampled_from([0.1, 0.5, 0.8, 1.0]),
    st.sampled_from([0.0, 0.2, 1.0]),
    st.sampled_from([0.0, 0.5, 2.0]),
)
LOADS = st.lists(st.integers(0, 40), min_size=1, max_size=80)


def follow(settings: Autoscale, loads: list[int], kernels: int | None = None) -> list[int]:
    """How many kernels there are after each look at the load."""
    there, trend, seen = settings.min if kernels is None else kernels, begin(0.0), []
    for tick, load in enumerate(loads):
        trend, scale = decide(trend, settings, load=load, kernels=there, now=tick * TICK_S)
        assert (scale.reason != "") == (scale.kernels != there)
        there = scale.kernels
        seen.append(there)
    return seen


@pytest.mark.parametrize(
    ("load", "share", "expected"),
    [
        (0, 0.8, 2),
        (1, 0.8, 2),
        (2, 0.8, 3),
        (8, 0.8, 10),
        (8, 1.0, 8),
        (9, 1.0, 9),
        (1000, 0.8, 10),
        (3, 0.1, 10),
    ],
)
def test_a_load_wants_as_many_kernels_as_keep_that_share_busy(load: int, share: float, expected: int) -> None:
    assert wanted(load, Autoscale(min=2, max=10, busy_share=share)) == expected


def test_a_queue_is_answered_after_a_moment_and_a_quiet_time_much_later() -> None:
    settings = Autoscale(min=1, max=8, busy_share=1.0, up_after_s=0.2, down_after_s=2.0)

    seen = follow(settings, [0] * 5 + [6] * 10 + [0] * 40)

    assert seen[4] == 1
    assert seen[5] == 1, "a load of one moment"
    assert seen[8] == 6, "it has stayed for 0.2 s"
    assert seen[30] == 6, "the window is not over"
    assert seen[-1] == 1


def test_a_spike_of_a_moment_starts_nothing() -> None:
    settings = Autoscale(max=8, up_after_s=0.3, down_after_s=2.0)

    assert set(follow(settings, ([0] * 9 + [50]) * 5)) == {1}


def test_a_load_that_comes_and_goes_keeps_its_kernels() -> None:
    settings = Autoscale(max=8, busy_share=1.0, up_after_s=0.2, down_after_s=2.0)

    seen = follow(settings, ([5] * 5 + [0] * 10) * 6)

    assert set(seen[5:]) == {5}


def test_bounds_that_change_hold_at_once() -> None:
    assert follow(Autoscale(min=4, max=6), [0], kernels=1) == [4]
    assert follow(Autoscale(min=1, max=3), [100], kernels=9) == [3]


@given(SETTINGS, LOADS, st.integers(1, 40))
def test_there_are_never_fewer_than_min_or_more_than_max(settings: Autoscale, loads: list[int], first: int) -> None:
    assert all(settings.min <= kernels <= settings.max for kernels in follow(settings, loads, first))


@given(SETTINGS, st.integers(0, 40), st.integers(1, 40))
def test_under_a_constant_load_the_number_settles_and_stays(settings: Autoscale, load: int, first: int) -> None:
    seen = follow(settings, [load] * 60, settings.clipped(first))

    assert sum(a != b for a, b in itertools.pairwise(seen)) <= 1
    assert seen[-1] == wanted(load, settings)


@given(SETTINGS, LOADS, st.data())
def test_more_load_never_means_fewer_kernels(settings: Autoscale, loads: list[int], data: st.DataObject) -> None:
    more = [load + data.draw(st.integers(0, 5)) for load in loads]

    assert all(few <= many for few, many in zip(follow(settings, loads), follow(settings, more), strict=True))


@given(SETTINGS, LOADS)
def test_who_has_nothing_to_do_comes_down_to_min(settings: Autoscale, loads: list[int]) -> None:
    idle = [0] * (int(settings.down_after_s / TICK_S) + 2)

    assert follow(settings, loads + idle)[-1] == settings.min


@given(SETTINGS, LOADS)
def test_what_is_remembered_stays_short(settings: Autoscale, loads: list[int]) -> None:
    trend = begin(0.0)
    for tick, load in enumerate(loads):
        trend, _scale = decide(trend, settings, load=load, kernels=settings.min, now=tick * TICK_S)

    assert len(trend.least) <= settings.max - settings.min + 1
    assert len(trend.most) <= settings.max - settings.min + 1


@given(SETTINGS, LOADS)
def test_it_is_known_when_there_will_be_fewer(settings: Autoscale, loads: list[int]) -> None:
    trend, there = begin(0.0), settings.min
    for tick, load in enumerate([*loads, 0]):
        trend, scale = decide(trend, settings, load=load, kernels=there, now=tick * TICK_S)
        there = scale.kernels
    at = shrinks_at(trend, settings, kernels=there)

    if there == settings.min:
        assert at is None
        return
    assert at is not None
    assert decide(trend, settings, load=0, kernels=there, now=at - TICK_S / 10)[1].kernels == there
    assert decide(trend, settings, load=0, kernels=there, now=at + TICK_S / 10)[1].kernels < there


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ({"max": 1, "min": 2}, "expected at least min, which is 2, found 1"),
        ({"max": 2, "down_after_s": 0.1}, "expected at least up_after_s"),
        ({"max": 0}, "max"),
        ({"max": 1, "min": 0}, "min"),
        ({"max": 1, "busy_share": 0}, "busy_share"),
        ({"min": 1}, "max"),
        ({"max": 1, "most": 2}, "most"),
    ],
)
def test_settings_that_contradict_themselves_are_refused(members: dict[str, Any], told: str) -> None:
    with pytest.raises(msgspec.ValidationError, match=told):
        msgspec.convert(members, Autoscale)
