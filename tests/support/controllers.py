"""A real controller in this process: its store, its zygote, its kernels, and a spawner that goes wrong when told."""

import asyncio
import contextlib
import json
import os
import resource
import signal
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec

from llmspell_fleet.config.fleet import FleetConfig
from llmspell_fleet.controller.controller import Controller
from llmspell_fleet.controller.kernels.entry import Entry
from llmspell_fleet.controller.pools.tenant import Tenant
from llmspell_fleet.model.event import Event
from llmspell_fleet.model.ids import TenantId
from llmspell_fleet.model.kernel import Kernel, Phase
from llmspell_fleet.model.requests import ExecuteRequest, TenantRequest
from llmspell_fleet.paths import FleetPaths
from llmspell_fleet.policy.lifecycle import TAKES_WORK
from llmspell_fleet.policy.liveness import ProbePolicy
from llmspell_fleet.policy.restart import RestartPolicy
from llmspell_fleet.spawner.processes import has_ended
from llmspell_fleet.spawner.scripted import ScriptedSpawner, Step
from llmspell_fleet.spawner.zygote import ZygoteSpawner
from llmspell_fleet.store.store import Store
from llmspell_kernel.safe_files import ensure_directory
from llmspell_kernel.zygote.confine import kernel_environment
from support.kernels import READY_S, short_folder
from support.spawning import eventually

Start = Callable[..., contextlib.AbstractAsyncContextManager["Site"]]
"""Starts a controller for the time of a block (the fixture `controller`)."""

SPIN = "while true do end"
"""A script that runs until it is interrupted, or its process ends."""

UNHURRIED = ProbePolicy(resumes=False)
"""Tests suspend kernels to have some that do not answer."""

PATIENT = RestartPolicy(
    start_deadline_s=READY_S,
    drain_deadline_s=READY_S,
    interrupt_deadline_s=READY_S,
    shutdown_deadline_s=READY_S,
    stop_deadline_s=READY_S,
)
"""On a loaded machine too, nothing is late unless a test says so."""


class Site:
    """One running controller, asked as its HTTP face asks it."""

    def __init__(self, controller: Controller, spawner: ScriptedSpawner, paths: FleetPaths) -> None:
        self.controller = controller
        self.spawner = spawner
        self.paths = paths

    @property
    def store(self) -> Store:
        return self.controller._store

    async def tenant(self, tenant: str = "t", *steps: Step, **members: Any) -> Tenant:
        """Make a tenant, whose kernels are started by those steps, and wait until all of them are ready."""
        self.spawner.script.extend(steps)
        members = {"wait_s": 0 if steps else READY_S, **members}
        await self.controller.service.create_tenant(msgspec.convert({"id": tenant, **members}, TenantRequest))
        return self.controller.tenants.get(TenantId(tenant))

    async def execute(self, tenant: Tenant, code: str, *, key: str | None = None, **members: Any) -> dict[str, Any]:
        """Run code that is answered with 200; the answer."""
        executed = await self.controller.service.execute(tenant.id, request(code, **members), key=key)
        assert executed.status == 200, executed.body
        answer: dict[str, Any] = json.loads(executed.body)
        return answer

    def asking(self, tenant: Tenant, code: str, **members: Any) -> "asyncio.Task[dict[str, Any]]":
        """The same, without waiting for it."""
        return self.controller.background.run(self.execute(tenant, code, **members))

    @contextlib.asynccontextmanager
    async def spinning(self, tenant: Tenant) -> AsyncIterator[Entry]:
        """A tenant's one kernel, which runs a script without an end in the meantime."""
        running = self.asking(tenant, SPIN)
        entry = only(tenant)
        await begun(entry)
        process = entry.process
        try:
            yield entry
        finally:
            running.cancel()
            await asyncio.wait([running])
            if entry.process is process:
                kill(entry, signal.SIGINT)

    def events(self, entry: Entry) -> list[Event]:
        """What happened to a kernel."""
        return [event for event in self.controller.events.since(0, entry.tenant, 10_000) if event.kernel_id == entry.id]


