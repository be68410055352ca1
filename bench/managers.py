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
    scale: Callable[[Path, Path, int], list[str]] = field(kw_only=True)
    """Rewrites the configuration where that is the way to it, and returns the command that makes so many of them."""
    reload: Callable[[Path, Path, int], list[str]] = field(kw_only=True)
    """Adds a group to the configuration, and returns the command that has it read and nothing more."""


def _circus(directory: Path, child: Path, amount: int, more: str = "") -> list[str]:
    file = directory / "circus.ini"
    file.write_text(
        f"""[circus]
endpoint = ipc://{directory}/endpoint
pubsub_endpoint = ipc://{directory}/pubsub
[watcher:child]
cmd = /bin/sh {child}
numprocesses = {amount}
copy_env = True
{more}"""
    )
    return [sys.executable, "-m", "circus.circusd", str(file)]


def _circusctl(directory: Path, *words: str) -> list[str]:
    return [sys.executable, "-m", "circus.circusctl", "--endpoint", f"ipc://{directory}/endpoint", *words]


def _circus_scale(directory: Path, _child: Path, amount: int) -> list[str]:
    return _circusctl(directory, "set", "child", "numprocesses", str(amount))


def _circus_reload(directory: Path, child: Path, amount: int) -> list[str]:
    _circus(directory, child, amount, f"[watcher:other]\ncmd = /bin/sh {_silent(directory)}\nnumprocesses = 1\n")
    return _circusctl(directory, "reloadconfig")


def _supervisor(directory: Path, child: Path, amount: int, more: str = "") -> list[str]:
    file = directory / "supervisord.conf"
    file.write_text(
        f"""[supervisord]
nodaemon = true
logfile = {directory}/supervisord.log
pidfile = {directory}/supervisord.pid
childlogdir = {directory}
[unix_http_server]
file = {directory}/supervisor.sock
[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface
[supervisorctl]
serverurl = unix://{directory}/supervisor.sock
[program:child]
command = /bin/sh {child}
process_name = child-%(process_num)d
numprocs = {amount}
autorestart = true
{more}"""
    )
    return [sys.executable, "-m", "supervisor.supervisord", "-n", "-c", str(file)]


def _supervisor_update(directory: Path) -> list[str]:
    return [sys.executable, "-m", "supervisor.supervisorctl", "-c", str(directory / "supervisord.conf"), "update"]


def _supervisor_scale(directory: Path, child: Path, amount: int) -> list[str]:
    _supervisor(directory, child, amount)
    return _supervisor_update(directory)


def _supervisor_reload(directory: Path, child: Path, amount: int) -> list[str]:
    _supervisor(directory, child, amount, f"[program:other]\ncommand = /bin/sh {_silent(directory)}\n")
    return _supervisor_update(directory)


def _pm2(directory: Path, child: Path, amount: int, *more: tuple[str, Path]) -> list[str]:
    file = directory / "ecosystem.json"
    apps = [
        {
            "name": name,
            "script": str(script),
            "interpreter": "/bin/sh",
            "exec_mode": "fork",
            "instances": number,
            "out_file": "/dev/null",
            "error_file": "/dev/null",
        }
        for name, script, number in (("child", child, amount), *((name, script, 1) for name, script in more))
    ]
    file.write_text(json.dumps({"apps": apps}))
    return ["node", str(_PM2), "start", str(file)]


def _pm2_scale(_directory: Path, _child: Path, amount: int) -> list[str]:
    return ["node", str(_PM2), "scale", "child", str(amount)]


def _pm2_reload(directory: Path, child: Path, amount: int) -> list[str]:
    *_, file = _pm2(directory, child, amount, ("other", _silent(directory)))
    return ["node", str(_PM2), "startOrReload", file]


def _silent(directory: Path) -> Path:
    """A child that is not one of those that are counted."""
    script = directory / "other.sh"
    script.write_text("exec sleep 1000000\n")
    return script


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


