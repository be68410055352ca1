"""The README's tour: every command in it is run, in order and in one shell, and shows what the README shows."""

import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from support.console import open_console
from support.homes import Home, new_home
from support.repository import ROOT

pytestmark = [pytest.mark.integration, pytest.mark.jupyter]

README: Final = (ROOT / "README.md").read_text()

CONSOLE: Final = re.compile(r"^```console\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INPUT: Final = re.compile(r"In \[(\d+)\]: (.*)")
ATTACH: Final = "jupyter console "

KERNEL_ID: Final = re.compile(r"\b[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\b")
VOLATILE: Final = (
    (r"\b[0-9a-f]{8}-[0-9a-f]{3}\b", "ID"),
    (r"\bk-[0-9a-f]{12}-", "k-KERNEL-"),
    (r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", "DATE"),
    (r"^ *\d+ DATE", "NUMBER DATE"),
    (r'(_s"?[:=])[\d.]+', r"\1SECONDS"),
    (r"\b\d+s\b", "SECONDS"),
    (r"\b\d{3,}\b", "PID"),
    (r"\bconsole [\d.]+", "console VERSION"),
    (r"\bPython [\d.]+", "Python VERSION"),
    (r" {2,}", "  "),
)
"""What differs from run to run, besides kernels' ids."""


@dataclass(frozen=True, slots=True)
class Step:
    """A command, and the lines under it."""

    command: str
    shown: list[str]


def _steps() -> list[Step]:
    steps: list[Step] = []
    for block in CONSOLE.findall(README):
        for line in block.splitlines():
            if line.startswith("$ "):
                steps.append(Step(line[2:], []))
            elif steps[-1].command.endswith("\\") and not steps[-1].shown:
                steps[-1] = Step(f"{steps[-1].command}\n{line}", [])
            else:
                steps[-1].shown.append(line)
    return steps


class Shell:
    """One bash, so that variables hold from one command to the next."""

    _END = "end of the command's output"

    def __init__(self, cwd: Path, environ: dict[str, str]) -> None:
        self._process = subprocess.Popen(
            ["bash"],
            cwd=cwd,
            env=environ,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def runs(self, command: str) -> list[str]:
        """The lines that it shows."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{command}\nprintf '\\n%s\\n' \"{self._END}\"\n")
        self._process.stdin.flush()
        lines = []
        for line in self._process.stdout:
            if line.rstrip("\n") == self._END:
                break
            lines.append(line.rstrip("\n"))
        while lines and not lines[-1]:  # the end's own line break, or an answer's that has none
            lines.pop()
        return lines

    def close(self) -> None:
        self._process.communicate(timeout=10)


@pytest.fixture
def home() -> Iterator[Home]:
    with new_home() as home:
        yield home


def _tools() -> None:
    """What the tour uses besides llmspell. Without one of them the test is skipped, in CI it fails."""
    packages = {"curl": "curl", "jq": "jq", "promtool": "prometheus"}
    missing = [package for tool, package in packages.items() if shutil.which(tool) is None]
    if missing:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"the tour needs: apt install {' '.join(missing)}")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _as_here(home: Home, port: int) -> dict[str, str]:
    """The README's directories and its port, which are root's and the default, as they are for this test."""
    return {
        "/run/llmspell": str(home.runtime),
        "/var/lib/llmspell": str(home.state),
        "/var/log/llmspell": str(home.logs),
        "9550": str(port),
    }


def _prepare(home: Home, port: int, here: Callable[[str], str]) -> None:
    """A fleet that listens on the test's port by itself, and the files of the repository that the tour names."""
    home.config.mkdir()
    (home.config / "fleet.toml").write_text(f"[fleet]\nport = {port}\n")
    (home.path / "configs").mkdir()
    (home.path / "configs" / "prometheus.yml").write_text(here((ROOT / "configs" / "prometheus.yml").read_text()))
    home.environ["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"


class Shape:
    """Lines without what differs from run to run. Kernels are numbered as they come: the same one stays the same."""

    def __init__(self) -> None:
        self._kernels: dict[str, str] = {}

    def of(self, lines: list[str]) -> list[str]:
        return [self._line(line) for line in lines]

    def _line(self, line: str) -> str:
        line = KERNEL_ID.sub(lambda found: self._kernels.setdefault(found[0], f"KERNEL {len(self._kernels)}"), line)
        for pattern, name in VOLATILE:
            line = re.sub(pattern, name, line)
        return line.rstrip()


def _console_session(step: Step, home: Home) -> list[str]:
    """Type what follows the step's prompts; returns the lines that the screen did not show."""
    inputs = [(int(match[1]), match[2]) for line in step.shown if (match := INPUT.match(line))]
    with open_console(*step.command.split()[2:], environ=home.environ, cwd=home.path) as console:
        for number, code in inputs:
            console.runs(number, code)
        console.leaves(inputs[-1][0] + 1)
        screen = Shape().of(console.text.replace("\r", "\n").split("\n"))
    told = Shape().of([line for line in step.shown if line and not INPUT.match(line)])
    return [line for line in told if line not in screen]


def test_the_tour_shows_what_the_readme_shows(home: Home) -> None:
    _tools()
    port = _free_port()
    substitutions = _as_here(home, port)

    def here(text: str) -> str:
        for readme, own in substitutions.items():
            text = text.replace(readme, own)
        return text

    def there(text: str) -> str:
        for readme, own in substitutions.items():
            text = text.replace(own, readme)
        return text

    _prepare(home, port, here)
    shell = Shell(home.path, home.environ)
    in_readme, in_run = Shape(), Shape()
    try:
        for step in _steps():
            if step.command.startswith(ATTACH):
                assert not _console_session(Step(here(step.command), step.shown), home), step.command
            else:
                shown = [there(line) for line in shell.runs(here(step.command))]
                assert in_run.of(shown) == in_readme.of(step.shown), step.command
    finally:
        shell.close()

    assert not list(home.runtime.iterdir())
