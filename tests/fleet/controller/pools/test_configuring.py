"""What a configuration declares, made so by a real controller."""

import os
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from llmspell_fleet.config.fleet import DeclaredKernel, FleetConfig
from llmspell_fleet.config.wanted import wanted
from llmspell_fleet.errors import ConflictError, TooManyError
from llmspell_fleet.model.ids import TenantId
from llmspell_fleet.model.requests import TenantChange
from llmspell_fleet.model.tenant import DEFAULT_TENANT, Limits, TenantSpec
from support.controllers import PATIENT, Site, Start, fleet_paths, running
from support.kernels import READY_S
from support.spawning import eventually

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]

ACME = TenantId("acme")


def config(**members: Any) -> FleetConfig:
    return FleetConfig(**{"startup_kernels": 0, "restart": PATIENT, **members})


def carry_out(site: Site, new: FleetConfig, *, prunes: bool = False) -> list[str]:
    """What another configuration changes, once it was carried out."""
    configuring = site.controller.configuring
    todo = configuring.plan(wanted(new), prunes=prunes)
    configuring.require_room(todo, max_kernels=new.max_kernels)
    configuring.carry_out(todo)
    assert configuring.plan(wanted(new), prunes=prunes).changes == (), "a second time nothing changes"
    return [f"{one.target} {one.key} {one.how}" for one in todo.changes]


async def test_only_the_kernels_that_need_it_get_a_new_process(controller: Start) -> None:
    declared = (DeclaredKernel(name="one"), DeclaredKernel(name="two"))
    async with controller(startup_kernels=3, declared=declared) as site:
        default = site.controller.tenants.get(DEFAULT_TENANT)
        await eventually(lambda: default.ready == 3, "three are ready")
        before = {entry.kernel.spec.name: entry.kernel for entry in default.entries.values()}
        moved = (DeclaredKernel(name="one", port=0), replace(declared[1], labels={"a": "b"}, idle_timeout_s=900.0))

        changes = carry_out(site, config(startup_kernels=3, declared=moved))
        await site.controller.rolls.ended(DEFAULT_TENANT, READY_S)

        assert changes == ["kernel one port rolling", "kernel two idle_timeout_s live", "kernel two labels.a live"]
        after = {entry.kernel.spec.name: entry.kernel for entry in default.entries.values()}
        assert {name: kernel.incarnation for name, kernel in after.items()} == {"one": 2, "two": 1, "": 1}
        assert {name: kernel.id for name, kernel in after.items()} == {name: one.id for name, one in before.items()}
        assert [after[name].pid for name in ("two", "")] == [before[name].pid for name in ("two", "")]
        assert default.roll is not None
        assert (default.roll.status, default.roll.total) == ("done", 1)


async def test_a_restart_that_is_under_way_takes_in_what_the_configuration_changes(controller: Start) -> None:
    acme = TenantSpec(id=ACME, replicas=2)
    async with controller(tenants=(acme,)) as site:
        tenant = site.controller.tenants.get(ACME)
        await eventually(lambda: tenant.ready == 2, "two are ready")
        site.controller.rolls.start(tenant, max_unavailable=1, max_surge=0)
        await eventually(lambda: tenant.roll is not None and tenant.roll.done == 1, "one is new")

        carry_out(site, config(tenants=(replace(acme, isolation_level="none"),)))
        await site.controller.rolls.ended(ACME, READY_S)

        assert tenant.roll is not None
        assert (tenant.roll.status, tenant.roll.done, tenant.roll.total) == ("done", 3, 3)
        incarnations = sorted(entry.kernel.incarnation for entry in tenant.entries.values())
        assert incarnations in ([2, 3], [3, 3]), "whoever was new before the change is so again"
        assert {entry.kernel.spec.isolation_level for entry in tenant.entries.values()} == {"none"}


async def test_what_there_is_no_room_for_is_refused_before_anything_is_done(controller: Start) -> None:
    async with controller(max_kernels=3) as site:
        await site.tenant("of-the-api", replicas=2)
        small, large = (config(max_kernels=n, tenants=(TenantSpec(id=ACME, replicas=2),)) for n in (3, 4))

        with pytest.raises(TooManyError):
            carry_out(site, small)
        assert ACME not in site.controller.tenants
        assert site.controller.tenants.max_kernels == 3

        assert carry_out(site, large) == ["tenant acme  added"]


