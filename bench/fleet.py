"""A fleet of ours in directories of its own: started, asked over one HTTP connection, always ended, by pid."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from bench import proc
from bench.peers import environment
from bench.rawclient import BenchError

PATIENCE_S = 60.0
_LOOK_AGAIN_S = 0.001
_END_WITHIN_S = 30.0
_TMPFS = "/dev/shm"
_FAULTS = (OSError, http.client.HTTPException, ValueError)
Json = dict[str, Any]


@dataclass(slots=True)
class Fleet:
    """A fleet that serves. `exec_at` and `serving_at` are instants by `time.perf_counter`."""

    pid: int
    url: str
    token: str
    exec_at: float
    serving_at: float
    _connection: http.client.HTTPConnection

    def ask(self, method: str, path: str, body: Json | None = None) -> Any:
        """One request; returns its JSON. An answer that is none of the good ones is a BenchError."""
        content = None if body is None else json.dumps(body)
        try:
            self._connection.request(method, path, content, self.headers())
            with self._connection.getresponse() as response:
                answered = response.read()
        except _FAULTS as error:
            raise BenchError(f"{method} {path} was not answered: {type(error).__name__} {error}") from error
        if response.status >= 300:
            raise BenchError(f"expected {method} {path} to work, it answered {response.status} {answered[:200]!r}")
        return json.loads(answered) if answered else None

    def headers(self) -> dict[str, str]:
        """What every request carries."""
        return {"Authorization": f"Bearer {self.token}", "Content-Type": "application/json"}

    def metrics(self) -> dict[str, float]:
        """What Prometheus would be told, by name and labels."""
        self._connection.request("GET", "/metrics", headers=self.headers())
        with self._connection.getresponse() as response:
            lines = response.read().decode().splitlines()
        samples = (line.rpartition(" ") for line in lines if line and not line.startswith("#"))
        return {name: float(number) for name, _, number in samples}

    def create_tenant(self, name: str, replicas: int, **members: object) -> list[Json]:
        """A tenant whose kernels are all READY; returns them."""
        body = {"id": name, "replicas": replicas, "wait_s": PATIENCE_S, **members}
        made = self.ask("POST", "/v1/tenants", body)
        if made["ready"] != replicas:
            raise BenchError(f"expected {replicas} kernels to be READY, {made['ready']} are")
        kernels: list[Json] = made["kernels"]
        return kernels

    def kernels(self, tenant: str) -> list[Json]:
        """A tenant's kernels as they are now."""
        kernels: list[Json] = self.ask("GET", f"/v1/tenants/{tenant}")["kernels"]
        return kernels

    def execute(self, tenant: str, code: str, **members: object) -> Json:
        """Run code that must succeed."""
        answer: Json = self.ask("POST", f"/v1/tenants/{tenant}/execute", {"code": code, **members})
        if answer["status"] != "ok":
            raise BenchError(f"expected the script to run, the answer is {answer}")
        return answer

    @contextlib.contextmanager
    def events(self) -> Iterator["EventStream"]:
        """The fleet's events as they happen, from its start on."""
        connection = _connect(self.url)
        try:
            connection.request("GET", "/v1/events", headers={**self.headers(), "Accept": "text/event-stream"})
            yield EventStream(connection.getresponse())
        except _FAULTS as error:
            raise BenchError(f"the stream of events broke: {type(error).__name__} {error}") from error
        finally:
            connection.close()


