"""The references name what there is: every route with its rights, every command, every decision."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click
import pytest

from llmspell_cli.main import root
from llmspell_fleet.api.auth import Access
from llmspell_fleet.api.routes import ROUTES
from support.repository import ROOT

REFERENCE: Final = ROOT / "docs" / "reference"

ROW: Final = re.compile(r"^\| `([A-Z]+ /[^`]*)` \| ([^|]*) \| ([^|]*) \|", re.MULTILINE)
COMMAND: Final = re.compile(r"^\| `llmspell ([a-z ]+?)(?: [A-Z]+)*` \|", re.MULTILINE)
WHO: Final = {
    Access.OPEN: "all",
    Access.WATCH: "viewer, admin",
    Access.READ: "viewer, tenant, admin",
    Access.TENANT: "tenant, admin",
    Access.ADMIN: "admin",
}


def test_every_route_is_there_with_who_may_and_what_is_answered() -> None:
    told = {name: (who, answers) for name, who, answers in ROW.findall((REFERENCE / "http.md").read_text())}
    true = {
        f"{route.method} {route.path}": (WHO[route.access], ", ".join(str(status) for status in sorted(route.replies)))
        for route in ROUTES
    }

    assert told == true


def test_every_status_of_a_refusal_is_explained() -> None:
    text = (REFERENCE / "http.md").read_text()
    told = {status for row in re.findall(r"^\| ([45][\d, ]+) \|", text, re.MULTILINE) for status in row.split(", ")}

    assert {str(status) for route in ROUTES for status in route.problems} <= told


def _commands(group: click.Group, path: str = "") -> Iterator[str]:
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if isinstance(command, click.Group):
            yield from _commands(command, f"{path}{name} ")
        else:
            yield f"{path}{name}"


def test_every_command_is_there() -> None:
    assert isinstance(root, click.Group)

    assert set(COMMAND.findall((REFERENCE / "cli.md").read_text())) == set(_commands(root))


@pytest.mark.parametrize("document", sorted((ROOT / "docs" / "decisions").glob("0*.md")), ids=lambda path: path.stem)
def test_every_decision_has_its_parts_and_is_in_the_list(document: Path) -> None:
    text = document.read_text()

    assert all(part in text for part in ("Context", "Decision", "What it costs"))
    assert f"]({document.name})" in (document.parent / "README.md").read_text()
