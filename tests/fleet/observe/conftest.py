"""A fleet's metrics in every state, and the real tools that read them."""

import os
import shutil

import pytest

from llmspell_fleet.model.ids import TenantId
from llmspell_fleet.model.kernel import Phase
from llmspell_fleet.observe.metrics import Metrics
from support.observations import ACME, a_kernel, a_snapshot


def _tool(name: str) -> str:
    """A program of Debian's prometheus package. Without it the test is skipped, in CI it fails."""
    path = shutil.which(name)
    if path is None:
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{name} is not here: apt install prometheus")
    return path


@pytest.fixture
def promtool() -> str:
    return _tool("promtool")


@pytest.fixture
def prometheus() -> str:
    return _tool("prometheus")


@pytest.fixture
def metrics() -> Metrics:
    """Of a fleet with one tenant, of which nothing is known yet."""
    metrics = Metrics(version="1.2.3")
    metrics.add_tenant(ACME)
    return metrics


@pytest.fixture
def full_metrics(metrics: Metrics) -> Metrics:
    """Of a fleet in which everything happened once."""
    metrics.execution_finished(ACME, "ok", 0.0007)
    metrics.execution_finished(ACME, "timeout", 300.0)
    metrics.execution_finished(TenantId("gone"), "error", 0.2)
    metrics.execution_refused(ACME, "rate")
    metrics.execution_retried(ACME)
    metrics.kernel_started(ACME, 0.005)
    metrics.kernel_died(ACME, "signal")
    metrics.kernel_restarted(ACME, "signal")
    metrics.request_finished("/v1/tenants/{tenant}/execute", "POST", 200, 0.0008)
    metrics.request_finished("unrouted", "BREW", 404, 0.0001)
    metrics.loop_lag(0.0001)
    metrics.update(a_snapshot(a_kernel(1, pss_bytes=3_000_000), a_kernel(2, phase=Phase.BUSY)))
    return metrics
