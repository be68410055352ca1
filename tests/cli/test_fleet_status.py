"""`llmspell fleet status` and `list`."""

from pathlib import Path

import msgspec
import pytest

from llmspell_cli.commands.fleet_status import _cells
from llmspell_fleet.model.kernel import Cause, Death
from llmspell_fleet.model.views import CheckView, HealthView, KernelView, Usage
from support.commands import Commands, end
from support.scripted_http import HEALTH, KERNEL_VIEW, Reply, scripted_server
from support.served_fleet import ServedFleet

KERNEL = msgspec.convert(KERNEL_VIEW, KernelView)


@pytest.mark.integration
def test_people_read_how_the_fleet_is(llmspell: Commands, served: ServedFleet) -> None:
    done = llmspell("fleet", "status")

    assert done.code == 0
    assert done.out.splitlines() == [
        "fleet        fleet",
        "status       healthy",
        f"address      {served.unix}",
        "controller   process 1, up 1s",
        "zygote       process 2, up 1s",
        "kernels      2 READY",
        "tenants      0",
        "version      0",
    ]


@pytest.mark.integration
def test_programs_read_the_health_document(llmspell: Commands) -> None:
    health = msgspec.convert(llmspell("fleet", "status", "--output", "json").json, HealthView)

    assert (health.status, health.checks["zygote"]) == ("healthy", CheckView(status="healthy"))


@pytest.mark.integration
@pytest.mark.parametrize(("status", "code"), [("degraded", 0), ("unhealthy", 1)])
def test_what_is_wrong_is_said(directories: Path, capsys: pytest.CaptureFixture[str], status: str, code: int) -> None:
    (directories / "token").write_text("secret")
    checks = {"discovery": {"status": status, "detail": "nobody answers"}, "store": {"status": "healthy"}}
    with scripted_server(str(directories / "s")) as server:
        server.answers(Reply({**HEALTH, "status": status, "checks": checks}, 503 if code else 200))

        done = end(capsys, "fleet", "status", "--url", server.url, "--token-file", str(directories / "token"))

    assert done.code == code
    assert f"status       {status}\n" in done.out
    assert done.out.endswith(f"check        discovery is {status}: nobody answers\n")
    assert "store" not in done.out


@pytest.mark.integration
@pytest.mark.parametrize("command", [["fleet", "status"], ["fleet", "list"], ["fleet", "events"], ["tenant", "list"]])
def test_where_no_fleet_runs_it_is_3(directories: Path, capsys: pytest.CaptureFixture[str], command: list[str]) -> None:
    done = end(capsys, *command)

    assert done.code == 3
    assert f"no fleet is running in {directories / 'runtime'}: start one with `llmspell fleet up`" in done.err


@pytest.mark.integration
def test_kernels_are_listed_for_people_and_programs(llmspell: Commands, served: ServedFleet) -> None:
    header, *rows = llmspell("fleet", "list").out.splitlines()

    assert header.split()[:6] == ["id", "name", "tenant", "phase", "pid", "restarts"]
    assert rows[0].split() == [served.fleet.kernel_of("acme")[:12], "-", "acme", "READY", "1234", "0", "-", "1s", "-"]
    listed = llmspell("fleet", "list", "--output", "json").json
    assert {kernel["id"] for kernel in listed} == {served.fleet.kernel_of(name) for name in ("acme", "globex")}


@pytest.mark.integration
def test_one_tenant_s_kernels_are_listed(llmspell: Commands) -> None:
    assert {kernel["tenant"] for kernel in llmspell("fleet", "list", "--tenant", "globex", "-o", "json").json} == {
        "globex"
    }
    assert llmspell("fleet", "list", "--tenant", "nobody").out.startswith("there are no kernels;")


@pytest.mark.parametrize(
    ("cause", "further", "shown"),
    [
        ("signal", {"signal": "SIGKILL"}, "SIGKILL"),
        ("exited", {"exit_code": 3}, "exited 3"),
        ("culled", {}, "culled"),
        ("unknown", {}, "unknown"),
    ],
)
def test_the_last_death_is_shown_by_its_cause(cause: Cause, further: dict[str, object], shown: str) -> None:
    death = msgspec.convert(
        {"kernel_id": KERNEL.id, "tenant": "acme", "incarnation": 1, "pid": 8, "at": "", "cause": cause, **further},
        Death,
    )

    assert _cells(msgspec.structs.replace(KERNEL, last_death=death))[-1] == shown


def test_what_is_not_known_of_a_kernel_is_left_out() -> None:
    waiting = msgspec.structs.replace(KERNEL, pid=None, uptime_s=None, usage=Usage())

    assert _cells(waiting) == (KERNEL.id[:12], "", "acme", "READY", "", "0", "", "", "")
