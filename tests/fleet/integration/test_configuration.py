"""What a fleet does with its configuration, at its start and at each SIGHUP, and with the other signals."""

import json
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmspell_fleet.policy.isolation import missing
from llmspell_fleet.spawner.surveying import survey
from support.fleets import FleetHome, new_fleet
from support.homes import Home, new_home, wait_until
from support.tenants import SPIN, Tenant, is_gone, wait_for, wait_running

pytestmark = pytest.mark.integration

_SAMPLE = Path(__file__).parents[2] / "data" / "spec" / "fleet-config.toml"


def _log(fleet: FleetHome) -> str:
    return (fleet.home.logs / "fleet.log").read_text()


def _logged(fleet: FleetHome, text: str, after: int = 0) -> str:
    """The log after so many characters, once `text` is in it."""
    wait_until(lambda: text in _log(fleet)[after:], f"the log says {text!r}")
    return _log(fleet)[after:]


def _default(fleet: FleetHome) -> Tenant:
    return Tenant(fleet, "default", fleet.token, {})


# --- the sample of phase 10 ---------------------------------------------------------------------------------------


def _free_ports(worker: str) -> tuple[int, int]:
    """The sample's own for the first worker, if nobody has them; else two that are one apart all the same."""
    number = int(worker.removeprefix("gw")) if worker.startswith("gw") else 0
    own = [] if number else [9551]
    for first in (*own, *range(42000 + 100 * number, 42100 + 100 * number, 2)):
        try:
            for port in (first, first + 1):
                socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            continue
        return first, first + 1
    pytest.fail("no two ports one apart are free")


@pytest.fixture(scope="module")
def sample(worker_id: str) -> Iterator[tuple[FleetHome, tuple[int, int]]]:
    """The sample, unchanged but for ports that somebody else has, started with the three directory options."""
    text = _SAMPLE.read_text()
    ports = _free_ports(worker_id)
    text = text.replace("9551", str(ports[0])).replace("9552", str(ports[1]))
    with new_home() as home:
        fleet = FleetHome(home)
        directories = (("runtime", home.runtime), ("state", home.state), ("log", home.logs))
        options = [word for name, path in directories for word in (f"--{name}-dir", str(path))]
        fleet.up(*options, "--allow-weaker-isolation", config=text)
        yield fleet, ports


def test_the_sample_starts_its_kernels_by_name_and_one_more(sample: tuple[FleetHome, tuple[int, int]]) -> None:
    fleet, _ports = sample
    kernels = fleet.wait_ready()

    assert sorted(kernel["name"] for kernel in kernels) == ["", "kernel-01", "kernel-02"]
    named = {kernel["name"]: kernel for kernel in kernels}
    assert named["kernel-01"]["limits"]["max_clients"]["value"] == 20
    assert fleet.execute("return 1").json["result"] == "1"
    assert fleet.ask("GET", "/health").json["name"] == "production-fleet"
    assert fleet.ask("GET", "/health").json["counts"]["capacity"] == 10


def test_the_sample_s_kernels_have_the_ports_that_it_names(sample: tuple[FleetHome, tuple[int, int]]) -> None:
    fleet, ports = sample
    found: dict[str, list[int]] = {}
    for kernel in fleet.wait_ready():
        connection = json.loads((fleet.home.runtime / f"kernel-{kernel['id']}.json").read_text())
        if kernel["name"]:
            assert (connection["transport"], connection["ip"]) == ("tcp", "127.0.0.1")
            names = ("shell_port", "iopub_port", "stdin_port", "control_port", "hb_port")
            found[kernel["name"]] = [connection[name] for name in names]
        else:
            assert connection["transport"] == "ipc"

    assert (found["kernel-01"][0], found["kernel-02"][0]) == ports
    assert len({port for all_five in found.values() for port in all_five}) == 10
    for all_five in found.values():
        for port in all_five:
            socket.create_connection(("127.0.0.1", port), 5).close()


def test_the_sample_s_files_are_in_the_directories_of_the_command_line(
    sample: tuple[FleetHome, tuple[int, int]],
) -> None:
    fleet, _ports = sample
    for kernel in fleet.wait_ready():
        if kernel["name"]:
            pid = (fleet.home.runtime / f"{kernel['name']}.pid").read_text().split()[0]
            assert int(pid) == kernel["pid"]
            os.kill(kernel["pid"], signal.SIGUSR1)
            log = fleet.home.logs / f"{kernel['name']}.log"
            wait_until(lambda log=log: log.exists() and "statistics" in log.read_text(), f"{log} is written")
    assert not Path("/var/run/llmspell/kernel-01.pid").exists()
    log_text = _log(fleet)
    assert log_text.count("/var/log/llmspell/kernel-01.log") == 1, "told once"
    assert log_text.count("/var/run/llmspell/kernel-01.pid") == 1


