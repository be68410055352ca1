"""The plan of a configuration: what it changes, what it keeps, and that it is what happens."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from llmspell_fleet.model.ids import KernelId, TenantId
from llmspell_fleet.model.kernel import KernelSpec
from llmspell_fleet.model.pool import Autoscale
from llmspell_fleet.model.tenant import DEFAULT_TENANT, IsolationLevel, Limits, TenantSpec
from llmspell_fleet.policy import apply as module
from llmspell_fleet.policy.apply import State, Wanted, applied, plan

ACME = TenantId("acme")


def tenant(name: TenantId = ACME, **members: Any) -> TenantSpec:
    return TenantSpec(id=name, **members)


def kernel(name: str, kernel_id: str = "", **members: Any) -> KernelSpec:
    return KernelSpec(id=KernelId(kernel_id), tenant=DEFAULT_TENANT, name=name, **members)


def wanted(*specs: TenantSpec | KernelSpec) -> Wanted:
    return Wanted(
        tenants={spec.id: spec for spec in specs if isinstance(spec, TenantSpec)},
        kernels={spec.name: spec for spec in specs if isinstance(spec, KernelSpec)},
    )


def state(configured: Wanted, *specs: TenantSpec | KernelSpec) -> State:
    there = wanted(*specs)
    return State(tenants=there.tenants, kernels=there.kernels, configured=configured)


NOTHING = wanted()


# --- one key


@pytest.mark.parametrize(
    ("case", "level", "raisable", "how"),
    [
        ("nobody may", "process", {}, ["rolling", "rolling"]),
        ("files", "process", {"process": {"files"}}, ["live", "rolling"]),
        ("another level's", "process", {"strict": {"files", "storage_bytes"}}, ["rolling", "rolling"]),
        ("both", "strict", {"strict": {"files", "storage_bytes"}}, ["live", "live"]),
    ],
)
def test_what_processes_can_be_granted_more_of_takes_no_new_ones(
    case: str, level: IsolationLevel, raisable: dict[str, set[str]], how: list[str]
) -> None:
    before = tenant(limits=Limits(files=10, storage_bytes=10), isolation_level=level)
    after = replace(before, limits=Limits(files=20, storage_bytes=20))
    todo = plan(replace(state(wanted(before), before), raisable=raisable), wanted(after))

    assert [change.how for change in todo.changes] == how, case


@pytest.mark.parametrize(
    ("case", "before", "says", "found", "will_be", "changes", "drift"),
    [
        ("nothing new", {}, {}, {}, {}, [], []),
        ("something new", {}, {"replicas": 3}, {}, {"replicas": 3}, ["replicas 1 3 live"], []),
        ("changed at runtime", {}, {}, {"replicas": 9}, {"replicas": 9}, [], ["replicas 1 9"]),
        ("the file's last word", {}, {"replicas": 3}, {"replicas": 9}, {"replicas": 3}, ["replicas 9 3 live"], []),
        ("both say the same", {}, {"replicas": 9}, {"replicas": 9}, {"replicas": 9}, [], []),
        (
            "one key does not touch another",
            {},
            {"strategy": "sticky"},
            {"replicas": 9},
            {"strategy": "sticky", "replicas": 9},
            ["strategy least_loaded sticky live"],
            ["replicas 1 9"],
        ),
        (
            "nor one limit another",
            {"limits": Limits(files=100)},
            {"limits": Limits(files=100, max_executions=5)},
            {"limits": Limits(files=200)},
            {"limits": Limits(files=200, max_executions=5)},
            ["limits.max_executions 1000 5 live"],
            ["limits.files 100 200"],
        ),
        (
            "nor one label another",
            {"labels": {"a": "1", "b.c/d": "1"}},
            {"labels": {"b.c/d": "2", "e": "3"}},
            {"labels": {"a": "1", "b.c/d": "1", "mine": "x"}},
            {"labels": {"b.c/d": "2", "e": "3", "mine": "x"}},
            ["labels.a 1 None live", "labels.b.c/d 1 2 live", "labels.e None 3 live"],
            ["labels.mine None x"],
        ),
        (
            "what a process is told at its start",
            {},
            {"isolation_level": "none"},
            {},
            {"isolation_level": "none"},
            ["isolation_level process none rolling"],
            [],
        ),
        (
            "a bound that is narrowed, and one that is widened",
            {},
            {"limits": Limits(files=100, storage_bytes=9)},
            {"limits": Limits(files=50, storage_bytes=0)},
            {"limits": Limits(files=100, storage_bytes=9)},
            ["limits.files 50 100 rolling", "limits.storage_bytes 0 9 live"],
            [],
        ),
        (
            "the fleet chooses the replicas",
            {},
            {"autoscale": Autoscale(max=4, min=2), "replicas": 7},
            {"replicas": 9},
            {"autoscale": Autoscale(max=4, min=2), "replicas": 4},
            ["autoscale None {'max': 4, 'min': 2, 'busy_share': 0.8, 'up_after_s': 0.2, 'down_after_s': 60.0} live"],
            [],
        ),
    ],
)
def test_what_becomes_of_a_key(
    case: str,
    before: dict[str, Any],
    says: dict[str, Any],
    found: dict[str, Any],
    will_be: dict[str, Any],
    changes: list[str],
    drift: list[str],
) -> None:
    todo = plan(state(wanted(tenant(**before)), tenant(**found)), wanted(tenant(**says)))

    assert [f"{one.key} {one.before} {one.after} {one.how}" for one in todo.changes] == changes, case
    assert [f"{one.key} {one.configured} {one.found}" for one in todo.drift] == drift, case
    assert todo.tenants == ({} if found == will_be else {ACME: tenant(**will_be)}), case
    assert todo.rolling == ({ACME} if any("rolling" in one for one in changes) else frozenset())


# --- tenants and kernels that come and go


@pytest.mark.parametrize("prunes", [False, True])
def test_who_is_declared_no_more_goes_only_when_that_is_asked_for(prunes: bool) -> None:
    before = state(wanted(tenant()), tenant(), tenant(TenantId("made-by-the-api")))

    todo = plan(before, NOTHING, prunes=prunes)

    assert todo.removed == ((ACME,) if prunes else ())
    assert [(one.target, one.how) for one in todo.changes] == ([("tenant acme", "removed")] if prunes else [])
    assert [one.target for one in todo.drift] == ([] if prunes else ["tenant acme"])
    if not prunes:
        assert plan(applied(before, todo), NOTHING, prunes=True).removed == (ACME,), "later is not too late"


def test_a_tenant_that_the_api_made_and_the_file_declares_is_the_file_s_from_then_on() -> None:
    before = state(NOTHING, tenant(replicas=5, strategy="sticky"))

    todo = plan(before, wanted(tenant(replicas=5, labels={"a": "b"})))

    assert todo.tenants == {ACME: tenant(replicas=5, labels={"a": "b"})}
    assert [one.key for one in todo.changes] == ["labels.a", "strategy"]
    assert plan(applied(before, todo), NOTHING, prunes=True).removed == (ACME,)


DEFAULT = tenant(DEFAULT_TENANT, replicas=9)


@pytest.mark.parametrize("what", [tenant(), kernel("one")], ids=["tenant", "kernel"])
def test_who_was_deleted_at_runtime_stays_so_until_the_file_says_something_new(what: TenantSpec | KernelSpec) -> None:
    before = state(wanted(DEFAULT, what), DEFAULT)

    todo = plan(before, wanted(DEFAULT, what))
    assert (todo.changes, todo.tenants, todo.kernels) == ((), {}, {})
    assert ["deleted" in one.detail for one in todo.drift] == [True]

    again = plan(before, wanted(DEFAULT, replace(what, labels={"a": "b"})))
    assert [one.how for one in again.changes] == ["added"]


def test_tenant_default_is_never_removed() -> None:
    default = tenant(DEFAULT_TENANT)

    assert plan(state(wanted(default), default), NOTHING, prunes=True).removed == ()


def test_kernels_go_and_come_back_with_tenant_default() -> None:
    says = wanted(DEFAULT, kernel("one"))
    gone = state(says)

    assert plan(gone, says).kernels == {}
    assert plan(gone, wanted(replace(DEFAULT, labels={"a": "b"}), kernel("one"))).kernels == {"one": kernel("one")}


def test_a_declared_kernel_that_comes_has_a_place_whatever_the_replicas_were_changed_to() -> None:
    before = state(wanted(DEFAULT), replace(DEFAULT, replicas=0))

    todo = plan(before, wanted(DEFAULT, kernel("one")))

    assert todo.tenants[DEFAULT_TENANT].replicas == 1
    assert ("replicas", 0, 1) in [(one.key, one.before, one.after) for one in todo.changes]


def test_declared_kernels_are_added_changed_and_removed_and_others_are_not_touched() -> None:
    there = state(
        wanted(DEFAULT, kernel("same"), kernel("moved", port=1), kernel("gone"), kernel("named")),
        *(DEFAULT, kernel("same", "s"), kernel("moved", "m", port=1), kernel("gone", "g"), kernel("named", "n")),
        kernel("of-the-api", "a"),
    )
    says = wanted(DEFAULT, kernel("same"), kernel("moved", port=2), kernel("new"), kernel("named", labels={"a": "b"}))

    todo = plan(there, says)

    assert {(one.target, one.key, one.how) for one in todo.changes} == {
        ("kernel moved", "port", "rolling"),
        ("kernel named", "labels.a", "live"),
        ("kernel new", "", "added"),
        ("kernel gone", "", "removed"),
    }
    assert set(todo.kernels) == {"moved", "named", "new"}
    assert todo.kernels["moved"] == kernel("moved", "m", port=2), "it keeps its id"
    assert todo.rolling_kernels == {"moved"}
    assert todo.removed_kernels == ("gone",)


# --- any configuration after any other

labels = st.dictionaries(st.sampled_from(["a", "b", "c.d"]), st.sampled_from(["1", "2"]), max_size=2)
limits = st.builds(Limits, files=st.sampled_from([0, 64]), max_executions=st.sampled_from([1, 1000]))
levels = st.sampled_from(["none", "process"])
autoscales = st.none() | st.builds(Autoscale, min=st.just(2), max=st.sampled_from([2, 5]))
names = st.sampled_from([DEFAULT_TENANT, ACME, TenantId("globex"), TenantId("initech")])
tenants = st.builds(
    TenantSpec,
    id=names,
    replicas=st.integers(0, 3),
    strategy=st.sampled_from(["sticky", "round_robin"]),
    limits=limits,
    isolation_level=levels,
    labels=labels,
    autoscale=autoscales,
)
kernels = st.builds(
    KernelSpec,
    id=st.just(KernelId("")),
    tenant=st.just(DEFAULT_TENANT),
    name=st.sampled_from(["one", "two", "three"]),
    port=st.sampled_from([None, 0, 9551]),
    limits=limits,
    labels=labels,
)


def with_room(specs: list[TenantSpec | KernelSpec]) -> Wanted:
    """As configurations are: tenant `default` is in each, and has at least as many kernels as have names."""
    found = wanted(tenant(DEFAULT_TENANT), *specs)
    default = found.tenants[DEFAULT_TENANT]
    roomy = replace(default, replicas=max(default.replicas, len(found.kernels)))
    return replace(found, tenants={**found.tenants, DEFAULT_TENANT: roomy})


wishes = st.lists(tenants | kernels, max_size=7).map(with_room)
states = st.builds(
    lambda there, configured, has_default: State(
        tenants={name: spec for name, spec in there.tenants.items() if has_default or name != DEFAULT_TENANT},
        kernels={name: replace(spec, id=KernelId(f"id-{name}")) for name, spec in there.kernels.items() if has_default},
        configured=configured,
    ),
    st.lists(tenants | kernels, max_size=7).map(lambda specs: wanted(*specs)),
    wishes,
    st.booleans(),
)


@settings(max_examples=150)
@given(states, wishes, st.booleans())
def test_applying_twice_changes_nothing_the_second_time(before: State, says: Wanted, prunes: bool) -> None:
    todo = plan(before, says, prunes=prunes)
    after = applied(before, todo)

    again = plan(after, says, prunes=prunes)

    assert again.changes == ()
    assert (again.tenants, again.kernels, again.removed, again.removed_kernels) == ({}, {}, (), ())
    assert again.drift == todo.drift
    assert applied(after, again) == after


@settings(max_examples=150)
@given(states, wishes, st.booleans())
def test_what_the_plan_shows_is_exactly_what_becomes_different(before: State, says: Wanted, prunes: bool) -> None:
    todo = plan(before, says, prunes=prunes)
    after = applied(before, todo)

    different = set()
    pairs = (("tenant", before.tenants, after.tenants), ("kernel", before.kernels, after.kernels))
    for kind, was, now in pairs:
        for name in was.keys() | now.keys():
            if name not in was or name not in now:
                different.add((f"{kind} {name}", "", "added" if name in now else "removed"))
            else:
                old, new = module._flat(was[name]), module._flat(now[name])
                if new.get("autoscale") is not None:
                    old.pop("replicas"), new.pop("replicas")  # the fleet's own choice
                for key in old.keys() | new.keys():
                    if old.get(key) != new.get(key):
                        takes_one = module._takes_a_new_process(key, old.get(key), new.get(key), ())
                        how = "rolling" if takes_one else "live"
                        different.add((f"{kind} {name}", key, how))
    assert {(one.target, one.key, one.how) for one in todo.changes} == different
    assert len(todo.changes) == len(different)


@settings(max_examples=150)
@given(states, wishes, st.booleans())
def test_what_differs_from_the_file_afterwards_is_shown_as_drift(before: State, says: Wanted, prunes: bool) -> None:
    todo = plan(before, says, prunes=prunes)
    after = applied(before, todo)

    shown = {(one.target, one.key) for one in todo.drift}
    for kind, spoken, found in (("tenant", says.tenants, after.tenants), ("kernel", says.kernels, after.kernels)):
        for name, spec in spoken.items():
            if name not in found:
                assert (f"{kind} {name}", "") in shown
                continue
            says_flat, is_flat = module._flat(spec), module._flat(found[name])
            for key in says_flat.keys() | is_flat.keys():
                if says_flat.get(key) != is_flat.get(key) and (key != "replicas" or found[name].autoscale is None):  # type: ignore[union-attr]
                    assert (f"{kind} {name}", key) in shown
    api_made = before.tenants.keys() - before.configured.tenants.keys()
    assert not api_made & set(todo.removed), "what the API made is never removed"
