"""`llmspell config`."""

import json
import stat
import tomllib
from pathlib import Path

import pytest

from llmspell_cli import main as cli
from support.repository import ROOT

SPEC = ROOT / "tests" / "data" / "spec"


@pytest.fixture(autouse=True)
def place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLMSPELL_CONFIG_DIR", str(tmp_path / "config"))
    for name in ("LLMSPELL_CONFIG", "LLMSPELL_LOG_LEVEL"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def _config(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(["config", *arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def test_init_writes_a_private_file_that_is_valid(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _config("init") == 0

    written = place / "llmspell.toml"
    assert written.read_bytes() == (ROOT / "configs" / "kernel.toml").read_bytes()
    assert stat.S_IMODE(written.stat().st_mode) == 0o600
    assert _config("validate", "llmspell.toml") == 0
    assert capsys.readouterr().err == ""


def test_init_replaces_a_file_only_by_force(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "a.toml").write_text("mine")

    assert _config("init", "--out", "a.toml") == 4
    assert (place / "a.toml").read_text() == "mine"
    assert "a.toml is there already" in capsys.readouterr().err
    assert _config("init", "--out", "a.toml", "--force") == 0
    assert (place / "a.toml").read_text() != "mine"


def test_init_into_nowhere_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert _config("init", "--out", "none/a.toml") == 4

    assert "none/a.toml cannot be written: No such file or directory" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["a.toml"], ["--file", "a.toml"]])
def test_validate_tells_every_problem(place: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    (place / "a.toml").write_text("[limits]\nmax_clients = 0\nmax_cleints = 1\n[nowhere]\n")

    assert _config("validate", *arguments) == 2

    told = capsys.readouterr().err
    assert told.startswith("llmspell: ")
    assert [line.partition("a.toml: ")[2].partition(":")[0] for line in told.splitlines()] == [
        "[limits] max_clients",
        "[limits] max_cleints",
        "[nowhere]",
    ]


def test_validate_accepts_the_specification_s_sample_and_says_what_would_come_of_it(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert _config("validate", str(SPEC / "service.toml")) == 0

    out, err = capsys.readouterr()
    assert out == f"{SPEC / 'service.toml'} is valid\n"
    assert "note: [dap]: accepted, not active: the debug adapter is not built yet\n" in err
    assert "note: a kernel refuses to start with it: [security] tls_enabled" in err


def test_validate_without_a_file_takes_the_one_that_would_be_used(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _config("validate") == 2
    assert "there is no configuration file to check" in capsys.readouterr().err
    (place / "a.toml").write_text("")
    monkeypatch.setenv("LLMSPELL_CONFIG", "a.toml")

    assert _config("validate") == 0


def test_show_tells_defaults_and_values(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "a.toml").write_text("[limits]\nmax_clients = 3\n")

    assert _config("show", "--config", "a.toml") == 0

    shown = tomllib.loads(capsys.readouterr().out)
    assert shown["limits"]["max_clients"] == 3
    assert shown["limits"]["memory_bytes"] == 512 * 1024 * 1024
    assert "id" not in shown["service"]


def test_what_show_tells_can_be_read_again(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _config("show") == 0
    (place / "shown.toml").write_text(capsys.readouterr().out)

    assert _config("validate", "shown.toml") == 0


@pytest.mark.parametrize(
    ("section", "shown"),
    [
        ("runtime", {"module_paths": []}),
        ("jupyter.ports.shell_port", {"shell_port": 0}),
        ("service", {"daemon": False}),
    ],
)
def test_show_tells_a_section(section: str, shown: object, capsys: pytest.CaptureFixture[str]) -> None:
    assert _config("show", section, "--format", "json") == 0

    assert json.loads(capsys.readouterr().out) == shown


@pytest.mark.parametrize("section", ["nowhere", "limits.nothing", "limits.max_clients.more"])
def test_show_of_no_section_names_those_there_are(section: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert _config("show", section) == 2

    assert f"there is no section {section}: expected one of " in capsys.readouterr().err


def test_show_hides_secrets(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "a.toml").write_text('[jupyter]\nkey = "hush"\n[debug.remote]\nauth_token = "hush"\n')

    assert _config("show", "--config", "a.toml") == 0

    shown = capsys.readouterr().out
    assert "hush" not in shown
    assert shown.count("********") == 2
