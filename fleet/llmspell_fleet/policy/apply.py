"""What changes when a configuration is applied: one plan, which is shown and carried out. Pure.

Three things are compared, key by key: what the configuration said when it was applied last, what it says now, and what
is. Where it says something new, that is what will be; where it does not, what is stays, and is *drift* if it differs.
"""

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final, Generic, TypeVar

import msgspec
from msgspec.structs import replace

from llmspell_fleet.model.ids import TenantId
from llmspell_fleet.model.kernel import KernelSpec
from llmspell_fleet.model.plan import Change, Drift, How
from llmspell_fleet.model.pool import Autoscale  # noqa: TC001 - so are all others
from llmspell_fleet.model.tenant import DEFAULT_TENANT, TenantSpec

Name = TypeVar("Name", bound=str)
Spec = TypeVar("Spec", TenantSpec, KernelSpec)

_OF_A_NEW_PROCESS: Final = frozenset({"isolation_level", "spawner", "port", "pid_file"})
"""What a kernel's process is told at its start alone."""

_NOT_RAISED: Final = frozenset({"limits.max_message_bytes", "limits.files", "limits.storage_bytes"})
"""What a process that runs can be held to less of, but not granted more: that takes rights not every fleet has."""

_KEPT: Final = "the configuration does not declare it any more; --prune removes it"
_DELETED: Final = "it was deleted; it comes back when the configuration says something new about it"


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What a configuration says there should be."""

    tenants: dict[TenantId, TenantSpec]
    """Tenant `default` is one of them."""
    kernels: dict[str, KernelSpec]
    """Those of tenant `default` that have a name of the configuration's, by it; their ids are their own matter."""


