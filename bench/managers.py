"""Process managers with children that report themselves: circus, supervisor and pm2."""

import contextlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from bench import proc
from bench.peers import environment
from bench.rawclient import BenchError

_PATIENCE_S = 60.0
_NPM_PLACE = Path(__file__).parent.parent / "build" / "pm2"
_PM2 = _NPM_PLACE / "node_modules" / "pm2" / "bin" / "pm2"
_PM2_VERSION = "7"
_NPM_LIMIT_S = 120.0
# The line is one write of less than PIPE_BUF: lines of children that start together stay whole.
_CHILD = "echo $$ > {reports}\nexec sleep 1000000\n"


@dataclass(frozen=True, slots=True)
class Manager:
    """One process manager: `command` writes its configuration for so many children and says how it is started."""

    name: str
    command: Callable[[Path, Path, int], list[str]]
    why_missing: Callable[[bool], str | None]
    """Of whether the run is a short one."""
    environ: Mapping[str, str] = field(default_factory=dict)
    settle_s: float = 1.5
    """Before a kill: supervisor takes a child for started after a second, pm2 one that ends sooner for unstable."""


def _circus(directory: Path, child: Path, amount: int) -> list[str]:
    file = directory / "circus.ini"
    file.write_text(
        f"""[circus]
endpoint = ipc://{directory}/endpoint
pubsub_endpoint = ipc://{directory}/pubsub
[watcher:child]
cmd = /bin/sh {child}
numprocesses = {amount}
copy_env = True
"""
    )
    return [sys.executable, "-m", "circus.circusd", str(file)]


def _supervisor(directory: Path, child: Path, amount: int) -> list[str]:
    file = directory / "supervisord.conf"
    file.write_text(
        f"""[supervisord]
nodaemon = true
logfile = {directory}/supervisord.log
pidfile = {directory}/supervisord.pid
childlogdir = {directory}
[program:child]
command = /bin/sh {child}
process_name = child-%(process_num)d
numprocs = {amount}
autorestart = true
"""
    )
    return [sys.executable, "-m", "supervisor.supervisord", "-n", "-c", str(file)]


def _pm2(directory: Path, child: Path, amount: int) -> list[str]:
    file = directory / "ecosystem.json"
    app = {"name": "child", "script": str(child), "interpreter": "/bin/sh", "exec_mode": "fork", "instances": amount}
    file.write_text(json.dumps({"apps": [{**app, "out_file": "/dev/null", "error_file": "/dev/null"}]}))
    return ["node", str(_PM2), "start", str(file)]


def _not_in_python(module: str) -> Callable[[bool], str | None]:
    def why(_is_short: bool) -> str | None:
        return None if find_spec(module) else f"{module} is not installed: `make setup` installs it"

    return why


def _pm2_missing(is_short: bool) -> str | None:
    """Installs pm2 into build/ where that can be done; a short run takes it only if it is there."""
    if shutil.which("node") is None or shutil.which("npm") is None:
        return "pm2 needs node and npm on PATH"
    if _PM2.exists():
        return None
    if is_short:
        return "pm2 is installed by a full run only"
    command = ["npm", "install", "--prefix", str(_NPM_PLACE), "--no-audit", "--no-fund", "--ignore-scripts"]
    try:
        subprocess.run([*command, f"pm2@{_PM2_VERSION}"], check=True, capture_output=True, timeout=_NPM_LIMIT_S)
    except (subprocess.SubprocessError, OSError) as error:
        return f"npm could not install pm2: {error}"
    return None if _PM2.exists() else f"npm installed pm2 elsewhere than {_PM2}"


CIRCUS = Manager("circus", _circus, _not_in_python("circus"))
SUPERVISOR = Manager("supervisor", _supervisor, _not_in_python("supervisor"))
PM2 = Manager("pm2", _pm2, _pm2_missing, {"PM2_DISABLE_VERSION_CHECK": "true"})
MANAGERS = (CIRCUS, SUPERVISOR, PM2)


def pm2_version() -> str | None:
    """Of the one in build/; None when there is none."""
    file = _PM2.parent.parent / "package.json"
    return str(json.loads(file.read_text())["version"]) if file.exists() else None


class Children:
    """A manager's children as they report themselves, by the pids that they write to a pipe as they begin."""

    def __init__(self, reports: int, exec_at: float, mark: str) -> None:
        self.exec_at = exec_at
        self.pids: list[int] = []
        self._reports = reports
        self._mark = mark
        self._rest = b""

    def wait(self, amount: int) -> float:
        """Read until `amount` more have begun; returns the instant of the last. The pipe wakes, nothing polls."""
        deadline = time.monotonic() + _PATIENCE_S
        begun = 0
        while begun < amount:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._reports], [], [], left)[0]:
                raise BenchError(f"expected {amount} children to begin within {_PATIENCE_S:g} s, {begun} did")
            *lines, self._rest = (self._rest + os.read(self._reports, 65536)).split(b"\n")
            self.pids += [int(line) for line in lines]
            begun += len(lines)
        return time.perf_counter()

    def kill(self, pids: list[int]) -> float:
        """SIGKILL to these; seconds until as many others have begun."""
        at = time.perf_counter()
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        self.pids = [pid for pid in self.pids if pid not in pids]
        return self.wait(len(pids)) - at

    def manager_bytes(self) -> int:
        """PSS of what is neither a child nor ended: the manager, with its daemon."""
        return sum(proc.memory_bytes(pid, alone=True)["Pss"] for pid in proc.marked(self._mark) if pid not in self.pids)


@contextlib.contextmanager
def running_manager(manager: Manager, directory: Path, amount: int) -> Iterator[Children]:
    """Start a manager of so many children; it and they are ended on leaving, by pid."""
    with tempfile.TemporaryDirectory(prefix=f"{manager.name}-", dir=directory) as made, contextlib.ExitStack() as undo:
        place = Path(made)
        fifo, child = place / "reports", place / "child.sh"
        os.mkfifo(fifo)
        reports = os.open(fifo, os.O_RDWR)  # read-write: it never ends for want of a writer
        undo.callback(os.close, reports)
        child.write_text(_CHILD.format(reports=fifo))
        # pm2's daemon leaves the process that started it: the mark finds it and whatever it starts.
        environ = {**environment(place), **manager.environ, "PM2_HOME": made, "LLMSPELL_BENCH_MARK": made}
        command = manager.command(place, child, amount)
        with (place / "output.log").open("wb") as log:
            exec_at = time.perf_counter()
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environ, cwd=made, start_new_session=True
            )
        try:
            yield Children(reports, exec_at, made)
        finally:
            process.kill()
            process.wait()
            proc.kill_marked(made)
