"""The real Prometheus takes our sample configuration, and scrapes what we render."""

import http.client
import http.server
import json
import re
import socket
import subprocess
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmspell_fleet.observe.metrics import Metrics
from support.homes import wait_until
from support.repository import ROOT

pytestmark = pytest.mark.integration

SAMPLE = ROOT / "configs" / "prometheus.yml"
TOKEN = "a-viewer-s-token"


def _configuration(folder: Path, port: int) -> Path:
    """The sample, with this test's token and port in it."""
    token = folder / "viewer.token"
    token.write_text(TOKEN)
    text = SAMPLE.read_text().replace("/var/lib/llmspell/viewer.token", str(token))
    text = re.sub(r"127\.0\.0\.1:9550", f"127.0.0.1:{port}", text).replace("15s", "200ms")
    path = folder / "prometheus.yml"
    path.write_text(text)
    return path


def test_promtool_accepts_the_sample(promtool: str, tmp_path: Path) -> None:
    configuration = _configuration(tmp_path, 9550)

    done = subprocess.run(
        [promtool, "check", "config", configuration], capture_output=True, text=True, timeout=30, check=False
    )

    assert done.returncode == 0, done.stderr + done.stdout


def test_the_sample_as_it_is_shipped_is_well_formed(promtool: str) -> None:
    done = subprocess.run(
        [promtool, "check", "config", "--syntax-only", SAMPLE], capture_output=True, text=True, timeout=30, check=False
    )

    assert done.returncode == 0, done.stderr + done.stdout


@pytest.fixture
def scraped(full_metrics: Metrics) -> Iterator[tuple[int, list[tuple[str, int]]]]:
    """The metrics served on a port, and what was asked for: (Accept, status)."""
    asked: list[tuple[str, int]] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            accept = self.headers.get("Accept", "")
            allowed = self.path == "/metrics" and self.headers.get("Authorization") == f"Bearer {TOKEN}"
            body, content_type = full_metrics.render(accept) if allowed else (b"", "text/plain")
            self.send_response(200 if allowed else 401)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)
            asked.append((accept, 200 if allowed else 401))

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            yield server.server_port, asked
        finally:
            server.shutdown()
            thread.join()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _query(port: int, expression: str) -> list[tuple[dict[str, str], float]]:
    url = f"http://127.0.0.1:{port}/api/v1/query?query={urllib.parse.quote(expression)}"
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            found = json.load(answer)["data"]["result"]
    except (OSError, http.client.HTTPException):
        return []
    return [(one["metric"], float(one["value"][1])) for one in found]


def test_prometheus_scrapes_what_we_render(
    prometheus: str, scraped: tuple[int, list[tuple[str, int]]], tmp_path: Path
) -> None:
    port, asked = scraped
    own_port = _free_port()
    command = [
        prometheus,
        f"--config.file={_configuration(tmp_path, port)}",
        f"--storage.tsdb.path={tmp_path / 'data'}",
        f"--web.listen-address=127.0.0.1:{own_port}",
        "--log.level=error",
    ]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: _query(own_port, "up == 1"), "Prometheus scraped us", deadline_s=60)

            (executions,) = _query(own_port, 'llmspell_executions_total{tenant="acme", status="ok"}')
            (kernels,) = _query(own_port, "llmspell_kernels_total")
            quantile = _query(own_port, "histogram_quantile(0.5, llmspell_execution_duration_seconds_bucket)")
        finally:
            process.terminate()

    assert executions[1] == 1
    assert kernels[1] == 2
    assert quantile
    assert {status for _, status in asked} == {200}
    assert any("openmetrics" in accept for accept, _ in asked)
