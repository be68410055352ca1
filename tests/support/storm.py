"""What is done to a fleet that serves, and what has to be so after each: the invariants of its life."""

import contextlib
import os
import random
import signal
import sqlite3
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from support.census import Census, folder_of, take_census, unreaped
from support.homes import wait_until
from support.restarted import RestartedFleet

WHOLE_S = float(os.environ.get("FAULTS_WHOLE_S", "15"))
"""The longest that a fleet may take to be whole again: generous, since the machine does other things too."""

NOTICED_S = 45.0
"""How much longer where it is first to be found out that something that lives does not work."""

TENANTS = {"balanced": ("least_loaded", 16), "turns": ("round_robin", 14), "homes": ("sticky", 14)}
"""Tenants with their strategy and replicas, besides `default`."""

DEFAULT_KERNELS = 6
KERNELS = DEFAULT_KERNELS + sum(replicas for _, replicas in TENANTS.values())

CONFIG = f"""
[fleet]
startup_kernels = {DEFAULT_KERNELS}
max_kernels = 200
start_deadline = "5s"
stop_deadline = "2s"
[fleet.warm]
size = 3
[fleet.restart]
max_restarts = 1000000
first_delay = "10ms"
longest_delay = "100ms"
"""

_SLEEPERS = 2
_TAKES_WORK = {"READY", "BUSY"}


@dataclass(frozen=True, slots=True)
class Fault:
    """One thing that goes wrong, by the name that reports have for it."""

    name: str
    strike: Callable[["Storm"], str]
    """Does it; says what it did."""
    bound_s: float = WHOLE_S


