"""Who holds a kernel to each limit, at each level of isolation; and what of it the kernel and the system are told."""

import os

import msgspec
import pytest
from msgspec.structs import replace

from llmspell_fleet.cgroups.hierarchy import RESOURCES, Resource
from llmspell_fleet.controller.kernels.hold import (
    DESCRIPTORS_PER_CLIENT,
    OWN_DESCRIPTORS,
    Hold,
    StorageLayer,
    confinement,
    kernel_limits,
    limit_views,
    needed_cgroups,
    unenforced,
)
from llmspell_fleet.model.ids import KernelId, TenantId
from llmspell_fleet.model.kernel import KernelSpec
from llmspell_fleet.model.tenant import IsolationLevel, Limits
from llmspell_fleet.model.views import LimitView
from llmspell_kernel.limits import KernelLimits, output_room
from llmspell_kernel.zygote.protocol import Confinement

ALL = Limits(
    memory_bytes=10_000_000,
    cpu_percent=50.0,
    execution_timeout_s=7.0,
    output_bytes=1000,
    max_clients=3,
    max_message_bytes=4096,
    processes=20,
    files=100,
    storage_bytes=5000,
    max_executions=8,
    executions_per_s=9.0,
    max_kernels=10,
    total_memory_bytes=11,
    total_cpu_percent=12.0,
    total_storage_bytes=13,
)
"""Each limit is set."""


def spec(level: IsolationLevel = "process", limits: Limits = ALL, idle_timeout_s: float = 0.0) -> KernelSpec:
    return KernelSpec(
        id=KernelId("00000000-0000-4000-8000-000000000001"),
        tenant=TenantId("t"),
        limits=limits,
        isolation_level=level,
        idle_timeout_s=idle_timeout_s,
    )


BY: list[tuple[str, str | None, str | None, str | None]] = [
    ("memory_bytes", "lua+cgroup", "lua+rlimit", "lua"),
    ("cpu_percent", "cgroup", None, None),
    ("execution_timeout_s", "kernel", "kernel", "kernel"),
    ("output_bytes", "kernel", "kernel", "kernel"),
    ("max_clients", "kernel", "kernel", "kernel"),
    ("max_message_bytes", "kernel", "kernel", "kernel"),
    ("processes", "cgroup", "rlimit", None),
    ("files", "rlimit", "rlimit", None),
    ("storage_bytes", "rlimit", "rlimit", None),
    ("max_executions", "controller", "controller", "controller"),
    ("executions_per_s", "controller", "controller", "controller"),
    ("max_kernels", "controller", "controller", "controller"),
    ("total_memory_bytes", "cgroup", "controller", "controller"),
    ("total_cpu_percent", "cgroup", None, None),
    ("total_storage_bytes", None, None, None),
]
"""Limit, by whom at level `process` with cgroups and without, by whom at `none`; for an ordinary user."""

SUMS = ("total_cpu_percent", "total_storage_bytes")
"""Of limits that do not bound a kernel for good."""

CGROUPS: frozenset[Resource] = frozenset(RESOURCES)


def hold(level: IsolationLevel = "process", limits: Limits = ALL, cgroups: frozenset[Resource] = frozenset()) -> Hold:
    return Hold(limits=limits, isolation_level=level, cgroups=cgroups)


def test_the_table_has_every_limit() -> None:
    assert [limit for limit, *_ in BY] == list(Limits.__struct_fields__)


@pytest.mark.parametrize(("limit", "with_cgroups", "at_process", "at_none"), BY)
def test_each_limit_names_who_enforces_it(
    limit: str,
    with_cgroups: str | None,
    at_process: str | None,
    at_none: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    value = getattr(ALL, limit)

    for held, by in (
        (hold(cgroups=CGROUPS), with_cgroups),
        (hold("process"), at_process),
        (hold("none"), at_none),
    ):
        assert limit_views(ALL, held)[limit] == LimitView(value=value, enforced_by=by)
        assert (limit in unenforced(held)) == (by is None)


@pytest.mark.parametrize(
    ("case", "uid", "held", "expected"),
    [
        ("root is not held to its number of processes", 0, hold(), ["cpu_percent", "processes", *SUMS]),
        ("but by cgroups", 0, hold(cgroups=CGROUPS), ["total_storage_bytes"]),
        ("others are", 1000, hold(), ["cpu_percent", *SUMS]),
        (
            "nothing confines the process",
            1000,
            hold("none"),
            ["cpu_percent", "processes", "files", "storage_bytes", *SUMS],
        ),
    ],
)
def test_limits_that_nobody_enforces_are_named(
    case: str, uid: int, held: Hold, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)

    assert unenforced(held) == expected


def test_at_strict_a_kernel_is_held_to_its_processes_whoever_the_fleet_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)

    assert limit_views(ALL, hold("strict"))["processes"].enforced_by == "rlimit"