class EventStream:
    """Server-Sent Events, read by a client that sleeps until one comes: following costs the fleet no polls."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self._response = response

    def wait(self, kind: str, kernels: Collection[str]) -> dict[str, tuple[float, Json]]:
        """Read on until each of these kernels had such an event: the instant at which it came here, and the event."""
        found: dict[str, tuple[float, Json]] = {}
        deadline = time.monotonic() + PATIENCE_S
        while len(found) < len(kernels):
            event = self._next()
            at = time.perf_counter()
            if event.get("type") == kind and event.get("kernel_id") in kernels:
                found[event["kernel_id"]] = (at, event)
            if time.monotonic() > deadline:
                raise BenchError(f"expected {kind} of {len(kernels)} kernels within {PATIENCE_S:g} s, {len(found)} had")
        return found

    def _next(self) -> Json:
        while line := self._response.readline():
            if line.startswith(b"event: gap"):
                raise BenchError("expected every event, some were lost on their way")
            if line.startswith(b"data: "):
                event: Json = json.loads(line.removeprefix(b"data: "))
                return event
        raise BenchError("expected the fleet's next event, the stream ended")


@contextlib.contextmanager
def running_fleet(directory: Path, *, kernels: int = 0, tables: Mapping[str, str] | None = None) -> Iterator[Fleet]:
    """Start `llmspell fleet up` with so many kernels of tenant `default`; it is ended on leaving."""
    with restarted_fleet(directory, kernels=kernels, tables=tables) as running:
        yield running.fleet


class RestartedFleet:
    """A fleet whose controller may be killed and started again."""

    def __init__(self, home: "FleetHome") -> None:
        self._home = home
        self._begin()

    def _begin(self) -> None:
        exec_at = time.perf_counter()
        self._process = self._home.start()
        try:
            self.fleet = self._home.serving(self._process, exec_at)
        except BaseException:
            self.end()
            raise

    def restart(self) -> Fleet:
        """SIGKILL to the controller, and another one once it is gone; returns what serves then."""
        self._process.kill()
        self._process.wait()
        self._begin()
        return self.fleet

    def configure(self, more: str) -> None:
        """Add lines to the configuration file."""
        with (self._home.path / "fleet.toml").open("a") as file:
            file.write(more)

    def kernels(self) -> set[int]:
        """Processes of kernels that run, whoever knows of them."""
        return proc.writing_below(self._home.runtime / "k")

    def stop(self) -> None:
        """End it as an operator does; returns when the controller has ended."""
        self._process.terminate()
        try:
            self._process.wait(_END_WITHIN_S)
        except subprocess.TimeoutExpired as error:
            raise BenchError(f"expected the fleet to end within {_END_WITHIN_S:g} s") from error

    def end(self) -> None:
        """End it, and whatever is left of it."""
        self._home.end(self._process.pid)
        self._process.wait()


@contextlib.contextmanager
def restarted_fleet(
    directory: Path, *, kernels: int = 0, tables: Mapping[str, str] | None = None
) -> Iterator[RestartedFleet]:
    """Start `llmspell fleet up` as `running_fleet` does, in hands that can start it again."""
    with fleet_home(directory, kernels=kernels, tables=tables) as home:
        running = RestartedFleet(home)
        try:
            yield running
        finally:
            running.end()


@dataclass(frozen=True, slots=True)
class FleetHome:
    """A fleet's directories, its configuration, and its commands."""

    path: Path
    runtime: Path
    environ: Mapping[str, str]

    @property
    def log(self) -> Path:
        """What the controller wrote."""
        return self.path / "fleet.log"

    def command(self, *words: str) -> list[str]:
        """A command line of ours; `fleet up` gets the configuration."""
        options = ["--config", str(self.path / "fleet.toml"), "--port", "0"] if "up" in words else []
        return [sys.executable, "-m", "llmspell_cli", *words, *options]

    def start(self) -> subprocess.Popen[bytes]:
        """Start the controller, in the foreground of a session of its own."""
        with self.log.open("ab") as log:
            return subprocess.Popen(
                self.command("fleet", "up", "--foreground"),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=self.environ,
                start_new_session=True,
            )

    def serving(self, process: subprocess.Popen[bytes], exec_at: float) -> Fleet:
        """The fleet of this process, once it says that it is ready."""
        file = self.runtime / "fleet.json"
        deadline = time.monotonic() + PATIENCE_S
        # One that was killed has left its own.
        while not file.exists() or json.loads(file.read_text())["pid"] != process.pid:
            if process.poll() is not None or time.monotonic() > deadline:
                said = self.log.read_text(errors="replace").strip().splitlines()[-1:]
                raise BenchError(f"expected a fleet that serves, its process is at {process.poll()} and said {said}")
            time.sleep(_LOOK_AGAIN_S)
        address = json.loads(file.read_text())
        connection = _connect(address["url"])
        token = (self.path / "admin.token").read_text().strip()
        fleet = Fleet(address["pid"], address["url"], token, exec_at, 0.0, connection)
        while True:
            try:
                fleet.ask("GET", "/readyz")
                break
            except BenchError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(_LOOK_AGAIN_S)
        fleet.serving_at = time.perf_counter()
        return fleet

    def end(self, pid: int) -> None:
        """End the fleet of process `pid` as an operator does, and by force whatever is left of it."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGTERM)
            proc.wait_for_end(pid, _END_WITHIN_S)
        proc.kill_marked(str(self.path))


@contextlib.contextmanager
def fleet_home(directory: Path, *, kernels: int = 0, tables: Mapping[str, str] | None = None) -> Iterator[FleetHome]:
    """Directories for one fleet, gone afterwards. `tables` are lines of the configuration's tables.

    The runtime directory is on a tmpfs where there is one, as /run and XDG_RUNTIME_DIR are; all else is on the disk.
    """
    with (
        tempfile.TemporaryDirectory(prefix="f-", dir=directory) as made,
        tempfile.TemporaryDirectory(prefix="f-", dir=_TMPFS if Path(_TMPFS).is_dir() else directory) as runtime,
    ):
        path = Path(made)
        lines = {"fleet": f"startup_kernels = {kernels}", **(tables or {})}
        (path / "fleet.toml").write_text("".join(f"[{table}]\n{text}\n" for table, text in lines.items()))
        yield FleetHome(path, Path(runtime), {**environment(path), "LLMSPELL_RUNTIME_DIR": runtime})


def kill(kernels: Sequence[Json]) -> float:
    """SIGKILL to each of these; returns the instant before the first."""
    at = time.perf_counter()
    for kernel in kernels:
        os.kill(kernel["pid"], signal.SIGKILL)
    return at


def _connect(url: str) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    assert parts.hostname is not None
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=PATIENCE_S)
    try:
        connection.connect()
    except OSError as error:
        raise BenchError(f"nobody answers at {url}: {error}") from error
    assert isinstance(connection.sock, socket.socket)
    return connection
