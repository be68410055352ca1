"""Durations and sizes as people write them."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmspell_kernel.units import format_duration, format_size, parse_duration, parse_size


@pytest.mark.parametrize(
    ("case", "written", "seconds"),
    [
        ("a bare whole number", 30, 30.0),
        ("a bare number", 0.5, 0.5),
        ("a number in a text", "30", 30.0),
        ("seconds", "30s", 30.0),
        ("milliseconds", "500ms", 0.5),
        ("minutes", "5m", 300.0),
        ("hours", "1h", 3600.0),
        ("days", "7d", 604800.0),
        ("weeks", "2w", 1209600.0),
        ("a fraction", "1.5h", 5400.0),
        ("several units", "1h30m", 5400.0),
        ("several units with spaces", " 1 h 30 min ", 5400.0),
        ("capitals", "30S", 30.0),
        ("nothing", 0, 0.0),
    ],
)
def test_a_duration_is_read(case: str, written: str | float, seconds: float) -> None:
    assert parse_duration(written) == seconds, case


@pytest.mark.parametrize(
    ("case", "written"),
    [
        ("a negative number", -1),
        ("a negative text", "-1s"),
        ("an unknown unit", "30x"),
        ("a unit alone", "s"),
        ("no text", ""),
        ("words", "soon"),
        ("a part that is no duration", "1h soon"),
        ("no number", float("nan")),
        ("no end", float("inf")),
        ("a truth value", True),
        ("digits of another script", "٣s"),
    ],
)
def test_what_is_no_duration_is_refused_with_an_example(case: str, written: str | float) -> None:
    with pytest.raises(ValueError, match="expected a duration such as") as refusal:
        parse_duration(written)

    assert repr(written) in str(refusal.value), case


@pytest.mark.parametrize(
    ("case", "written", "size"),
    [
        ("a bare number", 1048576, 1048576),
        ("a number in a text", "4096", 4096),
        ("bytes", "512B", 512),
        ("a KB is 1024", "1KB", 1024),
        ("so is a KiB", "1KiB", 1024),
        ("so is a K", "1K", 1024),
        ("megabytes", "10MB", 10485760),
        ("gigabytes", "1GB", 1073741824),
        ("terabytes", "2tb", 2199023255552),
        ("a fraction that comes out even", "1.5KB", 1536),
        ("a space", "10 MB", 10485760),
    ],
)
def test_a_size_is_read(case: str, written: str | int, size: int) -> None:
    assert parse_size(written) == size, case


@pytest.mark.parametrize(
    ("case", "written"),
    [
        ("a negative number", -1),
        ("an unknown unit", "10XB"),
        ("a fraction of a byte", "0.3B"),
        ("no text", ""),
        ("several units", "1GB 1MB"),
        ("a truth value", True),
    ],
)
def test_what_is_no_size_is_refused_with_an_example(case: str, written: str | int) -> None:
    with pytest.raises(ValueError, match="expected a size such as") as refusal:
        parse_size(written)

    assert repr(written) in str(refusal.value), case


@pytest.mark.parametrize(
    ("seconds", "written"), [(0, "0s"), (0.25, "250ms"), (59, "59s"), (5400, "1h30m"), (90061, "1d1h1m1s")]
)
def test_a_duration_is_written_in_the_units_that_people_use(seconds: float, written: str) -> None:
    assert format_duration(seconds) == written


@pytest.mark.parametrize(("size", "written"), [(0, "0B"), (1000, "1000B"), (1536, "1536B"), (536870912, "512MB")])
def test_a_size_is_written_in_the_largest_unit_that_divides_it(size: int, written: str) -> None:
    assert format_size(size) == written


@given(st.integers(min_value=0, max_value=10**12))
def test_a_written_duration_reads_back(milliseconds: int) -> None:
    assert parse_duration(format_duration(milliseconds / 1000)) == pytest.approx(milliseconds / 1000, abs=1e-3)


@given(st.integers(min_value=0, max_value=2**63))
def test_a_written_size_reads_back(size: int) -> None:
    assert parse_size(format_size(size)) == size


@given(st.text())
def test_any_text_is_read_or_refused_and_nothing_else(text: str) -> None:
    for parse in (parse_duration, parse_size):
        with contextlib.suppress(ValueError):
            assert parse(text) >= 0
