"""Tables for people, JSON for programs."""

import json

import pytest

from llmspell_cli.output import note, print_json, print_table


def test_a_table_that_goes_to_a_program_is_not_cut(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("id", "file"), [("a", "/" + "long/" * 40), ("b", "")])

    header, first, second = capsys.readouterr().out.splitlines()
    assert header.split() == ["id", "file"]
    assert first.split() == ["a", "/" + "long/" * 40]
    assert second.split() == ["b", "-"]


def test_what_looks_like_markup_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    print_table(("name",), [("[bold]x[/bold]",)])

    assert "[bold]x[/bold]" in capsys.readouterr().out


def test_json_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": [1, None]})

    assert json.loads(capsys.readouterr().out) == {"a": [1, None]}


def test_a_note_leaves_the_result_alone(capsys: pytest.CaptureFixture[str]) -> None:
    note("something")

    assert capsys.readouterr() == ("", "note: something\n")
