"""Every metric of the fleet: name, help, labels, buckets. `docs/reference/metrics.md` lists the same; a test compares.

Names follow Prometheus' rules (`promtool check metrics`): base units, `_total` for counters only. The one exception is
`llmspell_kernels_total`, a name that earlier dashboards know: a gauge in truth, it is of the type that has no rules.
"""

from llmspell_fleet.observe.families import Counter, Family, Histogram, Readings

EXECUTION_BOUNDS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)
START_BOUNDS_S = (0.002, 0.004, 0.006, 0.008, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
REQUEST_BOUNDS_S = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0, 5.0, 30.0)
LAG_BOUNDS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)

CLAIM_BOUNDS_S = (0.00005, 0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.1)

_TENANT = ("tenant",)
_KERNEL = ("tenant", "kernel_id")


class Catalogue:
    """The families, each by the name that the code calls it."""

    def __init__(self) -> None:
        # --- what happens
        self.executions = Counter(
            "llmspell_executions_total",
            "Executions that ended, by the status that the client was answered.",
            ("tenant", "status"),
        )
        self.execution_duration = Histogram(
            "llmspell_execution_duration_seconds",
            "Time from a request's arrival to its answer, waiting included.",
            EXECUTION_BOUNDS_S,
            _TENANT,
        )
        self.executions_refused = Counter(
            "llmspell_executions_refused_total", "Executions that never began, by reason.", ("tenant", "reason")
        )
        self.executions_retried = Counter(
            "llmspell_executions_retried_total",
            "Executions moved to another kernel because theirs died before it began them.",
            _TENANT,
        )
        self.kernel_starts = Counter(
            "llmspell_kernel_starts_total", "Incarnations of kernels that became ready.", _TENANT
        )
        self.kernel_start_duration = Histogram(
            "llmspell_kernel_start_duration_seconds", "Time from spawning a kernel to its first answer.", START_BOUNDS_S
        )
        self.kernel_deaths = Counter(
            "llmspell_kernel_deaths_total", "Incarnations of kernels that ended, by cause.", ("tenant", "reason")
        )
        self.kernel_restarts = Counter(
            "llmspell_kernel_restarts_total",
            "Incarnations begun in the place of one that ended, by its cause.",
            ("tenant", "reason"),
        )
        self.warm_claims = Counter(
            "llmspell_warm_claims_total",
            "New kernels of tenants that a warm kernel could be: hit; miss; waited or timeout of who takes no other.",
            ("tenant", "result"),
        )
        self.warm_claim_duration = Histogram(
            "llmspell_warm_claim_duration_seconds",
            "Time from the claim of a warm kernel to its being the tenant's; at level strict, to READY.",
            CLAIM_BOUNDS_S,
        )
        self.http_requests = Counter(
            "llmspell_http_requests_total",
            "HTTP requests answered; the route is the template, never the path.",
            ("route", "method", "status"),
        )
        self.http_request_duration = Histogram(
            "llmspell_http_request_duration_seconds",
            "Time from an HTTP request's arrival to its answer.",
            REQUEST_BOUNDS_S,
            ("route",),
        )
        self.loop_lag = Histogram(
            "llmspell_loop_lag_seconds",
            "How late the controller's event loop was, measured twice a second.",
            LAG_BOUNDS_S,
        )
        # --- kernels and tenants as they are
        self.kernels = Readings("llmspell_kernels", "Kernels by tenant and phase.", ("tenant", "phase"))
        self.kernels_total = Readings("llmspell_kernels_total", "Kernels in any phase; may fall.", kind="untyped")
        self.kernels_active = Readings("llmspell_kernels_active", "Kernels that answer: READY, BUSY or DRAINING.")
        self.kernels_dead = Readings("llmspell_kernels_dead", "Kernels that died and are not back: BACKOFF or FAILED.")
        self.warm_kernels = Readings(
            "llmspell_warm_kernels", "Kernels of no tenant yet, by phase; READY ones can be claimed.", ("phase",)
        )
        self.warm_wanted = Readings("llmspell_warm_wanted", "Warm kernels that there should be.")
        self.kernel_capacity = Readings("llmspell_kernel_capacity", "How many kernels the fleet may hold.")
        self.tenants = Readings("llmspell_tenants", "Tenants.")
        self.executions_running = Readings(
            "llmspell_executions_running", "Executions that run in a kernel now.", _TENANT
        )
        self.executions_waiting = Readings(
            "llmspell_executions_waiting", "Executions that wait for a kernel, or in one.", _TENANT
        )
        self.leases = Readings("llmspell_leases", "Kernels lent to ZeroMQ clients.", _TENANT)
        self.tenant_memory = Readings(
            "llmspell_tenant_memory_bytes",
            "Resident memory of a tenant's kernels; pages that kernels share are counted in each.",
            _TENANT,
        )
        self.tenant_proportional_memory = Readings(
            "llmspell_tenant_memory_proportional_bytes",
            "The same with shared pages divided among their users; a kernel is looked at in every 30th sweep.",
            _TENANT,
        )
        self.tenant_cpu = Counter(
            "llmspell_tenant_cpu_seconds_total",
            "CPU time of a tenant's kernels, without what a dead one used after the last sweep.",
            _TENANT,
        )
        self.kernel_memory = Readings("llmspell_kernel_memory_bytes", "Resident memory of a kernel.", _KERNEL)
        self.kernel_cpu = Readings(
            "llmspell_kernel_cpu_seconds_total", "CPU time of a kernel's incarnation.", _KERNEL, kind="counter"
        )
        self.kernel_cpu_percent = Readings(
            "llmspell_kernel_cpu_percent", "CPU time of a kernel since the last sweep, in percent of one core.", _KERNEL
        )
        self.kernel_uptime = Readings("llmspell_kernel_uptime_seconds", "Age of a kernel's incarnation.", _KERNEL)
        self.kernels_omitted = Readings(
            "llmspell_metrics_kernels_omitted", "Kernels beyond the bound, which have no series of their own."
        )
        self.tenants_omitted = Readings(
            "llmspell_metrics_tenants_omitted", "Tenants beyond the bound, which share the tenant _other."
        )
        # --- the controller
        self.zmq_connections = Readings("llmspell_zmq_connections", "ZeroMQ connections to kernels.")
        self.http_connections = Readings("llmspell_http_connections", "Open HTTP connections.")
        self.zygote_up = Readings("llmspell_zygote_up", "Whether the zygote lives: 1 or 0.")
        self.store_up = Readings("llmspell_store_up", "Whether the store's last write succeeded: 1 or 0.")
        self.store_queue = Readings("llmspell_store_queue_length", "Writes that wait for the store's thread.")
        self.controller_memory = Readings("llmspell_controller_memory_bytes", "Resident memory of the controller.")
        self.controller_cpu = Readings(
            "llmspell_controller_cpu_seconds_total", "CPU time of the controller.", kind="counter"
        )
        self.controller_files = Readings("llmspell_controller_open_descriptors", "Open descriptors of the controller.")
        self.controller_max_files = Readings(
            "llmspell_controller_max_descriptors", "How many descriptors the controller may open."
        )
        self.build_info = Readings("llmspell_build_info", "Always 1; the version is in its label.", ("version",))

    @property
    def families(self) -> list[Family]:
        """All of them, in the order in which they are shown."""
        return [family for family in vars(self).values() if isinstance(family, Family)]