class State(msgspec.Struct, frozen=True, kw_only=True):
    """What there is."""

    tenants: dict[TenantId, TenantSpec]
    kernels: dict[str, KernelSpec]
    """Tenant `default`'s that have a name, by it."""
    configured: Wanted
    """What the configuration said when it was applied last."""
    raisable: Mapping[str, Collection[str]] = {}
    """Limits of which processes that run can be granted more, by the isolation level that they are at."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """How to get from what there is to what a configuration says."""

    changes: tuple[Change, ...] = ()
    drift: tuple[Drift, ...] = ()
    tenants: dict[TenantId, TenantSpec] = {}
    """Tenants that are made or changed, as they will be."""
    removed: tuple[TenantId, ...] = ()
    kernels: dict[str, KernelSpec] = {}
    """Declared kernels that are made or changed, as they will be; one that is made has no id."""
    removed_kernels: tuple[str, ...] = ()
    rolling: frozenset[TenantId] = frozenset()
    """Tenants whose kernels need a new process, but for those that are declared."""
    rolling_kernels: frozenset[str] = frozenset()
    """Declared kernels that need one."""
    configured: Wanted
    """What the configuration says, to be known when it is applied next."""


class _Compared(msgspec.Struct, Generic[Name, Spec]):
    """What tenants, or declared kernels, come to."""

    changes: list[Change]
    drift: list[Drift]
    specs: dict[Name, Spec]
    """Those that are made or changed, as they will be."""
    rolling: set[Name]


def plan(state: State, wanted: Wanted, *, prunes: bool = False) -> Plan:
    """What is to be done, and what differs and stays. With `prunes`, tenants that are declared no more are removed."""
    tenants = _compared("tenant", state.configured.tenants, wanted.tenants, state.tenants, state.raisable)
    undeclared = {
        name: spec
        for name, spec in sorted(state.configured.tenants.items())
        if name not in wanted.tenants and name in state.tenants and name != DEFAULT_TENANT
    }
    if prunes:
        tenants.changes += [_removed(f"tenant {name}", state.tenants[name]) for name in undeclared]
    else:
        tenants.drift += [
            Drift(target=f"tenant {name}", key="", configured=None, found=_summary(state.tenants[name]), detail=_KEPT)
            for name in undeclared
        ]
    configured_kernels = state.configured.kernels
    if DEFAULT_TENANT not in state.tenants:
        # Its kernels went with it, and come back with it.
        configured_kernels = {} if DEFAULT_TENANT in tenants.specs else wanted.kernels
    kernels = _compared("kernel", configured_kernels, wanted.kernels, state.kernels, state.raisable)
    _make_room(tenants, state, wanted, kernels.specs)
    undeclared_kernels = sorted(configured_kernels.keys() & state.kernels.keys() - wanted.kernels.keys())
    kernels.changes += [_removed(f"kernel {name}", state.kernels[name]) for name in undeclared_kernels]
    return Plan(
        changes=(*tenants.changes, *kernels.changes),
        drift=tuple(sorted((*tenants.drift, *kernels.drift), key=lambda drift: (drift.target, drift.key))),
        tenants=tenants.specs,
        removed=tuple(undeclared) if prunes else (),
        kernels=kernels.specs,
        removed_kernels=tuple(undeclared_kernels),
        rolling=frozenset(tenants.rolling),
        rolling_kernels=frozenset(kernels.rolling),
        # Who is kept although nobody declares it can be pruned later.
        configured=replace(wanted, tenants=wanted.tenants if prunes else {**undeclared, **wanted.tenants}),
    )


def _make_room(
    tenants: _Compared[TenantId, TenantSpec], state: State, wanted: Wanted, kernels: Mapping[str, KernelSpec]
) -> None:
    """Let tenant `default` have at least as many kernels as it has declared ones, whatever was changed at runtime."""
    spec = tenants.specs.get(DEFAULT_TENANT, state.tenants.get(DEFAULT_TENANT))
    declared = len(wanted.kernels.keys() & (state.kernels.keys() | kernels.keys()))
    if spec is None or spec.autoscale is not None or spec.replicas >= declared:
        return
    tenants.specs[DEFAULT_TENANT] = replace(spec, replicas=declared)
    before = state.tenants.get(DEFAULT_TENANT)
    if before is None:
        return
    target, key = f"tenant {DEFAULT_TENANT}", "replicas"
    tenants.changes = [one for one in tenants.changes if (one.target, one.key) != (target, key)]
    if before.replicas != declared:
        change = Change(target=target, key=key, before=before.replicas, after=declared, how="live")
        tenants.changes.append(change)
    tenants.drift = [one for one in tenants.drift if (one.target, one.key) != (target, key)]
    says = wanted.tenants[DEFAULT_TENANT].replicas if DEFAULT_TENANT in wanted.tenants else declared
    if says != declared:
        tenants.drift.append(Drift(target=target, key=key, configured=says, found=declared))


def applied(state: State, todo: Plan) -> State:
    """What there is once a plan was carried out."""
    tenants = {name: spec for name, spec in state.tenants.items() if name not in todo.removed}
    kernels = {name: spec for name, spec in state.kernels.items() if name not in todo.removed_kernels}
    return replace(
        state,
        tenants={**tenants, **todo.tenants},
        kernels={**kernels, **todo.kernels},
        configured=todo.configured,
    )


# --- one by one


def _compared(
    kind: str,
    configured: Mapping[Name, Spec],
    wanted: Mapping[Name, Spec],
    found: Mapping[Name, Spec],
    raisable: Mapping[str, Collection[str]],
) -> _Compared[Name, Spec]:
    so_far: _Compared[Name, Spec] = _Compared([], [], {}, set())
    for name, spec in sorted(wanted.items()):
        target, now, before = f"{kind} {name}", found.get(name), configured.get(name)
        if now is not None:
            will_be, changes, drift = _merged(target, before, spec, now, raisable.get(now.isolation_level, ()))
            if will_be != now:
                so_far.specs[name] = will_be
            if any(change.how == "rolling" for change in changes):
                so_far.rolling.add(name)
            so_far.changes += changes
            so_far.drift += drift
        elif before == spec:
            gone = Drift(target=target, key="", configured=_summary(spec), found=None, detail=_DELETED)
            so_far.drift.append(gone)
        else:
            so_far.specs[name] = _begun(spec)
            so_far.changes.append(Change(target=target, key="", before=None, after=_summary(spec), how="added"))
    return so_far


def _begun(spec: Spec) -> Spec:
    autoscale: Autoscale | None = getattr(spec, "autoscale", None)
    return spec if autoscale is None else replace(spec, replicas=autoscale.clipped(getattr(spec, "replicas", 0)))


def _removed(target: str, spec: TenantSpec | KernelSpec) -> Change:
    return Change(target=target, key="", before=_summary(spec), after=None, how="removed")


# --- key by key


def _merged(
    target: str, before: Spec | None, after: Spec, now: Spec, raisable: Collection[str]
) -> tuple[Spec, list[Change], list[Drift]]:
    """What will be, what of it changes, and what differs from `after` and stays."""
    was, says, is_now = _flat(before) if before is not None else None, _flat(after), _flat(now)
    will_be = dict(is_now)
    changes: list[Change] = []
    drift: list[Drift] = []
    for key in sorted(says.keys() | is_now.keys()):
        say, found = says.get(key), is_now.get(key)
        if say == found:
            continue
        if was is not None and was.get(key) == say:
            drift.append(Drift(target=target, key=key, configured=_shown(say), found=_shown(found)))
        else:
            will_be[key] = say
            how: How = "rolling" if _takes_a_new_process(key, found, say, raisable) else "live"
            changes.append(Change(target=target, key=key, before=_shown(found), after=_shown(say), how=how))
    if will_be.get("autoscale") is not None:
        # How many kernels there are is the fleet's own choice then, within its bounds.
        will_be["replicas"] = will_be["autoscale"].clipped(is_now["replicas"])
        changes = [change for change in changes if change.key != "replicas"]
        drift = [one for one in drift if one.key != "replicas"]
    return _unflat(will_be, now), changes, drift


def _takes_a_new_process(key: str, before: Any, after: Any, raisable: Collection[str]) -> bool:
    if key.removeprefix("limits.") in raisable:
        return False
    if key in _NOT_RAISED:
        return bool(before) and (not after or after > before)  # 0 = no bound
    return key in _OF_A_NEW_PROCESS


def _flat(spec: TenantSpec | KernelSpec) -> dict[str, Any]:
    """A specification's values by key, limits and labels one by one; a label that is not there has none."""
    return dict(_pairs(spec))


