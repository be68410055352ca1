"""`/v1/kernels` and `/v1/events` of a fleet that really runs."""

import http.client
import os
import signal
import socket
import threading
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from support.fleets import FleetHome
from support.groups import available
from support.homes import DEADLINE_S
from support.tenants import Tenant, is_gone, sse, wait_for

pytestmark = pytest.mark.integration

Make = Callable[..., Tenant]

_MEMBERS = {
    *("id", "name", "tenant", "phase", "pid", "incarnation", "started_at"),
    *("uptime_s", "restarts", "usage", "limits", "last_death", "labels", "isolation_level"),
}


def test_a_kernel_can_be_added_shown_and_ended(tenant: Tenant) -> None:
    fleet = tenant.fleet
    made = fleet.ask("POST", "/v1/kernels", {"tenant": tenant.id, "name": "worker"})

    assert made.status == 201, made.body
    kernel = made.json
    assert kernel.keys() == _MEMBERS
    assert str(uuid.UUID(kernel["id"])) == kernel["id"]
    assert (kernel["name"], kernel["tenant"], kernel["phase"]) == ("worker", tenant.id, "READY")
    assert (kernel["incarnation"], kernel["restarts"], kernel["last_death"]) == (1, 0, None)
    assert made.headers["Location"] == f"/v1/kernels/{kernel['id']}"
    assert fleet.ask("GET", made.headers["Location"]).json["pid"] == kernel["pid"]
    assert kernel["id"] in [one["id"] for one in fleet.ask("GET", "/v1/kernels").json["items"]]
    assert tenant.show()["replicas"] == 2
    assert fleet.ask("POST", "/v1/kernels", {"tenant": tenant.id, "name": "worker"}).status == 409
    assert fleet.ask("POST", "/v1/kernels", {"tenant": "nobody"}).status == 404

    assert fleet.ask("DELETE", made.headers["Location"]).status == 204

    assert is_gone(kernel["pid"])
    assert fleet.ask("GET", made.headers["Location"]).status == 404
    assert fleet.ask("DELETE", made.headers["Location"]).status == 404
    assert (tenant.show()["replicas"], len(tenant.kernels())) == (1, 1)
    assert not [path for path in fleet.home.runtime.rglob("*") if kernel["id"].replace("-", "")[:12] in str(path)]
    assert not (fleet.home.runtime / f"kernel-{kernel['id']}.json").exists()


def test_each_limit_names_who_enforces_it(make_tenant: Make) -> None:
    (kernel,) = make_tenant(limits={"memory_bytes": 64 * 1024**2, "cpu_percent": 50}).kernels()

    assert all(limit.keys() == {"value", "enforced_by"} for limit in kernel["limits"].values())
    assert kernel["limits"]["memory_bytes"]["value"] == 64 * 1024**2
    assert "lua" in kernel["limits"]["memory_bytes"]["enforced_by"]
    by = "cgroup" if "cpu" in available() else None
    assert kernel["limits"]["cpu_percent"] == {"value": 50, "enforced_by": by}


def test_a_limit_that_nobody_enforces_is_told(make_tenant: Make) -> None:
    tenant = make_tenant(limits={"cpu_percent": 50}, isolation_level="none")

    checks = tenant.fleet.ask("GET", "/health").json["checks"]
    events = tenant.fleet.ask("GET", "/v1/events", token=tenant.token).json["items"]

    assert checks["limits"]["status"] == "degraded"
    assert "cpu_percent" in checks["limits"]["detail"]
    assert {"limit": "cpu_percent", "value": 50} in [
        event["data"] for event in events if event["type"] == "limit.unenforced"
    ]


def test_interrupt_ends_the_script_and_not_the_kernel(tenant: Tenant) -> None:
    with tenant.spinning() as spinning:
        interrupted = tenant.fleet.ask("POST", f"/v1/kernels/{spinning.kernel}/interrupt", token=tenant.token)
        assert interrupted.status == 204
        assert spinning.outcome()["outcome"]["status"] == "interrupted"
    (kernel,) = tenant.kernels()
    assert (kernel["pid"], kernel["restarts"]) == (spinning.pid, 0)
    assert tenant.value("return 1") == "1"


