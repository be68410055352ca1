"""The library against Lua as it comes: what a wrapper changes is meant, and stands in a table."""

import re
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.lua import Lua, cases, plain_lua


class Both:
    """A kernel's engine and a plain Lua, asked the same."""

    def __init__(self) -> None:
        self.lua = Lua()
        self.plain = plain_lua()

    def ours(self, code: str) -> tuple[Any, ...]:
        outcome = self.lua.run(
            f"local out = table.pack(pcall(function() {code} end)) "
            "for i = 1, out.n do out[i] = tostring(out[i]) end "
            "return table.concat(out, '\\1', 1, out.n)"
        )
        if outcome.error is not None:
            return False, outcome.error.message
        assert outcome.result is not None
        ok, *values = outcome.result.decode("utf-8", "replace").split("\1")
        return ok == "true", *values

    def theirs(self, code: str) -> tuple[Any, ...]:
        return self.plain(f"return (function() {code} end)()")


@pytest.fixture(scope="module")
def both() -> Both:
    return Both()


SAME = cases(r"""
## strings
return ("%s|%5s|%-5s|%.2s"):format("abc", "x", "y", "zzz"), ("x"):rep(3, ","), ("abc"):byte(1, -1), #"\u{7FFFFFFF}"

## numbers as text
return 1, 1.0, -0.0, 1e15, 1e16, 2^53, 2^63, 1/0, -1/0, 0x10, 1e100, 3 // 2, 3.0 // 2, 7 % -3, -7 // 2, 1e308 * 10

## integers at their ends
return math.maxinteger, math.mininteger, math.maxinteger + 1 == math.mininteger, math.ult(1, -1), 1 << 63, ~0

## tostring
return tostring(nil), tostring(true), tostring(12), tostring(1.5), tostring("s"),
    tostring(setmetatable({}, {__tostring = function() return "mine" end})),
    tostring(setmetatable({}, {__tostring = function() return 5 end}))

## tostring that returns no string
return (tostring(setmetatable({}, {__tostring = function() return {} end})))

## tonumber
return tonumber("0x1p4"), tonumber("1e1"), tonumber("  12  "), tonumber("12a"), tonumber("z", 36), tonumber("8", 8)

## table
local t = {3, 1, 2} table.sort(t) table.insert(t, 1, 0) table.remove(t) return table.concat(t, ","), #t, table.unpack(t)

## select
return select("#"), select("#", nil, nil), select(-1, 1, 2, 3), select(2, "a", "b", "c")

## select of nothing
return select(0)

## utf8
return utf8.char(72, 228, 8364, 128512), utf8.len("äö"), utf8.len("\xff"), utf8.codepoint("€"), utf8.offset("aäb", 3)

## utf8 that is wrong
return utf8.codepoint("\xff")

## patterns
return ("key = value"):match("^(%w+)%s*=%s*(%w+)$"),
    ("abc"):gsub("%w", "%0%0"), ("x"):find(""), ("a.b"):find(".", 1, true)

## a pattern that is wrong
return ("x"):find("[a")

## gsub with a table, a function and a limit
return ("$a $b"):gsub("%$(%w)", {a = 1}), ("abc"):gsub(".", function(c) return c == "b" and false or c:upper() end, 2)

## pack
return string.unpack("<i4 z s1", string.pack("<i4 z s1", -2, "zero", "one"))

## goto, integer loops and closures
local out = {} for i = 3, 1, -1 do if i == 2 then goto next end out[#out + 1] = function() return i end ::next:: end
return out[1](), out[2]()

## varargs
local function f(...) return select("#", ...), ... end return f(nil, 2, nil)

## metamethods
local mt = {__add = function(a, b) return "add" end, __len = function() return 9 end,
    __index = function(_, k) return k end, __call = function(_, x) return x end, __concat = function() return "cat" end,
    __unm = function() return "neg" end,
    __eq = function() return true end, __lt = function() return true end, __le = function() return false end}
local a, b = setmetatable({}, mt), setmetatable({}, mt)
return a + 1, #a, a.key, a("called"), a .. "x", -a, a == b, a < b, a <= b

## __pairs
local function step(_, k) if not k then return 1, "one" end end
local t = setmetatable({}, {__pairs = function() return step, nil, nil end})
for k, v in pairs(t) do return k, v end

## __metatable
local t = setmetatable({}, {__metatable = "locked"}) return getmetatable(t), pcall(setmetatable, t, {})

## __close
local log = {}
do
    local a <close> = setmetatable({}, {__close = function(_, e) log[#log + 1] = "a" .. tostring(e) end})
    local b <close> = setmetatable({}, {__close = function(_, e) log[#log + 1] = "b" .. tostring(e) end})
end
return table.concat(log, " ")

## __close after an error
local log = {}
pcall(function()
    local a <close> = setmetatable({}, {__close = function(_, e) log[#log + 1] = tostring(e) end})
    error("why", 0)
end)
return log[1]

## a const
return load("local x <const> = 1; x = 2")

## pcall
return pcall(error, "x"), pcall(error, nil), pcall(error), pcall(nil), pcall(pcall, error, 1)

## error with levels
local function f(level) error("here", level) end
return select(2, pcall(f, 0)), select(2, pcall(f, 1)), select(2, pcall(function() f(2) end))

## assert
return assert(1, 2, 3)

## assert that fails
return assert(false)

## assert with a message
return assert(nil, "said")

## assert with a value
return select(2, pcall(assert, false, {})) ~= nil

## xpcall's arguments
return xpcall(function(...) return select("#", ...), ... end, print, 1, nil, 3, nil)

## xpcall's handler
return xpcall(error, function(m) return m .. "!" end, "x")

## xpcall's handler sees the value
return xpcall(error, type, {}), xpcall(error, type, nil), xpcall(error, type, 5)

## xpcall's handler that fails
return xpcall(error, function(m) error(m) end, "x")

## xpcall in xpcall
local function inner() return xpcall(error, function(m) return "inner " .. m end, "x") end
return xpcall(inner, function() return "outer" end)

## a runtime error in a handler's function
return xpcall(function() local t = nil; return t.x end, function(m) return "<" .. m .. ">" end)

## load
return load("return 1, 2")(), load("x ="), load("return ...")(7)

## load with a name
return select(2, load("x =", "=name")), select(2, load("x =", "@file.lua")), select(2, load("x ="))

## load with a reader
local parts = {"return ", "4", "2", nil} local n = 0
return load(function() n = n + 1 return parts[n] end)()

## load with a reader that fails
return load(function() error("no more", 0) end)

## load with an environment
return load("x = 1 return x", "c", "t", setmetatable({}, {__index = {y = 2}}))()

## load's name without one
return select(2, pcall(load("error('x')"))), select(2, pcall(load(function() end)))

## load of nothing
return load("")()

## rawequal, rawlen, rawget and rawset
local mt = {__index = function() return 1 end, __len = function() return 5 end, __newindex = error}
local t = setmetatable({}, mt)
rawset(t, "k", 2) return rawget(t, "k"), rawget(t, "j"), rawlen(t), rawequal(t, t), rawlen("abc")

## next and ipairs
local t = {10, 20, x = 1} local n = 0 for _ in next, t do n = n + 1 end
for i, v in ipairs(setmetatable({}, {__index = function(_, i) if i < 3 then return i end end})) do n = n + v end
return n

## math
return math.floor(-1.5), math.ceil(1.2), math.fmod(-7, 3), math.modf(3.7), math.tointeger("8"), math.type(1),
    math.type(1.0), math.type("1"), math.abs(math.mininteger), math.max(1, 2.5), math.pi

## a seed
math.randomseed(42) local a = math.random(1000) math.randomseed(42) return a == math.random(1000), math.random(5, 5)

## a seed's numbers
math.randomseed(42) return math.random(1000000), math.random(1000000), math.random()

## what randomseed returns
return math.randomseed(42)

## an empty interval
return math.random(2, 1)

## os.time and os.date
return os.time{year = 2020, month = 1, day = 1, hour = 12}, os.date("!%Y-%m-%d %H:%M:%S", 0), os.date("!*t", 86400).day

## os.date that is wrong
return os.date("%Q")

## os.difftime
return os.difftime(10, 4)

## collectgarbage
return type(collectgarbage("count")), collectgarbage(), collectgarbage("isrunning"), type(collectgarbage("step"))

## comparing what cannot be compared
return {} < {}

## calling what cannot be called
local t = {} t.field.sub = 1

## a method that is not there
return ("x"):nothing()

## arithmetic on text
return "10" + 5, "0x10" * 2, 10 .. 20, pcall(function() return "a" + 1 end)

## an integer that is none
return 1 | 1.5

## bits of text
return "3" | 4, pcall(function() return "a" | 1 end)

## a bad argument of a library function
return string.rep()

## a bad argument of a method
return ("x"):rep({})

## a bad argument called through pcall
return pcall(string.rep)

## a bad argument of setmetatable
return pcall(setmetatable, 1, {})

## a metatable that is none
return pcall(setmetatable, {}, 1)

## a bad for
for i = 1, 10, 0 do end

## tables in messages
return pcall(table.concat, {1, {}, 3})

## ipairs of nothing
return pcall(ipairs)

## the stack runs out
local function f() return 1 + f() end return select(2, pcall(f)):match("stack overflow")
""")


