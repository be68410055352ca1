"""Tables for people, JSON for programs."""

import json

import pytest

from llmspell_cli.output import coloured, counted, note, print_json, print_table, rounded_duration, rounded_size


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


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (0.9, "0s"), (59.9, "59s"), (61, "1m1s"), (3599, "59m59s"), (3661, "1h1m"), (93_784, "1d2h")],
)
def test_a_duration_is_rounded_to_its_two_largest_units(seconds: float, text: str) -> None:
    assert rounded_duration(seconds) == text


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 KB"),
        (3_460_300, "3.3 MB"),
        (512 * 1024**2, "512 MB"),
        (2**50, "1024 TB"),
    ],
)
def test_a_size_is_rounded_to_three_digits(size_bytes: int, text: str) -> None:
    assert rounded_size(size_bytes) == text


def test_nouns_are_counted() -> None:
    assert [counted(number, "kernel") for number in (0, 1, 2)] == ["0 kernels", "1 kernel", "2 kernels"]


@pytest.mark.parametrize(
    ("is_terminal", "no_color", "text"),
    [(True, "", "\x1b[31mx\x1b[0m"), (True, "1", "x"), (False, "", "x")],
)
def test_colours_are_for_terminals_whose_owner_wants_them(
    monkeypatch: pytest.MonkeyPatch, is_terminal: bool, no_color: str, text: str
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: is_terminal)
    monkeypatch.setenv("NO_COLOR", no_color)

    assert coloured("x", "red") == text
