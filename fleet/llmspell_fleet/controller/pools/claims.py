"""What becomes of tenants' wishes for warm kernels, as the metrics count it."""

from collections import Counter
from collections.abc import Iterable

from llmspell_fleet.controller.pools.tenant import Tenant
from llmspell_fleet.model.ids import TenantId
from llmspell_fleet.observe.metrics import Metrics


class Claims:
    """Each kernel that was wanted is counted once: hit, miss, waited or timeout."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._late: Counter[TenantId] = Counter()
        """Kernels of tenants that take warm ones only for which there was none when they were wanted."""

    def given(self, tenant: Tenant, seconds: float) -> None:
        """One was claimed, which took so long."""
        is_late = self._late[tenant.id] > 0
        if is_late:
            self._late[tenant.id] -= 1
        self._metrics.warm_claimed(tenant.id, "waited" if is_late else "hit", seconds)

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
