"""Who holds a kernel to each limit, at each level of isolation; and what of it the kernel and the system are told."""

import os

import pytest

from llmspell_fleet.controller.limits import (
    DESCRIPTORS_PER_CLIENT,
    OWN_DESCRIPTORS,
    confinement,
    kernel_limits,
    limit_views,
    unenforced,
)
from llmspell_fleet.model.ids import KernelId, TenantId
from llmspell_fleet.model.kernel import KernelSpec
from llmspell_fleet.model.tenant import IsolationLevel, Limits
from llmspell_fleet.model.views import LimitView
from llmspell_kernel.limits import KernelLimits
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


BY: list[tuple[str, str | None, str | None]] = [
    ("memory_bytes", "lua+rlimit", "lua"),
    ("cpu_percent", None, None),
    ("execution_timeout_s", "kernel", "kernel"),
    ("output_bytes", "kernel", "kernel"),
    ("max_clients", "kernel", "kernel"),
    ("max_message_bytes", "kernel", "kernel"),
    ("processes", "rlimit", None),
    ("files", "rlimit", None),
    ("storage_bytes", "rlimit", None),
    ("max_executions", "controller", "controller"),
    ("executions_per_s", "controller", "controller"),
]
"""Limit, by whom at level `process`, by whom at `none`; for an ordinary user."""


def test_the_table_has_every_limit() -> None:
    assert [limit for limit, _, _ in BY] == list(Limits.__struct_fields__)


@pytest.mark.parametrize(("limit", "at_process", "at_none"), BY)
def test_each_limit_names_who_enforces_it(
    limit: str, at_process: str | None, at_none: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    value = getattr(ALL, limit)

    assert limit_views(spec("process"))[limit] == LimitView(value=value, enforced_by=at_process)
    assert limit_views(spec("none"))[limit] == LimitView(value=value, enforced_by=at_none)
    assert (limit in unenforced(spec("process"))) == (at_process is None)
    assert (limit in unenforced(spec("none"))) == (at_none is None)


@pytest.mark.parametrize(
    ("case", "uid", "level", "expected"),
    [
        ("root is not held to its number of processes", 0, "process", ["cpu_percent", "processes"]),
        ("others are", 1000, "process", ["cpu_percent"]),
        ("nothing confines the process", 1000, "none", ["cpu_percent", "processes", "files", "storage_bytes"]),
    ],
)
def test_limits_that_nobody_enforces_are_named(
    case: str, uid: int, level: IsolationLevel, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)

    assert unenforced(spec(level)) == expected


@pytest.mark.parametrize("uid", [0, 1000])
def test_limits_that_are_not_set_lack_nobody(uid: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)

    assert unenforced(spec(limits=Limits())) == []


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
        memory_bytes=10_000_000,
        files=100 + 3 * DESCRIPTORS_PER_CLIENT + OWN_DESCRIPTORS,
        processes=20,
        file_bytes=5000,
    )


def test_the_system_is_told_nothing_of_what_has_no_bound() -> None:
    unbounded = Limits(memory_bytes=0, files=0)

    assert confinement(spec(limits=unbounded)) == Confinement()
    assert confinement(spec("none")).level == "none"
