"""Which configuration holds for a command."""

from pathlib import Path

import pytest

from llmspell_cli import configuration
from llmspell_kernel.errors import MisuseError
from llmspell_kernel.limits import KernelLimits


@pytest.fixture(autouse=True)
def directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("LLMSPELL_CONFIG_DIR", str(tmp_path))
    monkeypatch.delenv("LLMSPELL_LOG_LEVEL", raising=False)
    return tmp_path


def test_the_named_file_comes_first(directory: Path) -> None:
    (directory / "kernel.toml").write_text("")

    assert configuration.find_file("/named.toml") == "/named.toml"


def test_the_configuration_directory_s_file_is_found(directory: Path) -> None:
    assert configuration.find_file(None) is None

    (directory / "kernel.toml").write_text("[limits]\nmax_clients = 3\n")

    assert configuration.find_file(None) == str(directory / "kernel.toml")
    assert configuration.load(None).limits.max_clients == 3
    assert configuration.local_limits(None).max_clients == 3


def test_a_file_in_the_working_directory_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "here"
    here.mkdir()
    for name in ("kernel.toml", "llmspell.toml"):
        (here / name).write_text("[limits]\nmax_clients = 3\n")
    monkeypatch.chdir(here)

    assert configuration.find_file(None) is None
    assert configuration.local_limits(None) == KernelLimits()


def test_a_relative_name_is_the_working_directory_s(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    assert configuration.find_file("mine.toml") == str(tmp_path / "mine.toml")


def test_the_environment_s_level_comes_before_the_file_s(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (directory / "kernel.toml").write_text('[logging]\nlevel = "error"\n')
    monkeypatch.setenv("LLMSPELL_LOG_LEVEL", "debug")

    assert configuration.load(None).logging.level == "debug"


def test_a_level_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMSPELL_LOG_LEVEL", "loud")

    with pytest.raises(MisuseError, match=r"expected LLMSPELL_LOG_LEVEL to be one of .*, found 'loud'"):
        configuration.load(None)
