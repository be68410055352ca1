"""What is reported comes out under its name, and labels stay bounded."""

import pytest

from llmspell_fleet.model.ids import TenantId
from llmspell_fleet.model.kernel import Phase
from llmspell_fleet.observe.metrics import OTHER, Metrics
from llmspell_fleet.observe.snapshot import TenantSample
from support.observations import ACME, a_kernel, a_snapshot

ROUTE = "/v1/tenants/{tenant}"


def value(metrics: Metrics, name: str, **labels: str) -> float | None:
    return metrics.registry.get_sample_value(name, labels)


def lines(metrics: Metrics) -> list[str]:
    return metrics.render("")[0].decode().splitlines()


def series(metrics: Metrics, name: str) -> list[str]:
    return [line for line in lines(metrics) if line.startswith((f"{name}{{", f"{name} "))]


@pytest.mark.parametrize(
    ("case", "name", "labels", "expected"),
    [
        ("an execution by status", "llmspell_executions_total", {"tenant": "acme", "status": "ok"}, 1),
        ("a status that never was", "llmspell_executions_total", {"tenant": "acme", "status": "interrupted"}, 0),
        ("of a tenant that is gone", "llmspell_executions_total", {"tenant": OTHER, "status": "error"}, 1),
        ("durations", "llmspell_execution_duration_seconds_count", {"tenant": "acme"}, 2),
        ("their sum", "llmspell_execution_duration_seconds_sum", {"tenant": "acme"}, 300.0007),
        ("a bucket below", "llmspell_execution_duration_seconds_bucket", {"tenant": "acme", "le": "0.0005"}, 0),
        ("a bucket", "llmspell_execution_duration_seconds_bucket", {"tenant": "acme", "le": "0.001"}, 1),
        ("the last bucket", "llmspell_execution_duration_seconds_bucket", {"tenant": "acme", "le": "+Inf"}, 2),
        ("a refusal", "llmspell_executions_refused_total", {"tenant": "acme", "reason": "rate"}, 1),
        ("a retry", "llmspell_executions_retried_total", {"tenant": "acme"}, 1),
        ("a start", "llmspell_kernel_starts_total", {"tenant": "acme"}, 1),
        ("how long it took", "llmspell_kernel_start_duration_seconds_bucket", {"le": "0.006"}, 1),
        ("a death", "llmspell_kernel_deaths_total", {"tenant": "acme", "reason": "signal"}, 1),
        ("no death yet", "llmspell_kernel_deaths_total", {"tenant": "acme", "reason": "exited"}, 0),
        ("a restart", "llmspell_kernel_restarts_total", {"tenant": "acme", "reason": "signal"}, 1),
        (
            "a request",
            "llmspell_http_requests_total",
            {"route": f"{ROUTE}/execute", "method": "POST", "status": "200"},
            1,
        ),
        (
            "no such method",
            "llmspell_http_requests_total",
            {"route": "unrouted", "method": OTHER, "status": "404"},
            1,
        ),
        ("its time", "llmspell_http_request_duration_seconds_count", {"route": f"{ROUTE}/execute"}, 1),
        ("lag", "llmspell_loop_lag_seconds_count", {}, 1),
        ("kernels by phase", "llmspell_kernels", {"tenant": "acme", "phase": "BUSY"}, 1),
        ("a phase of none", "llmspell_kernels", {"tenant": "acme", "phase": "FAILED"}, 0),
        ("all kernels", "llmspell_kernels_total", {}, 2),
        ("active kernels", "llmspell_kernels_active", {}, 2),
        ("dead kernels", "llmspell_kernels_dead", {}, 0),
        ("capacity", "llmspell_kernel_capacity", {}, 2000),
        ("running", "llmspell_executions_running", {"tenant": "acme"}, 2),
        ("waiting", "llmspell_executions_waiting", {"tenant": "acme"}, 3),
        ("leases", "llmspell_leases", {"tenant": "acme"}, 1),
        ("memory", "llmspell_tenant_memory_bytes", {"tenant": "acme"}, 60_000_000),
        (
            "a sibling not looked at counts alike",
            "llmspell_tenant_memory_proportional_bytes",
            {"tenant": "acme"},
            6_000_000,
        ),
        ("the zygote", "llmspell_zygote_up", {}, 1),
        ("the store", "llmspell_store_up", {}, 1),
        ("the controller's memory", "llmspell_controller_memory_bytes", {}, 60_000_000),
        ("its CPU", "llmspell_controller_cpu_seconds_total", {}, 12.25),
        ("its descriptors", "llmspell_controller_open_descriptors", {}, 40),
        ("their bound", "llmspell_controller_max_descriptors", {}, 1024),
        ("HTTP connections", "llmspell_http_connections", {}, 5),
        ("the version", "llmspell_build_info", {"version": "1.2.3"}, 1),
    ],
)
def test_what_was_reported_is_shown(
    full_metrics: Metrics, case: str, name: str, labels: dict[str, str], expected: float
) -> None:
    assert value(full_metrics, name, **labels) == pytest.approx(expected)