@dataclass(slots=True)
class Storm:
    """A fleet, what it should hold, and how long it took to be so again."""

    fleet: RestartedFleet
    random: random.Random
    expected: dict[str, int] = field(default_factory=dict)
    """Replicas by tenant."""
    gone: set[str] = field(default_factory=set)
    """Kernels that were deleted: they stay so."""
    took_s: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    deaths: int = 0

    def prepare(self) -> None:
        """Make the tenants: 50 kernels that run, and two that have ended as unused."""
        fleet = self.fleet
        for tenant, (strategy, replicas) in TENANTS.items():
            body = {"id": tenant, "replicas": replicas, "strategy": strategy, "wait_s": 20}
            assert fleet.ask("POST", "/v1/tenants", body).json["ready"] == replicas
            self.expected[tenant] = replicas
        self.expected["default"] = DEFAULT_KERNELS
        body = {"id": "sleepers", "replicas": _SLEEPERS, "idle_timeout_s": 1, "wait_s": 20}
        assert fleet.ask("POST", "/v1/tenants", body).status == 201
        wait_until(lambda: {k["phase"] for k in fleet.kernels("sleepers")} == {"STOPPED"}, "unused kernels have ended")
        self.wait_whole(WHOLE_S)

    def kernels(self) -> list[dict[str, Any]]:
        """All that should run, as the controller shows them."""
        every = self.fleet.ask("GET", "/v1/kernels").json["items"]
        return [kernel for kernel in every if kernel["tenant"] != "sleepers"]

    def some(self, least: int, most: int) -> list[dict[str, Any]]:
        """A few of them that have a process."""
        running = [kernel for kernel in self.kernels() if kernel["pid"] is not None]
        return self.random.sample(running, min(len(running), self.random.randint(least, most)))

    def kill(self, kernels: list[dict[str, Any]], number: signal.Signals = signal.SIGKILL) -> None:
        """Signal their processes; who has ended meanwhile is gone already."""
        for kernel in kernels:
            with contextlib.suppress(ProcessLookupError):
                os.kill(kernel["pid"], number)
        self.deaths += len(kernels)

    def pause(self, most_s: float) -> float:
        """Let a moment pass: any; how long it was."""
        taken = self.random.random() * most_s
        time.sleep(taken)
        return taken

    def run(self, fault: Fault) -> None:
        """Strike, wait until the fleet is whole, and say how long that took."""
        at = time.monotonic()
        what = fault.strike(self)
        struck = time.monotonic()
        self.wait_whole(fault.bound_s)
        taken = time.monotonic() - struck
        self.took_s[fault.name].append(taken)
        sys.stdout.write(f"{fault.name:<34} whole after {taken:6.3f} s (struck in {struck - at:.3f} s: {what})\n")
        sys.stdout.flush()

    # --- what has to be so

    def wait_whole(self, bound_s: float) -> None:
        """Return once the fleet is as it should be; AssertionError with the reason when it is not in time."""
        give_up_at = time.monotonic() + bound_s
        while why := self.why_not_whole():
            assert time.monotonic() < give_up_at, f"not whole after {bound_s:g} s: {why}; it said {self.fleet.said()}"
            time.sleep(0.005)

    def why_not_whole(self) -> str:
        """Why the fleet is not what it should be, counted from /proc; "" when it is."""
        try:
            ready = self.fleet.ask("GET", "/readyz", timeout_s=2)
            every = self.fleet.ask("GET", "/v1/kernels", timeout_s=2).json["items"]
            health = self.fleet.ask("GET", "/health", timeout_s=2).json
        except (OSError, ValueError) as fault:
            return f"nobody answers: {fault}"
        if ready.status != 200:
            return f"/readyz says {ready.status}"
        census = take_census(self.fleet.home)
        return self._wrong_kernels(every) or self._wrong_processes(every, census, health)

    def _wrong_kernels(self, every: list[dict[str, Any]]) -> str:
        for tenant, replicas in self.expected.items():
            phases = [kernel["phase"] for kernel in every if kernel["tenant"] == tenant]
            if len(phases) != replicas or not _TAKES_WORK.issuperset(phases):
                return f"{tenant} should have {replicas} kernels that take work, and has {sorted(phases)}"
        sleeping = [kernel["phase"] for kernel in every if kernel["tenant"] == "sleepers"]
        if sleeping != ["STOPPED"] * _SLEEPERS:
            return f"what has ended as unused should have stayed so, and is {sleeping}"
        back = self.gone & {kernel["id"] for kernel in every}
        return f"deleted, and here again: {sorted(back)}" if back else ""

    def _wrong_processes(self, every: list[dict[str, Any]], census: Census, health: dict[str, Any]) -> str:
        if census.doubled:
            return f"kernels with more than one process: {census.doubled}"
        shown = {folder_of(kernel["id"]): kernel["pid"] for kernel in every if kernel["pid"] is not None}
        seen = {folder: processes[0].pid for folder, processes in census.kernels.items()}
        if shown != seen:
            orphans = {folder: pid for folder, pid in seen.items() if shown.get(folder) != pid}
            missing = {folder: pid for folder, pid in shown.items() if seen.get(folder) != pid}
            return f"processes that no kernel has: {orphans}; kernels without their process: {missing}"
        if census.stopped:
            return f"stopped by a signal: {census.stopped}"
        controllers = [process.pid for process in census.controllers]
        if controllers != [self.fleet.pid]:
            return f"the controller should be {self.fleet.pid} alone, there are {census.controllers}"
        zygotes = [process.pid for process in census.zygotes]
        if zygotes != [health["zygote"]["pid"]]:
            return f"the zygote should be {health['zygote']['pid']} alone, there are {census.zygotes}"
        if census.others:
            return f"processes that nobody knows: {census.others}"
        ended = unreaped(self.fleet.pid)
        return f"the controller has not reaped {ended}" if ended else ""

    def report(self) -> str:
        """How long each fault took to be mended."""
        lines = [f"{'fault':<34} {'times':>5} {'median s':>9} {'worst s':>9}"]
        for name, taken in sorted(self.took_s.items()):
            ordered = sorted(taken)
            lines.append(f"{name:<34} {len(taken):>5} {ordered[len(taken) // 2]:>9.3f} {ordered[-1]:>9.3f}")
        return "\n".join(lines)


# --- faults: processes


def kill_kernels(storm: Storm) -> str:
    """A few at once."""
    some = storm.some(1, 5)
    storm.kill(some)
    return f"{len(some)} kernels"


def kill_all_kernels(storm: Storm) -> str:
    """All at once."""
    every = storm.some(KERNELS, KERNELS)
    storm.kill(every)
    return f"{len(every)} kernels"


def kill_zygote(storm: Storm) -> str:
    """It has just been made again, perhaps."""
    pid = storm.fleet.zygote()
    if pid is None:
        return "there is none"
    os.kill(pid, signal.SIGKILL)
    return f"zygote {pid}"


def kill_zygote_and_kernels(storm: Storm) -> str:
    """Who is to be replaced has nobody to fork it."""
    what = kill_zygote(storm)
    return f"{what}, {kill_kernels(storm)}"


def _restart(storm: Storm) -> None:
    storm.fleet.kill_controller()
    storm.fleet.begin()
    storm.fleet.wait_serving()


def kill_controller(storm: Storm) -> str:
    """At any moment."""
    storm.pause(0.2)
    storm.fleet.kill_controller()
    at = time.monotonic()
    storm.fleet.serve()
    return f"serves {time.monotonic() - at:.3f} s after exec"


