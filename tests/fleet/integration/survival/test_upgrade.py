"""A controller that replaces its own code: nobody is refused, what runs runs on, and what cannot start changes nothing."""

import http.client
import json
import os
import signal
import socket
import threading
import urllib.parse
from dataclasses import replace
from pathlib import Path

import pytest

from support.fleets import FleetHome
from support.homes import Home, wait_until
from support.installation import Installation
from support.tenants import Tenant, is_gone, new_tenant, wait_for, wait_running

pytestmark = pytest.mark.integration


@pytest.fixture
def startup_kernels() -> int:
    return 1


def _spin(seconds: float, then: str) -> str:
    return f"n = (n or 0) + 1 local at = os.clock() while os.clock() - at < {seconds} do end {then}"


class _Client(threading.Thread):
    """Asks without a pause, on one connection that it keeps, or on a new one each time."""

    def __init__(self, fleet: FleetHome, tenant: Tenant, *, keeps: bool, session: str | None = None) -> None:
        super().__init__()
        self._fleet, self._tenant, self._keeps = fleet, tenant, keeps
        self._session = session
        self.ended = threading.Event()
        self.answers: list[tuple[int, str | None]] = []
        self.faults: list[Exception] = []

    def run(self) -> None:
        where = urllib.parse.urlsplit(self._fleet.url)
        connection = None
        body = json.dumps({"code": "n = (n or 0) + 1 return n", "session": self._session})
        headers = {"Authorization": f"Bearer {self._fleet.token}", "Content-Type": "application/json"}
        try:
            while not self.ended.is_set():
                if connection is None or not self._keeps:
                    if connection is not None:
                        connection.close()
                    connection = http.client.HTTPConnection(where.hostname or "", where.port, timeout=120)
                connection.request("POST", f"{self._tenant.path}/execute", body, headers)
                answer = connection.getresponse()
                view = json.loads(answer.read())
                self.answers.append((answer.status, view.get("result")))
                assert "session_reset" not in view, view
        except (OSError, http.client.HTTPException, AssertionError) as fault:
            self.faults.append(fault)
        finally:
            if connection is not None:
                connection.close()


def test_under_load_nobody_is_refused_and_every_kernel_runs_on(fleet: FleetHome) -> None:
    tenant = new_tenant(fleet, "acme", replicas=4)
    before = {kernel["id"]: (kernel["pid"], kernel["incarnation"]) for kernel in tenant.kernels()}
    health = fleet.ask("GET", "/health").json
    location = tenant.begin(_spin(3, "return 'ran on'"))
    clients = [_Client(fleet, tenant, keeps=number % 2 == 0) for number in range(6)]
    for client in clients:
        client.start()
    wait_until(lambda: all(client.answers or client.faults for client in clients), "everybody was answered")
    assert [client.faults for client in clients] == [[]] * len(clients)
    idle = socket.create_connection((urllib.parse.urlsplit(fleet.url).hostname, urllib.parse.urlsplit(fleet.url).port))

    done = [fleet.ask("POST", "/v1/upgrade", {"wait_s": 60}, timeout_s=120) for _ in range(2)]

    counts = [len(client.answers) for client in clients]
    wait_until(
        lambda: all(len(one.answers) > count or one.faults for one, count in zip(clients, counts, strict=True)),
        "everybody is answered afterwards",
        deadline_s=60,
    )
    for client in clients:
        client.ended.set()
        client.join()
    assert [client.faults for client in clients] == [[]] * len(clients)
    assert {status for client in clients for status, _ in client.answers} == {200}
    assert [one.status for one in done] == [200, 200], done
    assert done[0].json == {
        "from_version": health["version"],
        "to_version": health["version"],
        "adopted": 5,
        "kernels": 5,
        "pid": fleet.pid,
    }
    assert {kernel["id"]: (kernel["pid"], kernel["incarnation"]) for kernel in tenant.kernels()} == before
    ran_on = tenant.outcome(location)
    assert (ran_on["status"], ran_on["outcome"]["result"]) == ("done", "ran on")
    with idle:
        idle.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        idle.settimeout(20)
        assert idle.recv(1000).startswith(b"HTTP/1.1 200")
    zygote = wait_for(lambda: fleet.ask("GET", "/health").json["zygote"]["pid"], "a zygote")
    assert zygote != health["zygote"]["pid"]
    assert is_gone(health["zygote"]["pid"])
    types = [event["type"] for event in fleet.ask("GET", "/v1/events").json["items"]]
    assert types.count("fleet.upgrading") == types.count("fleet.upgraded") == 2
    assert new_tenant(fleet, "later").value("return 1") == "1"
    victim = tenant.kernels()[0]
    os.kill(victim["pid"], signal.SIGKILL)
    death = tenant.wait_restarted(victim["id"])["last_death"]
    assert (death["pid"], death["signal"]) == (victim["pid"], "SIGKILL")


