"""How values are shown: readable, within bounds, and with no code of the script's run but `__tostring`."""

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from lupa.lua54 import LuaRuntime

from support.lua import Lua, cases

RESULTS = cases(r"""
## an expression
1+1
=> 2

## a returned value
return 1+1
=> 2

## a statement has none
x = 1
=> none

## an empty cell has none
=> none

## a comment has none
-- nothing
=> none

## a return of nothing has none
return
=> none

## a call that returns nothing has none
(function() end)()
=> none

## a call of print has none
print("x")
=> none

## nil
nil
=> nil

## several values
return 1, nil, "x", nil
=> 1\tnil\tx\tnil

## several values of an expression
1, {2}, "x"
=> 1\t{2}\tx

## an integer
return 12345678901234
=> 12345678901234

## a float that is whole
return 2.0
=> 2.0

## negative zero
return -0.0
=> -0.0

## not a number
return 0/0 ~= 0/0, 1/0, -1/0
=> true\tinf\t-inf

## a string as it is
return "line\nline \"quoted\""
=> line\nline "quoted"

## an empty string
return ""
=>

## a table
return {1, 2.5, "three", true, nil, print == print}
=> {1, 2.5, "three", true, nil, true}

## a table with names
return {b = 2, a = 1, ["not a name"] = 3, [10] = 4, [-1] = 5, [1.5] = 6, ["end"] = 7}
=> {[-1] = 5, [1.5] = 6, [10] = 4, a = 1, b = 2, ["end"] = 7, ["not a name"] = 3}

## an empty table
return {}
=> {}

## tables in tables
return {{}, {{}}, {a = {b = {}}}}
=> {{}, {{}}, {a = {b = {}}}}

## strings in tables are quoted
return {"a\rb\"c\"\\", "\0", "\0011", "\127", "ä€😀"}
=> {"a\rb\"c\"\\", "\x00", "\x011", "\x7f", "ä€😀"}

## bytes that are no text
return {"\255a\xC3"}
=> {"�a�"}

## keys of every kind
return {[true] = 1, [false] = 2}
=> {[false] = 2, [true] = 1}

## keys that are objects, in the order in which they were first seen
a, b = {}, {} tostring(a) return {[b] = 2, [a] = 1}
=> {[{}] = 1, [{}] = 2}

## functions and coroutines
return {print, coroutine.create(print)}
=> {function: 0x00000001, thread: 0x00000002}

## a table that holds itself
local t = {1} t.t = t return t
=> {1, t = <cycle: 0x00000001>}

## a table that is held twice
local t = {1} return {t, t}
=> {{1}, {1}}

## a table that is its own key
local t = {} t[t] = 1 return t
=> {[<cycle: 0x00000001>] = 1}

## too deep
return {{{{{{{{1}}}}}}}}
=> {{{{{{{…}}}}}}}

## __tostring
return setmetatable({x = 1}, {__tostring = function(t) return "x is " .. t.x end})
=> x is 1

## __tostring inside
return {setmetatable({}, {__tostring = function() return "mine" end}), 1}
=> {mine, 1}

## __tostring that fails inside
return {setmetatable({}, {__tostring = function() error("x") end})}
=> {table: 0x00000001}

## __tostring that returns no text inside
return {setmetatable({}, {__tostring = function() return {} end})}
=> {table: 0x00000001}

## __name
return setmetatable({1}, {__name = "thing"}), tostring(setmetatable({}, {__name = "thing"}))
=> {1}\tthing: 0x00000001

## a hidden metatable
return setmetatable({1}, {__metatable = "no", __tostring = function() return "shown" end})
=> shown

## tables that lie about their length, their keys and their pairs
return setmetatable({1, x = 2}, {__len = function() return 1e9 end, __index = error, __pairs = error, __eq = error, __lt = error})
=> {1, x = 2}

## keys that lie about their text
local bad = {__tostring = function() error("no") end}
return {[setmetatable({}, bad)] = 1, [setmetatable({}, bad)] = 2} ~= nil
=> true

## keys whose order would lie
local odd = {__lt = function() return true end, __tostring = function() return math.random() end}
local t = {} for i = 1, 50 do t[setmetatable({}, odd)] = i end return #tostring(t) > 0
=> true

## holes
return {1, nil, 3}
=> {1, nil, 3}

## a sparse table
return {[1000000] = 1}
=> {[1000000] = 1}

## the globals
return _G._G == _G
=> true
""")


