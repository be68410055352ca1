"""Configurations applied to a running fleet: only what changed is touched, and what was changed at runtime is kept."""

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from support.fleets import Answer, FleetHome, new_fleet
from support.homes import wait_until
from support.tenants import Tenant, is_gone, wait_for

pytestmark = pytest.mark.integration

_BASE = """
[fleet]
startup_kernels = 3
[[fleet.kernels]]
name = "one"
[[fleet.tenants]]
id = "acme"
replicas = 2
labels = { env = "test" }
"""


@pytest.fixture
def fleet() -> Iterator[FleetHome]:
    with new_fleet(config=_BASE) as made:
        made.wait_ready()
        made.wait_ready("acme")
        yield made
        log = (made.home.logs / "fleet.log").read_text()
        assert "Traceback" not in log, log[-8000:]


def _apply(fleet: FleetHome, text: str, **members: object) -> dict[str, Any]:
    answer = _ask(fleet, text, **members)
    assert answer.status == 200, answer.body
    view: dict[str, Any] = answer.json
    return view


def _ask(fleet: FleetHome, text: str, **members: object) -> Answer:
    return fleet.ask("POST", "/v1/apply", {"config": text, **members})


def _lines(changes: list[dict[str, Any]]) -> list[str]:
    return sorted(f"{one['target']} {one['key']} {one['how']}" for one in changes)


def _pids(fleet: FleetHome, tenant: str = "default") -> dict[str, int]:
    return {kernel["id"]: kernel["pid"] for kernel in fleet.kernels(tenant)}


def _reload(fleet: FleetHome, text: str | None = None, *, until: str = "was read again") -> str:
    """What the log says of a SIGHUP."""
    log = fleet.home.logs / "fleet.log"
    if text is not None:
        (fleet.home.path / "fleet.toml").write_text(text)
    before = len(log.read_text())
    os.kill(fleet.pid, signal.SIGHUP)
    wait_until(lambda: until in log.read_text()[before:], "the reload is logged")
    return log.read_text()[before:]


def test_declared_tenants_are_there_from_the_start_and_get_their_token_when_asked(fleet: FleetHome) -> None:
    shown = fleet.ask("GET", "/v1/tenants/acme").json
    assert (shown["replicas"], shown["labels"]) == (2, {"env": "test"})

    first = fleet.ask("POST", "/v1/tenants/acme/token").json["token"]
    second = fleet.ask("POST", "/v1/tenants/acme/token").json["token"]

    assert fleet.ask("GET", "/v1/tenants/acme", token=first).status == 401, "another token ends the one before"
    answer = fleet.ask("POST", "/v1/tenants/acme/execute", {"code": "return 6*7"}, token=second)
    assert answer.json["result"] == "42"
    assert fleet.ask("POST", "/v1/tenants/acme/token", token=second).status == 403


def test_the_plan_is_what_happens_and_a_second_time_nothing_does(fleet: FleetHome) -> None:
    before = {**_pids(fleet), **_pids(fleet, "acme")}
    text = _BASE.replace("replicas = 2", "replicas = 3").replace('"test"', '"prod"') + "[limits]\nmax_executions = 7\n"

    planned = _apply(fleet, text, dry_run=True)
    assert {**_pids(fleet), **_pids(fleet, "acme")} == before, "a dry run is dry"
    assert fleet.ask("GET", "/v1/tenants/acme").json["labels"] == {"env": "test"}
    done = _apply(fleet, text)

    assert (planned["dry_run"], done["dry_run"]) == (True, False)
    assert done["changes"] == planned["changes"]
    assert _lines(done["changes"]) == [
        "fleet [limits] max_executions live",
        "kernel one limits.max_executions live",
        "tenant acme labels.env live",
        "tenant acme limits.max_executions live",
        "tenant acme replicas live",
        "tenant default limits.max_executions live",
    ]
    acme = Tenant(fleet, "acme", fleet.token, {})
    acme.wait_ready(3)
    assert before.items() <= {**_pids(fleet), **_pids(fleet, "acme")}.items(), "every kernel that ran goes on"
    assert acme.show()["labels"] == {"env": "prod"}
    assert acme.show()["limits"]["max_executions"] == 7
    again = _apply(fleet, text)
    assert (again["changes"], again["drift"]) == ([], [])


def test_what_was_changed_at_runtime_is_kept_and_shown_until_the_file_says_something_new(fleet: FleetHome) -> None:
    fleet.ask("PATCH", "/v1/tenants/acme", {"replicas": 4, "labels": {"team": "x"}})
    named = next(kernel for kernel in fleet.kernels() if kernel["name"] == "one")
    fleet.ask("DELETE", f"/v1/kernels/{named['id']}")
    fleet.ask("POST", "/v1/tenants", {"id": "of-the-api"})

    done = _apply(fleet, _BASE + '[load_balancing]\nstrategy = "sticky"\n')

    assert {(one["target"], one["key"]) for one in done["drift"]} == {
        ("tenant acme", "replicas"),
        ("tenant acme", "labels.team"),
        ("tenant default", "replicas"),
        ("kernel one", ""),
    }
    acme = fleet.ask("GET", "/v1/tenants/acme").json
    assert (acme["replicas"], acme["strategy"]) == (4, "sticky")
    assert acme["labels"] == {"env": "test", "team": "x"}
    newer = _apply(fleet, _BASE.replace("replicas = 2", "replicas = 1").replace('"one"', '"one"\nidle_timeout = "9h"'))
    assert "tenant acme replicas live" in _lines(newer["changes"])
    assert "kernel one  added" in _lines(newer["changes"])
    wait_for(lambda: len(fleet.kernels("acme")) == 1, "the file has the last word")
    wait_for(lambda: any(kernel["name"] == "one" for kernel in fleet.kernels()), "and the kernel is back")
    assert fleet.ask("GET", "/v1/tenants/of-the-api").status == 200


