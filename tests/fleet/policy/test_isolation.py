"""Which isolation a machine lets us have, what it holds and leaves open, and whose kernels are."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from llmspell_fleet.model.isolation import Survey
from llmspell_fleet.policy.isolation import ATTACKS, choose_uid, missing, strength

WHOLE = Survey(
    machine="x86_64", has_system_calls=True, landlock_abi=7, has_seccomp=True, is_root=True, namespaces="mount"
)
surveys = st.builds(
    Survey,
    machine=st.sampled_from(["x86_64", "aarch64"]),
    has_system_calls=st.just(True),
    landlock_abi=st.integers(6, 9),
    has_seccomp=st.just(True),
    is_root=st.booleans(),
    namespaces=st.sampled_from(["none", "mount", "user"]),
)


@pytest.mark.parametrize(
    ("case", "survey", "said"),
    [
        ("all of it", WHOLE, []),
        ("an ordinary user", replace(WHOLE, is_root=False, namespaces="none"), []),
        ("another architecture", replace(WHOLE, machine="riscv64", has_system_calls=False), ["found riscv64"]),
        ("no Landlock", replace(WHOLE, landlock_abi=0), ["found none"]),
        ("an older Landlock", replace(WHOLE, landlock_abi=5), ["found version 5"]),
        ("no seccomp", replace(WHOLE, has_seccomp=False), ["seccomp"]),
        ("no other user", replace(WHOLE, fault="becoming user 7: no"), ["becoming user 7"]),
        ("nothing", replace(WHOLE, landlock_abi=0, has_seccomp=False, fault="x"), ["found none", "seccomp"]),
    ],
)
def test_what_is_missing_is_named(case: str, survey: Survey, said: list[str]) -> None:
    reasons = missing(survey)

    assert len(reasons) == len(said), case
    assert all(text in reason for text, reason in zip(said, reasons, strict=True))


@given(surveys, st.sampled_from(["none", "process", "strict"]))
def test_each_attack_is_held_or_open(survey: Survey, level: str) -> None:
    told = strength(level, survey)  # type: ignore[arg-type]

    assert sorted((*told.held, *told.open)) == sorted(attack.what for attack in ATTACKS)


@given(surveys)
def test_a_stronger_level_holds_what_a_weaker_one_does(survey: Survey) -> None:
    none, process, strict = (set(strength(level, survey).held) for level in ("none", "process", "strict"))  # type: ignore[arg-type]

    assert none <= process < strict


def test_with_everything_nothing_is_open_and_without_namespaces_only_what_exists_is_seen() -> None:
    assert strength("strict", WHOLE).open == ()
    assert strength("strict", replace(WHOLE, is_root=False, namespaces="user")).open == ()
    assert strength("strict", replace(WHOLE, namespaces="none")).open == (
        "learn whether a path exists, and whose it is",
        "ask whether a process of a given number exists",
    )


@given(st.integers(1, 50), st.integers(0, 20), st.sets(st.integers(0, 100)), st.none() | st.integers(0, 100))
def test_a_user_is_nobodys_and_within_the_range(first: int, more: int, taken: set[int], after: int | None) -> None:
    uid = choose_uid(first, first + more, taken, after=after)

    free = set(range(first, first + more + 1)) - taken
    assert uid in free if free else uid is None


@pytest.mark.parametrize(
    ("case", "taken", "after", "chosen"),
    [
        ("the first of all", set(), None, 10),
        ("above those of before this controller", {11}, None, 12),
        ("the one given last is free again", {10}, 11, 12),
        ("round the range", {11}, 13, 10),
        ("the only one that is free", {10, 12, 13}, 11, 11),
        ("given from another range", {10}, 99, 11),
    ],
)
def test_a_user_that_is_free_again_waits_its_turn(case: str, taken: set[int], after: int | None, chosen: int) -> None:
    assert choose_uid(10, 13, taken, after=after) == chosen