def test_interrupting_an_idle_kernel_stops_nothing_later(tenant: Tenant) -> None:
    (kernel,) = tenant.kernels()
    for _ in range(3):
        assert tenant.fleet.ask("POST", f"/v1/kernels/{kernel['id']}/interrupt").status == 204

    assert tenant.value("local n = 0 for i = 1, 1e6 do n = n + 1 end return n") == "1000000"


def test_restart_gives_a_new_process_with_nothing_of_the_old(tenant: Tenant) -> None:
    tenant.run("mark = 1", session="mine")
    (before,) = tenant.kernels()

    answer = tenant.fleet.ask("POST", f"/v1/kernels/{before['id']}/restart", token=tenant.token)

    assert answer.status == 200
    after = answer.json
    assert (after["id"], after["phase"], after["incarnation"], after["restarts"]) == (before["id"], "READY", 2, 1)
    assert after["pid"] != before["pid"]
    assert is_gone(before["pid"])
    assert (after["last_death"]["cause"], after["last_death"]["pid"]) == ("restarted", before["pid"])
    view = tenant.run("return tostring(mark)", session="mine")
    assert (view["result"], view["session_reset"]) == ("nil", True)


def test_restart_of_a_busy_kernel_answers_whom_it_interrupts(tenant: Tenant) -> None:
    with tenant.spinning() as spinning:
        assert tenant.fleet.ask("POST", f"/v1/kernels/{spinning.kernel}/restart").json["phase"] == "READY"
        outcome = spinning.outcome()

    assert (outcome["http_status"], outcome["outcome"].get("status")) in [(200, "interrupted"), (502, 502)]


# --- logs ---------------------------------------------------------------------------------------------------------


def _lines(tenant: Tenant, kernel: str, query: str = "") -> list[str]:
    answer = tenant.fleet.ask("GET", f"/v1/kernels/{kernel}/logs{query}", token=tenant.token)
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/plain; charset=utf-8")
    return answer.body.decode().splitlines()


def _make_it_write(tenant: Tenant, number: int = 1) -> str:
    """Have a kernel log its statistics."""
    kernel = tenant.kernels()[0]
    for _ in range(number):
        lines = len(_lines(tenant, kernel["id"]))
        os.kill(tenant.kernel(kernel["id"])["pid"], signal.SIGUSR1)
        wait_for(lambda before=lines: len(_lines(tenant, kernel["id"])) > before, "it has logged")
    return str(kernel["id"])


def test_what_a_kernel_writes_is_numbered_and_can_be_searched(tenant: Tenant) -> None:
    kernel = _make_it_write(tenant, 3)

    lines = _lines(tenant, kernel)
    numbers = [int(line.split()[0]) for line in lines]
    assert numbers == list(range(1, len(lines) + 1))
    assert sum("statistics" in line for line in lines) == 3
    assert _lines(tenant, kernel, f"?since={numbers[-2]}") == lines[-1:]
    assert _lines(tenant, kernel, "?grep=statistics") == [line for line in lines if "statistics" in line]
    assert _lines(tenant, kernel, "?grep=.*") == []
    events = tenant.fleet.ask("GET", f"/v1/kernels/{kernel}/logs", headers={"Accept": "text/event-stream"})
    assert [number for _, number, _ in sse(events.body)] == numbers


