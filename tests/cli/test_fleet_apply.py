"""`llmspell fleet apply` and `tenant token`."""

from pathlib import Path

import pytest

from llmspell_cli.commands.fleet_apply import _value
from support.commands import Commands
from support.served_fleet import ServedFleet

pytestmark = pytest.mark.integration


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A configuration; the fleet in memory looks at single words alone."""
    path = tmp_path / "fleet.toml"
    path.write_text("[fleet]\n")
    return path


def test_a_plan_is_shown_as_a_table_with_what_stays_as_it_is(
    llmspell: Commands, served: ServedFleet, file: Path
) -> None:
    done = llmspell("fleet", "apply", str(file), "--dry-run")

    assert done.code == 0
    rows = [line.split() for line in done.out.splitlines()]
    assert rows[0] == ["target", "key", "before", "after", "how"]
    assert ["tenant", "acme", "replicas", "1", "3", "at", "once"] in rows
    assert ["fleet", "[fleet]", "port", "1", "2", "at", "the", "fleet's", "restart"] in rows
    assert ["changed", "at", "runtime,", "and", "kept:"] in rows
    assert ["tenant", "globex", "labels.a", "-", "b", "-"] in rows
    assert done.out.endswith("1 thing would be changed, 1 at the fleet's next restart\n")
    (asked,) = served.fleet.applied
    assert (asked.config, asked.name, asked.dry_run, asked.prune) == ("[fleet]\n", str(file), True, False)


def test_programs_read_the_plan(llmspell: Commands, file: Path) -> None:
    plan = llmspell("fleet", "apply", str(file), "--prune", "--output", "json").json

    assert plan["dry_run"] is False
    assert [(one["target"], one["how"]) for one in plan["changes"]] == [
        ("fleet", "restart"),
        ("tenant acme", "live"),
        ("tenant old", "removed"),
    ]


def test_nothing_to_change_is_said(llmspell: Commands, file: Path) -> None:
    file.write_text("same")

    done = llmspell("fleet", "apply", str(file))

    assert (done.code, done.out) == (0, "nothing to change\n")


def test_all_that_is_wrong_is_told(llmspell: Commands, file: Path) -> None:
    file.write_text("wrong")

    done = llmspell("fleet", "apply", str(file))

    assert (done.code, done.out) == (2, "")
    assert "not TOML" in done.err
    assert "and more" in done.err


@pytest.mark.parametrize(("content", "said"), [(None, "No such file"), (b"\xff", "not UTF-8")])
def test_a_file_that_cannot_be_read_is_misuse(
    llmspell: Commands, served: ServedFleet, tmp_path: Path, content: bytes | None, said: str
) -> None:
    path = tmp_path / "other.toml"
    if content is not None:
        path.write_bytes(content)

    done = llmspell("fleet", "apply", str(path))

    assert done.code == 2
    assert said in done.err
    assert served.fleet.applied == []


def test_who_is_no_administrator_applies_nothing(llmspell: Commands, served: ServedFleet, file: Path) -> None:
    assert llmspell("fleet", "apply", str(file), who="viewer").code == 4
    assert served.fleet.applied == []


def test_a_tenant_s_new_token_is_all_that_is_printed(llmspell: Commands) -> None:
    done = llmspell("tenant", "token", "acme")

    assert (done.code, done.out, done.err) == (0, "another-of-acme\n", "")
    assert llmspell("tenant", "token", "initech").code == 1


def test_values_are_cut_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    value = {
        "min": 1,
        "max": 5,
        "busy_share": 0.8,
        "up_after_s": 0.2,
        "down_after_s": 55.5,
        "total_memory_bytes": 2**20,
    }
    whole = "min=1, max=5, busy_share=0.8, up_after_s=0.2, down_after_s=55.5, total_memory_bytes=1MB"

    monkeypatch.setattr("sys.stdout.isatty", lambda: False)
    assert _value(value) == whole
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert _value(value) == f"{whole[:60]}…"


@pytest.mark.parametrize(
    ("key", "value", "shown"),
    [
        ("limits.memory_bytes", 64 * 2**20, "64MB"),
        ("limits.memory_bytes", 2**20 + 1, "1048577B"),
        ("limits.memory_bytes", 0, "0"),
        ("replicas", 2**20, "1048576"),
        ("limits.memory_bytes", None, ""),
    ],
)
def test_sizes_are_shown_as_they_are_written(key: str, value: int | None, shown: str) -> None:
    assert _value(value, key) == shown
