"""The doctor believes its probes, not what is said: real kernels, held and not held."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
import uvloop
from msgspec.structs import replace

from llmspell_fleet.cgroups.tree import FleetCgroups
from llmspell_fleet.controller.kernels.entry import Entry
from llmspell_fleet.controller.limits.holding import Holder
from llmspell_fleet.doctor import limits
from llmspell_fleet.doctor.isolation import WAYS_OUT, targets, try_way_out
from llmspell_fleet.doctor.limits import TRIALS, try_limit
from llmspell_fleet.doctor.site import throwaway_fleet
from llmspell_fleet.model.tenant import IsolationLevel
from llmspell_kernel.zygote.protocol import Confinement
from support.groups import needs_cgroups
from support.tenants import need_root

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    return {"uvloop": uvloop.new_event_loop}


def unheld(self: Holder, entry: Entry, begin: Callable[[Holder, Entry], Confinement] = Holder.begin) -> Confinement:
    """As the real one says, but nothing of it is done to the process."""
    return replace(begin(self, entry), cgroups=(), files=0, file_bytes=0, memory_bytes=0)


@pytest.mark.parametrize("shown", ["processes", "files", "storage_bytes", "total_memory_bytes"])
async def test_a_limit_that_is_said_to_hold_and_does_not_is_found_open(
    shown: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    needs_cgroups("memory", "pids")
    monkeypatch.setattr(Holder, "begin", unheld)
    async with throwaway_fleet("process") as site:
        finding = await try_limit(site, shown, dict(TRIALS)[shown])

    assert (finding.result, finding.is_promised) == ("open", True), finding


@pytest.mark.parametrize(
    ("level", "of_one", "of_all"),
    [
        ("process", ("held", "rlimit", True), ("open", None, False)),
        ("strict", ("held", "tmpfs", True), ("held", "controller", True)),
    ],
)
async def test_storage_is_tried_as_one_file_and_as_many(
    level: IsolationLevel, of_one: tuple[str, str | None, bool], of_all: tuple[str, str | None, bool]
) -> None:
    need_root("a root file system of its own")
    async with throwaway_fleet(level) as site:
        one = await try_limit(site, "storage_bytes", limits.storage)
        every = await try_limit(site, "total_storage_bytes", limits.total_storage)

    assert (one.result, one.enforced_by, one.is_promised) == of_one, one
    assert (every.result, every.enforced_by, every.is_promised) == of_all, every
    assert bool(every.advice) == (every.result == "open")


@pytest.mark.parametrize(("level", "result", "is_promised"), [("process", "open", False), ("strict", "held", True)])
async def test_memory_that_an_rlimit_does_not_count_is_open_and_not_promised_but_at_strict(
    level: IsolationLevel, result: str, is_promised: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    need_root("a user for a tenant at strict")
    monkeypatch.setattr(FleetCgroups, "resources", frozenset())
    async with throwaway_fleet(level) as site:
        shown = "memory_bytes, shared or read-only"
        finding = await try_limit(site, shown, dict(TRIALS)[shown])

    assert (finding.result, finding.is_promised, finding.enforced_by) == (result, is_promised, "lua+rlimit"), finding


async def test_memory_is_counted_whatever_it_is_where_cgroups_count() -> None:
    needs_cgroups("memory")
    async with throwaway_fleet("process") as site:
        shown = "memory_bytes, shared or read-only"
        finding = await try_limit(site, shown, dict(TRIALS)[shown])

    assert (finding.result, finding.is_promised, finding.enforced_by) == ("held", True, "lua+cgroup"), finding


async def test_without_memory_to_spare_nothing_is_tried_that_needs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_available_bytes", lambda: 0)
    async with throwaway_fleet("process") as site:
        finding = await try_limit(site, "memory_bytes, of the process", limits.memory_of_processes)

    assert finding.result == "skipped"


async def test_at_level_none_a_process_is_open_and_not_promised() -> None:
    async with throwaway_fleet("none") as site:
        finding = await try_limit(site, "files", limits.files)

    assert (finding.result, finding.is_promised, finding.enforced_by) == ("open", False, None)
    assert "use process or strict" in finding.advice


async def test_a_total_that_nobody_counts_is_held_before_a_kernel_is_made() -> None:
    async with throwaway_fleet("none") as site:
        finding = await try_limit(site, "total_memory_bytes", limits.total_memory)

    assert (finding.result, finding.enforced_by) == ("held", "controller")
    assert "total_memory_bytes" in finding.detail


async def test_a_way_out_is_tried_on_what_is_really_there_and_nothing_is_left_of_it() -> None:
    async with throwaway_fleet("process") as site:
        folder = Path(site.paths.runtime).parent
        neighbour, prisoner = await site.tenant("a"), await site.tenant("b")
        with targets(site, neighbour) as aim:
            found = {way.what: await try_way_out(site, prisoner, way, aim) for way in WAYS_OUT[:3]}
        assert neighbour.kernel.incarnation == 1

    assert found["find descriptors of its parent"].result == "held"
    assert (found["read another tenant's key"].result, found["read another tenant's key"].is_promised) == (
        "open",
        False,
    )
    assert not folder.exists()
