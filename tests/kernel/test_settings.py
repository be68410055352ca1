"""TOML into structs: what is accepted, and what is said about the rest."""

from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest

from llmspell_kernel import settings
from llmspell_kernel.settings import ConfigurationError, Count, Duration, Port, Secret, Size


class Inner(msgspec.Struct, frozen=True, kw_only=True):
    """A table within a table."""

    host: str = "here"
    port: Port = 0


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """A table of a list."""

    name: str
    port: Port = 0


class Sample(msgspec.Struct, frozen=True, kw_only=True):
    """One key of every kind."""

    flag: bool = False
    count: Count = 3
    ratio: float = 0.5
    text: str | None = None
    wait: Duration = 30
    size: Size = 10
    mode: Literal["tcp", "ipc"] = "tcp"
    words: tuple[str, ...] = ()
    numbers: list[int] = []
    password: Secret | None = None
    inner: Inner = Inner()
    items: list[Item] = []
    named: dict[str, Inner] = {}


_HINT = "set it, or write $${…} for a text that is meant as it stands"


def _read(text: str, environ: dict[str, str] | None = None) -> Sample:
    return settings.decode(text, Sample, source="a.toml", environ=environ or {})


def _problems(text: str, environ: dict[str, str] | None = None) -> tuple[str, ...]:
    with pytest.raises(ConfigurationError) as refusal:
        _read(text, environ)
    return refusal.value.problems


def test_nothing_written_is_the_defaults() -> None:
    assert _read("") == Sample()


def test_every_kind_of_key_is_read() -> None:
    read = _read(
        """
        flag = true
        count = 4
        ratio = 1
        text = "t"
        wait = "1m"
        size = "10KB"
        mode = "ipc"
        words = ["a", "b"]
        numbers = [1, 2]
        password = "p"
        inner.port = 7
        [[items]]
        name = "first"
        [named.one]
        host = "there"
        """
    )

    assert read == Sample(
        flag=True,
        count=4,
        ratio=1.0,
        text="t",
        wait=60.0,
        size=10240,
        mode="ipc",
        words=("a", "b"),
        numbers=[1, 2],
        password="p",
        inner=Inner(port=7),
        items=[Item(name="first")],
        named={"one": Inner(host="there")},
    )


@pytest.mark.parametrize(
    ("case", "text", "problem"),
    [
        ("a text for a truth value", 'flag = "yes"', "flag: expected true or false, found the text 'yes'"),
        ("a truth value for a number", "count = true", "count: expected a whole number of at least 0, found true"),
        (
            "a fraction for a whole number",
            "count = 1.5",
            "count: expected a whole number of at least 0, found the number 1.5",
        ),
        ("a number too small", "count = -1", "count: expected a whole number of at least 0, found the number -1"),
        ("a text for a number", 'ratio = "half"', "ratio: expected a number, found the text 'half'"),
        ("no number", "ratio = nan", "ratio: expected a number, found the number nan"),
        ("a number for a text", "text = 5", "text: expected a text, found the number 5"),
        ("a date for a text", "text = 2024-01-01", "text: expected a text, found the date or time 2024-01-01"),
        ("a word for a choice", 'mode = "udp"', 'mode: expected one of "ipc", "tcp", found the text \'udp\''),
        (
            "a port too large",
            "inner.port = 70000",
            "[inner] port: expected a whole number from 0 to 65535, found the number 70000",
        ),
        ("a value for a list", 'words = "a"', "words: expected a list, each item a text, found the text 'a'"),
        ("a wrong item", 'words = ["a", 5]', "words[1]: expected a text, found the number 5"),
        ("a value for a table", "inner = 5", "inner: expected a table, found the number 5"),
        ("a table for a value", "count = {}", "count: expected a whole number of at least 0, found a table"),
        ("a list for a value", "count = [1]", "count: expected a whole number of at least 0, found the list [1]"),
        ("a missing key", "[[items]]\nport = 1", "[items[0]] name: is missing, expected a text"),
        ("an unknown key", "cuont = 1", "cuont: there is no such key; the nearest is count"),
        ("an unknown key in a table", "inner.prot = 1", "[inner] prot: there is no such key; the nearest is port"),
        ("an unknown table", "[iner]\nport = 1", "[iner]: there is no such table; the nearest is [inner]"),
        (
            "a key of a named table",
            "[named.one]\nprot = 1",
            "[named.one] prot: there is no such key; the nearest is port",
        ),
        ("an unset variable", 'text = "${NOPE}"', "text: the environment variable NOPE is not set: " + _HINT),
        (
            "a variable without a name",
            'text = "${}"',
            "text: the environment variable (without a name) is not set: " + _HINT,
        ),
    ],
)
def test_a_problem_is_told_with_its_key_what_was_expected_and_what_was_found(
    case: str, text: str, problem: str
) -> None:
    assert _problems(text) == (problem,), case


