"""Has tenants' pools grow and shrink with what they have to do, as `policy.autoscale` says."""

import asyncio
import logging
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from llmspell_fleet.controller.events import Events
from llmspell_fleet.controller.pools.tenant import Tenant
from llmspell_fleet.controller.pools.tenants import Tenants
from llmspell_fleet.errors import ConflictError, TooManyError
from llmspell_fleet.model.pool import Autoscale
from llmspell_fleet.policy.autoscale import Scale, Trend, begin, decide, shrinks_at

if TYPE_CHECKING:
    from llmspell_fleet.model.ids import TenantId

_LOG: Final = logging.getLogger("llmspell.fleet")

LOOK_S: Final = 0.1
"""How often it is looked: a queue is answered within a fraction of a second, and nothing on its path knows of us."""

REST_S: Final = 0.5
"""How often it is looked whether there is a tenant to be scaled, while there is none."""


class Autoscaling:
    """Belongs to the event loop."""

    def __init__(self, tenants: Tenants, events: Events) -> None:
        self._loop = asyncio.get_running_loop()
        self._tenants = tenants
        self._events = events
        self._trends: dict[TenantId, tuple[Autoscale, Trend]] = {}
        """What was wanted lately, by the settings that it was reckoned with."""
        self._refused: set[TenantId] = set()
        """Who has not got all that it wanted, and was told so."""

    async def run(self) -> None:
        """Look ten times a second at the tenants that are to be scaled."""
        while True:
            await asyncio.sleep(LOOK_S if self._trends else REST_S)
            self.look()

    def look(self) -> None:
        """Scale who has to be."""
        now = self._loop.time()
        for tenant in self._tenants:
            settings = tenant.spec.autoscale
            if settings is None or tenant.is_leaving:
                self._trends.pop(tenant.id, None)
            else:
                self._look_at(tenant, settings, now)
        if len(self._trends) > len(self._tenants):
            self._trends = {name: trend for name, trend in self._trends.items() if name in self._tenants}

    def _look_at(self, tenant: Tenant, settings: Autoscale, now: float) -> None:
        before, trend = self._trends.get(tenant.id, (settings, begin(now)))
        if before != settings:
            trend = begin(now)
        load = tenant.executions + sum(entry.leases for entry in tenant.entries.values())
        trend, scale = decide(trend, settings, load=load, kernels=tenant.spec.replicas, now=now)
        self._trends[tenant.id] = (settings, trend)
        if scale.kernels != tenant.spec.replicas:
            self._scale(tenant, scale, load)

    def _scale(self, tenant: Tenant, scale: Scale, load: int) -> None:
        was = tenant.spec.replicas
        kernels = scale.kernels if scale.kernels < was else self._allowed(tenant, scale.kernels)
        if kernels == was:
            return
        self._tenants.change(tenant, replace(tenant.spec, replicas=kernels))
        data = {"from": was, "to": kernels, "load": load, "reason": scale.reason}
        self._events.emit("tenant.scaled", tenant.id, data=data)
        self._tenants.reconcile(tenant)

    def _allowed(self, tenant: Tenant, kernels: int) -> int:
        """As many of them as there is room for; one more at a time where there is not room for all."""
        for some in (kernels, tenant.spec.replicas + 1):
            try:
                self._tenants.promise(tenant.beyond(some), tenant.spec)
            except (TooManyError, ConflictError) as denied:
                if tenant.id not in self._refused:
                    _LOG.warning("tenant %s is not scaled to %d kernels: %s", tenant.id, some, denied)
                    self._refused.add(tenant.id)
            else:
                if some == kernels:
                    self._refused.discard(tenant.id)
                return some
        return tenant.spec.replicas

    def shrinks_at(self, tenant: Tenant) -> float | None:
        """Loop time at which it will have a kernel less if nothing more comes; None = it will not."""
        found = self._trends.get(tenant.id)
        return None if found is None else shrinks_at(found[1], found[0], kernels=tenant.spec.replicas)
