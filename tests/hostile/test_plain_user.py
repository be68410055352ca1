"""A fleet that is an ordinary user's, with tenants at `strict`, from `fleet up` to its end, as clients see it."""

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.fleets import FleetHome
from support.poorer import NOBODY, plain_home, served
from support.proc import status_of
from support.tenants import is_gone, need_root, new_tenant

pytestmark = pytest.mark.integration

CONFIG = "[fleet]\nstartup_kernels = 0\n"
ONLY_BY_NAMESPACES = {"learn whether a path exists, and whose it is", "ask whether a process of a given number exists"}


@pytest.fixture(scope="module", params=[True, False], ids=["namespaces", "no namespaces"])
def fleet(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[FleetHome]:
    need_root("becoming an ordinary user")
    with contextlib.ExitStack() as held:
        home = held.enter_context(plain_home(with_namespaces=request.param))
        with contextlib.chdir(tmp_path_factory.mktemp("root's own")):  # as after su, in a folder that one may not enter
            made = held.enter_context(served(home, config=CONFIG))
        yield made
        log = (made.home.logs / "fleet.log").read_text()
        assert "Traceback" not in log, log[-8000:]


@pytest.fixture
def has_namespaces(request: pytest.FixtureRequest) -> bool:
    return "no namespaces" not in request.node.name


def test_a_strict_tenant_is_served_and_held(fleet: FleetHome, has_namespaces: bool) -> None:
    assert status_of(fleet.pid)["Uid"].split() == [str(NOBODY)] * 4
    tenant = new_tenant(fleet, isolation_level="strict", replicas=2)

    assert tenant.created["isolation_level"] == "strict"
    assert tenant.value("return 6 * 7") == "42"
    assert tenant.run("error('no')")["status"] == "error"
    for kernel in tenant.kernels():
        status = status_of(kernel["pid"])
        assert (status["Seccomp"], status["NoNewPrivs"]) == ("2", "1")
        assert {int(status[name], 16) for name in ("CapPrm", "CapEff", "CapInh", "CapAmb")} == {0}
        own_root = list(Path(f"/proc/{kernel['pid']}/root").iterdir())
        assert (own_root == []) == has_namespaces

    pids = [kernel["pid"] for kernel in tenant.kernels()]
    assert fleet.ask("DELETE", tenant.path).status == 204
    assert all(is_gone(pid) for pid in pids)


def test_health_says_what_it_holds_and_what_stays_open(fleet: FleetHome, has_namespaces: bool) -> None:
    tenant = new_tenant(fleet, isolation_level="strict")
    health = fleet.ask("GET", "/health").json
    strength = health["isolation"]["strict"]

    assert health["status"] == "healthy", health
    assert {"landlock", "seccomp", "undumpable"} <= set(strength["layers"])
    assert {"own_root", "user_namespace"} <= set(strength["layers"]) or not has_namespaces
    assert "user" not in strength["layers"]
    assert set(strength["open"]) == (set() if has_namespaces else ONLY_BY_NAMESPACES)
    fleet.ask("DELETE", tenant.path)


def test_its_limits_are_held_without_cgroups_or_the_start_is_refused(fleet: FleetHome, has_namespaces: bool) -> None:
    limits = {"processes": 2, "files": 32, "storage_bytes": 1024 * 1024, "memory_bytes": 16 * 1024 * 1024}
    tenant = new_tenant(fleet, isolation_level="strict", replicas=3, limits=limits)

    shown = {name: limit["enforced_by"] for name, limit in tenant.kernels()[0]["limits"].items() if name in limits}
    assert shown == {
        "processes": "rlimit",
        "files": "rlimit",
        "storage_bytes": "tmpfs" if has_namespaces else "landlock",
        "memory_bytes": "lua+rlimit",
    }
    assert [tenant.value("return 1") for _ in range(3)] == ["1"] * 3
    refused = fleet.ask("PATCH", tenant.path, {"limits": {"cpu_percent": 10}})
    assert refused.status == 409
    assert "cpu_percent" in refused.json["detail"]
    fleet.ask("DELETE", tenant.path)


@pytest.mark.slow  # some forty starts of processes
def test_the_doctor_sees_it_hold(fleet: FleetHome, has_namespaces: bool) -> None:
    done = fleet.home.llmspell("fleet", "doctor", "--level", "strict", "--output", "json")
    report = json.loads(done.stdout)

    wrong = [finding for finding in report["findings"] if finding["is_promised"] and finding["result"] != "held"]
    assert (done.returncode, report["is_sound"], wrong) == (0, True, [])
    assert report["user"] == NOBODY
    skipped = [finding["name"] for finding in report["findings"] if finding["result"] == "skipped"]
    assert skipped == ["cpu_percent", "total_cpu_percent"], "what nobody can hold is refused"
    (storage,) = (finding for finding in report["findings"] if finding["name"] == "storage_bytes")
    assert storage["enforced_by"] == ("tmpfs" if has_namespaces else "landlock")
