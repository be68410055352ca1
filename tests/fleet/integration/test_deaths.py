"""Kernels that die with work in them: answered, repaired, and nothing run twice."""

import hashlib
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from support.fleets import FleetHome, new_fleet
from support.tenants import SPIN, Tenant, at_once, new_tenant, wait_for, wait_running

pytestmark = pytest.mark.integration

Make = Callable[..., Tenant]

CLIENTS = 32
LOAD_S = 3.0

_ONCE = "seen = seen or {{}} seen['{0}'] = (seen['{0}'] or 0) + 1 return '{0}:' .. seen['{0}']"
_ALL = "local all = {} for token, n in pairs(seen or {}) do all[#all + 1] = token .. ':' .. n end return table.concat(all, ' ')"


def test_a_request_whose_kernel_dies_is_answered_with_the_death_certificate(make_tenant: Make) -> None:
    tenant = make_tenant(replicas=2)
    code = f"ran = true {SPIN}"
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(tenant.execute, code)
        victim = wait_for(lambda: [k for k in tenant.kernels() if k["usage"]["running"]], "a busy kernel")[0]
        wait_running(victim["pid"])
        os.kill(victim["pid"], signal.SIGKILL)
        answer = waiting.result()

    assert (answer.status, answer.headers["Content-Type"]) == (502, "application/problem+json")
    problem = answer.json
    assert problem.keys() == {"type", "title", "status", "detail", "death"}
    death = problem["death"]
    assert {name: death[name] for name in ("kernel_id", "tenant", "incarnation", "pid", "cause", "signal")} == {
        "kernel_id": victim["id"],
        "tenant": tenant.id,
        "incarnation": 1,
        "pid": victim["pid"],
        "cause": "signal",
        "signal": "SIGKILL",
    }
    assert death.keys() >= {"at", "exit_code", "detail", "uptime_s", "executions", "stderr"}
    (running,) = death["executions"]
    assert running["sha256"] == hashlib.sha256(code.encode()).hexdigest()
    assert running["running_s"] > 0
    # Never again, neither elsewhere nor in its next incarnation.
    back = tenant.wait_restarted(victim["id"])
    assert back["last_death"] == death
    assert back["phase"] == "READY"
    assert _everywhere(tenant, "return tostring(ran)") == ["nil", "nil"]


def _everywhere(tenant: Tenant, code: str) -> list[str]:
    """What each kernel of a tenant answers."""
    homes: dict[str, str] = {}
    wanted = len(tenant.kernels())
    for _ in range(wanted * 4):
        view = tenant.run("return 1")
        homes[view["kernel_id"]] = view["session"]
        if len(homes) == wanted:
            break
    assert len(homes) == wanted
    return [str(tenant.value(code, session=session)) for session in homes.values()]


def test_a_script_that_had_to_be_ended_with_its_process_is_named_by_its_hash(make_tenant: Make) -> None:
    tenant = make_tenant(limits={"execution_timeout_s": 1})
    code = "return string.find(('a'):rep(40), ('a*'):rep(40) .. 'b')"

    assert tenant.run(code)["status"] == "timeout"

    kernel = tenant.wait_restarted(tenant.created["kernels"][0]["id"])
    assert kernel["last_death"]["cause"] == "execution_limit"
    (running,) = kernel["last_death"]["executions"]
    assert running["sha256"] == hashlib.sha256(code.encode()).hexdigest()


def test_what_had_not_begun_runs_elsewhere(make_tenant: Make) -> None:
    tenant = make_tenant(replicas=2, strategy="round_robin")
    spinning = [tenant.begin(SPIN) for _ in range(2)]
    kernels = tenant.kernels()
    for kernel in kernels:
        wait_running(kernel["pid"])
    waiting = [tenant.begin(_ONCE.format(f"w{n}")) for n in range(8)]
    assert {kernel["usage"]["running"] for kernel in tenant.kernels()} == {5}

    os.kill(kernels[0]["pid"], signal.SIGKILL)
    tenant.wait_restarted(kernels[0]["id"])
    tenant.fleet.ask("POST", f"/v1/kernels/{kernels[1]['id']}/interrupt")

    outcomes = [tenant.outcome(location) for location in waiting]
    assert [outcome["http_status"] for outcome in outcomes] == [200] * 8
    assert [outcome["outcome"]["result"] for outcome in outcomes] == [f"w{n}:1" for n in range(8)]
    ends = sorted(tenant.outcome(location)["http_status"] for location in spinning)
    assert ends == [200, 502]
    assert _duplicates(_everywhere(tenant, _ALL)) == []


def test_a_stream_that_had_not_begun_runs_elsewhere(tenant: Tenant) -> None:
    with tenant.spinning() as spinning, ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(tenant.execute, "print('ran') return 1", stream=True)
        wait_for(lambda: tenant.kernels()[0]["usage"]["running"] == 2, "both are in the kernel")
        os.kill(spinning.pid, signal.SIGKILL)

        assert b'"result":"1"' in waiting.result().body


def test_a_session_waits_for_its_kernel_s_next_incarnation(make_tenant: Make) -> None:
    tenant = make_tenant(replicas=2)
    home = tenant.run("mark = 1", session="mine")["kernel_id"]
    with tenant.spinning(session="mine") as spinning:
        assert spinning.kernel == home
        queued = tenant.begin("return tostring(mark)", session="mine")
        os.kill(spinning.pid, signal.SIGKILL)

        outcome = tenant.outcome(queued)["outcome"]
    assert (outcome["kernel_id"], outcome["result"], outcome["session_reset"]) == (home, "nil", True)