CIRCUS = Manager("circus", _circus, _not_in_python("circus"), scale=_circus_scale, reload=_circus_reload)
SUPERVISOR = Manager(
    "supervisor", _supervisor, _not_in_python("supervisor"), scale=_supervisor_scale, reload=_supervisor_reload
)
PM2 = Manager("pm2", _pm2, _pm2_missing, {"PM2_DISABLE_VERSION_CHECK": "true"}, scale=_pm2_scale, reload=_pm2_reload)
MANAGERS = (CIRCUS, SUPERVISOR, PM2)


def pm2_version() -> str | None:
    """Of the one in build/; None when there is none."""
    file = _PM2.parent.parent / "package.json"
    return str(json.loads(file.read_text())["version"]) if file.exists() else None


class Children:
    """A manager's children as they report themselves, by the pids that they write to a pipe as they begin."""

    def __init__(self, reports: int, mark: str, commands: "Commands") -> None:
        self.exec_at = time.perf_counter()
        self.pids: list[int] = []
        self._reports = reports
        self._mark = mark
        self._rest = b""
        self._commands = commands
        commands.start()

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

    def living(self) -> set[int]:
        """Those that run now, whoever has started them."""
        while select.select([self._reports], [], [], 0)[0]:
            *lines, self._rest = (self._rest + os.read(self._reports, 65536)).split(b"\n")
            self.pids += [int(line) for line in lines]
        marked = set(proc.marked(self._mark))
        return {pid for pid in self.pids if pid in marked}

    def managed(self) -> set[int]:
        """Those whose parent is the manager that runs now."""
        living = self.living()
        managers = set(proc.marked(self._mark)) - living
        return {pid for pid in living if proc.parent(pid) in managers}

    def kill_manager(self) -> None:
        """SIGKILL to the manager and its daemon."""
        living = self.living()
        for pid in proc.marked(self._mark):
            if pid not in living:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                proc.wait_for_end(pid, _PATIENCE_S)

    def start_again(self) -> None:
        """With the same configuration."""
        self._commands.start()

    def scale(self, amount: int) -> None:
        """Have so many of them."""
        self._commands.run(self._commands.manager.scale, amount)

    def reload(self, amount: int) -> None:
        """Have a configuration read that names another group besides."""
        self._commands.run(self._commands.manager.reload, amount)

    def managers(self) -> list[int]:
        """What is neither a child nor ended: the manager, with its daemon."""
        return [pid for pid in proc.marked(self._mark) if pid not in self.pids]

    def manager_bytes(self, kind: str = "Pss") -> int:
        """Their memory, by Linux's name for its kind."""
        return sum(proc.memory_bytes(pid, alone=True)[kind] for pid in self.managers())


@dataclass(slots=True)
class Commands:
    """How one manager is started and told things, in a place of its own."""

    manager: Manager
    place: Path
    child: Path
    amount: int
    environ: Mapping[str, str]
    started: "list[subprocess.Popen[bytes]]" = field(default_factory=list)

    def start(self) -> None:
        """Start the manager."""
        command = self.manager.command(self.place, self.child, self.amount)
        with (self.place / "output.log").open("ab") as log:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environ,
                cwd=self.place,
                start_new_session=True,
            )
        self.started.append(process)

    def run(self, words: Callable[[Path, Path, int], list[str]], amount: int) -> None:
        """Run a command of the manager's to its end."""
        command = words(self.place, self.child, amount)
        try:
            subprocess.run(
                command, check=True, capture_output=True, env=self.environ, cwd=self.place, timeout=_PATIENCE_S
            )
        except (subprocess.SubprocessError, OSError) as error:
            raise BenchError(f"{self.manager.name} did not do what it was told: {error}") from error

    def end(self) -> None:
        """Kill and reap what `start` started."""
        for process in self.started:
            process.kill()
            process.wait()


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
        commands = Commands(manager, place, child, amount, environ)
        try:
            yield Children(reports, made, commands)
        finally:
            commands.end()
            proc.kill_marked(made)
