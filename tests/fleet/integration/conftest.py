"""A real fleet for all tests of a worker that leave it as it was; tests that do not have one of their own."""

from collections.abc import Callable, Iterator

import pytest

from support.fleets import FleetHome, new_fleet
from support.homes import Home, new_home
from support.tenants import Tenant, new_tenant

_CONFIG = """
[fleet]
startup_kernels = 1
max_kernels = 500

[fleet.restart]
max_restarts = 100000
first_delay = "10ms"
longest_delay = "50ms"
"""
"""Kernels are killed by the dozen: nobody stays down for it here."""


@pytest.fixture(scope="session")
def fleet() -> Iterator[FleetHome]:
    with new_fleet(config=_CONFIG) as made:
        made.wait_ready()
        yield made
        log = (made.home.logs / "fleet.log").read_text()
        assert "Traceback" not in log, log[-8000:]


@pytest.fixture
def make_tenant(fleet: FleetHome) -> Iterator[Callable[..., Tenant]]:
    """Makes tenants that are gone after the test."""
    made: list[Tenant] = []

    def make(**members: object) -> Tenant:
        made.append(new_tenant(fleet, **members))
        return made[-1]

    yield make
    for tenant in made:
        answer = fleet.ask("DELETE", tenant.path)
        assert answer.status in (204, 404), answer.body


@pytest.fixture
def tenant(make_tenant: Callable[..., Tenant]) -> Tenant:
    """A tenant with one kernel."""
    return make_tenant()


@pytest.fixture
def home() -> Iterator[Home]:
    with new_home() as made:
        yield made