@pytest.mark.parametrize(
    ("key", "written"), [("wait", '"soon"'), ("wait", "true"), ("size", '"10 parsecs"'), ("size", "1.5")]
)
def test_units_are_explained_by_example(key: str, written: str) -> None:
    (problem,) = _problems(f"{key} = {written}")

    assert problem.startswith(f"{key}: expected a {'duration' if key == 'wait' else 'size'} such as ")
    assert "found " in problem


def test_all_problems_of_a_file_are_told_at_once() -> None:
    problems = _problems('flag = 1\ncuont = 2\n[inner]\nport = "x"\nhost = "${NOPE}"')

    assert len(problems) == 4


def test_a_secret_is_never_shown() -> None:
    (problem,) = _problems("password = 12345")

    assert "12345" not in problem
    assert "not shown" in problem


def test_a_long_value_is_cut() -> None:
    (problem,) = _problems(f'flag = "{"x" * 10_000}"')

    assert len(problem) < 200


@pytest.mark.parametrize(
    ("case", "written", "text"),
    [
        ("a variable", "${HERE}", "value"),
        ("within a text", "a-${HERE}-b", "a-value-b"),
        ("twice", "${HERE}${HERE}", "valuevalue"),
        ("escaped", "$${HERE}", "${HERE}"),
        ("no braces", "$HERE", "$HERE"),
        ("an empty variable is set", "<${EMPTY}>", "<>"),
        ("a value is not expanded again", "${TRICKY}", "${HERE}"),
    ],
)
def test_variables_are_replaced(case: str, written: str, text: str) -> None:
    environ = {"HERE": "value", "EMPTY": "", "TRICKY": "${HERE}"}

    assert _read(f'text = "{written}"\nwords = ["{written}"]', environ) == Sample(text=text, words=(text,)), case


def test_a_variable_may_hold_a_duration() -> None:
    assert _read('wait = "${WAIT}"', {"WAIT": "2m"}).wait == 120


def test_what_is_not_toml_is_told_with_its_place() -> None:
    (problem,) = _problems("[inner\nport = 1")

    assert problem.startswith("not TOML: ")
    assert "line 1" in problem


@pytest.mark.parametrize(
    ("case", "content", "problem"),
    [
        ("no file", None, "the file cannot be read: No such file or directory"),
        ("not text", b"\xff\xfe", "not UTF-8 text: byte 0"),
    ],
)
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, case: str, content: bytes | None, problem: str) -> None:
    path = tmp_path / "a.toml"
    if content is not None:
        path.write_bytes(content)

    with pytest.raises(ConfigurationError, match=problem) as refusal:
        settings.load(str(path), Sample)

    assert str(refusal.value).startswith(f"{path}: "), case


def test_every_key_is_known_with_its_path() -> None:
    paths = [key.path for key in settings.keys(Sample)]

    assert ("count",) in paths
    assert ("inner", "port") in paths
    assert ("items", "name") in paths
    assert ("named", "*", "host") in paths
    assert [key.path for key in settings.keys(Sample) if key.secret] == [("password",)]


@pytest.mark.parametrize("value", [True, 5, 1.5, "x", [1], {"a": 1}])
def test_any_value_can_be_shown(value: Any) -> None:
    assert settings.show(value)