@pytest.mark.parametrize(("code", "expected"), RESULTS)
def test_a_result_is_shown(lua: Lua, code: str, expected: str) -> None:
    result = lua.result(code)

    assert ("none" if result is None else result.replace("\n", r"\n")) == expected


def test_a_wide_table_has_a_line_for_each_item(lua: Lua) -> None:
    shown = lua.result(
        "return {name = ('x'):rep(50), list = {1, 2, 3}, inner = {a = ('y'):rep(50), b = ('z'):rep(50)}}"
    )

    assert shown == "\n".join(
        [
            "{",
            "  inner = {",
            f'    a = "{"y" * 50}",',
            f'    b = "{"z" * 50}"',
            "  },",
            "  list = {1, 2, 3},",
            f'  name = "{"x" * 50}"',
            "}",
        ]
    )


BOUNDED = cases(r"""
## a long list
local t = {} for i = 1, 1e6 do t[i] = i end return t
=> … (1000000 items)

## a long list with names
local t = {} for i = 1, 1e6 do t[i] = i end t.name = 1 return t
=> … (1000000 items)

## many names
local t = {} for i = 1, 1e5 do t["k" .. i] = i end return t
=> … (more keys)

## a long string in a table
return {("x"):rep(1e6)}
=> " … (1000000 bytes)

## long keys
local t = {} for i = 1, 400 do t[("k"):rep(1e4) .. i] = i end return t
=> bytes)] = 105

## many strings
local t = {} for i = 1, 1e4 do t[i] = ("x"):rep(1000) end return t
=> … (10000 items)

## wide and deep
local t = {} for i = 1, 100 do t[i] = {} end for d = 1, 6 do local n = {} for i = 1, 100 do n[i] = t end t = n end return t
=> … (100 items)

## wide and deep, with names
local t = {} for i = 1, 400 do t["k" .. i] = {} end
for d = 1, 6 do local n = {} for i = 1, 400 do n["k" .. i] = t end t = n end return t
=> …

## a large list in each of many
local big = {} for i = 1, 1e5 do big[i] = i end local t = {} for i = 1, 100 do t[i] = big end return t
=> … (100000 items)

## a list held by its own items
local t = {} for i = 1, 100 do t[i] = {t, t, t} end return t
=> <cycle:

## bytes that are no text
return {("\255"):rep(1e5)}
=> (100000 bytes)
""")


@pytest.mark.parametrize(("code", "expected"), BOUNDED)
def test_a_table_of_any_size_is_shown_in_part_and_soon(lua: Lua, code: str, expected: str) -> None:
    made = lua.run(f"kept = (function() {code} end)()")
    begun = time.monotonic()

    shown = lua.result("return kept")

    assert made.error is None
    assert shown is not None
    assert expected.strip() in shown
    assert len(shown) < 100_000
    assert time.monotonic() - begun < 5, "it walks through all of it"


@pytest.mark.parametrize(
    ("code", "end"),
    [
        ("return ('x'):rep(5000000)", "x … (5000000 bytes)"),
        ("return 1, ('x'):rep(5000000)", "x … (5000000 bytes)"),
        ("return setmetatable({}, {__tostring = function() return ('x'):rep(5000000) end})", "x … (5000000 bytes)"),
        ("return ('é'):rep(1000000)", "é … (2000000 bytes)"),
        ("return table.unpack({}, 1, 5000)", "nil\t… (5000 values)"),
        ("local s = ('x'):rep(1 << 20) return s, s, s, s", "x\t… (4 values)"),
    ],
)
def test_a_text_of_any_size_is_cut_and_says_so(lua: Lua, code: str, end: str) -> None:
    shown = lua.result(code)

    assert shown is not None
    assert shown.endswith(end)
    assert len(shown) < 2_200_000