async def test_a_pruned_tenant_ends_with_its_token(controller: Start) -> None:
    async with controller(tenants=(TenantSpec(id=ACME),)) as site:
        service = site.controller.service
        token = (await service.renew_token(ACME)).token
        assert site.controller.tokens.principal(token) is not None

        assert carry_out(site, config()) == []
        assert carry_out(site, config(), prunes=True) == ["tenant acme  removed"]

        await eventually(lambda: ACME not in site.controller.tenants, "it is gone")
        assert site.controller.tokens.principal(token) is None
        await site.store.flush()
        assert ACME not in {record.spec.id for record in site.store.load().tenants}


async def test_the_next_controller_knows_what_was_configured_and_what_was_changed_since() -> None:
    first = {
        "tenants": (TenantSpec(id=ACME, replicas=1, labels={"a": "b"}),),
        "declared": (DeclaredKernel(name="one"),),
    }
    with fleet_paths() as paths:
        async with running(paths, startup_kernels=1, **first) as site:
            await site.controller.service.update_tenant(ACME, TenantChange(replicas=2, wait_s=0))
            (one,) = site.controller.tenants.get(DEFAULT_TENANT).entries.values()
            await site.controller.service.delete_kernel(one.id, None)
        second = {**first, "tenants": (replace(first["tenants"][0], labels={"a": "c"}),)}
        async with running(paths, startup_kernels=1, **second) as site:
            spec = site.controller.tenants.get(ACME).spec
            assert (spec.replicas, spec.labels) == (2, {"a": "c"})
            assert not site.controller.tenants.get(DEFAULT_TENANT).entries, "deleted is deleted"


async def test_what_was_configured_and_cannot_be_read_is_told(caplog: pytest.LogCaptureFixture) -> None:
    with fleet_paths() as paths:
        async with running(paths, tenants=(TenantSpec(id=ACME),)) as site:
            await site.controller.service.update_tenant(ACME, TenantChange(replicas=0, wait_s=0))
            site.store.save_note("configured", "7")
            await site.store.flush()
        async with running(paths, tenants=(TenantSpec(id=ACME),)) as site:
            assert site.controller.tenants.get(ACME).spec.replicas == 1, "the configuration holds in all it says"
    assert "what was configured last cannot be read" in caplog.text


async def test_a_log_file_is_another_at_once(controller: Start) -> None:
    async with controller(startup_kernels=1, declared=(DeclaredKernel(name="one"),)) as site:
        (one,) = site.controller.tenants.get(DEFAULT_TENANT).entries.values()
        file = Path(site.paths.logs, "mine.log")

        changes = carry_out(site, config(startup_kernels=1, declared=(DeclaredKernel(name="one", log_file=str(file)),)))
        assert changes == ["kernel one log_file live"]
        await eventually(lambda: one.kernel.ready_at, "it is ready")
        await site.execute(site.controller.tenants.get(DEFAULT_TENANT), "return 1")
        os.write(one.output._descriptor, b"a word\n")

        await eventually(lambda: file.exists() and "a word" in file.read_text(), "it is written")


@pytest.mark.parametrize(
    ("case", "lower", "said"),
    [
        ("the fleet's", {"max_kernels": 2}, r"\[fleet\] max_kernels: expected at least 3, .* found 2"),
        ("a tenant's", {"limits": Limits(max_kernels=1)}, "tenant acme: .*max_kernels: expected 0 .* at least 2"),
    ],
)
async def test_no_bound_is_lowered_below_what_there_is(
    controller: Start, case: str, lower: dict[str, Any], said: str
) -> None:
    acme = TenantSpec(id=ACME, replicas=2)
    async with controller(startup_kernels=1, tenants=(acme,)) as site:
        site.controller.hold(config(startup_kernels=1, tenants=(acme,)))
        lowered = config(startup_kernels=1, tenants=(replace(acme, limits=lower.pop("limits", acme.limits)),), **lower)

        with pytest.raises(ConflictError, match=said):
            carry_out(site, lowered)

        assert site.controller.tenants.get(ACME).spec == acme, case
        carry_out(site, replace(lowered, tenants=(replace(lowered.tenants[0], replicas=1),)))