@pytest.mark.parametrize(("code", "_"), SAME)
def test_it_behaves_as_lua_does(both: Both, code: str, _: str) -> None:
    assert both.ours(code) == both.theirs(code)


DIFFERENT = cases(r"""
## addresses are masked by short numbers
return #tostring({}):match("0x(%x+)")
=> 8

## tostring needs no argument
return tostring()
=> nil

## a finalizer is refused
return (pcall(setmetatable, {}, {__gc = print}))
=> false

## what a wrapped function raises has a place only when nobody catches it
return select(2, pcall(function() string.format("%d", "x") end))
=> bad argument #2 to 'format' (number expected, got string)

## a wrapped method counts self among its arguments
return select(2, pcall(function() return ("%d"):format("x") end))
=> bad argument #2 to 'format' (number expected, got string)

## a handler that is missing is nil
return select(2, pcall(function() return xpcall(print) end))
=> bad argument #2 to 'xpcall' (function expected, got nil)

## a reader's wrong value has no place
return select(2, load(function() return {} end))
=> reader function must return a string
""")


@pytest.mark.parametrize(("code", "expected"), DIFFERENT)
def test_a_difference_is_meant(both: Both, code: str, expected: str) -> None:
    assert both.ours(code) == (True, expected)
    assert both.theirs(code) != (True, expected)


