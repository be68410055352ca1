"""`llmspell tenant`, against the real HTTP face of a fleet in memory."""

import io
import os
import pty
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from llmspell_cli.commands.tenant import _note_unready
from llmspell_cli.main import root
from llmspell_fleet.model.ids import TenantId
from llmspell_fleet.model.tenant import Limits
from support.commands import Commands, end
from support.homes import DEADLINE_S
from support.served_fleet import ServedFleet

pytestmark = pytest.mark.integration

_COMMAND = (sys.executable, "-m", "llmspell_cli")


def test_a_new_tenant_s_token_is_printed_once(llmspell: Commands) -> None:
    made = llmspell("tenant", "create", "initech", "--replicas", "2")

    assert made.code == 0
    assert made.out.startswith("tenant initech has 2 of 2 kernels ready\n  token        token-of-initech\n")
    assert "token-of-initech" not in llmspell("tenant", "show", "initech").out


def test_a_program_gets_the_whole_tenant(llmspell: Commands) -> None:
    made = llmspell("tenant", "create", "initech", "--output", "json").json

    assert (made["id"], made["token"], made["replicas"]) == ("initech", "token-of-initech", 1)
    assert len(made["kernels"]) == 1


@pytest.mark.parametrize(
    ("option", "text", "name", "value"),
    [
        ("--memory", "64MB", "memory_bytes", 64 * 1024**2),
        ("--cpu", "50", "cpu_percent", 50.0),
        ("--execution-timeout", "1m30s", "execution_timeout_s", 90.0),
        ("--max-output", "1MB", "output_bytes", 1024**2),
        ("--max-clients", "3", "max_clients", 3),
        ("--max-message", "2KB", "max_message_bytes", 2048),
        ("--processes", "9", "processes", 9),
        ("--files", "64", "files", 64),
        ("--storage", "5MB", "storage_bytes", 5 * 1024**2),
        ("--max-executions", "10", "max_executions", 10),
        ("--executions-per-s", "2.5", "executions_per_s", 2.5),
        ("--max-kernels", "7", "max_kernels", 7),
        ("--total-memory", "2GB", "total_memory_bytes", 2 * 1024**3),
        ("--total-cpu", "150", "total_cpu_percent", 150.0),
        ("--total-storage", "1GB", "total_storage_bytes", 1024**3),
    ],
)
def test_every_limit_has_an_option(llmspell: Commands, option: str, text: str, name: str, value: float) -> None:
    assert llmspell("tenant", "create", "initech", option, text).code == 0

    limits = llmspell("tenant", "show", "initech", "--output", "json").json["limits"]

    assert {key: limit for key, limit in limits.items() if getattr(Limits(), key) != limit} == {name: value}


def test_no_limit_is_without_an_option(llmspell: Commands) -> None:
    shown = llmspell("tenant", "create", "--help").out

    assert shown.count("--") > len(Limits.__struct_fields__)
    create = root.get_command(None, "tenant").get_command(None, "create")  # type: ignore[arg-type,union-attr]
    assert set(Limits.__struct_fields__) <= {parameter.name for parameter in create.params}


def test_the_rest_of_what_a_tenant_should_have(llmspell: Commands) -> None:
    options = ("--strategy", "sticky", "--isolation-level", "none", "--idle-timeout", "1h", "--wait", "0")

    made = llmspell("tenant", "create", "initech", *options, "--output", "json").json

    assert (made["strategy"], made["isolation_level"], made["idle_timeout_s"]) == ("sticky", "none", 3600)


def test_tenants_are_listed_for_people_and_programs(llmspell: Commands) -> None:
    header, *rows = llmspell("tenant", "list").out.splitlines()

    assert header.split()[:4] == ["id", "ready", "strategy", "isolation"]
    assert [row.split()[:4] for row in rows] == [
        ["acme", "1/1", "least_loaded", "process"],
        ["globex", "1/1", "least_loaded", "process"],
    ]
    listed = llmspell("tenant", "list", "--output", "json").json
    assert [tenant["id"] for tenant in listed] == ["acme", "globex"]


def test_a_tenant_s_token_shows_that_tenant_alone(llmspell: Commands) -> None:
    listed = llmspell("tenant", "list", "--output", "json", who="tenant").json

    assert [tenant["id"] for tenant in listed] == ["acme"]
    other = llmspell("tenant", "show", "globex", who="tenant")
    assert (other.code, other.err) == (1, "llmspell: there is no tenant 'globex'\n")


def test_a_tenant_is_shown_with_its_limits_and_kernels(llmspell: Commands, served: ServedFleet) -> None:
    lines = [line.split() for line in llmspell("tenant", "show", "acme").out.splitlines()]

    assert ["limit", "memory_bytes", "512", "MB"] in lines
    assert ["limit", "execution_timeout_s", "5m"] in lines
    assert ["limit", "cpu_percent", "none"] in lines
    assert lines[-1][0] == served.fleet.kernel_of("acme")[:12]