def test_numbers_go_on_in_the_next_incarnation(tenant: Tenant) -> None:
    kernel = _make_it_write(tenant)
    before = len(_lines(tenant, kernel))
    tenant.fleet.ask("POST", f"/v1/kernels/{kernel}/restart")
    _make_it_write(tenant)

    numbers = [int(line.split()[0]) for line in _lines(tenant, kernel)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert len(numbers) > before


def test_the_last_words_of_a_kernel_are_in_its_death_certificate(tenant: Tenant) -> None:
    kernel = _make_it_write(tenant)
    os.kill(tenant.kernel(kernel)["pid"], signal.SIGKILL)

    death = tenant.wait_restarted(kernel)["last_death"]

    assert "statistics" in "\n".join(death["stderr"])


class _Following:
    """A stream of Server-Sent Events, read by a thread."""

    def __init__(self, fleet: FleetHome, path: str, headers: dict[str, str]) -> None:
        every = {"Authorization": f"Bearer {fleet.token}", "Accept": "text/event-stream", **headers}
        request = urllib.request.Request(fleet.url + path, headers=every)
        self._answer = urllib.request.urlopen(request, timeout=DEADLINE_S)
        self.body = b""
        self._thread = threading.Thread(target=self._read)
        self._thread.start()

    def _read(self) -> None:
        try:
            while data := self._answer.read1(65536):
                self.body += data
        except (OSError, http.client.HTTPException):
            return  # closed below

    def events(self) -> list[tuple[str, int | None, Any]]:
        return sse(self.body.rpartition(b"\n\n")[0])

    def close(self) -> None:
        self._answer.fp.raw._sock.shutdown(socket.SHUT_RDWR)  # what ends a thread that reads
        self._thread.join()
        self._answer.close()


@pytest.fixture
def follow(fleet: FleetHome) -> Iterator[Callable[..., _Following]]:
    opened: list[_Following] = []

    def start(path: str, **headers: str) -> _Following:
        opened.append(_Following(fleet, path, headers))
        return opened[-1]

    yield start
    for one in opened:
        one.close()


def test_logs_can_be_followed(tenant: Tenant, follow: Callable[..., _Following]) -> None:
    kernel = _make_it_write(tenant)
    following = follow(f"/v1/kernels/{kernel}/logs?follow=true&grep=statistics")
    wait_for(lambda: len(following.events()) == 1, "the line that was there is told")

    _make_it_write(tenant)

    wait_for(lambda: len(following.events()) == 2, "the new line is told")
    names, numbers, data = zip(*following.events(), strict=True)
    assert set(names) == {"log"}
    assert list(numbers) == [line["seq"] for line in data]
    assert all("statistics" in line["text"] for line in data)


# --- events -------------------------------------------------------------------------------------------------------


def _events(fleet: FleetHome, query: str = "", token: str | None = None) -> list[dict[str, Any]]:
    events: list[dict[str, Any]] = fleet.ask("GET", f"/v1/events{query}", token=token).json["items"]
    return events


def test_events_have_numbers_that_grow_by_one(tenant: Tenant) -> None:
    events = _events(tenant.fleet)
    numbers = [event["seq"] for event in events]

    assert numbers == list(range(numbers[0], numbers[0] + len(numbers)))
    assert [event["seq"] for event in _events(tenant.fleet, f"?since={numbers[-3]}")][:2] == numbers[-2:]
    assert all(event.keys() >= {"seq", "at", "type"} for event in events)


def test_a_tenant_sees_its_own_events(make_tenant: Make) -> None:
    one, _other = make_tenant(), make_tenant()

    events = _events(one.fleet, token=one.token)

    assert {event["tenant"] for event in events} == {one.id}
    assert [event["type"] for event in events] == ["tenant.created", "kernel.starting", "kernel.ready"]


def test_events_can_be_followed_and_taken_up_again(tenant: Tenant, follow: Callable[..., _Following]) -> None:
    fleet, kernel = tenant.fleet, tenant.kernels()[0]
    last = _events(fleet)[-1]["seq"]
    following = follow(f"/v1/events?since={last}")

    os.kill(kernel["pid"], signal.SIGKILL)

    def told() -> list[tuple[str, int | None, Any]]:
        return [event for event in following.events() if event[2].get("kernel_id") == kernel["id"]]

    wait_for(lambda: len(told()) >= 3, "the death and the repair are told")
    assert [name for name, _, _ in told()] == ["kernel.died", "kernel.starting", "kernel.ready"]
    assert [number for _, number, _ in told()] == [event["seq"] for _, _, event in told()]
    assert told()[0][2]["data"]["signal"] == "SIGKILL"
    died = told()[0][1]
    again = follow("/v1/events", **{"Last-Event-ID": str(died)})
    wait_for(lambda: len(again.events()) >= 2, "what came after it is told again")
    assert again.events()[0][1] == (died or 0) + 1


def test_a_port_that_is_taken_is_a_conflict_and_nothing_is_left(tenant: Tenant) -> None:
    fleet = tenant.fleet
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        refused = fleet.ask("POST", "/v1/kernels", {"tenant": tenant.id, "name": "worker", "port": port})

    assert refused.status == 409
    assert f"the kernel cannot have port {port}" in refused.json["detail"]
    assert "in use" in refused.json["detail"]
    assert (tenant.show()["replicas"], len(tenant.kernels())) == (1, 1)
    again = fleet.ask("POST", "/v1/kernels", {"tenant": tenant.id, "name": "worker", "port": port})
    assert again.status == 201, again.body
