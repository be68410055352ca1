"""Which fleet, and which of its kernels, a command means."""

import os
from pathlib import Path

import click
import pytest

from llmspell_cli.fleets import Where, find_kernel, fleet_options
from llmspell_fleet.client import FleetClient
from llmspell_kernel.errors import LlmspellError, MisuseError
from support.scripted_http import KERNEL_VIEW, Reply, scripted_server

_NAMES = ("RUNTIME_DIR", "STATE_DIR", "LOG_DIR", "URL", "TOKEN_FILE")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    for name in _NAMES:
        monkeypatch.setenv(f"LLMSPELL_{name}", "")
    monkeypatch.setenv("LLMSPELL_RUNTIME_DIR", "/r")
    monkeypatch.setenv("LLMSPELL_STATE_DIR", "/s")
    monkeypatch.chdir(folder)


def _meant(*arguments: str) -> Where:
    found: list[Where] = []

    @click.command()
    @click.option("--other")
    @fleet_options
    def command(where: Where, other: str | None) -> None:
        found.append(where)

    command.main(list(arguments), standalone_mode=False)
    return found[0]


def test_the_environment_says_where_the_fleet_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMSPELL_URL", "http://localhost:1")
    monkeypatch.setenv("LLMSPELL_TOKEN_FILE", "/t")

    where = _meant()

    assert (where.paths.runtime, where.paths.state, where.paths.logs) == ("/r", "/s", "/s/logs")
    assert (where.url, where.token_file, where.named) == ("http://localhost:1", "/t", frozenset())


def test_options_come_before_the_environment_and_reach_child_processes(folder: Path) -> None:
    where = _meant("--runtime-dir", "run", "--log-dir", "/l", "--url", "unix:/x", "--token-file", "token")

    assert where.paths.runtime == str(folder / "run") == os.environ["LLMSPELL_RUNTIME_DIR"]
    assert (where.paths.state, where.paths.logs) == ("/s", "/l")
    assert (where.url, where.token_file) == ("unix:/x", str(folder / "token"))
    assert where.named == {"runtime", "log", "url"}


def test_the_next_command_is_told_what_this_one_was() -> None:
    assert _meant().runtime_option == ""
    assert _meant("--runtime-dir", "/a b").runtime_option == " --runtime-dir '/a b'"


@pytest.mark.parametrize("option", ["--runtime-dir", "--state-dir", "--log-dir", "--token-file"])
def test_nothing_is_no_place(option: str) -> None:
    with pytest.raises(click.BadParameter, match="found nothing"):
        _meant(option, "")


def _kernel(identity: str, name: str = "") -> dict[str, object]:
    return {**KERNEL_VIEW, "id": identity, "name": name}


_FIRST, _SECOND = "aaaa0000-0000-4000-8000-000000000000", "aaaa1111-0000-4000-8000-000000000000"


@pytest.mark.integration
@pytest.mark.parametrize(
    ("text", "expected"),
    [(_FIRST, _FIRST), (_FIRST.upper(), _FIRST), ("aaaa1", _SECOND), (_SECOND[:12], _SECOND), ("worker", _SECOND)],
)
def test_a_kernel_is_found_by_id_beginning_and_name(folder: Path, text: str, expected: str) -> None:
    with scripted_server(str(folder / "s")) as server:
        server.answers(Reply({"items": [_kernel(_FIRST), _kernel(_SECOND, "worker")]}))

        assert find_kernel(FleetClient(server.url, "t"), text).id == expected


@pytest.mark.integration
@pytest.mark.parametrize(
    ("case", "text", "error", "message"),
    [
        ("two beginnings", "aaaa", MisuseError, "aaaa means 2 kernels: aaaa0000.* \\(acme\\), aaaa1111"),
        ("too short", "aaa", LlmspellError, "the fleet has no kernel 'aaa'"),
        ("nobody", "bbbb", LlmspellError, "`llmspell fleet list` shows those it has"),
        ("two names", "twin", MisuseError, "twin means 2 kernels"),
    ],
)
def test_what_means_no_kernel_or_several_says_so(
    folder: Path, case: str, text: str, error: type[LlmspellError], message: str
) -> None:
    name = "twin" if text == "twin" else ""
    with scripted_server(str(folder / "s")) as server:
        server.answers(Reply({"items": [_kernel(_FIRST, name), _kernel(_SECOND, name)]}))

        with pytest.raises(error, match=message):
            find_kernel(FleetClient(server.url, "t"), text)
    assert case