def test_all_kernels_killed_at_one_moment_come_back(make_tenant: Make) -> None:
    tenant = make_tenant(replicas=10)
    before = {kernel["id"]: kernel["pid"] for kernel in tenant.kernels()}

    for pid in before.values():
        os.kill(pid, signal.SIGKILL)
    answers = at_once(10, lambda _: tenant.execute("return 1"))

    assert {answer.status for answer in answers} == {200}
    for kernel in before:
        assert tenant.wait_restarted(kernel)["restarts"] == 1


def _duplicates(tables: list[str]) -> list[str]:
    """Tokens that ran more than once in kernels that live."""
    counts = Counter[str]()
    for table in tables:
        for entry in table.split():
            token, _, number = entry.rpartition(":")
            counts[token] += int(number)
    return [token for token, number in counts.items() if number > 1]


def test_kernels_killed_at_random_under_load_lose_nothing_and_double_nothing(make_tenant: Make) -> None:
    tenant = make_tenant(replicas=6)
    tenant.wait_ready(6)
    end_at = time.monotonic() + LOAD_S
    over = threading.Event()
    kills = 0

    def client(number: int) -> list[tuple[str, int, dict[str, Any]]]:
        answers = []
        for count in range(10**6):
            if time.monotonic() >= end_at:
                break
            token = f"c{number}r{count}"
            answer = tenant.execute(_ONCE.format(token))
            answers.append((token, answer.status, answer.json))
        return answers

    def kill_some() -> int:
        chosen = random.Random(3)
        done = 0
        while not over.wait(0.05):
            pids = [kernel["pid"] for kernel in tenant.kernels() if kernel["phase"] in ("READY", "BUSY")]
            if pids:
                try:
                    os.kill(chosen.choice(pids), signal.SIGKILL)
                    done += 1
                except ProcessLookupError:
                    continue
        return done

    with ThreadPoolExecutor(1) as killer:
        killing = killer.submit(kill_some)
        try:
            answers = [answer for each in at_once(CLIENTS, client) for answer in each]
        finally:
            over.set()
        kills = killing.result()

    assert kills >= 10
    statuses = Counter(status for _, status, _ in answers)
    assert statuses.keys() <= {200, 502}, statuses
    assert statuses[200] > statuses[502]
    for token, status, body in answers:
        if status == 200:
            assert (body["status"], body["result"]) == ("ok", f"{token}:1")
        else:
            assert body["death"]["signal"] == "SIGKILL"
    tenant.wait_ready(6)
    tables = _everywhere(tenant, _ALL)
    assert _duplicates(tables) == []
    died = {token for token, status, _ in answers if status == 502}
    left = {entry.rpartition(":")[0] for table in tables for entry in table.split()}
    assert not died & left, "run in a kernel that lives, and answered as dead with another"


# --- a crash loop -------------------------------------------------------------------------------------------------

_IMPATIENT = """
[fleet]
startup_kernels = 0
[fleet.restart]
max_restarts = 3
window = "60s"
first_delay = "200ms"
longest_delay = "10s"
"""


def _events(fleet: FleetHome, kernel: str) -> list[dict[str, Any]]:
    found = fleet.ask("GET", "/v1/events").json["items"]
    return [event for event in found if event.get("kernel_id") == kernel]


def _killed(tenant: Tenant, kernel: str, restarts: int) -> dict[str, Any]:
    """The kernel after its present incarnation was killed."""
    os.kill(tenant.wait_restarted(kernel, restarts)["pid"], signal.SIGKILL)
    wait_for(lambda: (tenant.kernel(kernel)["last_death"] or {}).get("incarnation") == restarts + 1, "it died")
    return tenant.kernel(kernel)


def test_a_kernel_that_dies_again_and_again_waits_longer_each_time_then_stays_down_until_a_person_restarts_it() -> None:
    with new_fleet(config=_IMPATIENT) as fleet:
        tenant = new_tenant(fleet)
        kernel = tenant.created["kernels"][0]["id"]

        assert _killed(tenant, kernel, 0)["phase"] != "FAILED"
        assert _killed(tenant, kernel, 1)["phase"] == "BACKOFF"
        assert "1 BACKOFF" in fleet.ask("GET", "/health").json["checks"]["kernels"]["detail"]
        _killed(tenant, kernel, 2)
        failed = _killed(tenant, kernel, 3)

        assert (failed["phase"], failed["pid"], failed["restarts"]) == ("FAILED", None, 3)
        assert failed["last_death"]["cause"] == "signal"
        events = _events(fleet, kernel)
        types = Counter(event["type"] for event in events)
        assert types == {
            "kernel.starting": 4,
            "kernel.ready": 4,
            "kernel.died": 4,
            "kernel.backoff": 2,
            "kernel.failed": 1,
        }
        delays = [event["data"]["delay_s"] for event in events if event["type"] == "kernel.backoff"]
        assert 0.16 <= delays[0] <= 0.2
        assert 0.32 <= delays[1] <= 0.4
        assert "4 times within 60 s" in events[-1]["data"]["reason"]
        health = fleet.ask("GET", "/health").json
        assert (health["status"], health["checks"]["kernels"]["detail"]) == ("degraded", "1 FAILED")

        refused = tenant.execute("return 1", timeout_s=0.2)
        assert refused.status == 503
        assert int(refused.headers["Retry-After"]) >= 1
        assert "FAILED" in refused.json["detail"]

        restarted = fleet.ask("POST", f"/v1/kernels/{kernel}/restart")
        assert (restarted.status, restarted.json["phase"]) == (200, "READY")
        assert tenant.value("return 1") == "1"
        assert fleet.ask("GET", "/health").json["status"] == "healthy"
        # The earlier crashes are forgotten: one more is repaired at once.
        _killed(tenant, kernel, 4)
        assert tenant.wait_restarted(kernel, 5)["phase"] == "READY"
        assert Counter(event["type"] for event in _events(fleet, kernel))["kernel.backoff"] == 2