CONVERSIONS = {
    "diuxXoc": st.one_of(st.integers(-(2**63), 2**63 - 1), st.integers(32, 126)).map(str),
    "aAeEfgG": st.one_of(st.floats(allow_nan=False, allow_infinity=False).map(repr), st.integers(-999, 999).map(str)),
    "s": st.one_of(st.sampled_from(["'text'", "12", "1.5", "true", "nil", "'with spaces in it'", "''"])),
    "q": st.sampled_from(["'a\\n\\0b\"'", "1", "1.5", "true", "nil", "math.mininteger", "1/3"]),
    "p": st.sampled_from(["nil", "1", "true"]),
}


@st.composite
def conversions(draw: st.DrawFn) -> tuple[str, str]:
    """A conversion and an argument for it, most of them right."""
    letters, arguments = draw(st.sampled_from(sorted(CONVERSIONS.items())))
    flags = draw(st.text("-+ #0", max_size=2))
    width = draw(st.sampled_from(["", "1", "5", "12", "99", "100"]))
    precision = draw(st.sampled_from(["", ".", ".0", ".3", ".20", ".100"]))
    spec = f"%{flags}{width}{precision}{draw(st.sampled_from(letters))}"
    return spec, draw(st.one_of(arguments, arguments, st.sampled_from(["'x'", "{}", "1.5"])))


def _without_addresses(answer: tuple[Any, ...]) -> tuple[Any, ...]:
    """Tables have other addresses; messages of a wrapped function have no place."""
    return tuple(
        re.sub(r"0x[0-9a-f]+", "0x…", text.removeprefix("In[1]:1: ")) if isinstance(text, str) else text
        for text in answer
    )


@settings(max_examples=400)
@given(items=st.lists(conversions(), min_size=1, max_size=4), between=st.sampled_from(["", "%%", " p ", "s", "é"]))
def test_formats_are_lua_s(both: Both, items: list[tuple[str, str]], between: str) -> None:
    spec, arguments = between.join(item[0] for item in items), ", ".join(item[1] for item in items)
    code = f"return string.format([==[{spec}]==], {arguments})"
    ours, theirs = _without_addresses(both.ours(code)), _without_addresses(both.theirs(code))

    if any(argument == "{}" or (form.endswith("p") and argument == "'x'") for form, argument in items):
        # A masked address is shorter, so that padding and precision cut elsewhere; a string's is not told at all.
        assert ours[0] == theirs[0]
    else:
        assert ours == theirs


@given(number=st.one_of(st.floats(), st.integers(-(2**63), 2**63 - 1)))
def test_numbers_are_shown_as_lua_shows_them(both: Both, number: float) -> None:
    text = {"inf": "1/0", "-inf": "-1/0", "nan": "0/0"}.get(repr(number), repr(number))
    text = "math.mininteger" if number == -(2**63) and isinstance(number, int) else text

    shown = both.lua.result(f"return {text}")

    assert (True, shown) == both.theirs(f"return {text}")
    assert both.lua.output(f"print({text}) io.write({text})") == f"{shown}\n{shown}"