def test_another_version_takes_over_and_leaves_again(tmp_path: Path, home: Home) -> None:
    installation = Installation(tmp_path)
    fleet = FleetHome(replace(home, python=installation.python))
    fleet.up(config="[fleet]\nstartup_kernels = 2\n")
    first = fleet.ask("GET", "/health").json["version"]
    before = {kernel["id"]: (kernel["pid"], kernel["incarnation"]) for kernel in fleet.wait_ready()}
    assert fleet.execute("x = 41 return x", session="mine").json["result"] == "41"

    for present, other in ((first, "99.9.9"), ("99.9.9", first)):
        installation.become(other)
        done = fleet.ask("POST", "/v1/upgrade", timeout_s=120)

        assert done.status == 200, done.body
        assert (done.json["from_version"], done.json["to_version"]) == (present, other)
        assert fleet.ask("GET", "/health").json["version"] == other
        assert {kernel["id"]: (kernel["pid"], kernel["incarnation"]) for kernel in fleet.kernels()} == before
        assert fleet.execute("return x", session="mine").json["result"] == "41"
        assert new_tenant(fleet, f"at-{other.replace('.', '-')}").value("return 1") == "1"


def test_what_cannot_start_is_refused_with_the_reason_and_changes_nothing(fleet: FleetHome) -> None:
    file = fleet.home.path / "fleet.toml"
    good = file.read_text()
    file.write_text(good + "no_such_key = 1\n")

    refused = fleet.ask("POST", "/v1/upgrade")

    assert refused.status == 409, refused.body
    assert "no_such_key" in refused.json["detail"]
    assert "the present one goes on" in refused.json["detail"]
    assert fleet.execute("return 1").json["result"] == "1"
    file.write_text(good)
    assert fleet.home.llmspell("fleet", "upgrade").returncode == 0
    assert fleet.execute("return 1").json["result"] == "1"


def test_an_answer_that_would_be_lost_holds_it_up_unless_it_is_forced(fleet: FleetHome) -> None:
    tenant = new_tenant(fleet, "acme")
    answers: list[object] = []

    def ask() -> None:
        try:
            answers.append(tenant.execute(_spin(60, "return n")).status)
        except OSError as fault:
            answers.append(fault)

    client = threading.Thread(target=ask)
    client.start()
    kernel = next(iter(wait_for(lambda: [k for k in tenant.kernels() if k["usage"]["running"]], "a busy kernel")))
    wait_running(kernel["pid"])

    refused = fleet.ask("POST", "/v1/upgrade", {"wait_s": 0.2})
    assert refused.status == 409, refused.body
    assert "1 requests still run" in refused.json["detail"]
    assert fleet.execute("return 1").json["result"] == "1", "everybody is served again"

    forced = fleet.ask("POST", "/v1/upgrade", {"wait_s": 0.2, "force": True}, timeout_s=120)
    assert forced.status == 200, forced.body
    client.join()
    assert isinstance(answers[0], OSError)
    wait_until(lambda: tenant.kernels()[0]["phase"] == "BUSY", "it runs on all the same")
    fleet.ask("POST", f"/v1/kernels/{kernel['id']}/interrupt")
    wait_until(lambda: tenant.kernels()[0]["phase"] == "READY", "it is free")
    assert tenant.kernels()[0]["pid"] == kernel["pid"]


def test_a_signal_that_comes_meanwhile_waits_and_is_obeyed(fleet: FleetHome) -> None:
    asked = threading.Thread(target=lambda: fleet.ask("POST", "/v1/upgrade", timeout_s=120))
    asked.start()
    ended = threading.Event()

    def reload() -> None:
        while not ended.is_set():
            os.kill(fleet.pid, signal.SIGHUP)
            ended.wait(0.02)

    signals = threading.Thread(target=reload)
    signals.start()
    asked.join()
    ended.set()
    signals.join()
    assert fleet.execute("return 1").json["result"] == "1"
    assert not is_gone(fleet.pid)


def test_only_the_admin_may(fleet: FleetHome) -> None:
    tenant = new_tenant(fleet, "acme")
    assert fleet.ask("POST", "/v1/upgrade", token=tenant.token).status == 403
