"""The configuration files that we ship are right."""

from pathlib import Path

import pytest

from llmspell_kernel import config
from support.repository import ROOT

SAMPLES = sorted((ROOT / "configs").glob("*.toml"))


def test_there_are_samples() -> None:
    assert "kernel.toml" in {sample.name for sample in SAMPLES}


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)
def test_a_shipped_configuration_loads(sample: Path) -> None:
    loaded = config.load_config(str(sample))

    assert isinstance(loaded, config.KernelConfig)
    assert not config.refusals(loaded)


def test_the_kernel_s_sample_states_the_defaults() -> None:
    assert config.load_config(str(ROOT / "configs" / "kernel.toml")) == config.default_config()