def test_what_is_named_is_changed_and_the_rest_stays(llmspell: Commands) -> None:
    changed = llmspell("tenant", "update", "acme", "--replicas", "3")

    assert changed.code == 0
    assert ["ready", "3", "of", "3"] in [line.split() for line in changed.out.splitlines()]
    assert changed.err == ""


def test_kernels_that_are_not_ready_yet_are_told_of(served: ServedFleet, capsys: pytest.CaptureFixture[str]) -> None:
    _note_unready(msgspec.structs.replace(served.fleet.tenant(TenantId("acme")), replicas=3, ready=1))

    assert "note: 1 of 3 kernels are ready so far: `llmspell tenant show acme` shows them" in capsys.readouterr().err


def test_a_change_of_nothing_is_misuse(llmspell: Commands) -> None:
    done = llmspell("tenant", "update", "acme", "--wait", "1s")

    assert done.code == 2
    assert "expected something to change, such as --replicas 5, and found nothing" in done.err


def test_an_end_that_is_meant_is_not_asked_about(llmspell: Commands) -> None:
    done = llmspell("tenant", "delete", "acme", "--yes")

    assert (done.code, done.out) == (0, "tenant acme and its kernels are gone\n")
    assert llmspell("tenant", "show", "acme").code == 1


def test_where_nobody_can_be_asked_nothing_is_ended(llmspell: Commands, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))

    done = llmspell("tenant", "delete", "acme")

    assert done.code == 2
    assert "say so with --yes" in done.err
    assert llmspell("tenant", "show", "acme").code == 0


@pytest.mark.parametrize(("answer", "code", "is_there"), [("y", 0, False), ("n", 130, True), ("", 130, True)])
def test_a_person_is_asked_first(
    served: ServedFleet, llmspell: Commands, tmp_path: Path, answer: str, code: int, is_there: bool
) -> None:
    (tmp_path / "token").write_text("admin-token")
    ours, theirs = pty.openpty()
    try:
        os.write(ours, f"{answer}\n".encode())
        done = subprocess.run(
            [*_COMMAND, "tenant", "delete", "acme", "--url", served.unix, "--token-file", str(tmp_path / "token")],
            stdin=theirs,
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
    finally:
        os.close(ours)
        os.close(theirs)

    assert done.returncode == code
    assert "End tenant acme, its token and its 1 kernel?" in done.stdout
    assert (llmspell("tenant", "show", "acme").code == 0) is is_there


@pytest.mark.parametrize(
    ("case", "arguments", "code", "message"),
    [
        ("there already", ["create", "acme"], 4, "there is a tenant 'acme' already"),
        ("no name", ["create", "Acme"], 2, "expected a tenant's name of up to 63 characters"),
        ("too many", ["create", "initech", "--replicas", "101"], 1, "100 kernels are the most"),
        ("fewer than none", ["create", "initech", "--replicas", "-1"], 2, "not in the range"),
        ("no size", ["create", "initech", "--memory", "much"], 2, "expected a size such as"),
        ("no duration", ["create", "initech", "--execution-timeout", "soon"], 2, "expected a duration such as"),
        ("out of bounds", ["create", "initech", "--wait", "1h"], 2, "wait_s"),
        ("nobody", ["update", "nobody", "--replicas", "1"], 1, "there is no tenant 'nobody'"),
        ("nobody to end", ["delete", "nobody", "--yes"], 1, "there is no tenant 'nobody'"),
    ],
)
def test_a_refusal_is_told_in_the_fleet_s_words(
    llmspell: Commands, case: str, arguments: list[str], code: int, message: str
) -> None:
    done = llmspell("tenant", *arguments)

    assert done.code == code, case
    assert message in done.err
    assert done.out == ""


def test_who_may_only_watch_makes_no_tenants(llmspell: Commands) -> None:
    done = llmspell("tenant", "create", "initech", who="viewer")

    assert done.code == 4
    assert "this needs a token of kind admin" in done.err


def test_a_token_that_nobody_has_is_refused(
    llmspell: Commands, served: ServedFleet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "wrong").write_text("wrong-token")

    done = end(capsys, "tenant", "list", "--url", served.url, "--token-file", str(tmp_path / "wrong"))

    assert done.code == 4
    assert done.err == "llmspell: nobody has this token, or not any more\n"


def test_code_runs_on_the_tenant_s_kernels(llmspell: Commands, served: ServedFleet) -> None:
    assert llmspell("tenant", "exec", "acme", "print 5").out == "xxxxx"
    assert llmspell("tenant", "exec", "acme", "x", "--session", "me", "--output", "json").json["session"] == "me"
    assert served.fleet.executed == ["print 5", "x"]


def test_code_may_come_from_standard_input(
    llmspell: Commands, served: ServedFleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("some code\n"))

    assert llmspell("tenant", "exec", "acme", "-").code == 0
    assert served.fleet.executed == ["some code\n"]


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("error", "Error: no\n"),
        ("die", "llmspell: the kernel died while it ran this\n"),
        ("busy", "llmspell: no kernel is READY\n"),
    ],
)
def test_code_that_fails_exits_with_1(llmspell: Commands, code: str, message: str) -> None:
    done = llmspell("tenant", "exec", "acme", code)

    assert (done.code, done.err) == (1, message)
