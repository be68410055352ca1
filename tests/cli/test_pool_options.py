"""Options about how long kernels live, and how pools grow and shrink."""

from typing import Any

import click
import msgspec
import pytest
from click.testing import CliRunner

from llmspell_cli.pool_options import pool_lines, pool_members, pool_options
from llmspell_fleet.model.ids import TenantId
from llmspell_fleet.model.pool import Autoscale
from llmspell_fleet.model.requests import TenantChange
from llmspell_fleet.model.tenant import Limits, TenantSpec
from llmspell_fleet.model.views import TenantView

PLAIN = TenantView(
    id=TenantId("acme"),
    replicas=1,
    ready=1,
    strategy="sticky",
    limits=Limits(),
    isolation_level="process",
    idle_timeout_s=0.0,
    created_at="2026-01-01T00:00:00Z",
    kernels=[],
)


def members(*arguments: str) -> dict[str, Any]:
    """What options come to; those that were not given are left out."""
    found: dict[str, Any] = {}

    @click.command()
    @pool_options
    def command(**given: Any) -> None:
        found.update(pool_members(given))

    done = CliRunner().invoke(command, list(arguments))
    assert done.exit_code == 0, done.output
    return {name: value for name, value in found.items() if value is not None}


@pytest.mark.parametrize(
    ("arguments", "wanted"),
    [
        ([], {}),
        (["--restart", "on-failure"], {"restart": "on-failure"}),
        (["--max-age", "1h30m", "--max-age-variance", "0.25"], {"max_age_s": 5400, "max_age_variance": 0.25}),
        (["--max-age", "0"], {"max_age_s": 0}),
        (["--cull-busy", "--keep-connected"], {"cull_busy": True, "cull_connected": False}),
        (["--warm", "require", "--warm-size", "3"], {"warm": "require", "warm_size": 3}),
        (["--autoscale", "2..5"], {"autoscale": Autoscale(min=2, max=5)}),
    ],
)
def test_options_are_members_of_a_change(arguments: list[str], wanted: dict[str, Any]) -> None:
    assert members(*arguments) == wanted
    assert set(wanted) <= set(TenantChange.__struct_fields__)


@pytest.mark.parametrize(
    ("has", "lines"),
    [
        ({}, {}),
        ({"restart": "never"}, {"restart": "never"}),
        ({"max_age_s": 86_400.0}, {"max age": "1d, less up to 0.1 of it"}),
        ({"max_age_s": 5400.0, "max_age_variance": 0.0}, {"max age": "1h30m"}),
        ({"cull_busy": True, "cull_connected": True}, {"cull busy": "yes", "cull connected": "yes"}),
        ({"warm": "never", "warm_size": 2}, {"warm": "never", "warm size": "2"}),
        (
            {"autoscale": Autoscale(min=2, max=5)},
            {"autoscale": "2 to 5 kernels, more when over 80% are busy, fewer after 1m"},
        ),
    ],
)
def test_what_a_tenant_has_otherwise_is_shown(has: dict[str, Any], lines: dict[str, str]) -> None:
    assert pool_lines(msgspec.structs.replace(PLAIN, **has)) == lines


def test_what_may_differ_is_what_a_new_tenant_has_not() -> None:
    spec = TenantSpec(id=TenantId("a"))
    for name in ("restart", "max_age_s", "max_age_variance", "cull_busy", "cull_connected", "warm", "warm_size"):
        assert getattr(PLAIN, name) == getattr(spec, name), name
