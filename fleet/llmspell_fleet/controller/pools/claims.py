"""Tenants' wishes for warm kernels: who waits for one, and what became of it, as the metrics count it."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Final

from llmspell_fleet.controller.pools.tenant import Tenant
from llmspell_fleet.errors import UnavailableError
from llmspell_fleet.model.ids import TenantId
from llmspell_fleet.observe.metrics import Metrics
from llmspell_fleet.policy.warm import SpecKey

RETRY_S: Final = 1.0


class Claims:
    """Each kernel that was wanted is counted once: hit, miss, waited or timeout."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._late: Counter[TenantId] = Counter()
        """Kernels of tenants that take warm ones only for which there was none when they were wanted."""

    def claimed(self, tenant: TenantId) -> str:
        """There is one; what `given` counts it as."""
        if self._late[tenant] <= 0:
            return "hit"
        self._late[tenant] -= 1
        return "waited"

    def given(self, tenant: TenantId, result: str, seconds: float) -> None:
        """It is the tenant's, which took so long."""
        self._metrics.warm_claimed(tenant, result, seconds)

    def fell_through(self, tenant: TenantId) -> None:
        """It ended before it could be given."""
        self._metrics.warm_claimed(tenant, "miss", None)

    def missed(self, tenant: Tenant, *, is_kept_some: bool) -> None:
        """There was none. Who takes no other is counted once there is."""
        if tenant.spec.warm == "require":
            self._late[tenant.id] = max(self._late[tenant.id], tenant.lacking)
        elif is_kept_some:
            self._metrics.warm_claimed(tenant.id, "miss", None)

    def secured(self, tenant: TenantId, late: int) -> None:
        """There are as many as are claimed in this step; `late` of them had to be waited for."""
        self._late[tenant] = late

    def timed_out(self, tenant: TenantId) -> None:
        """There were not, in time."""
        self._metrics.warm_claimed(tenant, "timeout", None)

    def forget_others(self, tenants: Iterable[Tenant]) -> None:
        """Only those of `tenants` that lack kernels can still be waiting."""
        late = self._late
        self._late = Counter({t.id: late[t.id] for t in tenants if t.lacking and late[t.id] > 0})


class Waiting:
    """Requests that take warm kernels only, and wait until there are enough. Belongs to the event loop."""

    def __init__(self, claims: Claims) -> None:
        self._claims = claims
        self.demand: Counter[SpecKey] = Counter()
        """Kernels that are waited for."""
        self._waiters: list[asyncio.Future[None]] = []

    @contextlib.contextmanager
    def wanting(self, wanted: SpecKey, number: int) -> Iterator[None]:
        """Have so many more kept, for the time of a block."""
        self.demand[wanted] += number
        try:
            yield
        finally:
            self.demand -= Counter({wanted: number})  # keeps none of which there is none

    async def until(self, there: Callable[[], int], number: int, tenant: TenantId, wait_s: float) -> None:
        """Return once as many are `there`. UnavailableError: not in time."""
        late = max(0, number - there())
        try:
            async with asyncio.timeout(wait_s):
                while there() < number:
                    waiter = asyncio.get_running_loop().create_future()
                    self._waiters.append(waiter)
                    await waiter
            self._claims.secured(tenant, late)
        except TimeoutError:
            self._claims.timed_out(tenant)
            raise UnavailableError(
                f"tenant {tenant} takes warm kernels only (warm is require), and {there()} of {number} were ready "
                "in time: ask again, keep more warm (warm_size), or set warm to prefer",
                retry_after_s=RETRY_S,
            ) from None

    def wake(self) -> bool:
        """There is one more: let those look who wait. Whether anybody did."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if not waiter.done():
                waiter.set_result(None)
        return bool(waiters)
