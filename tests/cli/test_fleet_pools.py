"""`llmspell fleet scale`."""

import msgspec
import pytest
from msgspec.structs import replace

from llmspell_cli.commands.fleet_pools import process_of
from llmspell_fleet.model.views import KernelView
from support.commands import Commands

pytestmark = pytest.mark.integration


@pytest.mark.parametrize(("replicas", "kept"), [(4, 1), (1, 1), (0, 0)])
def test_a_tenant_gets_as_many_kernels_as_are_asked_for(llmspell: Commands, replicas: int, kept: int) -> None:
    done = llmspell("fleet", "scale", "acme", str(replicas))

    assert done.code == 0
    kernels = "1 kernel" if replicas == 1 else f"{replicas} kernels"
    assert done.out == f"tenant acme has {kernels}, {kept} of its 1 kept\n"
    assert len(llmspell("tenant", "show", "acme", "--output", "json").json["kernels"]) == replicas


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("acme", "-1"), 2, "-1"),
        (("acme", "many"), 2, "many"),
        (("acme",), 2, "N"),
        (("initech", "2"), 1, "initech"),
        (("ACME", "2"), 2, "ACME"),
        (("acme", "2", "--wait", "soon"), 2, "soon"),
    ],
)
def test_what_cannot_be_meant_changes_nothing(
    llmspell: Commands, arguments: tuple[str, ...], code: int, said: str
) -> None:
    done = llmspell("fleet", "scale", *arguments)

    assert (done.code, done.out) == (code, "")
    assert said in done.err
    assert len(llmspell("tenant", "show", "acme", "--output", "json").json["kernels"]) == 1


def test_nobody_waits_who_does_not_want_to(llmspell: Commands) -> None:
    assert llmspell("fleet", "scale", "acme", "3", "--wait", "0").code == 0


def test_labels_are_given_selected_by_and_taken_away(llmspell: Commands) -> None:
    made = llmspell("tenant", "create", "initech", "--label", "env=prod", "--label", "team=x", "--output", "json").json
    assert made["labels"] == {"env": "prod", "team": "x"}

    assert [one["id"] for one in llmspell("tenant", "list", "--label", "env=prod", "--output", "json").json] == [
        "initech"
    ]
    listed = llmspell("fleet", "list", "--label", "team=x").out
    assert "initech" in listed
    assert "env=prod,team=x" in listed
    assert "acme" not in listed
    assert "no kernels with the label team=y" in llmspell("fleet", "list", "--label", "team=y").out

    assert llmspell("tenant", "update", "initech", "--label", "team=").code == 0
    shown = llmspell("tenant", "show", "initech").out
    assert [line.split() for line in shown.splitlines() if line.startswith("labels")] == [["labels", "env=prod"]]


@pytest.mark.parametrize("label", ["env", "=prod", ""])
def test_a_label_without_a_name_or_value_is_misuse(llmspell: Commands, label: str) -> None:
    done = llmspell("tenant", "update", "acme", "--label", label)

    assert done.code == 2
    assert "NAME=VALUE" in done.err


# --- restart


def test_a_tenant_s_kernels_are_restarted(llmspell: Commands) -> None:
    done = llmspell("fleet", "restart", "acme")

    assert (done.code, done.out) == (0, "tenant acme: 1 kernel restarted\n")
    assert "done at" in llmspell("tenant", "show", "acme").out


def test_a_restart_that_fails_is_told_with_its_reason(llmspell: Commands) -> None:
    done = llmspell("fleet", "restart", "acme", "--max-unavailable", "9", "--max-surge", "50%")

    assert (done.code, done.out) == (1, "")
    assert "0 of 1 kernel restarted: a kernel did not become ready" in done.err


def test_a_kernel_that_has_to_wait_has_no_process_called_none(llmspell: Commands) -> None:
    (listed,) = llmspell("fleet", "list", "--tenant", "acme", "--output", "json").json
    kernel = msgspec.convert(listed, KernelView)

    assert process_of(kernel) == "process 1234"
    assert process_of(replace(kernel, phase="PENDING", pid=None)) == "which has no process now"


def test_one_kernel_is_restarted_by_the_beginning_of_its_id(llmspell: Commands) -> None:
    (kernel,) = llmspell("fleet", "list", "--tenant", "acme", "--output", "json").json

    done = llmspell("fleet", "restart", kernel["id"][:13])

    assert (done.code, done.out) == (0, f"kernel {kernel['id']} is READY, process 1234\n")
    (after,) = llmspell("fleet", "list", "--tenant", "acme", "--output", "json").json
    assert after["incarnation"] == 2


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("initech",), 1, "initech"),
        (("acme", "--max-unavailable", "half"), 2, "25%"),
        (("acme", "--max-surge", "-1"), 2, "-1"),
        ((), 2, "TARGET"),
    ],
)
def test_a_restart_that_cannot_be_meant_restarts_nothing(
    llmspell: Commands, arguments: tuple[str, ...], code: int, said: str
) -> None:
    done = llmspell("fleet", "restart", *arguments)

    assert (done.code, done.out) == (code, "")
    assert said in done.err
