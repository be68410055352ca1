"""A tenant's quota: no order of changes leads beyond it, and nobody is kept from having less."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from llmspell_fleet.model.tenant import Limits
from llmspell_fleet.policy.quota import OF_EACH, Demand, admit_quota, demand, too_low

KERNEL = Limits(memory_bytes=100, cpu_percent=50, storage_bytes=10)
THREE = demand([KERNEL] * 3)


@pytest.mark.parametrize(
    ("case", "quota", "counted", "limit"),
    [
        ("no quota", Limits(), (), None),
        ("as many as may be", Limits(max_kernels=3), (), None),
        ("one too many", Limits(max_kernels=2), (), "max_kernels"),
        ("memory that fits", Limits(total_memory_bytes=300), (), None),
        ("memory that does not", Limits(total_memory_bytes=299), (), "total_memory_bytes"),
        ("memory that a cgroup counts", Limits(total_memory_bytes=299), {"total_memory_bytes"}, None),
        ("processor time", Limits(total_cpu_percent=100), (), "total_cpu_percent"),
        ("storage", Limits(total_storage_bytes=29), (), "total_storage_bytes"),
        ("kernels first", Limits(max_kernels=1, total_storage_bytes=1), (), "max_kernels"),
    ],
)
def test_a_demand_is_held_to_each_quota(case: str, quota: Limits, counted: set[str], limit: str | None) -> None:
    denied = admit_quota(quota, Demand(), THREE, counted=counted)

    assert (denied.limit if denied else None) == limit, case
    if denied:
        assert denied.limit in denied.detail
        assert denied.retry_after_s > 0


@pytest.mark.parametrize("name", ["memory_bytes", "storage_bytes"])
def test_a_kernel_without_a_bound_fits_into_no_total(name: str) -> None:
    unbounded = demand([replace(KERNEL, **{name: 0})])
    denied = admit_quota(Limits(**{f"total_{name}": 10**9}), Demand(), unbounded)

    assert denied is not None
    assert f"one without {name}" in denied.detail


def test_a_denial_says_what_was_found_and_what_to_do() -> None:
    denied = admit_quota(Limits(total_memory_bytes=250), Demand(), THREE)

    assert denied is not None
    assert denied.detail == (
        "this tenant would have 3 kernels, at memory_bytes 300 together, and its limit total_memory_bytes is 250; "
        "lower memory_bytes, delete kernels, or raise the limit"
    )


@pytest.mark.parametrize("quota", [Limits(max_kernels=1), Limits(total_memory_bytes=100)])
def test_less_is_allowed_above_a_quota_that_was_lowered(quota: Limits) -> None:
    assert admit_quota(quota, THREE, demand([KERNEL] * 2)) is None
    assert admit_quota(quota, THREE, THREE) is None
    assert admit_quota(quota, THREE, demand([KERNEL] * 4)) is not None


@pytest.mark.parametrize(
    ("case", "old", "new", "counted", "said"),
    [
        ("no quota", Limits(), Limits(), (), ""),
        ("one for as many as there are", Limits(), Limits(max_kernels=3), (), ""),
        ("a first one that is too low", Limits(), Limits(max_kernels=2), (), "max_kernels: expected 0"),
        ("one that is lowered too far", Limits(max_kernels=3), Limits(max_kernels=2), (), "at least 3, the kernels"),
        ("one that was too low before", Limits(max_kernels=2), Limits(max_kernels=2), (), ""),
        ("one that is raised, not enough", Limits(max_kernels=1), Limits(max_kernels=2), (), ""),
        ("one that is taken away", Limits(max_kernels=2), Limits(), (), ""),
        ("memory", Limits(), Limits(total_memory_bytes=299), (), "at least 300, the memory_bytes of its 3 kernels"),
        ("memory that a cgroup counts", Limits(), Limits(total_memory_bytes=1), {"total_memory_bytes"}, ""),
        ("processor time", Limits(), Limits(total_cpu_percent=149), (), "at least 150, the cpu_percent"),
        ("storage", Limits(total_storage_bytes=99), Limits(total_storage_bytes=29), (), "at least 30, the storage"),
    ],
)
def test_a_quota_is_not_lowered_below_what_there_is(
    case: str, old: Limits, new: Limits, counted: set[str], said: str
) -> None:
    reason = too_low(old, new, THREE, counted=counted)

    assert said in reason, case
    assert bool(said) == bool(reason), case


def test_where_a_kernel_has_no_bound_a_total_says_so() -> None:
    reason = too_low(Limits(), Limits(total_storage_bytes=9), demand([Limits()]))

    assert "since there are kernels without storage_bytes" in reason


kernels = st.builds(
    Limits, memory_bytes=st.integers(0, 100), cpu_percent=st.floats(0, 100), storage_bytes=st.integers(0, 100)
)
quotas = st.builds(
    Limits,
    max_kernels=st.integers(0, 5),
    total_memory_bytes=st.integers(0, 300),
    total_cpu_percent=st.floats(0, 300),
    total_storage_bytes=st.integers(0, 300),
)


@given(quota=quotas, asked=st.lists(st.tuples(st.booleans(), kernels), max_size=30))
def test_no_interleaving_of_requests_passes_a_quota(quota: Limits, asked: list[tuple[bool, Limits]]) -> None:
    """Each request is admitted and taken in one step, as the controller does; some give a kernel back instead."""
    held: list[Limits] = []
    for gives_back, limits in asked:
        after = held[1:] if gives_back else [*held, limits]
        if admit_quota(quota, demand(held), demand(after)) is None:
            held = after
        else:
            assert not gives_back

        assert not quota.max_kernels or len(held) <= quota.max_kernels
        for total, name in OF_EACH:
            assert not getattr(quota, total) or getattr(demand(held), name) <= getattr(quota, total) + 1e-9
