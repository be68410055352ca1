"""What completion and inspection learn of the script's globals: without running its code, within bounds, soon."""

import time

import pytest

from llmspell_kernel.analysis.symbols import Symbol, SymbolTable
from support.lua import Lua


def _look(lua: Lua, code: str) -> dict[str, Symbol]:
    assert lua.run(code).error is None
    return SymbolTable.from_rows(lua.engine.symbols()).names


def _fields(symbol: Symbol) -> dict[str, Symbol]:
    assert symbol.children is not None
    return symbol.children


def test_globals_and_what_is_in_them_are_seen(lua: Lua) -> None:
    names = _look(
        lua,
        """title = "a\\nb" count = 3 flag = true list = {1, 2}
        point = {x = 1, inner = {deep = {deeper = 1}}}
        function point.move(self, dx, ...) return dx end
        local hidden = 1
        co = coroutine.create(print)""",
    )

    assert (names["title"].type, names["title"].value) == ("string", r'"a\nb"')
    assert (names["count"].type, names["count"].value) == ("number", "3")
    assert (names["flag"].type, names["flag"].value) == ("boolean", "true")
    assert (names["list"].type, names["list"].value) == ("table", "{1, 2}")
    assert names["co"].type == "thread"
    assert "hidden" not in names
    assert set(_fields(names["point"])) == {"x", "inner", "move"}
    assert _fields(names["point"])["x"].value == "1"
    assert "deep" in _fields(_fields(names["point"])["inner"])
    move = _fields(names["point"])["move"]
    assert (move.type, move.params, move.source, move.line) == ("function", "self, dx, ...", "=In[1]", 3)


def test_the_library_is_seen_and_has_no_source(lua: Lua) -> None:
    names = _look(lua, "x = 1")

    assert {"rep", "format", "gsub"} <= set(_fields(names["string"]))
    assert names["print"].type == "function"
    assert names["print"].source is None


def test_fields_come_through_index_tables(lua: Lua) -> None:
    names = _look(
        lua,
        """Base = {greet = function(self) end}
        Derived = setmetatable({own = 1}, {__index = Base})
        object = setmetatable({}, {__index = Derived})""",
    )

    assert set(_fields(names["object"])) == {"own", "greet"}


@pytest.mark.parametrize(
    ("case", "code"),
    [
        (
            "tables that lie",
            "t = setmetatable({x = 1}, {__index = error, __pairs = error, __len = error, __tostring = error})",
        ),
        ("an index that is a function", "t = setmetatable({x = 1}, {__index = function() error('ran') end})"),
        ("an index that is itself", "t = {x = 1} setmetatable(t, {__index = t})"),
        ("indexes in a circle", "t, u = {x = 1}, {} setmetatable(t, {__index = u}) setmetatable(u, {__index = t})"),
        ("tables in a circle", "t = {x = 1} t.t = t t.u = {t = t}"),
        ("globals with a metatable", "t = {x = 1} setmetatable(_G, {__index = error, __newindex = error})"),
        ("names that are none", "t = {x = 1, ['not a name'] = 1, [1] = 2, [{}] = 3, ['a\\0b'] = 4, ['\\31'] = 5}"),
        ("values with separators", "t = {x = 1} a = 'a\\0b\\30c\\31d' b = {'\\0', '\\30'} "),
        ("functions without a debug name", "t = {x = 1} f = load('return 1', '=a\\0b\\30c')"),
        ("text that is none", "t = {x = 1} a = '\\255\\254' b = {'\\255'}"),
    ],
)
def test_hostile_globals_are_looked_at_without_harm(lua: Lua, case: str, code: str) -> None:
    names = _look(lua, code)

    assert _fields(names["t"])["x"].value == "1"


def test_a_replaced_environment_and_removed_globals_do_no_harm(lua: Lua) -> None:
    names = _look(lua, "local G, next = _G, next for k in next, G do G[k] = nil end only = 1")

    assert set(names) == {"only"}


@pytest.mark.parametrize(
    ("case", "code"),
    [
        ("many globals", "for i = 1, 50000 do _G['g' .. i] = i end"),
        ("many fields", "t = {} for i = 1, 50000 do t['f' .. i] = {i} end"),
        (
            "a wide tree",
            "t = {} for i = 1, 300 do t['a' .. i] = {} for j = 1, 300 do t['a' .. i]['b' .. j] = {j} end end",
        ),
        ("a list of a million", "t = {} for i = 1, 1e6 do t[i] = i end for i = 1, 100 do _G['l' .. i] = t end"),
        ("long names", "for i = 1, 1000 do _G[('n'):rep(1e4) .. i] = i end"),
        ("long strings", "for i = 1, 1000 do _G['s' .. i] = ('x'):rep(1e4) end"),
        ("functions of long chunks", "for i = 1, 100 do _G['f' .. i] = load('return 1 --' .. ('x'):rep(1e5)) end"),
        ("functions of many parameters", "f = load('return function(' .. ('p,'):rep(199) .. 'q) end')()"),
        ("a table of tables of tables", "local t = {} for i = 1, 400 do t['k' .. i] = t end g = {t, t, t} h = t"),
    ],
)
def test_globals_of_any_size_are_looked_at_in_part_and_soon(lua: Lua, case: str, code: str) -> None:
    assert lua.run(code).error is None
    begun = time.monotonic()

    rows = lua.engine.symbols()

    assert time.monotonic() - begun < 1, "it walks through all of it"
    assert len(rows) <= 6001
    assert sum(map(len, rows)) < 4_000_000
    SymbolTable.from_rows(rows)


def test_looking_holds_on_to_nothing(lua: Lua) -> None:
    lua.result("t = {} for i = 1, 300 do t['a' .. i] = {i} end collectgarbage()")
    lua.engine.symbols()
    lua.result("collectgarbage()")
    before = lua.engine.memory_used_bytes

    for _ in range(20):
        lua.engine.symbols()
    lua.result("collectgarbage()")

    assert lua.engine.memory_used_bytes < before + 16 * 1024
