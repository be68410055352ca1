"""The fleet's metrics: what the controller and the HTTP face report, and the text that Prometheus reads."""

from collections.abc import Iterable
from typing import Final

from prometheus_client import CollectorRegistry, GCCollector, Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from llmspell_fleet.model.ids import TenantId
from llmspell_fleet.observe.catalogue import Catalogue
from llmspell_fleet.observe.gauges import Gauges
from llmspell_fleet.observe.snapshot import Snapshot

OTHER: Final = "_other"
"""What a label says beyond its bound, and for tenants that are gone. No tenant can be called so."""

METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

_PLAIN: Final = choose_encoder("")
_OPENMETRICS: Final = choose_encoder("application/openmetrics-text")

_STATUSES: Final = ("ok", "error", "interrupted", "timeout")
_CRASHES: Final = ("exited", "signal")


class Metrics(Collector):
    """All metrics of one fleet. Belongs to the event loop's thread; calls take about a microsecond.

    Labels are bounded, so that churn and size leak nothing: beyond `max_kernels`, kernels have no series of their own;
    beyond `max_tenants`, tenants share one called `_other`, and beyond `max_tenant_histograms` one distribution of
    durations; beyond `max_routes`, so do routes. Whoever came first keeps its place until it is forgotten.
    """

    def __init__(
        self,
        *,
        version: str,
        max_kernels: int = 200,
        max_tenants: int = 500,
        max_tenant_histograms: int = 100,
        max_routes: int = 100,
    ) -> None:
        self._max_tenants = max_tenants
        self._max_tenant_histograms = max_tenant_histograms
        self._max_routes = max_routes
        self._of = Catalogue()
        self.families = self._of.families
        self._tenants: dict[str, str] = {}
        """The label of each tenant that exists."""
        self._shown: set[str] = set()
        """Tenants with a label of their own, and below, with a distribution of their own."""
        self._distributed: set[str] = set()
        self._routes: dict[str, str] = {}
        self._gauges = Gauges(self._of, lambda tenant: self._tenants.get(tenant, OTHER), max_kernels=max_kernels)
        self._of.build_info.replace({(version,): 1})
        self._library = CollectorRegistry()
        GCCollector(self._library)  # collections of garbage hold the event loop
        self.registry = CollectorRegistry(auto_describe=True)
        """The same metrics for whatever reads `prometheus_client`; it refuses names that clash."""
        self.registry.register(self)
        GCCollector(self.registry)

    # --- tenants

    def add_tenant(self, tenant: TenantId) -> None:
        """A tenant exists: from now on it is named, as far as the bounds allow."""
        if tenant in self._tenants:
            return
        if len(self._shown) < self._max_tenants:
            self._shown.add(tenant)
        if len(self._distributed) < self._max_tenant_histograms:
            self._distributed.add(tenant)
        label = self._tenants[tenant] = tenant if tenant in self._shown else OTHER
        # A rate is taken between two points: without a first one at 0, the first crash is in none.
        for status in _STATUSES:
            self._of.executions.add(0, label, status)
        for cause in _CRASHES:
            self._of.kernel_deaths.add(0, label, cause)
            self._of.kernel_restarts.add(0, label, cause)

    def forget_tenant(self, tenant: TenantId) -> None:
        """It exists no more: its series end. What is still reported of it is counted as `_other`."""
        self._tenants.pop(tenant, None)
        self._shown.discard(tenant)
        self._distributed.discard(tenant)
        for family in self.families:
            if family.labels[:1] == ("tenant",):
                family.forget(tenant)

    # --- what happens

    def execution_finished(self, tenant: TenantId, status: str, seconds: float) -> None:
        """An execution was answered, `seconds` after it was asked for."""
        self._of.executions.inc(self._tenants.get(tenant, OTHER), status)
        self._of.execution_duration.observe(seconds, tenant if tenant in self._distributed else OTHER)

    def execution_refused(self, tenant: TenantId, reason: str) -> None:
        """An execution never began; `reason` is one of the caller's constants."""
        self._of.executions_refused.inc(self._tenants.get(tenant, OTHER), reason)

    def execution_retried(self, tenant: TenantId) -> None:
        """An execution was moved to another kernel before it began."""
        self._of.executions_retried.inc(self._tenants.get(tenant, OTHER))

    def kernel_started(self, tenant: TenantId, seconds: float) -> None:
        """A kernel first answered, `seconds` after it was spawned."""
        self._of.kernel_starts.inc(self._tenants.get(tenant, OTHER))
        self._of.kernel_start_duration.observe(seconds)

    def kernel_died(self, tenant: TenantId, cause: str) -> None:
        """An incarnation ended; `cause` is its death certificate's."""
        self._of.kernel_deaths.inc(self._tenants.get(tenant, OTHER), cause)

    def kernel_restarted(self, tenant: TenantId, cause: str) -> None:
        """An incarnation was begun in the place of one that ended by `cause`."""
        self._of.kernel_restarts.inc(self._tenants.get(tenant, OTHER), cause)

    def warm_claimed(self, tenant: TenantId, result: str, seconds: float | None) -> None:
        """A warm kernel was given to a tenant within `seconds`, or there was none (None)."""
        self._of.warm_claims.inc(self._tenants.get(tenant, OTHER), result)
        if seconds is not None:
            self._of.warm_claim_duration.observe(seconds)

    def request_finished(self, route: str, method: str, status: int, seconds: float) -> None:
        """An HTTP request was answered. `route` is the template of its path, never the path itself."""
        label = self._routes.get(route) or self._admit_route(route)
        self._of.http_requests.inc(label, method if method in METHODS else OTHER, str(status))
        self._of.http_request_duration.observe(seconds, label)

    def loop_lag(self, seconds: float) -> None:
        """The event loop was late by `seconds`."""
        self._of.loop_lag.observe(seconds)

    # --- what is

    def update(self, snapshot: Snapshot) -> None:
        """Show this state until the next."""
        self._gauges.update(snapshot)
        self._of.tenants_omitted.set(sum(label == OTHER for label in self._tenants.values()))

    # --- the text

    def render(self, accept: str) -> tuple[bytes, str]:
        """The body of a scrape's answer and its Content-Type, OpenMetrics when the Accept header names it."""
        is_openmetrics = "application/openmetrics-text" in accept
        encode, content_type = _OPENMETRICS if is_openmetrics else _PLAIN
        own = "".join([family.text(is_openmetrics=is_openmetrics) for family in self.families])
        return own.encode() + encode(self._library), content_type

    def collect(self) -> Iterable[Metric]:
        """The same as `prometheus_client` sees it, for its registry."""
        return text_string_to_metric_families("".join([family.text(is_openmetrics=False) for family in self.families]))

    def _admit_route(self, route: str) -> str:
        if len(self._routes) >= self._max_routes:
            return OTHER
        self._routes[route] = route
        return route