def test_a_tenant_that_is_declared_no_more_goes_when_that_is_asked_for(fleet: FleetHome) -> None:
    fleet.ask("POST", "/v1/tenants", {"id": "of-the-api"})
    without = _BASE[: _BASE.index("[[fleet.tenants]]")]

    kept = _apply(fleet, without)
    assert [(one["target"], "--prune" in one["detail"]) for one in kept["drift"]] == [("tenant acme", True)]
    assert _lines(_apply(fleet, without, prune=True, dry_run=True)["changes"]) == ["tenant acme  removed"]
    assert fleet.ask("GET", "/v1/tenants/acme").status == 200
    _apply(fleet, without, prune=True)

    wait_for(lambda: fleet.ask("GET", "/v1/tenants/acme").status == 404, "it is gone")
    assert fleet.ask("GET", "/v1/tenants/of-the-api").status == 200, "what the API made stays"


def test_kernels_are_declared_changed_and_declared_no_more_while_the_others_go_on(fleet: FleetHome) -> None:
    before = {kernel["name"] or kernel["id"]: kernel for kernel in fleet.kernels()}
    two = '[[fleet.kernels]]\nname = "two"\nport = 0\n'

    assert _lines(_apply(fleet, _BASE + two)["changes"]) == ["kernel two  added"]
    three = wait_for(lambda: _named(fleet, "one", "two"), "the new one has its place among three")
    assert three["one"]["pid"] == before["one"]["pid"]
    kernel_two = fleet.wait_ready() and _named(fleet, "one", "two")["two"]
    connection = fleet.home.runtime / f"kernel-{kernel_two['id']}.json"
    assert '"tcp"' in connection.read_text()

    assert _lines(_apply(fleet, _BASE + two.replace("port = 0\n", ""))["changes"]) == ["kernel two port rolling"]
    wait_for(lambda: _named(fleet, "two").get("two", {}).get("incarnation") == 2, "it has a new process")
    fleet.wait_ready()
    assert '"ipc"' in connection.read_text()
    assert _named(fleet, "two")["two"]["id"] == kernel_two["id"]

    assert _lines(_apply(fleet, _BASE)["changes"]) == ["kernel two  removed"]
    wait_for(lambda: not _named(fleet, "two"), "it has left")
    kernels = fleet.wait_ready()
    assert len(kernels) == 3
    assert {kernel["pid"] for kernel in kernels} >= {before["one"]["pid"]}


def _named(fleet: FleetHome, *names: str) -> dict[str, Any]:
    found = {kernel["name"]: kernel for kernel in fleet.kernels()}
    return {name: found[name] for name in names} if set(names) <= set(found) else {}


def test_what_a_process_is_told_at_its_start_is_changed_by_a_rolling_restart_of_those_kernels_alone(
    fleet: FleetHome,
) -> None:
    default, acme = _pids(fleet), _pids(fleet, "acme")

    done = _apply(fleet, _BASE.replace('id = "acme"', 'id = "acme"\nisolation_level = "none"'))

    assert _lines(done["changes"]) == ["tenant acme isolation_level rolling"]
    tenant = Tenant(fleet, "acme", fleet.token, {})
    wait_for(lambda: tenant.show()["roll"]["status"] == "done", "the roll has ended")
    after = _pids(fleet, "acme")
    assert set(after) == set(acme)
    assert not set(after.values()) & set(acme.values())
    assert _pids(fleet) == default


_CONTRADICTORY = """
[multi_tenant]
enabled = false
[[fleet.tenants]]
id = "A b"
labels = { "x y" = "" }
[[fleet.tenants]]
id = "default"
[[fleet.tenants]]
id = "t"
[[fleet.tenants]]
id = "t"
"""


