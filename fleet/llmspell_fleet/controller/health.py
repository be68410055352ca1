"""How the fleet is, gathered from its parts."""

import asyncio
import os
from collections import Counter
from collections.abc import Mapping

from llmspell_fleet.controller.kernels.hold import unenforced
from llmspell_fleet.controller.limits.isolation import Isolation
from llmspell_fleet.controller.pools.tenants import Tenants
from llmspell_fleet.controller.supervision.supervisor import Supervisor
from llmspell_fleet.model.kernel import Phase
from llmspell_fleet.model.tenant import IsolationLevel
from llmspell_fleet.model.views import HealthView, ProcessView
from llmspell_fleet.observe.usage import own_usage, usage_of
from llmspell_fleet.policy.health import Vitals, examine, judge
from llmspell_fleet.policy.lifecycle import shown
from llmspell_fleet.spawner.processes import is_suspended
from llmspell_fleet.spawner.spawner import Spawner
from llmspell_fleet.store.store import Store


class Health:
    """Belongs to the event loop."""

    def __init__(
        self,
        supervisor: Supervisor,
        tenants: Tenants,
        spawner: Spawner,
        store: Store,
        *,
        version: str,
        has_helper: bool,
        isolation: Isolation,
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._supervisor = supervisor
        self._tenants = tenants
        self._spawner = spawner
        self._store = store
        self._version = version
        self._has_helper = has_helper
        self._isolation = isolation
        self._began_at = self._loop.time()
        self.name = ""
        self.degraded: Mapping[str, str] = {}
        """What the configuration degrades, and why."""

    @property
    def is_zygote_up(self) -> bool:
        """Whether kernels can be started."""
        return not self._has_helper or self._spawner.pid is not None

    def view(self) -> HealthView:
        """`GET /health`."""
        phases = Counter(shown(entry.kernel, entry.load) for entry in self._supervisor)
        limits = sorted({limit for entry in self._supervisor for limit in unenforced(entry.grip.hold)})
        outside = {name: text for name, text in self.degraded.items() if name != "isolation"}
        checks = examine(
            Vitals(
                zygote_fault="" if self.is_zygote_up else "the zygote has ended, and a new one is not there yet",
                zygote_delay=self._zygote_delay(),
                store_fault=self._store.fault or "",
                phases=phases,
                unenforced_limits=tuple(f"nobody enforces {limit} here" for limit in limits),
                weaker_isolation=(self.degraded.get("isolation", ""), *self._weaker()),
                unreachable=outside,
            )
        )
        uptime_s = round(self._loop.time() - self._began_at, 3)
        helper = self._spawner.pid
        helper_usage = usage_of(helper) if helper is not None else None
        counts = {phase.value: phases.get(phase, 0) for phase in Phase}
        return HealthView(
            status=judge(checks),
            name=self.name,
            checks=checks,
            controller=ProcessView(pid=os.getpid(), uptime_s=uptime_s, memory_bytes=own_usage().memory_bytes),
            zygote=ProcessView(
                pid=helper, uptime_s=uptime_s, memory_bytes=helper_usage.memory_bytes if helper_usage else None
            ),
            counts={
                **counts,
                "kernels": len(self._supervisor),
                "tenants": len(self._tenants),
                "capacity": min(self._tenants.max_kernels, self._tenants.capacity),
            },
            version=self._version,
            isolation={level: self._isolation.strength(level) for level in self._levels()},
        )

    def _zygote_delay(self) -> str:
        pid = self._spawner.pid
        if pid is not None and is_suspended(pid):
            return f"the zygote, process {pid}, is suspended by a signal: SIGCONT lets it go on"
        return "the zygote lets starts wait; one that hangs is replaced" if self._spawner.is_late else ""

    def _levels(self) -> list[IsolationLevel]:
        """Those that kernels have."""
        return sorted({entry.isolation_level for entry in self._supervisor})

    def _weaker(self) -> list[str]:
        """Processes that are not yet at the level that their tenant has by now."""
        weaker = Counter(
            (entry.isolation_level, entry.kernel.spec.isolation_level) for entry in self._supervisor if entry.is_weaker
        )
        return [
            f"{number} {'kernel runs' if number == 1 else 'kernels run'} at {level} until restarted, and should at {to}"
            for (level, to), number in sorted(weaker.items())
        ]

    def statistics(self) -> dict[str, object]:
        """For the log, on SIGUSR1."""
        view = self.view()
        counts = {name: count for name, count in view.counts.items() if count}
        return {"status": view.status, "uptime_s": view.controller.uptime_s, "counts": counts}