def kill_controller_as_it_starts(storm: Storm) -> str:
    """The next one, before or while it adopts."""
    storm.fleet.kill_controller()
    storm.fleet.begin()
    after_s = storm.pause(0.7)
    storm.fleet.kill_controller()
    storm.fleet.serve()
    return f"the next after {after_s * 1000:.0f} ms too"


def kill_controller_as_it_forks(storm: Storm) -> str:
    """Between what it wants, the fork, and what it has recorded of it."""
    some = storm.some(5, 20)
    storm.kill(some)
    after_s = storm.pause(0.06)
    storm.fleet.kill_controller()
    storm.fleet.serve()
    return f"{after_s * 1000:.0f} ms after {len(some)} kernels"


def kill_controller_as_it_scales(storm: Storm) -> str:
    """In the middle of a change that was asked for: what is recorded holds, the one or the other."""
    tenant = storm.random.choice(list(TENANTS))
    before = TENANTS[tenant][1]
    asked = max(1, before + storm.random.choice((-5, -3, 3)))
    had = {kernel["id"] for kernel in storm.fleet.kernels(tenant)}

    def change() -> None:
        with contextlib.suppress(OSError, AssertionError):
            storm.fleet.ask("PATCH", f"/v1/tenants/{tenant}", {"replicas": asked, "wait_s": 5})

    asking = threading.Thread(target=change)
    asking.start()
    after_s = storm.pause(0.05)
    storm.fleet.kill_controller()
    storm.fleet.serve()
    asking.join()
    storm.expected[tenant] = storm.fleet.ask("GET", f"/v1/tenants/{tenant}").json["replicas"]
    assert storm.expected[tenant] in (before, asked), storm.expected
    storm.wait_whole(WHOLE_S)
    storm.gone |= had - {kernel["id"] for kernel in storm.fleet.kernels(tenant)}
    # Back to what it was, for the next fault; who is made anew for that has another id.
    answer = storm.fleet.ask("PATCH", f"/v1/tenants/{tenant}", {"replicas": before, "wait_s": 10})
    assert answer.status == 200, answer.body
    reached, storm.expected[tenant] = storm.expected[tenant], before
    return f"{tenant} {before} → {asked}, {after_s * 1000:.0f} ms later: {reached}"


def kill_controller_as_it_rolls(storm: Storm) -> str:
    """In the middle of a rolling restart: each kernel is an old or a new process of itself, once."""
    tenant = storm.random.choice(list(TENANTS))

    def roll() -> None:
        with contextlib.suppress(OSError, AssertionError):
            body = {"max_unavailable": 2, "max_surge": storm.random.choice((0, 1)), "wait_s": 5}
            storm.fleet.ask("POST", f"/v1/tenants/{tenant}/restart", body)

    rolling = threading.Thread(target=roll)
    rolling.start()
    after_s = storm.pause(0.3)
    storm.fleet.kill_controller()
    storm.fleet.serve()
    rolling.join()
    return f"{tenant}, {after_s * 1000:.0f} ms after it was asked for"


def upgrade(storm: Storm) -> str:
    """The controller's code takes its own place, on purpose: the same process, and nobody is refused."""
    answer = storm.fleet.ask("POST", "/v1/upgrade", {"wait_s": 5, "force": True})
    assert answer.status == 200, answer.body
    return "the same process"


def kill_controller_as_it_upgrades(storm: Storm) -> str:
    """Before, while or after its code was replaced."""

    def ask() -> None:
        with contextlib.suppress(OSError, AssertionError):
            storm.fleet.ask("POST", "/v1/upgrade", {"wait_s": 5, "force": True})

    upgrading = threading.Thread(target=ask)
    upgrading.start()
    after_s = storm.pause(1.0)
    storm.fleet.kill_controller()
    storm.fleet.serve()
    upgrading.join()
    return f"{after_s * 1000:.0f} ms after it was asked for"


def kill_controller_and_zygote(storm: Storm) -> str:
    """Both at once."""
    zygote = kill_zygote(storm)
    _restart(storm)
    return f"{zygote} and the controller"


