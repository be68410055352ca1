"""What executions over HTTP cost, with the load from wrk in its own process."""

import json
import resource
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

import msgspec

from bench import gateway, proc
from bench.fleet import Fleet, running_fleet
from bench.peers import OURS, System
from bench.rawclient import BenchError
from bench.report import Figure, Reading, median, percentiles
from bench.run import Contender, Run, Sheet

_CONNECTIONS, _KERNELS = 32, 4
_MARGIN_S = 30.0
_SCRIPT = """
wrk.method = "POST"
wrk.body = '{"code":"1+1"}'
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer %s"
function done(summary, latency, requests)
  local bad = summary.errors
  io.write(string.format(
    '\\nFOUND {"requests":%%d,"wall_s":%%f,"errors":%%d,"p50_us":%%f,"p99_us":%%f}\\n',
    summary.requests, summary.duration / 1e6, bad.connect + bad.read + bad.write + bad.status + bad.timeout,
    latency:percentile(50), latency:percentile(99)))
end
"""


def why_missing() -> str | None:
    """Why executions over HTTP cannot be measured here; None when they can."""
    return None if shutil.which("wrk") else "executions over HTTP: wrk is not on PATH (Debian: apt install wrk)"


class _Load(msgspec.Struct):
    """What wrk found, and what it took of a core."""

    requests: int
    wall_s: float
    errors: int
    p50_us: float
    p99_us: float
    load_cpu_s: float = 0.0
    controller_cpu_s: float = 0.0
    kernels_cpu_s: float = 0.0

    @property
    def per_s(self) -> float:
        """Requests answered in a second."""
        return self.requests / self.wall_s


def fleet_execute(run: Run) -> Figure:
    """`POST …/execute` of `1+1`: one connection and one kernel, then 32 connections over 4 kernels."""
    many = f"{_CONNECTIONS} connections, {_KERNELS} kernels: "
    sheet = Sheet("fleet-execute", "`1+1` over HTTP: `POST …/execute`, load by wrk")
    sheet.row("one connection p50", "ms", "lower", 0.5)
    sheet.row("one connection p99", "ms", "lower")
    sheet.row(many + "per second", "1/s", "higher", 6000.0)
    sheet.row(many + "p50", "ms", "lower")
    sheet.row(many + "p99", "ms", "lower")
    sheet.row("controller CPU per execute", "µs", "lower")
    sheet.row("CPU of the kernels per execute", "µs", "lower")
    sheet.row("CPU of the load generator", "% of a core", None)

    def ours(_system: System) -> None:
        seconds = run.amount(5, 1)
        with running_fleet(run.directory) as fleet:
            fleet.create_tenant("one", 1)
            fleet.create_tenant("four", _KERNELS)
            for tenant in ("one", "four"):
                _wrk(run.directory, fleet, tenant, connections=8, seconds=1)
            alone = [_wrk(run.directory, fleet, "one", connections=1, seconds=seconds) for _ in rounds]
            crowd = [_wrk(run.directory, fleet, "four", connections=_CONNECTIONS, seconds=seconds) for _ in rounds]
        sheet.put(OURS, _latencies(alone, "one connection "))
        sheet.put(OURS, {many + "per second": median([each.per_s for each in crowd]), **_latencies(crowd, many)})
        used = {
            "controller CPU per execute": median([each.controller_cpu_s / each.requests for each in crowd], 1e6),
            "CPU of the kernels per execute": median([each.kernels_cpu_s / each.requests for each in crowd], 1e6),
            "CPU of the load generator": median([each.load_cpu_s / each.wall_s for each in crowd], 100),
        }
        sheet.put(OURS, used)
        share = 100 * sum(each.load_cpu_s for each in alone) / sum(each.wall_s for each in alone)
        sheet.notes.append(
            f"at one connection wrk took {share:.0f} % of a core; the figures above are at {_CONNECTIONS}"
        )

    def theirs(_peer: Contender) -> None:
        with gateway.running_gateway(run.directory) as server:
            sheet.put(gateway.GATEWAY, percentiles(server.executes(run.amount(200, 10)), prefix="one connection "))
        sheet.notes.append("kernel_gateway: execute_request to reply and idle over one WebSocket")

    rounds = range(run.amount(3, 1))
    run.attempt(sheet, OURS, ours)
    run.attempt(sheet, gateway.GATEWAY, theirs)
    return sheet.figure()


def _latencies(loads: Sequence[_Load], prefix: str) -> dict[str, Reading]:
    return {
        f"{prefix}p50": median([each.p50_us for each in loads], 1e-3),
        f"{prefix}p99": median([each.p99_us for each in loads], 1e-3),
    }


def _wrk(directory: Path, fleet: Fleet, tenant: str, *, connections: int, seconds: int) -> _Load:
    fleet.execute(tenant, "1+1")
    script = directory / "execute.lua"
    script.touch(mode=0o600)
    script.write_text(_SCRIPT % fleet.token)
    url = f"{fleet.url}/v1/tenants/{tenant}/execute"
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", str(script), url]
    kernels = [kernel["pid"] for kernel in fleet.kernels(tenant)]

    def used() -> tuple[float, float, float]:
        children = resource.getrusage(resource.RUSAGE_CHILDREN)
        own = proc.cpu_s(fleet.pid, alone=True)
        return children.ru_utime + children.ru_stime, own, sum(proc.cpu_s(pid) for pid in kernels)

    before = used()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + _MARGIN_S, check=True)
    except (subprocess.SubprocessError, OSError) as error:
        raise BenchError(f"wrk did not run: {error}") from error
    load, controller, kernels_cpu = (after - past for after, past in zip(used(), before, strict=True))
    found = next((line for line in done.stdout.splitlines() if line.startswith("FOUND ")), None)
    if found is None:
        raise BenchError(f"expected wrk to say what it found, it said {done.stdout[-200:]!r} {done.stderr[-200:]!r}")
    measured = {**json.loads(found.removeprefix("FOUND ")), "load_cpu_s": load}
    result = msgspec.convert({**measured, "controller_cpu_s": controller, "kernels_cpu_s": kernels_cpu}, _Load)
    if result.errors or not result.requests:
        raise BenchError(f"expected every request to be answered 200: {result.requests} were, {result.errors} failed")
    return result
