"""A place of its own for the files of the kernels that a test starts, and the `llmspell` command run in it."""

import contextlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

from llmspell_cli.main import root
from llmspell_kernel.errors import NotRunningError

DEADLINE_S = 20.0


@dataclass(frozen=True, slots=True)
class Home:
    """Private runtime, state, log and configuration directories."""

    path: Path
    environ: dict[str, str]
    python: str = field(default_factory=lambda: sys.executable)
    """Whose installation the command is."""

    @property
    def runtime(self) -> Path:
        return self.path / "run"

    @property
    def state(self) -> Path:
        return self.path / "state"

    @property
    def logs(self) -> Path:
        return self.path / "logs"

    @property
    def config(self) -> Path:
        return self.path / "config"

    def llmspell(self, *arguments: str, stdin: str = "", cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run the command to its end."""
        return subprocess.run(
            self.command(*arguments),
            env=self.environ,
            input=stdin,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S * 2,
            check=False,
            cwd=cwd,
        )

    def command(self, *arguments: str) -> list[str]:
        """The command line, for tests that keep the process."""
        return [self.python, "-m", "llmspell_cli", *arguments]

    def end_all(self) -> None:
        """End a fleet and kernels as the commands do, but in this process: to start them takes longer than most tests."""
        said = io.StringIO()
        with (
            patch.dict(os.environ, self.environ, clear=True),
            contextlib.redirect_stdout(said),
            contextlib.redirect_stderr(said),
        ):
            for files, command in (
                ("fleet.pid", ("fleet", "down", "--force")),
                ("kernel-*.pid", ("kernel", "stop", "--all", "--force")),
            ):
                if any(self.runtime.glob(files)):
                    with contextlib.suppress(NotRunningError):
                        root.main(command, standalone_mode=False)

    def start_kernel(self, *arguments: str) -> Path:
        """Start a daemon and return its connection file."""
        done = self.llmspell("kernel", "start", "--daemon", *arguments)
        assert done.returncode == 0, done.stderr
        return Path(connection_file_in(done.stdout))


def connection_file_in(text: str) -> str:
    """The connection file that `kernel start` names."""
    (line,) = (line for line in text.splitlines() if line.split()[:2] == ["connection", "file"])
    return line.split()[2]


@contextlib.contextmanager
def new_home() -> Iterator[Home]:
    """A home that is gone afterwards, with every kernel in it.

    Not below pytest's own directory: a runtime directory's path is short, since a unix socket's is.
    """
    path = Path(tempfile.mkdtemp(prefix="ls-"))
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("LLMSPELL_", "JUPYTER", "XDG_"))}
    home = Home(path, kept)
    home.environ.update(
        HOME=str(path),
        LLMSPELL_RUNTIME_DIR=str(home.runtime),
        LLMSPELL_STATE_DIR=str(home.state),
        LLMSPELL_LOG_DIR=str(home.logs),
        LLMSPELL_CONFIG_DIR=str(home.config),
    )
    try:
        yield home
    finally:
        home.end_all()
        shutil.rmtree(path)


def wait_until(condition: Callable[[], object], what: str, *, deadline_s: float = DEADLINE_S) -> None:
    """Return once `condition` holds; fail with `what` when it does not in time."""
    give_up_at = time.monotonic() + deadline_s
    while not condition():
        assert time.monotonic() < give_up_at, f"not within {deadline_s:g} s: {what}"
        time.sleep(0.01)
