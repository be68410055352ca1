"""A fleet whose controller is our child, and is started again at once when it has ended: as a service manager does."""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from llmspell_fleet.cgroups.group import remove
from llmspell_fleet.cgroups.tree import fleet_folder
from support.census import Seen, take_census
from support.fleets import FleetHome
from support.homes import Home, new_home, wait_until

UP_S = 20.0
"""How long a controller may take to serve, on a machine that does other things too."""


@dataclass(slots=True)
class RestartedFleet(FleetHome):
    """A fleet in the foreground, in our hands."""

    process: "subprocess.Popen[bytes] | None" = None
    execs: int = 0
    prefix: tuple[str, ...] = ()
    """A command that the controller is run by, such as unshare(1)."""
    arguments: tuple[str, ...] = field(default=())

    def begin(self, config: str = "") -> None:
        """Start the controller, and do not wait for it."""
        file = self.home.path / "fleet.toml"
        if config:
            file.write_text(config)
        words = ("fleet", "up", "--foreground", "--port", "0", "--config", str(file), *self.arguments)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.prefix, *self.home.command(*words)],
                env=self.home.environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self.execs += 1

    @property
    def log(self) -> Path:
        """What controllers wrote, all of them."""
        return self.home.path / "controllers.log"

    def serve(self, config: str = "") -> float:
        """Start the controller and wait until it serves; seconds from exec to there."""
        at = time.monotonic()
        self.begin(config)
        self.wait_serving()
        return time.monotonic() - at

    def wait_serving(self) -> None:
        """Until our controller serves; its address is known then."""
        wait_until(self.is_serving, f"the controller serves; it said {self.said()}", deadline_s=UP_S)

    def is_serving(self) -> bool:
        """Whether the controller that was started last serves."""
        assert self.process is not None
        assert self.process.poll() is None, f"the controller ended with {self.process.returncode}: {self.said()}"
        try:
            address = json.loads((self.home.runtime / "fleet.json").read_text())
        except (OSError, ValueError):
            return False
        if address["pid"] != self.process.pid:
            return False
        self.url, self.pid = address["url"], address["pid"]
        self.token = (self.home.state / "admin.token").read_text().strip()
        with contextlib.suppress(OSError):
            return self.ask("GET", "/readyz").status == 200
        return False

    def said(self) -> str:
        """The last that a controller wrote."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-5:]) if self.log.exists() else ""

    def kill_controller(self) -> None:
        """SIGKILL, and its end."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def wait_refused(self) -> tuple[int, str]:
        """Until the controller has ended by itself: its exit code, and the last that it said."""
        assert self.process is not None
        code = self.process.wait(UP_S)
        return code, self.said()

    def zygote(self) -> int | None:
        """The zygote that the controller names."""
        pid: int | None = self.ask("GET", "/health").json["zygote"]["pid"]
        return pid

    def end(self) -> None:
        """End everything, in an orderly way if it can be; nothing may be left then."""
        process = self.process
        if process is not None and process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(UP_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        # Where the controller could not end what it had, or none came back.
        for seen in self._left():
            with contextlib.suppress(ProcessLookupError):
                os.kill(seen.pid, signal.SIGKILL)
        wait_until(lambda: not self._left(), "nothing is left of the fleet")
        for directory in Path("/sys/fs/cgroup").glob(f"**/{fleet_folder(str(self.home.runtime))}"):
            wait_until(lambda path=str(directory): remove(path), f"{directory} is empty")

    def _left(self) -> list[Seen]:
        census = take_census(self.home)
        kernels = [seen for processes in census.kernels.values() for seen in processes]
        return [*census.controllers, *census.zygotes, *kernels, *census.others]


@contextlib.contextmanager
def restarted_fleet(config: str) -> Iterator[RestartedFleet]:
    """A fleet that serves, gone afterwards with its directories."""
    with new_home() as home, served(home, config) as fleet:
        yield fleet


@contextlib.contextmanager
def served(home: Home, config: str) -> Iterator[RestartedFleet]:
    """A fleet that serves in these directories."""
    fleet = RestartedFleet(home)
    try:
        fleet.serve(config)
        yield fleet
    finally:
        fleet.end()