def test_what_the_sample_asks_for_in_vain_degrades_health_and_stops_nothing(
    sample: tuple[FleetHome, tuple[int, int]],
) -> None:
    fleet, _ports = sample
    health = fleet.ask("GET", "/health")

    assert (health.status, health.json["status"]) == (200, "degraded")
    checks = health.json["checks"]
    degraded = {name for name, check in checks.items() if check["status"] != "healthy"}
    assert degraded == {"alerts", "service_discovery"} | ({"isolation"} if missing(survey()) else set())
    assert "slack" in checks["alerts"]["detail"]
    assert "consul" in checks["service_discovery"]["detail"]


def test_a_named_kernel_comes_back_with_its_name_port_and_pid_file(
    sample: tuple[FleetHome, tuple[int, int]],
) -> None:
    fleet, ports = sample
    victim = next(kernel for kernel in fleet.wait_ready() if kernel["name"] == "kernel-02")

    os.kill(victim["pid"], signal.SIGKILL)
    back = _default(fleet).wait_restarted(victim["id"])

    assert (back["name"], back["phase"]) == ("kernel-02", "READY")
    connection = json.loads((fleet.home.runtime / f"kernel-{victim['id']}.json").read_text())
    assert connection["shell_port"] == ports[1]
    assert int((fleet.home.runtime / "kernel-02.pid").read_text().split()[0]) == back["pid"]


# --- SIGHUP -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def reloading() -> Iterator[FleetHome]:
    with new_fleet(config="[fleet]\nstartup_kernels = 1\n") as fleet:
        fleet.wait_ready()
        yield fleet


def _reload(fleet: FleetHome, text: str) -> str:
    """What the log says of a reload."""
    (fleet.home.path / "fleet.toml").write_text(text)
    before = len(_log(fleet))
    os.kill(fleet.pid, signal.SIGHUP)
    wait_until(lambda: "SIGHUP" in _log(fleet)[before:], "the reload is logged")
    return _log(fleet)[before:]


def test_a_reload_changes_what_needs_no_restart(reloading: FleetHome) -> None:
    pid, kernels = reloading.pid, {kernel["pid"] for kernel in reloading.kernels()}

    _reload(reloading, '[fleet]\nstartup_kernels = 3\n[load_balancing]\nstrategy = "round_robin"\n')

    wait_for(lambda: len(reloading.kernels()) == 3, "two more kernels")
    three = reloading.wait_ready()
    assert kernels <= {kernel["pid"] for kernel in three}, "those that ran were left alone"
    assert reloading.ask("GET", "/v1/tenants/default").json["strategy"] == "round_robin"
    homes = [reloading.execute("return 1").json["kernel_id"] for _ in range(6)]
    assert homes == homes[:3] * 2
    _reload(reloading, "[fleet]\nstartup_kernels = 1\n")
    wait_for(lambda: len(reloading.kernels()) == 1, "two fewer kernels")
    assert reloading.ask("GET", "/health").json["controller"]["pid"] == pid
    assert "fleet.reloaded" in [event["type"] for event in reloading.ask("GET", "/v1/events").json["items"]]


@pytest.mark.parametrize(
    ("case", "text", "said"),
    [
        ("no TOML", "[fleet\n", "fleet.toml"),
        ("an unknown key", "[fleet]\nstartup_kernel = 5\n", "startup_kernels"),
        ("a wrong type", "[fleet]\nstartup_kernels = 'many'\n", "startup_kernels"),
        ("refused", "[fleet]\nstartup_kernels = 5\n[security]\ntls_enabled = true\n", "TLS"),
        ("an unset variable", '[fleet]\nname = "${LLMSPELL_NOT_SET}"\n', "LLMSPELL_NOT_SET"),
    ],
)
def test_a_broken_file_changes_nothing_and_is_logged(reloading: FleetHome, case: str, text: str, said: str) -> None:
    before = {kernel["id"]: kernel["pid"] for kernel in reloading.wait_ready()}

    told = _reload(reloading, text)

    assert said in told, case
    assert "what held before holds on" in told
    assert "Traceback" not in told
    assert {kernel["id"]: kernel["pid"] for kernel in reloading.kernels()} == before
    assert reloading.execute("return 1").status == 200
    _reload(reloading, "[fleet]\nstartup_kernels = 1\n")


