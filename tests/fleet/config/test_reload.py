"""What of a changed configuration holds at once, and what waits."""

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmspell_fleet.config import reload
from llmspell_fleet.config.fleet import DeclaredKernel, FleetConfig
from llmspell_fleet.config.reload import reload_plan
from llmspell_fleet.model.ids import TenantId
from llmspell_fleet.model.tenant import Limits, TenantSpec
from llmspell_fleet.policy.restart import RestartPolicy

OTHER: dict[str, Any] = {
    "name": "other",
    "host": "127.0.0.2",
    "port": 7,
    "allowed_hosts": ("a.example",),
    "strategy": "sticky",
    "limits": Limits(memory_bytes=0, max_clients=5),
    "restart": RestartPolicy(max_restarts=1, stop_deadline_s=1.0),
    "startup_kernels": 9,
    "declared": (DeclaredKernel(name="a"),),
    "tenants": (TenantSpec(id=TenantId("acme")),),
    "isolation_level": "none",
    "log_level": "debug",
    "log_file": "/l",
    "metrics_public": True,
    "notices": ("x",),
    "degraded": {"alerts": "x"},
}
configs = st.dictionaries(st.sampled_from(sorted(OTHER)), st.just(None)).map(
    lambda chosen: FleetConfig(**{name: OTHER[name] for name in chosen})
)


def test_every_part_of_a_configuration_holds_at_once_or_waits() -> None:
    known = [*reload._AT_ONCE, *reload._AT_A_RESTART, *reload._TOLD, *reload._DECLARED]

    # Jitter is no key of a file's.
    assert sorted([*known, "restart.jitter_share"]) == sorted(reload._flat(FleetConfig()))


@pytest.mark.parametrize(
    ("case", "changed", "applied", "waiting"),
    [
        ("nothing", {}, (), ()),
        ("a limit", {"limits": Limits(max_clients=5)}, ("[limits] max_clients",), ()),
        ("patience", {"restart": RestartPolicy(max_restarts=0)}, ("[fleet.restart] max_restarts",), ()),
        ("the address", {"host": "::1", "port": 7}, (), ("[fleet] host", "[fleet] port")),
        ("what there should be is planned elsewhere", {"declared": OTHER["declared"]}, (), ()),
        (
            "both",
            {"log_level": "debug", "log_file": "/l", "max_kernels": 3},
            ("[logging] level", "[fleet] max_kernels"),
            ("[logging] file",),
        ),
    ],
)
def test_what_changed_is_told_as_files_name_it(
    case: str, changed: dict[str, Any], applied: tuple[str, ...], waiting: tuple[str, ...]
) -> None:
    plan = reload_plan(FleetConfig(), msgspec.structs.replace(FleetConfig(), **changed))

    assert (plan.applied, plan.needs_restart) == (applied, waiting), case


@given(old=configs, new=configs)
def test_after_a_reload_only_what_waits_differs(old: FleetConfig, new: FleetConfig) -> None:
    plan = reload_plan(old, new)
    again = reload_plan(plan.config, new)

    assert again.applied == ()
    assert again.needs_restart == plan.needs_restart
    assert again.config == plan.config
    assert (plan.config == new) == (not plan.needs_restart)
