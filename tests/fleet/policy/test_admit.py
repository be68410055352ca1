"""What there is room for."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmspell_fleet.model.tenant import Limits
from llmspell_fleet.policy.admit import FULL, Admitted, Bucket, Denied, admit, admit_kernels

NOW = 1000.0


@pytest.mark.parametrize(
    ("case", "limits", "executions", "bucket", "limit"),
    [
        ("the first", Limits(), 0, FULL, None),
        ("the last that fits", Limits(max_executions=3), 2, FULL, None),
        ("one too many", Limits(max_executions=3), 3, FULL, "max_executions"),
        ("many too many, after the limit was lowered", Limits(max_executions=3), 9, FULL, "max_executions"),
        ("a full bucket", Limits(executions_per_s=2), 0, FULL, None),
        ("an empty bucket", Limits(executions_per_s=2), 0, Bucket(0.0, NOW), "executions_per_s"),
        ("half a token", Limits(executions_per_s=2), 0, Bucket(0.5, NOW), "executions_per_s"),
        ("a token since", Limits(executions_per_s=2), 0, Bucket(0.0, NOW - 0.5), None),
        ("a slow rate has one token", Limits(executions_per_s=0.1), 0, FULL, None),
        ("an empty bucket without a rate", Limits(), 0, Bucket(0.0, NOW), None),
    ],
)
def test_an_execution_is_admitted_within_its_tenants_limits(
    case: str, limits: Limits, executions: int, bucket: Bucket, limit: str | None
) -> None:
    decision = admit(limits, executions, bucket, now=NOW)

    assert (decision.limit if isinstance(decision, Denied) else None) == limit, case


def test_a_denial_says_what_was_found_and_when_to_come_back() -> None:
    assert admit(Limits(max_executions=3), 3, FULL, now=NOW) == Denied(
        "max_executions",
        "3 executions of this tenant run or wait, and its limit max_executions is 3; wait for one to end",
        1.0,
    )
    assert admit(Limits(executions_per_s=0.5), 0, Bucket(0.5, NOW), now=NOW) == Denied(
        "executions_per_s",
        "this tenant begins more executions than its limit executions_per_s, 0.5, lets it; send fewer",
        1.0,
    )


rates = st.floats(0.01, 10_000)


@given(rate=rates, pauses=st.lists(st.floats(0, 10), max_size=100))
def test_a_rate_is_kept(rate: float, pauses: list[float]) -> None:
    limits = Limits(executions_per_s=rate)
    bucket, now, admitted = FULL, NOW, 0
    for pause in pauses:
        now += pause
        decision = admit(limits, 0, bucket, now=now)
        if isinstance(decision, Admitted):
            bucket = decision.bucket
            admitted += 1

    assert admitted <= max(1.0, rate) + (now - NOW) * rate + 1e-3


@given(rate=rates, tokens=st.floats(0, 2))
def test_who_waits_as_long_as_was_said_is_admitted(rate: float, tokens: float) -> None:
    limits, bucket = Limits(executions_per_s=rate), Bucket(tokens, NOW)
    decision = admit(limits, 0, bucket, now=NOW)

    if isinstance(decision, Denied):
        assert decision.retry_after_s > 0
        assert isinstance(admit(limits, 0, bucket, now=NOW + decision.retry_after_s), Admitted)


@given(rate=rates, now=st.floats(0, 2 * NOW))
def test_a_clock_that_goes_back_takes_nothing(rate: float, now: float) -> None:
    assert isinstance(admit(Limits(executions_per_s=rate), 0, Bucket(1.0, NOW), now=now), Admitted)


@given(executions=st.integers(0, 100), limit=st.integers(1, 100))
def test_slots_are_never_more_than_the_limit(executions: int, limit: int) -> None:
    is_admitted = isinstance(admit(Limits(max_executions=limit), executions, FULL, now=NOW), Admitted)

    assert is_admitted == (executions + 1 <= limit)


@pytest.mark.parametrize(
    ("case", "reserved", "asked", "max_kernels", "capacity", "limit"),
    [
        ("an empty fleet", 0, 10, 10, 100, None),
        ("the last that fits", 9, 1, 10, 100, None),
        ("one too many", 10, 1, 10, 100, "max_kernels"),
        ("too many at once", 5, 6, 10, 100, "max_kernels"),
        ("more than the machine holds", 5, 6, 100, 10, "capacity"),
        ("both alike", 5, 6, 10, 10, "max_kernels"),
        ("nothing", 10, 0, 10, 100, None),
        ("nothing, above a limit that was lowered", 20, 0, 10, 100, None),
        ("fewer, above a limit that was lowered", 20, -5, 10, 100, None),
    ],
)
def test_kernels_are_admitted_within_the_fleet(
    case: str, reserved: int, asked: int, max_kernels: int, capacity: int, limit: str | None
) -> None:
    decision = admit_kernels(reserved, asked, max_kernels=max_kernels, capacity=capacity)

    assert (decision.limit if decision else None) == limit, case


def test_a_full_fleet_says_what_to_do() -> None:
    full, small = (
        admit_kernels(8, 5, max_kernels=max_kernels, capacity=10) for max_kernels in (10, 20)
    )  # fmt: skip

    assert full is not None
    assert small is not None
    assert (
        full.detail
        == "5 more kernels were asked for, 8 are promised already, and max_kernels is 10; delete kernels, or raise max_kernels"
    )
    assert (
        small.detail
        == "5 more kernels were asked for, 8 are promised already, and the open files and sockets of this machine allow 10; delete kernels, or raise them"
    )
