"""The configuration files that we ship are right."""

import pytest

from llmspell_fleet.config import fleet as fleet_config
from llmspell_fleet.config import refusals
from llmspell_kernel import config
from support.repository import ROOT

CONFIGS = ROOT / "configs"


def test_there_is_a_sample_of_each_kind() -> None:
    assert {sample.name for sample in CONFIGS.glob("*.toml")} == {"fleet.toml", "kernel.toml"}


def test_the_kernel_s_sample_states_the_defaults() -> None:
    loaded = config.load_config(str(CONFIGS / "kernel.toml"))

    assert loaded == config.default_config()
    assert not config.refusals(loaded)


def test_the_fleet_s_sample_states_the_defaults() -> None:
    loaded = fleet_config.load_fleet_config(str(CONFIGS / "fleet.toml"), environ={})

    assert loaded == fleet_config.load_fleet_config(None, environ={}) == fleet_config.FleetConfig()
    assert not refusals.refusals(loaded)


@pytest.mark.parametrize("name", ["fleet.toml", "kernel.toml"])
def test_config_init_writes_the_shipped_file(name: str) -> None:
    assert (CONFIGS / name).read_bytes() == (ROOT / "cli" / "llmspell_cli" / name).read_bytes()
