"""A throwaway fleet in a temporary directory: the real controller and its zygote, no HTTP; nothing is left of it."""

import asyncio
import contextlib
import os
import shutil
import tempfile
from collections.abc import AsyncIterator
from typing import Any, Final

import msgspec

from llmspell_fleet.config.fleet import FleetConfig
from llmspell_fleet.controller.controller import Controller
from llmspell_fleet.controller.kernels.entry import Entry
from llmspell_fleet.controller.kernels.hold import limit_views
from llmspell_fleet.doctor.probing import ProbingSpawner, probe
from llmspell_fleet.errors import FleetError, UnavailableError
from llmspell_fleet.model.ids import TenantId
from llmspell_fleet.model.kernel import Death
from llmspell_fleet.model.requests import ExecuteRequest, TenantRequest
from llmspell_fleet.model.tenant import IsolationLevel
from llmspell_fleet.paths import FleetPaths
from llmspell_fleet.policy.lifecycle import TAKES_WORK
from llmspell_fleet.policy.restart import RestartPolicy
from llmspell_fleet.spawner.zygote import ZygoteSpawner
from llmspell_kernel import __version__
from llmspell_kernel.safe_files import ensure_directory
from llmspell_kernel.zygote.confine import kernel_environment
from llmspell_kernel.zygote.protocol import Probed

READY_S: Final = 20.0

_PATIENT: Final = RestartPolicy(max_restarts=10_000, first_delay_s=0.01, longest_delay_s=0.02, start_deadline_s=READY_S)
"""Probes that are killed look like crashes."""


class Site:
    """The fleet while it runs. Belongs to the event loop."""

    def __init__(
        self, controller: Controller, spawner: ProbingSpawner, paths: FleetPaths, level: IsolationLevel
    ) -> None:
        self.controller = controller
        self.paths = paths
        self.level = level
        self._spawner = spawner

    @property
    def report_descriptor(self) -> int:
        """The one descriptor besides the standard three that a probe is meant to have."""
        return self._spawner.report_descriptor

    async def tenant(self, name: str, **limits: float) -> Entry:
        """A tenant of one kernel with these limits; its kernel, which is ready."""
        body = {"id": name, "isolation_level": self.level, "limits": limits, "wait_s": READY_S}
        await self.controller.service.create_tenant(msgspec.convert(body, TenantRequest))
        (entry,) = self.controller.tenants.get(TenantId(name)).entries.values()
        if entry.kernel.phase not in TAKES_WORK:
            death = entry.kernel.last_death
            why = f": {death.cause}, {death.detail}" if death is not None else ""
            raise UnavailableError(f"a kernel with {name!r}'s limits did not start{why}")
        return entry

    def writable(self, most_bytes: int) -> str:
        """A target for probes that write so much: kernels at `strict` have a folder of their own, or none."""
        if self.level == "strict":
            return str(most_bytes)
        return f"{most_bytes} {ensure_directory(os.path.join(self.paths.state, 'written'))}"

    async def run(self, entry: Entry, code: str, **members: Any) -> dict[str, Any]:
        """Run Lua on a tenant's kernel; what it came to, or the problem as {"problem": …}."""
        request = msgspec.convert({"code": code, **members}, ExecuteRequest)
        try:
            executed = await self.controller.service.execute(entry.tenant, request, key=None)
        except FleetError as fault:
            return {"problem": fault}
        answer: dict[str, Any] = msgspec.json.decode(executed.body)
        return answer

    async def probe(self, entry: Entry, name: str, target: str = "") -> Probed | Death:
        """Run a probe in place of a tenant's kernel."""
        return await probe(self._spawner, self.controller.supervisor, entry, name, target)

    async def remove_tenants(self) -> None:
        """End all of them."""
        for tenant in self.controller.tenants:
            await self.controller.service.delete_tenant(tenant.id)

    def enforced_by(self, entry: Entry, limit: str) -> str | None:
        """Who is said to hold a kernel to a limit."""
        return limit_views(entry.kernel.spec.limits, entry.grip.hold)[limit].enforced_by


@contextlib.asynccontextmanager
async def throwaway_fleet(level: IsolationLevel) -> AsyncIterator[Site]:
    """One fleet without kernels; afterwards its processes, cgroups and files are gone, whatever happened meanwhile."""
    folder = tempfile.mkdtemp(prefix="llmspell-doctor-")
    try:
        paths = FleetPaths(*(ensure_directory(os.path.join(folder, name)) for name in ("run", "state", "logs")))
        directories = {"LLMSPELL_RUNTIME_DIR": paths.runtime, "LLMSPELL_STATE_DIR": paths.state}
        spawner = ProbingSpawner(ZygoteSpawner({**kernel_environment(dict(os.environ)), **directories}))
        config = FleetConfig(startup_kernels=0, restart=_PATIENT, isolation_level=level)
        controller = Controller(config, paths, spawner, version=__version__)
        try:
            await controller.start()
            yield Site(controller, spawner, paths, level)
        finally:
            # Ctrl-C has cancelled us: what follows is waited for all the same.
            await asyncio.shield(controller.close(is_forced=lambda: True))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
