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


def test_init_writes_a_fleet_s_file_that_is_valid(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _config("init", "--fleet") == 0

    assert "use it with `llmspell fleet up --config fleet.toml`" in capsys.readouterr().out
    assert (place / "fleet.toml").read_bytes() == (ROOT / "configs" / "fleet.toml").read_bytes()
    assert _config("validate", "fleet.toml") == 0
    assert capsys.readouterr().err == ""
    assert _config("init", "--fleet", "mine.toml") == 0
    assert (place / "mine.toml").exists()


def test_init_writes_one_file(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _config("init", "a.toml", "--out", "b.toml") == 2

    assert "expected one file to write, found a.toml and --out b.toml" in capsys.readouterr().err
    assert list(place.iterdir()) == []


@pytest.mark.parametrize(
    ("case", "name", "text", "arguments", "kind"),
    [
        ("a fleet's table", "a.toml", "[load_balancing]\nfailover = 1", [], "fleet"),
        ("a fleet's kernels", "a.toml", '[[fleet.kernels]]\nname = "A"', [], "fleet"),
        ("a fleet's name", "fleet.toml", "[limits]\nmax_executions = 0", [], "fleet"),
        ("said so", "a.toml", "[limits]\nmax_executions = 0", ["--kind", "fleet"], "fleet"),
        ("a kernel's table", "a.toml", "[limits]\nmax_executions = 0", [], "kernel"),
        ("said otherwise", "a.toml", "[fleet]\n", ["--kind", "kernel"], "kernel"),
        ("no TOML", "a.toml", "[fleet", [], "neither"),
        ("not text", "a.toml", "\udcff", [], "neither"),
    ],
)
def test_validate_knows_whose_file_it_is(
    place: Path,
    case: str,
    name: str,
    text: str,
    arguments: list[str],
    kind: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (place / name).write_text(text, errors="surrogateescape")

    assert _config("validate", name, *arguments) == 2, case

    told = capsys.readouterr().err
    expected = {
        "fleet": ("[load_balancing] failover: ", "[fleet.kernels[0]] name: ", "[limits] max_executions: expected"),
        "kernel": ("there is no such key", "there is no such table"),
        "neither": ("not TOML", "not UTF-8"),
    }
    assert any(part in told for part in expected[kind]), told


def test_validate_says_what_would_come_of_the_specification_s_fleet(capsys: pytest.CaptureFixture[str]) -> None:
    assert _config("validate", str(SPEC / "fleet-config.toml")) == 0

    out, err = capsys.readouterr()
    assert out == f"{SPEC / 'fleet-config.toml'} is valid\n"
    assert "note: alerts are not built yet: nobody is told by slack, pagerduty\n" in err
    # Its isolation level is strict, which machines have.
    assert "isolation" not in err


def test_validate_without_a_file_takes_the_fleet_s_when_there_is_no_kernel_s(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = place / "config"
    directory.mkdir()
    (directory / "fleet.toml").write_text("")

    assert _config("validate") == 0
    assert _config("validate", "--kind", "kernel") == 2
    (directory / "kernel.toml").write_text("")
    assert _config("validate") == 0
    assert _config("validate", "--kind", "fleet") == 0

    valid = [Path(line.split()[0]).name for line in capsys.readouterr().out.splitlines()]
    assert valid == ["fleet.toml", "kernel.toml", "fleet.toml"]


def test_show_tells_what_a_fleet_s_file_comes_to_and_that_can_be_read_again(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMSPELL_LOG_LEVEL", "error")
    (place / "a.toml").write_text('[[fleet.kernels]]\nname = "one"\n[health]\nalert_webhook = "http://hush"\n')

    assert _config("show", "--config", "a.toml") == 0

    out = capsys.readouterr().out
    shown = tomllib.loads(out)
    assert shown["fleet"]["startup_kernels"] == 1
    assert shown["fleet"]["kernels"] == [{"name": "one", "labels": {}, "depends_on": {}, "limits": {}}]
    assert shown["logging"]["level"] == "error"
    assert shown["health"]["alert_webhook"] == "********"
    assert "hush" not in out
    (place / "shown.toml").write_text(out)
    assert _config("validate", "shown.toml") == 0


def test_show_tells_a_fleet_s_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    assert _config("show", "--fleet", "load_balancing", "--format", "json") == 0

    shown = json.loads(capsys.readouterr().out)
    assert shown == {"strategy": "least_loaded", "health_check_interval": 30, "failover_enabled": True}
