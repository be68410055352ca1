"""`llmspell kernel install`, and the kernelspec that it writes."""

import json
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from jupyter_client.kernelspec import KernelSpecManager

from llmspell_cli import kernelspec
from llmspell_cli import main as cli


def _install(*arguments: str) -> int:
    with pytest.raises(SystemExit) as ended:
        cli.main(["kernel", "install", *arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code


@pytest.mark.parametrize(
    ("case", "environ", "platform", "directory"),
    [
        ("what was said", {"JUPYTER_DATA_DIR": "/j", "XDG_DATA_HOME": "/x"}, "linux", "/j"),
        ("the platform's", {}, "linux", "/people/ada/.local/share/jupyter"),
        ("the desktop's", {"XDG_DATA_HOME": "/x"}, "linux", "/x/jupyter"),
        ("a Mac's", {"XDG_DATA_HOME": "/x"}, "darwin", "/people/ada/Library/Jupyter"),
    ],
)
def test_a_user_s_kernelspecs_are_where_jupyter_looks(
    case: str, environ: dict[str, str], platform: str, directory: str
) -> None:
    found = kernelspec.user_data_dir(environ, home=Path("/people/ada"), platform=platform)

    assert found == Path(directory), case


def test_the_kernelspec_is_the_agreed_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path))

    assert _install() == 0

    directory = tmp_path / "kernels" / "llmspell"
    written = json.loads((directory / "kernel.json").read_text())
    assert written["argv"] == [sys.executable, "-m", "llmspell_kernel", "-f", "{connection_file}"]
    assert Path(written["argv"][0]).is_absolute()
    assert (written["language"], written["interrupt_mode"]) == ("lua", "message")
    assert {path.name for path in directory.iterdir()} == {"kernel.json", "logo-svg.svg"}
    assert ET.parse(directory / "logo-svg.svg").getroot().tag.endswith("svg")


def test_jupyter_finds_what_was_installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTER_DATA_DIR", str(tmp_path))
    _install("--user")

    spec = KernelSpecManager(kernel_dirs=[str(tmp_path / "kernels")]).get_kernel_spec("llmspell")

    assert spec.display_name == "Lua 5.4 (llmspell)"


def test_a_prefix_has_its_own_place(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _install("--prefix", str(tmp_path)) == 0

    directory = tmp_path / "share" / "jupyter" / "kernels" / "llmspell"
    assert (directory / "kernel.json").is_file()
    assert capsys.readouterr().out == f"installed the kernelspec llmspell in {directory}\n"


def test_the_environment_has_its_own_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "prefix", str(tmp_path))

    assert _install("--sys-prefix") == 0
    assert (tmp_path / "share" / "jupyter" / "kernels" / "llmspell" / "kernel.json").is_file()


def test_installing_again_replaces_the_files(tmp_path: Path) -> None:
    _install("--prefix", str(tmp_path))
    path = tmp_path / "share" / "jupyter" / "kernels" / "llmspell" / "kernel.json"
    path.write_text("old")

    assert _install("--prefix", str(tmp_path)) == 0
    assert json.loads(path.read_text())["language"] == "lua"


def test_a_place_that_cannot_be_written_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "share").write_text("a file")

    assert _install("--prefix", str(tmp_path)) == 4
    assert "cannot be written to" in capsys.readouterr().err