def _pairs(spec: TenantSpec | KernelSpec) -> Iterator[tuple[str, Any]]:
    for name in spec.__struct_fields__:
        value = getattr(spec, name)
        if name == "limits":
            yield from ((f"limits.{limit}", getattr(value, limit)) for limit in value.__struct_fields__)
        elif name == "labels":
            yield from ((f"labels.{label}", text) for label, text in value.items())
        elif name not in {"id", "tenant", "name", "uid"}:  # the fleet's own to give
            yield name, value


def _unflat(flat: Mapping[str, Any], now: Spec) -> Spec:
    """`now` with those values."""
    parts: dict[str, dict[str, Any]] = {"": {}, "limits": {}, "labels": {}}
    for key, value in flat.items():
        part, _, name = key.rpartition(".") if key.startswith("limits.") else ("", "", key)
        if key.startswith("labels."):
            part, name = "labels", key.removeprefix("labels.")  # which may hold dots itself
        parts[part][name] = value
    labels = {name: text for name, text in parts["labels"].items() if text is not None}
    return replace(now, **parts[""], limits=replace(now.limits, **parts["limits"]), labels=labels)


def _summary(spec: TenantSpec | KernelSpec) -> dict[str, Any]:
    """What of a specification is not as it is when nobody says anything."""
    bare = TenantSpec(id=spec.id) if isinstance(spec, TenantSpec) else KernelSpec(id=spec.id, tenant=spec.tenant)
    plain = _flat(bare)
    return {key: _shown(value) for key, value in _flat(spec).items() if plain.get(key) != value}


def _shown(value: Any) -> Any:
    return msgspec.to_builtins(value)