@pytest.mark.parametrize(
    ("case", "text", "said"),
    [
        ("nothing", "", ["the configuration: expected the text", "[fleet]"]),
        ("no TOML", "[fleet", ["the configuration: not TOML"]),
        (
            "many things wrong",
            '[fleet]\nstartup_kernel = 5\n[[fleet.tenants]]\nid = "a"\nreplica = 1\n[limits]\nfiles = "x"\n',
            ["startup_kernels", "replicas", "[limits] files"],
        ),
        (
            "what contradicts itself",
            _CONTRADICTORY,
            ["'A b'", "'x y'", "tenant default", "'t' more than once", "enabled is false"],
        ),
        ("what is refused", "[security]\ntls_enabled = true\n", ["TLS"]),
    ],
)
def test_all_that_is_wrong_is_told_and_nothing_is_changed(
    fleet: FleetHome, case: str, text: str, said: list[str]
) -> None:
    before = {**_pids(fleet), **_pids(fleet, "acme")}

    answer = _ask(fleet, text)

    assert answer.status == 400, case
    for part in said:
        assert part in answer.json["detail"], case
    assert {**_pids(fleet), **_pids(fleet, "acme")} == before
    assert _apply(fleet, _BASE, dry_run=True)["changes"] == []


def test_without_room_nothing_is_changed(fleet: FleetHome) -> None:
    fleet.ask("POST", "/v1/tenants", {"id": "of-the-api", "replicas": 3})
    text = _BASE.replace("[fleet]", "[fleet]\nmax_kernels = 8").replace('"test"', '"prod"')

    answer = _ask(fleet, text.replace("replicas = 2", "replicas = 3"))

    assert (answer.status, answer.headers.get("Retry-After") is not None) == (429, True)
    assert fleet.ask("GET", "/v1/tenants/acme").json["labels"] == {"env": "test"}
    assert fleet.ask("POST", "/v1/tenants", {"id": "another"}).status == 201, "nor is the fleet smaller"


def test_the_fleet_is_not_made_smaller_than_it_is(fleet: FleetHome) -> None:
    fleet.ask("POST", "/v1/tenants", {"id": "of-the-api", "replicas": 3})
    text = _BASE.replace("[fleet]", "[fleet]\nmax_kernels = 7").replace('"test"', '"prod"')

    answer = _ask(fleet, text)
    assert (answer.status, "expected at least 8" in answer.json["detail"]) == (409, True)
    told = _reload(fleet, text, until="what held before holds on: [fleet] max_kernels: expected at least 8")

    assert "was read again" not in told
    assert fleet.ask("GET", "/v1/tenants/acme").json["labels"] == {"env": "test"}
    assert fleet.ask("POST", "/v1/tenants", {"id": "another"}).status == 201, "nor is the fleet smaller"


def test_what_needs_the_fleet_s_own_restart_is_named(fleet: FleetHome) -> None:
    text = _BASE.replace("[fleet]", '[fleet]\nspawner = "subprocess"')

    assert _lines(_apply(fleet, text)["changes"]) == ["fleet [fleet] spawner restart"]
    assert _lines(_apply(fleet, text)["changes"]) == ["fleet [fleet] spawner restart"], "until it is restarted"


def test_what_was_applied_holds_until_the_fleet_s_own_file_is_another(fleet: FleetHome) -> None:
    applied = _BASE.replace("replicas = 2", "replicas = 1")
    _apply(fleet, applied)
    wait_for(lambda: len(fleet.kernels("acme")) == 1, "it holds")

    assert "holds, since" in _reload(fleet), "a SIGHUP alone is no new word"
    assert fleet.ask("GET", "/v1/tenants/acme").json["replicas"] == 1
    os.kill(fleet.pid, signal.SIGKILL)
    wait_until(lambda: is_gone(fleet.pid), "the controller is gone")
    fleet.up("--config", str(fleet.home.path / "fleet.toml"))
    assert fleet.ask("GET", "/v1/tenants/acme").json["replicas"] == 1, "nor is the next controller"

    told = _reload(fleet, _BASE.replace("startup_kernels = 3", "startup_kernels = 2"))
    assert "holds again, and not what was applied" in told
    assert fleet.ask("GET", "/v1/tenants/acme").json["replicas"] == 2, "the newest word counts"
    assert "holds again" not in _reload(fleet)


def test_a_changed_file_is_carried_out_at_the_fleet_s_next_start_too(fleet: FleetHome) -> None:
    before = _pids(fleet)
    fleet.ask("PATCH", "/v1/tenants/acme", {"strategy": "sticky"})
    os.kill(fleet.pid, signal.SIGKILL)
    wait_until(lambda: is_gone(fleet.pid), "the controller is gone")

    fleet.up(config=_BASE.replace("replicas = 2", "replicas = 3"))

    assert before.items() <= _pids(fleet).items()
    acme = Tenant(fleet, "acme", fleet.token, {})
    acme.wait_ready(3)
    assert acme.show()["strategy"] == "sticky"


@pytest.mark.slow  # sixty kernels
def test_a_reload_of_sixty_kernels_keeps_sixty() -> None:
    with new_fleet(config="[fleet]\nstartup_kernels = 60\n") as fleet:
        wait_for(lambda: fleet.ask("GET", "/v1/tenants/default").json["ready"] == 60, "sixty are ready")
        before = _pids(fleet)

        text = '[fleet]\nstartup_kernels = 60\n[limits]\nmax_executions = 50\n[logging]\nlevel = "warn"\n'
        _apply(fleet, text)
        _apply(fleet, text.replace("50", "40"))

        fleet.execute("return 1")
        assert _pids(fleet) == before, "60 of 60"