@pytest.mark.parametrize(
    ("case", "storage", "storage_bytes", "total"),
    [
        ("one file, and any number of them", "rlimit", "rlimit", None),
        ("all of them, in a root of its own", "tmpfs", "tmpfs", "controller"),
        ("no file at all", "landlock", "landlock", "controller"),
    ],
)
def test_storage_is_held_by_what_bounds_files_where_the_kernel_is(
    case: str, storage: StorageLayer, storage_bytes: str, total: str | None
) -> None:
    views = limit_views(ALL, Hold(limits=ALL, isolation_level="strict", storage=storage))

    assert (views["storage_bytes"].enforced_by, views["total_storage_bytes"].enforced_by) == (storage_bytes, total), (
        case
    )


@pytest.mark.parametrize("uid", [0, 1000])
def test_limits_that_are_not_set_lack_nobody(uid: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)

    assert unenforced(hold(limits=Limits())) == []


def test_a_limit_that_was_changed_and_does_not_hold_yet_says_so_and_why() -> None:
    wanted = replace(ALL, files=200, memory_bytes=20_000_000)
    late = replace(hold(), late={"memory_bytes": "it holds more"})

    views = limit_views(wanted, late)

    assert (views["memory_bytes"].value, views["memory_bytes"].pending) == (10_000_000, 20_000_000)
    assert views["memory_bytes"].detail == "it holds more"
    assert (views["files"].pending, views["files"].detail) == (200, "holds from the next incarnation on")
    assert views["processes"].pending is msgspec.UNSET


@pytest.mark.parametrize(
    ("limits", "level", "expected"),
    [
        (Limits(), "process", {"memory"}),
        (Limits(memory_bytes=0), "process", set()),
        (Limits(memory_bytes=0, total_memory_bytes=1), "process", {"memory"}),
        (Limits(cpu_percent=1), "process", {"memory", "cpu"}),
        (Limits(total_cpu_percent=1, processes=1), "strict", {"memory", "cpu", "pids"}),
        (ALL, "none", set()),
    ],
)
def test_only_what_is_limited_takes_a_cgroup(limits: Limits, level: IsolationLevel, expected: set[str]) -> None:
    assert needed_cgroups(spec(level, limits)) == expected


def test_the_kernel_is_told_what_is_its_own_to_hold() -> None:
    assert kernel_limits(spec(idle_timeout_s=60.0)) == KernelLimits(
        memory_bytes=10_000_000,
        execution_timeout_s=7.0,
        output_bytes=1000,
        max_clients=4,
        max_message_size=4096,
        idle_timeout_s=0.0,  # the controller culls
    )


def test_the_system_is_told_the_rest() -> None:
    assert confinement(spec()) == Confinement(
        level="process",
        memory_bytes=10_000_000 + output_room(10_000_000, 1000),
        files=100 + 3 * DESCRIPTORS_PER_CLIENT + OWN_DESCRIPTORS,
        processes=20,
        file_bytes=5000,
    )


def test_the_system_is_told_by_cgroups_what_they_bound() -> None:
    told = confinement(spec(), {"memory", "pids"}, ("/a", "/b"))

    assert (told.memory_bytes, told.processes, told.cgroups) == (0, 0, ("/a", "/b"))
    assert told.files == confinement(spec()).files


def test_the_system_is_told_nothing_of_what_has_no_bound() -> None:
    unbounded = Limits(memory_bytes=0, files=0)

    assert confinement(spec(limits=unbounded)) == Confinement()
    assert confinement(spec("none")).level == "none"