def kill_everything_but_some(storm: Storm) -> str:
    """Controller, zygote and half of the kernels."""
    some = storm.some(KERNELS // 2, KERNELS // 2)
    zygote = kill_zygote(storm)
    storm.fleet.kill_controller()
    storm.kill(some)
    storm.fleet.serve()
    return f"{zygote}, the controller and {len(some)} kernels"


def stop_kernel(storm: Storm) -> str:
    """SIGSTOP: it lives, and answers nobody."""
    (kernel,) = storm.some(1, 1)
    storm.kill([kernel], signal.SIGSTOP)
    return f"kernel {kernel['id'][:8]} of {kernel['tenant']}"


# --- faults: files


def remove_sockets(storm: Storm) -> str:
    """Of some kernels, and the fleet's own: what is connected goes on; a controller that comes back finds none."""
    some = storm.some(2, 4)
    runtime = storm.fleet.home.runtime
    for kernel in some:
        for path in (runtime / "k" / folder_of(kernel["id"])).glob("s-*"):
            path.unlink(missing_ok=True)
    (runtime / "fleet.sock").unlink(missing_ok=True)
    _restart(storm)
    return f"of {len(some)} kernels, then the controller"


def corrupt_pid_files(storm: Storm) -> str:
    """Garbage, nothing, and the numbers of processes that are not theirs."""
    runtime = storm.fleet.home.runtime
    files = [runtime / f"kernel-{kernel['id']}.pid" for kernel in storm.some(5, 10)]
    contents = (b"", b"\xff\xfe\x00garbage", b"1\n1\n", b"99999999999999999999\n", f"{os.getpid()}\n0\n".encode())
    for file in (*files, runtime / "fleet.pid"):
        with contextlib.suppress(FileNotFoundError):
            file.write_bytes(storm.random.choice(contents))
    _restart(storm)
    return f"of {len(files)} kernels and the fleet, then the controller"


def corrupt_connection_files(storm: Storm) -> str:
    """They say where a kernel is found: a controller that comes back does not know it otherwise."""
    some = storm.some(3, 6)
    for kernel in some:
        file = storm.fleet.home.runtime / f"kernel-{kernel['id']}.json"
        with contextlib.suppress(FileNotFoundError):
            text = file.read_bytes()
            file.write_bytes(storm.random.choice((b"", text[: len(text) // 2], b"[]", b"\xff\xfe")))
    _restart(storm)
    return f"of {len(some)} kernels, then the controller"


# --- faults: the store


@contextlib.contextmanager
def locked(storm: Storm) -> Iterator[None]:
    """Another program holds the database."""
    connection = sqlite3.connect(storm.fleet.home.state / "fleet.db", timeout=5, isolation_level=None)
    try:
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.execute("ROLLBACK")
    finally:
        connection.close()


def lock_store(storm: Storm) -> str:
    """While kernels die: repairs go on; what has to be recorded waits or is refused."""
    with locked(storm):
        some = storm.some(1, 4)
        storm.kill(some)
        time.sleep(1.0)
    return f"for a second, with {len(some)} kernels killed meanwhile"


def lock_store_and_kill_controller(storm: Storm) -> str:
    """It cannot begin until the lock is gone; a service manager tries again."""
    with locked(storm):
        storm.fleet.kill_controller()
        storm.fleet.begin()
        time.sleep(0.8)
    while True:
        try:
            storm.fleet.wait_serving()
            break
        except AssertionError:
            assert storm.fleet.process is not None
            if storm.fleet.process.poll() is None:
                raise
            storm.fleet.begin()
    return "with the controller killed meanwhile"


FAULTS = (
    Fault("kernels killed", kill_kernels),
    Fault("all kernels killed", kill_all_kernels),
    Fault("zygote killed", kill_zygote),
    Fault("zygote and kernels killed", kill_zygote_and_kernels),
    Fault("controller killed", kill_controller),
    Fault("controller killed as it starts", kill_controller_as_it_starts),
    Fault("controller killed as it forks", kill_controller_as_it_forks),
    Fault("controller killed as it scales", kill_controller_as_it_scales),
    Fault("controller killed as it rolls", kill_controller_as_it_rolls),
    Fault("controller upgraded", upgrade),
    Fault("controller killed as it upgrades", kill_controller_as_it_upgrades),
    Fault("controller and zygote killed", kill_controller_and_zygote),
    Fault("controller, zygote, half killed", kill_everything_but_some),
    Fault("kernel stopped by SIGSTOP", stop_kernel, NOTICED_S),
    Fault("sockets removed", remove_sockets),
    Fault("pid files corrupted", corrupt_pid_files),
    Fault("connection files corrupted", corrupt_connection_files),
    Fault("store locked", lock_store),
    Fault("store locked, controller killed", lock_store_and_kill_controller),
)

HARMLESS = tuple(
    fault
    for fault in FAULTS
    if fault.strike
    in (
        kill_zygote,
        kill_controller,
        kill_controller_as_it_starts,
        kill_controller_and_zygote,
        upgrade,
        kill_controller_as_it_upgrades,
    )
)
"""Those that end no kernel."""
