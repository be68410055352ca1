"""From the kernels that are to the kernels that should be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from llmspell_fleet.model.ids import KernelId, TenantId
from llmspell_fleet.model.kernel import Kernel, KernelSpec, Phase
from llmspell_fleet.policy.lifecycle import HAS_PROCESS, TAKES_WORK
from llmspell_fleet.policy.reconcile import Plan, plan

PINNED = frozenset({"main", "spare"})


def kernel(written: str, phase: Phase = Phase.READY, *, name: str = "", is_wanted: bool = True) -> Kernel:
    spec = KernelSpec(id=KernelId(written), tenant=TenantId("default"), name=name)
    return Kernel(spec=spec, phase=phase, is_wanted=is_wanted)


def ids(text: str) -> tuple[KernelId, ...]:
    return tuple(KernelId(letter) for letter in text)


P = Phase


@pytest.mark.parametrize(
    ("case", "wanted", "kernels", "running", "expected"),
    [
        ("nothing wanted, nothing there", 0, [], {}, Plan(0, ())),
        ("all to be made", 3, [], {}, Plan(3, ())),
        ("one lacks", 3, [kernel("a"), kernel("b")], {}, Plan(1, ())),
        ("as many as wanted", 2, [kernel("a"), kernel("b")], {}, Plan(0, ())),
        ("a failed one is not replaced", 2, [kernel("a", P.FAILED), kernel("b")], {}, Plan(0, ())),
        ("a culled one is not replaced", 2, [kernel("a", P.STOPPED), kernel("b")], {}, Plan(0, ())),
        ("one that leaves is", 2, [kernel("a", P.STOPPING, is_wanted=False), kernel("b")], {}, Plan(1, ())),
        ("none wanted", 0, [kernel("a"), kernel("b")], {}, Plan(0, ids("ba"))),
        ("the newest first", 1, [kernel("a"), kernel("b"), kernel("c")], {}, Plan(0, ids("cb"))),
        ("those without a process first", 1, [kernel("a", P.BACKOFF), kernel("b"), kernel("c")], {}, Plan(0, ids("ac"))),
        ("then those that have not answered", 1, [kernel("a", P.STARTING), kernel("b")], {}, Plan(0, ids("a"))),
        ("then the idle", 1, [kernel("a"), kernel("b")], {"b": 1}, Plan(0, ids("a"))),
        ("then the least busy", 1, [kernel("a"), kernel("b")], {"a": 2, "b": 3}, Plan(0, ids("a"))),
        ("the declared last", 1, [kernel("a"), kernel("b", name="main")], {"a": 2}, Plan(0, ids("a"))),
        ("even one without a process", 1, [kernel("a"), kernel("b", P.FAILED, name="main")], {}, Plan(0, ids("a"))),
        ("but in the end", 0, [kernel("a"), kernel("b", name="main")], {}, Plan(0, ids("ab"))),
        ("a name that is not declared", 1, [kernel("a"), kernel("b", name="mine")], {}, Plan(0, ids("b"))),
    ],
)  # fmt: skip
def test_a_plan(case: str, wanted: int, kernels: list[Kernel], running: dict[KernelId, int], expected: Plan) -> None:
    assert plan(wanted, kernels, running, PINNED) == expected, case


fleets = st.lists(
    st.builds(
        lambda phase, name, is_wanted: kernel("", phase, name=name, is_wanted=is_wanted),
        st.sampled_from([phase for phase in Phase if phase is not Phase.BUSY]),
        st.sampled_from(["", "", "main", "spare", "mine"]),
        st.sampled_from([True, True, False]),
    ),
    max_size=20,
).map(
    lambda kernels: [
        replace(kernel, spec=replace(kernel.spec, id=KernelId(str(number)))) for number, kernel in enumerate(kernels)
    ]
)
work = st.dictionaries(st.integers(0, 20).map(lambda number: KernelId(str(number))), st.integers(0, 3))
counts = st.integers(0, 20)


def applied(made: Plan, kernels: list[Kernel]) -> list[Kernel]:
    kept = [replace(kernel, is_wanted=kernel.is_wanted and kernel.id not in made.remove) for kernel in kernels]
    return kept + [kernel(f"new {number}", P.PENDING) for number in range(made.add)]


@given(wanted=counts, kernels=fleets, running=work)
def test_once_is_enough(wanted: int, kernels: list[Kernel], running: dict[KernelId, int]) -> None:
    after = applied(plan(wanted, kernels, running, PINNED), kernels)

    assert sum(kernel.is_wanted for kernel in after) == wanted
    assert plan(wanted, after, running, PINNED) == Plan(0, ())


@given(wanted=counts, kernels=fleets, running=work)
def test_nobody_is_removed_for_whom_another_would_do(
    wanted: int, kernels: list[Kernel], running: dict[KernelId, int]
) -> None:
    made = plan(wanted, kernels, running, PINNED)
    removed = [kernel for kernel in kernels if kernel.id in made.remove]
    kept = [kernel for kernel in kernels if kernel.is_wanted and kernel.id not in made.remove]

    assert made.add == 0 or not made.remove
    assert len(set(made.remove)) == len(made.remove) == len(removed)
    assert all(kernel.is_wanted for kernel in removed)
    for gone in removed:
        for stays in kept:
            if gone.spec.name in PINNED:
                assert stays.spec.name in PINNED
            elif stays.spec.name in PINNED:
                continue
            if gone.phase in HAS_PROCESS:
                assert stays.phase in HAS_PROCESS
                assert running.get(gone.id, 0) <= running.get(stays.id, 0)
            if gone.phase in TAKES_WORK and running.get(stays.id, 0) == running.get(gone.id, 0):
                assert stays.phase in TAKES_WORK
                assert int(gone.id) > int(stays.id)