def test_before_the_first_snapshot_no_gauge_claims_anything(metrics: Metrics) -> None:
    assert not series(metrics, "llmspell_kernels_total")
    assert not series(metrics, "llmspell_zygote_up")


def test_a_snapshot_replaces_the_one_before(full_metrics: Metrics) -> None:
    assert len(series(full_metrics, "llmspell_kernel_memory_bytes")) == 2

    full_metrics.update(a_snapshot(a_kernel(3, phase=Phase.FAILED, has_process=False), at=102.0))

    assert value(full_metrics, "llmspell_kernels_total") == 1
    assert value(full_metrics, "llmspell_kernels_dead") == 1
    assert not series(full_metrics, "llmspell_kernel_memory_bytes")


class TestCpuTime:
    def test_a_tenant_s_counts_on_when_a_kernel_is_replaced(self, metrics: Metrics) -> None:
        metrics.update(a_snapshot(at=98.0))
        metrics.update(a_snapshot(a_kernel(cpu_s=2.0), at=100.0))
        metrics.update(a_snapshot(a_kernel(cpu_s=3.0), at=102.0))
        metrics.update(a_snapshot(a_kernel(cpu_s=0.5, incarnation=2), at=104.0))

        assert value(metrics, "llmspell_tenant_cpu_seconds_total", tenant="acme") == pytest.approx(3.5)

    def test_what_adopted_kernels_used_before_is_not_counted_twice(self, metrics: Metrics) -> None:
        metrics.update(a_snapshot(a_kernel(cpu_s=500.0), at=100.0))
        metrics.update(a_snapshot(a_kernel(cpu_s=501.0), at=102.0))

        assert value(metrics, "llmspell_tenant_cpu_seconds_total", tenant="acme") == pytest.approx(1.0)

    def test_percent_is_of_the_time_since_the_last_sweep(self, metrics: Metrics) -> None:
        kernel = a_kernel(cpu_s=2.0)
        labels = {"tenant": "acme", "kernel_id": kernel.id}

        metrics.update(a_snapshot(kernel, at=100.0))
        at_first = value(metrics, "llmspell_kernel_cpu_percent", **labels)
        metrics.update(a_snapshot(a_kernel(cpu_s=3.0), at=102.0))

        assert at_first == pytest.approx(20.0), "of its ten seconds"
        assert value(metrics, "llmspell_kernel_cpu_percent", **labels) == pytest.approx(50.0)