def test_a_text_is_cut_between_characters(lua: Lua) -> None:
    for character in ("a", "é", "€", "😀"):
        for shift in range(4):
            shown = lua.result(f"return {{('x'):rep({shift}) .. ('{character}'):rep(3000)}}")
            assert shown is not None
            assert "\ufffd" not in shown


def test_output_is_not_cut(lua: Lua) -> None:
    assert len(lua.output("print(('x'):rep(5000000))")) == 5_000_001


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("print()", "\n"),
        ("print(nil)", "nil\n"),
        ("print(1, nil, 'x', {} ~= nil)", "1\tnil\tx\ttrue\n"),
        ("print(1.0, 1, -0.0, 1e100)", "1.0\t1\t-0.0\t1e+100\n"),
        ("print(setmetatable({}, {__tostring = function() return 'mine' end}))", "mine\n"),
        ("print(setmetatable({}, {__name = 'thing'}))", "thing: 0x00000001\n"),
        ("print('a\\0b')", "a\0b\n"),
        ("print({1})", "table: 0x00000001\n"),
        ("print(table.unpack({}, 1, 300))", "\t".join(["nil"] * 300) + "\n"),
    ],
)
def test_print_writes_as_lua_does(lua: Lua, code: str, expected: str) -> None:
    assert lua.output(code) == expected


VALUES = st.recursive(
    st.one_of(
        st.booleans(),
        st.integers(-(2**63) + 1, 2**63 - 1),
        st.integers(-1000, 1000).map(lambda eighths: eighths / 8),
        st.text(max_size=20),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=6), st.dictionaries(st.text(max_size=8), inner, max_size=6)),
    max_leaves=30,
)


def _literal(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            return '"' + "".join(f"\\u{{{ord(c):x}}}" for c in value) + '"'
        case list():
            return "{" + ", ".join(_literal(item) for item in value) + "}"
        case dict():
            return "{" + ", ".join(f"[{_literal(key)}] = {_literal(item)}" for key, item in value.items()) + "}"
        case _:
            return repr(value)


@pytest.fixture(scope="module")
def reader() -> LuaRuntime:
    return LuaRuntime(register_eval=False, register_builtins=False)


@pytest.fixture(scope="module")
def shared() -> Lua:
    return Lua()


@given(value=st.one_of(st.lists(VALUES, max_size=4), st.dictionaries(st.text(max_size=8), VALUES, max_size=4)))
def test_a_table_within_the_bounds_is_shown_as_a_literal_that_reads_back(
    shared: Lua, reader: LuaRuntime, value: object
) -> None:
    def depth(item: object) -> int:
        items = item.values() if isinstance(item, dict) else item if isinstance(item, list) else []
        return 1 + max(map(depth, items), default=0)

    if depth(value) > 6:
        return
    shown = shared.result(f"return {_literal(value)}")

    same = reader.eval("function(a, b) local function same(a, b) if type(a) ~= 'table' or type(b) ~= 'table' then "
                       "return a == b and math.type(a) == math.type(b) end for k, v in pairs(a) do "
                       "if not same(v, b[k]) then return false end end for k in pairs(b) do "
                       "if a[k] == nil then return false end end return true end return same(a, b) end")  # fmt: skip
    assert same(reader.eval(_literal(value)), reader.eval(shown or "nil"))


def test_showing_runs_no_code_of_the_script_s(lua: Lua) -> None:
    lua.result(
        """
        ran = {}
        local mt = {}
        for _, event in ipairs{"index", "newindex", "len", "pairs", "eq", "lt", "le", "concat", "call", "close"} do
            mt["__" .. event] = function() ran[#ran + 1] = event end
        end
        object = setmetatable({1, 2, x = 3}, mt)
        holder = {object, [object] = object}
        """
    )
    for code in ("return object", "return holder", "display(object)", "display(holder)"):
        lua.result(code)
    lua.error("error(object)")
    lua.engine.symbols()
    lua.engine.evaluate(b"holder", lua.number)

    assert lua.result("return #ran") == "0"
