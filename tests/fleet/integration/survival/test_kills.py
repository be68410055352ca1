"""A controller that is killed while it scales, at moments that a printed seed decides: what is there is what was asked."""

import os
import random
import signal
import sys
import threading

import pytest

from llmspell_fleet.spawner.remains import find_remnants
from support.fleets import FleetHome
from support.homes import wait_until
from support.tenants import Tenant, is_gone, new_tenant

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("unmeasured_module")]

ROUNDS = 6


def test_scaling_that_is_killed_at_any_moment_leaves_what_was_asked_before_or_after(fleet: FleetHome) -> None:
    seed = int(os.environ.get("KILLS_SEED", random.randrange(10**6)))
    sys.stdout.write(f"KILLS_SEED={seed}\n")
    chance = random.Random(seed)
    tenant = new_tenant(fleet, "acme", replicas=6)
    replicas = 6
    before = {kernel["id"]: kernel["pid"] for kernel in tenant.kernels()}
    for _ in range(ROUNDS):
        wanted = chance.choice([number for number in (0, 2, 4, 6, 9, 12) if number != replicas])
        both = chance.random() < 0.4
        zygote = fleet.ask("GET", "/health").json["zygote"]["pid"]
        asking = threading.Thread(target=_change, args=(tenant, wanted))
        asking.start()
        # Up to about as long as it takes to carry it out.
        asking.join(chance.random() * 0.08)
        if both and zygote is not None:
            os.kill(zygote, signal.SIGKILL)
        os.kill(fleet.pid, signal.SIGKILL)
        wait_until(lambda: is_gone(fleet.pid), "the controller is gone")
        asking.join()
        fleet.up("--config", str(fleet.home.path / "fleet.toml"))
        tenant = Tenant(fleet, tenant.id, tenant.token, tenant.created)
        found = tenant.show()["replicas"]
        assert found in (replicas, wanted), (found, replicas, wanted)
        after = {kernel["id"]: kernel["pid"] for kernel in tenant.wait_ready(found)}
        pids = set(after.values())
        wait_until(lambda expected=pids: _processes(fleet) == expected, "each has one process, and no more")
        # Those that stay are as they were, but for such as had been told to end when their end was not recorded yet.
        kept = after.keys() & before.keys()
        assert len(kept) == min(found, len(before)), (kept, found, len(before))
        replaced = [kernel for kernel in kept if after[kernel] != before[kernel]]
        assert not replaced or found == wanted < len(before), (replaced, found, wanted)
        before, replicas = after, found


def _change(tenant: Tenant, replicas: int) -> None:
    try:
        tenant.change(replicas=replicas, wait_s=0)
    except OSError:
        return


def _processes(fleet: FleetHome) -> set[int]:
    return {one.pid for one in find_remnants(str(fleet.home.runtime)) if one.kernel is not None}