def test_a_file_that_is_gone_changes_nothing_and_is_logged(reloading: FleetHome) -> None:
    (reloading.home.path / "fleet.toml").unlink()
    before = len(_log(reloading))
    os.kill(reloading.pid, signal.SIGHUP)

    told = _logged(reloading, "SIGHUP", before)

    assert "what held before holds on" in told
    assert reloading.execute("return 1").status == 200
    _reload(reloading, "[fleet]\nstartup_kernels = 1\n")


def test_what_needs_a_restart_is_told(reloading: FleetHome) -> None:
    told = _reload(reloading, '[fleet]\nstartup_kernels = 1\nspawner = "subprocess"\n')

    assert "[fleet] spawner has changed, and holds after a restart" in told
    _reload(reloading, "[fleet]\nstartup_kernels = 1\n")


def test_the_log_level_is_changed_by_a_reload(reloading: FleetHome) -> None:
    _reload_unheard(reloading, '[fleet]\nstartup_kernels = 1\n[logging]\nlevel = "error"\n')
    before = len(_log(reloading))
    os.kill(reloading.pid, signal.SIGUSR1)
    assert reloading.execute("return 1").status == 200

    _reload_unheard(reloading, "[fleet]\nstartup_kernels = 1\n")

    assert "statistics" not in _log(reloading)[before:]
    os.kill(reloading.pid, signal.SIGUSR1)
    _logged(reloading, "statistics", before)


def _reload_unheard(fleet: FleetHome, text: str) -> None:
    """A reload that may say nothing in the log, since it makes that quiet."""

    def reloads() -> int:
        return [event["type"] for event in fleet.ask("GET", "/v1/events").json["items"]].count("fleet.reloaded")

    before = reloads()
    (fleet.home.path / "fleet.toml").write_text(text)
    os.kill(fleet.pid, signal.SIGHUP)
    wait_until(lambda: reloads() > before, "it was read again")


def test_the_log_that_was_moved_away_is_opened_anew(reloading: FleetHome) -> None:
    log = reloading.home.logs / "fleet.log"
    log.rename(log.with_suffix(".old"))

    os.kill(reloading.pid, signal.SIGHUP)

    wait_until(lambda: log.exists() and "SIGHUP" in log.read_text(), "the new log is written")


# --- other signals ------------------------------------------------------------------------------------------------


def test_sigusr1_logs_statistics(reloading: FleetHome) -> None:
    before = len(_log(reloading))
    os.kill(reloading.pid, signal.SIGUSR1)

    told = _logged(reloading, "statistics: ", before)

    (line,) = (line for line in told.splitlines() if "statistics: " in line)
    statistics = json.loads(line.partition("statistics: ")[2])
    assert statistics["status"] == "healthy"
    assert statistics["counts"]["tenants"] == 1


def test_sigusr2_turns_debugging_on_and_off(reloading: FleetHome) -> None:
    before = len(_log(reloading))
    os.kill(reloading.pid, signal.SIGUSR2)
    _logged(reloading, "the log level is now debug", before)
    os.kill(reloading.pid, signal.SIGUSR2)
    _logged(reloading, "the log level is now info", before)


def test_a_first_sigterm_waits_for_what_runs_and_a_second_does_not() -> None:
    with new_fleet(config='[fleet]\nstartup_kernels = 1\ndrain_deadline = "60s"\n') as fleet:
        (kernel,) = fleet.wait_ready()
        _default(fleet).begin(SPIN)
        wait_running(kernel["pid"])

        os.kill(fleet.pid, signal.SIGTERM)
        wait_until(lambda: fleet.ask("GET", "/readyz").status == 503, "it takes no more work")
        begun_at = time.monotonic()
        wait_until(lambda: time.monotonic() - begun_at > 0.5, "it had the time to end")
        assert not is_gone(kernel["pid"])
        assert not is_gone(fleet.pid)

        os.kill(fleet.pid, signal.SIGTERM)
        wait_until(lambda: is_gone(fleet.pid) and is_gone(kernel["pid"]), "both are gone", deadline_s=5)
        assert list(fleet.home.runtime.rglob("*")) == []


def test_what_runs_at_the_first_sigterm_is_let_finish(home: Home) -> None:
    fleet = FleetHome(home)
    fleet.up(config="[fleet]\nstartup_kernels = 1\n")
    (kernel,) = fleet.wait_ready()
    location = _default(fleet).begin("local n = 0 for i = 1, 2e8 do n = n + 1 end return n")
    wait_running(kernel["pid"])

    fleet.down()

    assert is_gone(kernel["pid"])
    fleet.up()
    outcome = _default(fleet).outcome(location)
    assert (outcome["status"], outcome["outcome"].get("status")) == ("done", "ok"), outcome
