"""The record of a kernel's globals."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmspell_kernel.analysis.library import LIBRARY
from llmspell_kernel.analysis.symbols import (
    MAX_DEPTH,
    UNKNOWN,
    Symbol,
    SymbolTable,
    children_of,
    lookup,
    standard_symbols,
)


def row(path: str, kind: str = "table", value: str = "", params: str = "", chunk: str = "", line: str = "") -> bytes:
    return "\0".join((path.replace(".", "\x1f"), kind, value, params, chunk, line)).encode()


def test_a_row_fills_every_field() -> None:
    table = SymbolTable.from_rows([row("f", "function", "function: 1", "a, ...", "In[1]", "7")])

    assert table.names == {"f": Symbol("function", "function: 1", "a, ...", "In[1]", 7)}


@pytest.mark.parametrize(
    "rows",
    [
        [row("t", value="{…}"), row("t.u"), row("t.u.x", "number", "1")],
        [row("t.u.x", "number", "1"), row("t.u"), row("t", value="{…}")],
    ],
    ids=["parents first", "children first"],
)
def test_rows_may_come_in_any_order(rows: list[bytes]) -> None:
    table = SymbolTable.from_rows(rows)

    assert table.find(("t", "u", "x")) == Symbol("number", "1")
    assert table.find(("t",)) == Symbol(
        "table", "{…}", children={"u": Symbol("table", children={"x": Symbol("number", "1")})}
    )


@pytest.mark.parametrize(
    ("case", "bad"),
    [
        ("nothing", b""),
        ("no fields", b"x"),
        ("too few fields", b"x\0number\x001"),
        ("no path", row("", "number")),
        ("an empty component", row("t..x", "number")),
        ("no type", row("x", "")),
        ("a line that is no number", row("x", "function", line="seven")),
        ("a path that is too deep", row(".".join("x" * (MAX_DEPTH + 1)), "number")),
    ],
)
def test_a_bad_row_is_skipped(case: str, bad: bytes) -> None:
    table = SymbolTable.from_rows([bad, row("good", "number", "1")])

    assert table.names == {"good": Symbol("number", "1")}


def test_a_value_may_contain_zero_bytes() -> None:
    table = SymbolTable.from_rows([row("s", "string", '"a\0b\0\0"')])

    assert table.names["s"].value == '"a\0b\0\0"'


def test_text_that_is_not_utf8_is_repaired() -> None:
    table = SymbolTable.from_rows([b"n\xff\0string\0\xfe\0\0\0"])

    assert table.names == {"n\ufffd": Symbol("string", "\ufffd")}


@given(st.lists(st.one_of(st.binary(), st.lists(st.binary(max_size=4), min_size=6).map(b"\0".join))))
def test_any_rows_make_a_table(rows: list[bytes]) -> None:
    assert isinstance(SymbolTable.from_rows(rows), SymbolTable)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        (["t"], "table"),
        (["t", "x"], "number"),
        (["_G", "t", "x"], "number"),
        (["_G"], "table"),
        (["t", "y"], None),
        (["t", "x", "y"], None),
        (["u"], None),
    ],
)
def test_a_path_leads_to_its_symbol(path: list[str], expected: str | None) -> None:
    found = SymbolTable.from_rows([row("t"), row("t.x", "number")]).find(path)

    assert (found and found.type) == expected


def test_globals_are_the_fields_of_their_own_table() -> None:
    table = SymbolTable({"x": UNKNOWN})

    assert table.find(["_G"]) == Symbol("table", children={"x": UNKNOWN})


def test_merging_supplements_and_does_not_replace() -> None:
    mine = {
        "n": Symbol("number", "1"),
        "t": Symbol("table", "{…}", children={"a": Symbol("number")}),
        "u": UNKNOWN,
    }
    other = {
        "n": Symbol("string"),
        "t": Symbol("table", children={"a": UNKNOWN, "b": Symbol("boolean")}),
        "u": Symbol("string"),
        "new": Symbol("number"),
    }

    merged = SymbolTable(mine).merged(other)

    assert merged.names == {
        "n": Symbol("number", "1"),
        "t": Symbol("table", "{…}", children={"a": Symbol("number"), "b": Symbol("boolean")}),
        "u": Symbol("string"),
        "new": Symbol("number"),
    }
    assert mine["t"].children == {"a": Symbol("number")}


def test_merging_gives_fields_to_what_had_none() -> None:
    merged = SymbolTable({"t": Symbol("userdata")}).merged({"t": Symbol("table", children={"x": UNKNOWN})})

    assert merged.names == {"t": Symbol("userdata", children={"x": UNKNOWN})}


def test_merging_ends_however_deep_the_tables_are() -> None:
    deep: dict[str, Symbol] = {}
    for _ in range(100_000):
        deep = {"x": Symbol("table", children=deep)}

    assert SymbolTable(deep).merged(deep).find(["x"] * 99) is not None


def test_a_name_becomes_a_table_when_fields_are_put_in_it() -> None:
    names = {"s": Symbol("string", "'x'"), "u": UNKNOWN}

    children_of(names, "s")["x"] = UNKNOWN
    children_of(names, "u")["x"] = UNKNOWN
    children_of(names, "v")

    assert names == {
        "s": Symbol("string", "'x'", children={"x": UNKNOWN}),
        "u": Symbol("table", children={"x": UNKNOWN}),
        "v": Symbol("table", children={}),
    }


def test_a_fresh_kernel_s_table_holds_the_whole_library() -> None:
    table = standard_symbols()

    assert not [name for name in LIBRARY if lookup(table.names, name.split(".")) is None]
    assert table.find(["string", "format"]) == Symbol("function", params="format, ...")
    assert table.find(["math", "pi"]) == Symbol("number")
    assert table.find(["display"]) == Symbol("function", params="value [, {id=name}]")
    assert {symbol.type for symbol in table.names.values()} == {"function", "table", "string"}
