"""Warm kernels of a real fleet: listed, claimed, and found again after its controller was killed."""

import hmac
import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from llmspell_kernel.connection import read_connection_file
from support.fleets import FleetHome, new_fleet
from support.homes import wait_until
from support.runs import Runner
from support.tenants import is_gone, new_tenant

pytestmark = pytest.mark.integration

_CONFIG = """
[fleet]
startup_kernels = 0
[fleet.warm]
size = 2
"""


@pytest.fixture
def fleet() -> Iterator[FleetHome]:
    with new_fleet(config=_CONFIG) as made:
        yield made


def _warm(fleet: FleetHome) -> dict[str, int]:
    """The pids of the warm kernels that are READY."""
    items: list[dict[str, Any]] = fleet.ask("GET", "/v1/kernels").json["items"]
    return {one["id"]: one["pid"] for one in items if one["tenant"] == "_warm" and one["phase"] == "READY"}


def _filled(fleet: FleetHome) -> dict[str, int]:
    wait_until(lambda: len(_warm(fleet)) == 2, "two warm kernels")
    return _warm(fleet)


def _killed_and_back(fleet: FleetHome) -> None:
    os.kill(fleet.pid, signal.SIGKILL)
    wait_until(lambda: is_gone(fleet.pid), "the controller is gone")
    fleet.up("--config", str(fleet.home.path / "fleet.toml"))


def test_they_are_listed_as_warm_and_a_tenant_does_not_see_them(fleet: FleetHome) -> None:
    _filled(fleet)
    tenant = new_tenant(fleet, replicas=0)

    listed = fleet.home.llmspell("fleet", "list")
    assert listed.returncode == 0, listed.stderr
    assert sum("(warm)" in line for line in listed.stdout.splitlines()) == 2
    assert fleet.ask("GET", "/v1/kernels", token=tenant.token).json["items"] == []
    warm = next(iter(_warm(fleet)))
    assert fleet.ask("GET", f"/v1/kernels/{warm}", token=tenant.token).status == 404
    assert fleet.ask("POST", "/v1/tenants", {"id": "_warm"}).status == 400


def test_the_next_controller_takes_them_up_and_gives_them_away(fleet: FleetHome) -> None:
    before = _filled(fleet)
    _killed_and_back(fleet)

    assert _filled(fleet) == before
    tenant = new_tenant(fleet, replicas=2)
    assert {one["id"]: one["pid"] for one in tenant.kernels()} == before
    assert tenant.value("return 6*7") == "42"


def test_one_that_was_given_away_and_not_recorded_is_not_given_away_again(fleet: FleetHome) -> None:
    before = _filled(fleet)
    claimed = next(iter(before))
    connection = read_connection_file(str(fleet.home.runtime / f"kernel-{claimed}.json"))
    given = {name: getattr(connection, name) for name in connection.__struct_fields__}
    secret = (fleet.home.state / "fleet.key").read_bytes()
    with Runner(given, proof=hmac.digest(secret, claimed.encode(), "sha256").hex()) as runner:
        runner.ask("claim_request", {"name": "somebody-s"})
        wait_until(
            lambda: read_connection_file(str(fleet.home.runtime / f"kernel-{claimed}.json")).name == "somebody-s",
            "the kernel has heard of it",
        )

    _killed_and_back(fleet)

    wait_until(lambda: is_gone(before[claimed]), "the claimed one has ended")
    assert claimed not in _filled(fleet)


def test_a_tenant_s_kernel_stays_its_own_after_a_kill(fleet: FleetHome) -> None:
    _filled(fleet)
    tenant = new_tenant(fleet)
    tenant.value("mark = 1")
    (mine,) = tenant.kernels()
    _killed_and_back(fleet)

    tenant.wait_ready(1)
    assert tenant.kernels()[0]["pid"] == mine["pid"]
    assert tenant.value("return mark") == "1"


def test_the_end_of_the_fleet_ends_them(fleet: FleetHome) -> None:
    pids = _filled(fleet).values()
    fleet.down()

    assert all(is_gone(pid) for pid in pids)
    assert list(fleet.home.runtime.rglob("*")) == []