class TestBounds:
    def test_kernels_beyond_the_bound_count_in_their_tenant_only(self) -> None:
        metrics = Metrics(version="1", max_kernels=200)
        metrics.add_tenant(ACME)

        metrics.update(a_snapshot(*(a_kernel(number) for number in range(500))))

        assert len(series(metrics, "llmspell_kernel_memory_bytes")) == 200
        assert value(metrics, "llmspell_metrics_kernels_omitted") == 300
        assert value(metrics, "llmspell_tenant_memory_bytes", tenant="acme") == 500 * 30_000_000
        assert value(metrics, "llmspell_kernels", tenant="acme", phase="READY") == 500

    def test_tenants_beyond_the_bound_share_one_label(self) -> None:
        metrics = Metrics(version="1", max_tenants=2, max_tenant_histograms=1)
        names = [TenantId(name) for name in ("first", "second", "third", "fourth")]
        for name in names:
            metrics.add_tenant(name)
            metrics.execution_finished(name, "ok", 0.01)

        metrics.update(
            a_snapshot(
                *(a_kernel(number, name) for number, name in enumerate(names)),
                tenants=tuple(TenantSample(id=name, running=1) for name in names),
            )
        )

        assert value(metrics, "llmspell_executions_total", tenant="second", status="ok") == 1
        assert value(metrics, "llmspell_executions_total", tenant=OTHER, status="ok") == 2
        assert value(metrics, "llmspell_execution_duration_seconds_count", tenant="first") == 1
        assert value(metrics, "llmspell_execution_duration_seconds_count", tenant=OTHER) == 3
        assert value(metrics, "llmspell_executions_running", tenant=OTHER) == 2
        assert value(metrics, "llmspell_kernels", tenant=OTHER, phase="READY") == 2
        assert value(metrics, "llmspell_metrics_tenants_omitted") == 2

    def test_a_place_that_is_given_up_goes_to_the_next_tenant(self) -> None:
        metrics = Metrics(version="1", max_tenants=1, max_tenant_histograms=1)
        metrics.add_tenant(TenantId("first"))

        metrics.forget_tenant(TenantId("first"))
        metrics.add_tenant(TenantId("second"))
        metrics.execution_finished(TenantId("second"), "ok", 0.01)

        assert value(metrics, "llmspell_execution_duration_seconds_count", tenant="second") == 1

    def test_tenants_that_come_and_go_leave_nothing(self, full_metrics: Metrics) -> None:
        full_metrics.kernel_died(TenantId("gone"), "signal")
        full_metrics.kernel_restarted(TenantId("gone"), "signal")
        full_metrics.kernel_started(TenantId("gone"), 0.01)
        full_metrics.execution_finished(TenantId("gone"), "ok", 0.01)
        before = len(lines(full_metrics))

        for number in range(10_000):
            tenant = TenantId(f"tenant-{number}")
            full_metrics.add_tenant(tenant)
            full_metrics.execution_finished(tenant, "ok", 0.01)
            full_metrics.kernel_started(tenant, 0.01)
            full_metrics.kernel_died(tenant, "signal")
            full_metrics.kernel_restarted(tenant, "signal")
            if number % 1000 == 0:
                full_metrics.update(a_snapshot(a_kernel(7, tenant), tenants=(TenantSample(id=tenant),)))
                assert any(tenant in line for line in lines(full_metrics))
            full_metrics.forget_tenant(tenant)
            full_metrics.kernel_died(tenant, "signal")  # reported too late
        full_metrics.update(a_snapshot(a_kernel(1, pss_bytes=3_000_000), a_kernel(2, phase=Phase.BUSY), at=102.0))

        assert len(lines(full_metrics)) == before
        assert not [line for line in lines(full_metrics) if "tenant-" in line]

    def test_a_forgotten_tenant_that_comes_back_begins_at_zero(self, full_metrics: Metrics) -> None:
        full_metrics.forget_tenant(ACME)
        full_metrics.add_tenant(ACME)

        assert value(full_metrics, "llmspell_executions_total", tenant="acme", status="ok") == 0

    def test_adding_a_tenant_twice_changes_nothing(self, full_metrics: Metrics) -> None:
        before = full_metrics.render("")[0]

        full_metrics.add_tenant(ACME)

        assert [line for line in before.splitlines() if b"python_gc" not in line] == [
            line for line in full_metrics.render("")[0].splitlines() if b"python_gc" not in line
        ]

    def test_routes_beyond_the_bound_share_one_label(self) -> None:
        metrics = Metrics(version="1", max_routes=10)

        for number in range(1000):
            metrics.request_finished(f"/v1/{number}", "GET", 200, 0.001)

        assert len(series(metrics, "llmspell_http_requests_total")) == 11
        assert value(metrics, "llmspell_http_requests_total", route=OTHER, method="GET", status="200") == 990