def request(code: str, **members: Any) -> ExecuteRequest:
    """As a client's."""
    return msgspec.convert({"code": code, **members}, ExecuteRequest)


def only(tenant: Tenant) -> Entry:
    """A tenant's one kernel."""
    (entry,) = tenant.entries.values()
    return entry


async def until(entry: Entry, is_so: Callable[[Kernel], bool], what: str) -> Kernel:
    """A kernel's record, once it is so."""
    assert await entry.wait_until(is_so, READY_S), f"waited {READY_S:g} s in vain for {what}: {entry.kernel}"
    return entry.kernel


async def in_phase(entry: Entry, phase: Phase) -> Kernel:
    """A kernel's record, once it is in a phase."""
    return await until(entry, lambda kernel: kernel.phase is phase, phase.value)


async def ready_again(entry: Entry, incarnation: int) -> Kernel:
    """A kernel's record, once an incarnation takes work."""
    return await until(
        entry, lambda k: k.incarnation >= incarnation and k.phase in TAKES_WORK, f"incarnation {incarnation}"
    )


async def begun(entry: Entry) -> None:
    """Wait until a kernel runs something."""
    await eventually(lambda: entry.channel is not None and entry.channel.running(), f"{entry.id} to run something")


def kill(entry: Entry, number: signal.Signals = signal.SIGKILL) -> None:
    """Signal a kernel's process."""
    assert entry.process is not None
    signal.pidfd_send_signal(entry.process.pidfd, number)


@contextlib.contextmanager
def deaf(entry: Entry) -> Iterator[None]:
    """A kernel that is alive and hears nothing, whatever is done to it: it is suspended again as soon as it goes on."""
    process = entry.process
    assert process is not None
    is_over = threading.Event()

    def hold() -> None:
        with contextlib.suppress(ProcessLookupError, OSError):
            while not is_over.wait(0.0002):
                signal.pidfd_send_signal(pidfd, signal.SIGSTOP)

    pidfd = os.dup(process.pidfd)
    holder = threading.Thread(target=hold)
    holder.start()
    try:
        yield
    finally:
        is_over.set()
        holder.join()
        os.close(pidfd)


@contextlib.contextmanager
def fleet_paths() -> Iterator[FleetPaths]:
    """The directories of a fleet, gone afterwards; nothing may be left of its runtime."""
    with short_folder() as folder:
        paths = FleetPaths(*(str(folder / name) for name in ("run", "state", "logs")))
        for path in (paths.runtime, paths.state, paths.logs):
            ensure_directory(path)
        yield paths
        left = sorted(str(path.relative_to(paths.runtime)) for path in Path(paths.runtime).rglob("*"))
        assert left == [], left


@contextlib.asynccontextmanager
async def running(paths: FleetPaths, **config: Any) -> AsyncIterator[Site]:
    """A controller without kernels unless `config` says so; afterwards all its processes are gone."""
    names = {"RUNTIME": paths.runtime, "STATE": paths.state, "LOG": paths.logs}
    environ = {**os.environ, **{f"LLMSPELL_{name}_DIR": path for name, path in names.items()}}
    given = kernel_environment(environ)
    spawner = ScriptedSpawner(ZygoteSpawner(given), environ=given)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        given = FleetConfig(**{"startup_kernels": 0, "restart": PATIENT, "probe": UNHURRIED, **config})
        controller = Controller(given, paths, spawner, version="0")
        try:
            await controller.start()
            yield Site(controller, spawner, paths)
        finally:
            pidfds = [os.dup(entry.process.pidfd) for entry in controller.supervisor if entry.process is not None]
            await controller.close(is_forced=lambda: True)
            ended = [has_ended(pidfd) for pidfd in pidfds]
            for pidfd in pidfds:
                os.close(pidfd)
            assert all(ended)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
