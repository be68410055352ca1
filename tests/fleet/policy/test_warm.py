"""Which kernels are kept ready, and which of them can become which."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from llmspell_fleet.model.ids import KernelId, TenantId
from llmspell_fleet.model.kernel import KernelSpec
from llmspell_fleet.model.tenant import Limits
from llmspell_fleet.policy.warm import SPARE, SpecKey, Warm, is_fresh, key, key_of, plan, why_not

SPEC = KernelSpec(id=KernelId("a"), tenant=TenantId("t"))
KEYS = [key_of(Limits(memory_bytes=size), "process", "zygote") for size in (10, 20, 30)]


@pytest.mark.parametrize(
    ("case", "changed"),
    [
        ("its id", {"id": KernelId("b")}),
        ("its tenant", {"tenant": TenantId("u")}),
        ("its name", {"name": "worker"}),
        ("its labels", {"labels": {"a": "b"}}),
        ("when it is culled", {"idle_timeout_s": 5.0, "cull_busy": True, "cull_connected": True}),
        ("its tenant's limits", {"limits": Limits(max_executions=7, executions_per_s=3)}),
    ],
)
def test_kernels_that_differ_in_what_is_given_later_stand_in_for_each_other(case: str, changed: Any) -> None:
    assert key(replace(SPEC, **changed)) == key(SPEC), case
    assert not why_not(replace(SPEC, **changed))


@pytest.mark.parametrize(
    "changed",
    [
        {"isolation_level": "none"},
        {"spawner": "subprocess"},
        *(
            {"limits": replace(Limits(), **{name: 4242})}
            for name in ("memory_bytes", "files", "output_bytes", "max_clients")
        ),
    ],
    ids=str,
)
def test_kernels_that_are_made_otherwise_do_not(changed: Any) -> None:
    assert key(replace(SPEC, **changed)) != key(SPEC)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"port": 0}, "port"),
        ({"log_file": "/l"}, "files"),
        ({"pid_file": "/p"}, "files"),
        ({"max_age_s": 60.0}, "max_age_s"),
    ],
)
def test_what_is_bound_before_the_first_answer_cannot_be_claimed(changed: Any, told: str) -> None:
    assert told in why_not(replace(SPEC, **changed))


@pytest.mark.parametrize(
    "changed",
    [
        {"port": 0},
        {"log_file": "/l", "pid_file": "/p"},
        {"max_age_s": 60.0},
        {"uid": 4242},
        {"limits": Limits(memory_bytes=10, total_memory_bytes=10)},
    ],
    ids=str,
)
def test_at_strict_all_of_it_is_given_at_the_claim(changed: Any) -> None:
    spec = replace(SPEC, isolation_level="strict", **changed)

    assert key(spec) == SPARE
    assert not why_not(spec)
    assert "subprocess" in why_not(spec, has_spares=False)


@pytest.mark.parametrize(("max_age_s", "age_s", "fresh"), [(0, 1e9, True), (600, 299, True), (600, 301, False)])
def test_one_is_given_away_with_half_of_its_time_before_it(max_age_s: float, age_s: float, fresh: bool) -> None:
    assert is_fresh(replace(SPEC, max_age_s=max_age_s), age_s) is fresh


WANTED = st.dictionaries(st.sampled_from(KEYS), st.integers(0, 4))
THERE = st.lists(st.tuples(st.sampled_from(KEYS), st.booleans()), max_size=8).map(
    lambda found: [Warm(KernelId(str(number)), key, ready) for number, (key, ready) in enumerate(found)]
)


@given(WANTED, THERE, st.integers(-2, 10), st.booleans(), st.integers(1, 3))
def test_there_are_never_more_than_wanted_nor_than_there_is_room(
    wanted: dict[SpecKey, int], there: list[Warm], room: int, may_start: bool, at_once: int
) -> None:
    planned = plan(wanted, there, room=room, may_start=may_start, most_at_once=at_once)

    staying = [one for one in there if one.id not in planned.stop]
    after = Counter(one.key for one in staying) + Counter(planned.start)
    assert all(after[key] <= wanted.get(key, 0) for key in after)
    assert len(staying) + len(planned.start) <= max(0, room)
    assert len(there) + len(planned.start) <= max(len(there), room), "one that leaves has its place until it is gone"
    assert len(set(planned.stop)) == len(planned.stop)
    assert may_start or not planned.start
    assert sum(not one.is_ready for one in staying) + len(planned.start) <= max(at_once, len(there))


@given(WANTED, THERE, st.integers(0, 10), st.integers(1, 3))
def test_a_ready_one_never_leaves_for_one_that_is_not(
    wanted: dict[SpecKey, int], there: list[Warm], room: int, at_once: int
) -> None:
    planned = plan(wanted, there, room=room, may_start=True, most_at_once=at_once)

    for gone in (one for one in there if one.id in planned.stop and one.is_ready):
        kept = [one for one in there if one.id not in planned.stop and one.key == gone.key]
        assert all(one.is_ready for one in kept)


@given(WANTED, st.integers(1, 3))
def test_step_by_step_there_are_all_that_are_wanted_and_then_nothing_more(
    wanted: dict[SpecKey, int], at_once: int
) -> None:
    there: list[Warm] = []
    for _ in range(sum(wanted.values()) + 1):
        planned = plan(wanted, there, room=100, may_start=True, most_at_once=at_once)
        assert not planned.stop
        there += [Warm(KernelId(f"{len(there)}-{n}"), key, True) for n, key in enumerate(planned.start)]

    assert Counter(one.key for one in there) == Counter(wanted)
    assert plan(wanted, there, room=100, may_start=True, most_at_once=at_once).start == ()
