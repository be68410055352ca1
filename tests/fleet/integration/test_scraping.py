"""The real Prometheus scrapes a fleet with the viewer's token, and knows afterwards what the fleet knows."""

import json
import os
import shutil
import socket
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from support.fleets import FleetHome, new_fleet
from support.homes import DEADLINE_S, wait_until
from support.tenants import Tenant, new_tenant

pytestmark = pytest.mark.integration


def _tool(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        reason = f"{name} is not installed; on Debian: apt install prometheus"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
    return found


@pytest.fixture(scope="module")
def busy() -> Iterator[tuple[FleetHome, Tenant]]:
    """A fleet in which something has happened; scraped by one worker, made by each."""
    with new_fleet(config='[fleet]\nstartup_kernels = 1\n[monitoring]\ninterval = "1s"\n') as fleet:
        fleet.wait_ready()
        tenant = new_tenant(fleet, "acme", replicas=2)
        for code in ("return 1", "return 2", "error('no')"):
            tenant.run(code)
        fleet.ask("POST", f"/v1/kernels/{tenant.kernels()[0]['id']}/restart")
        fleet.ask("GET", "/nowhere")
        yield fleet, tenant


def test_promtool_finds_nothing_wrong_with_the_metrics(busy: tuple[FleetHome, Tenant]) -> None:
    fleet, _tenant = busy
    promtool = _tool("promtool")
    viewer = (fleet.home.state / "viewer.token").read_text().strip()
    metrics = fleet.ask("GET", "/metrics", token=viewer)
    assert metrics.headers["Content-Type"].startswith("text/plain")

    checked = subprocess.run(
        [promtool, "check", "metrics"], input=metrics.body, capture_output=True, timeout=DEADLINE_S, check=False
    )

    assert (checked.returncode, checked.stdout, checked.stderr) == (0, b"", b"")


class _Prometheus:
    def __init__(self, port: int) -> None:
        self._url = f"http://127.0.0.1:{port}"

    def _ask(self, path: str) -> Any:
        with urllib.request.urlopen(self._url + path, timeout=DEADLINE_S) as answer:
            return json.loads(answer.read())["data"]

    def is_up(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self._url}/-/ready", timeout=DEADLINE_S):
                return True
        except OSError:
            return False

    def targets(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._ask("/api/v1/targets")["activeTargets"]
        return found

    def query(self, expression: str) -> dict[str, float]:
        """The value of each series, by its labels but for the job's."""
        found = self._ask("/api/v1/query?" + urllib.parse.urlencode({"query": expression}))["result"]
        return {_labels(series["metric"]): float(series["value"][1]) for series in found}


def _labels(metric: dict[str, str]) -> str:
    return ",".join(f"{k}={v}" for k, v in sorted(metric.items()) if k not in ("__name__", "instance", "job"))


@pytest.fixture
def prometheus(busy: tuple[FleetHome, Tenant], tmp_path: Path) -> Iterator[_Prometheus]:
    fleet, _tenant = busy
    program = _tool("prometheus")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    config = tmp_path / "prometheus.yml"
    config.write_text(
        f"""
global: {{scrape_interval: 500ms, scrape_timeout: 500ms}}
scrape_configs:
  - job_name: llmspell
    authorization: {{credentials_file: {fleet.home.state / "viewer.token"}}}
    static_configs: [{{targets: ["{urlsplit(fleet.url).netloc}"]}}]
"""
    )
    command = [
        program,
        f"--config.file={config}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--log.level=error",
    ]
    with (tmp_path / "log").open("w+") as log, subprocess.Popen(command, stdout=log, stderr=log) as process:
        try:
            made = _Prometheus(port)
            wait_until(made.is_up, "Prometheus answers")
            yield made
        finally:
            process.terminate()
            process.wait(DEADLINE_S)


def test_prometheus_knows_what_the_fleet_knows(busy: tuple[FleetHome, Tenant], prometheus: _Prometheus) -> None:
    fleet, tenant = busy
    wait_until(lambda: [t["health"] for t in prometheus.targets()] == ["up"], "the fleet is scraped")
    assert prometheus.targets()[0]["lastError"] == ""

    def kernels() -> dict[str, float]:
        return prometheus.query('llmspell_kernels{phase="READY"}')

    expected = {"phase=READY,tenant=acme": 2.0, "phase=READY,tenant=default": 1.0}
    wait_until(lambda: kernels() == expected, "both tenants' kernels are known")
    assert prometheus.query("llmspell_kernels_total") == {"": 3.0}
    assert prometheus.query("llmspell_kernels_active") == {"": 3.0}
    assert prometheus.query("llmspell_kernels_dead") == {"": 0.0}
    assert prometheus.query("llmspell_tenants") == {"": 2.0}
    assert prometheus.query('llmspell_executions_total{tenant="acme"} > 0') == {
        "status=error,tenant=acme": 1.0,
        "status=ok,tenant=acme": 2.0,
    }
    assert prometheus.query('llmspell_execution_duration_seconds_count{tenant="acme"}') == {"tenant=acme": 3.0}
    assert prometheus.query('llmspell_kernel_restarts_total{tenant="acme"} > 0') == {
        "reason=restarted,tenant=acme": 1.0
    }
    memory = prometheus.query("llmspell_kernel_memory_bytes")
    assert len(memory) == 3
    assert all(4 * 1024**2 < value < 200 * 1024**2 for value in memory.values())
    assert prometheus.query('llmspell_http_requests_total{route="/nowhere"}') == {}
    assert prometheus.query("llmspell_zygote_up") == {"": 1.0}
    version = fleet.ask("GET", "/health").json["version"]
    assert prometheus.query("llmspell_build_info") == {f"version={version}": 1.0}

    tenant.change(replicas=3)

    wait_until(lambda: kernels().get("phase=READY,tenant=acme") == 3.0, "the third kernel is known")
