"""Coroutines behave as Lua's own, though each resume tells the interrupter which one runs."""

import pytest

from support.lua import Lua, cases, plain_lua

SAME = cases(r"""
## yields and resumes pass values
local co = coroutine.create(function(a, b) local c = coroutine.yield(a + b) local d, e = coroutine.yield(c * 2) return d, e end)
local out = {} for _, args in ipairs{{1, 2}, {5}, {7, nil}, {}} do
    out[#out + 1] = table.concat({tostring(select("#", coroutine.resume(co, table.unpack(args, 1, 2)))), coroutine.status(co)}, ":")
end return table.concat(out, " ")

## wrap
local f = coroutine.wrap(function(...) while true do coroutine.yield(select("#", ...), ...) end end) return f(1, nil, 3)

## an iterator
local sum = 0 for i in coroutine.wrap(function() for i = 1, 10 do coroutine.yield(i) end end) do sum = sum + i end return sum

## nothing is returned
return select("#", coroutine.wrap(function() end)()), coroutine.resume(coroutine.create(function() end))

## a dead coroutine
local co = coroutine.create(print) coroutine.resume(co) return coroutine.resume(co)

## a dead wrapped coroutine
local f = coroutine.wrap(function() end) f() return pcall(function() f() end)

## an error
return coroutine.resume(coroutine.create(function() error("x") end))

## an error that is a table
local e = {} return select(2, coroutine.resume(coroutine.create(function() error(e) end))) == e

## an error through wrap
return pcall(function() coroutine.wrap(function() error("x") end)() end)

## an error through wrap called by pcall
return pcall(coroutine.wrap(function() error("x") end))

## an error without a place, through wrap
return pcall(function() local f = coroutine.wrap(function() error("x", 0) end) f() end)

## an error that is a table, through wrap
local e = {} return select(2, pcall(coroutine.wrap(function() error(e) end))) == e

## an error through two wraps
return pcall(function()
    coroutine.wrap(function() coroutine.wrap(function() error("x") end)() end)()
end)

## a runtime error through wrap
return pcall(function() coroutine.wrap(function() local t = nil; return t.x end)() end)

## status
local co, inner co = coroutine.create(function() inner = coroutine.status(co) coroutine.yield() end)
local before = coroutine.status(co) coroutine.resume(co) local between = coroutine.status(co) coroutine.resume(co)
return before, inner, between, coroutine.status(co)

## the status of one that resumed another
local outer outer = coroutine.create(function() return coroutine.wrap(function() return coroutine.status(outer) end)() end)
return coroutine.resume(outer)

## running and isyieldable
local _, is_main = coroutine.running()
return is_main, coroutine.isyieldable(), coroutine.wrap(function() return select(2, coroutine.running()), coroutine.isyieldable() end)()

## running is the one that runs
local co co = coroutine.create(function() return coroutine.running() == co end) return coroutine.resume(co)

## resuming itself
local co co = coroutine.create(function() return coroutine.resume(co) end) return coroutine.resume(co)

## a wrap that calls itself
local f f = coroutine.wrap(function() return pcall(f) end) return f()

## yielding across pcall
local co = coroutine.wrap(function() return pcall(function() coroutine.yield(1) error("late", 0) end) end) return co(), co()

## yielding across xpcall
local co = coroutine.wrap(function() return xpcall(function() coroutine.yield(1) error("late", 0) end, function(m) return m .. "!" end) end)
co() return co()

## yielding in a metamethod
local t = setmetatable({}, {__index = function(_, k) return coroutine.yield(k) end})
local co = coroutine.wrap(function() return t.a .. t.b end) return co(), co("1"), co("2")

## yielding in an iterator
local co = coroutine.wrap(function() for i in function() return coroutine.yield("next") end do return i end end) return co(), co(7)

## yielding in sort
return coroutine.resume(coroutine.create(function() table.sort({3, 2, 1}, coroutine.yield) end))

## yielding in gsub
return coroutine.resume(coroutine.create(function() return (("x"):gsub("x", coroutine.yield)) end))

## yielding in __close
local co = coroutine.wrap(function()
    local x <close> = setmetatable({}, {__close = function() coroutine.yield("closing") end}) return "done"
end) return co(), co()

## closing a suspended coroutine
local log = {}
local co = coroutine.create(function() local x <close> = setmetatable({}, {__close = function(_, e) log[1] = tostring(e) end}) coroutine.yield() end)
coroutine.resume(co) return coroutine.close(co), coroutine.status(co), log[1]

## closing one that failed
local co = coroutine.create(error) coroutine.resume(co, "x") return coroutine.close(co), coroutine.close(co)

## closing with an error
local co = coroutine.create(function() local x <close> = setmetatable({}, {__close = function() error("c", 0) end}) coroutine.yield() end)
coroutine.resume(co) return coroutine.close(co)

## closing one that is new
local co = coroutine.create(print) return coroutine.close(co), coroutine.status(co), coroutine.resume(co)

## closing one that runs
return coroutine.wrap(function() return pcall(coroutine.close, (coroutine.running())) end)()

## closing one that waits
local co co = coroutine.create(function() return coroutine.wrap(function() return pcall(coroutine.close, co) end)() end)
return coroutine.resume(co)

## a wrap that fails closes what it held
local log = {}
pcall(coroutine.wrap(function() local x <close> = setmetatable({}, {__close = function(_, e) log[1] = e end}) error("x", 0) end))
return log[1]

## a wrap that fails while it closes
return pcall(coroutine.wrap(function() local x <close> = setmetatable({}, {__close = function() error("c", 0) end}) error("x", 0) end))

## create of nothing
return pcall(function() local co = coroutine.create() end)

## create of no function
return pcall(function() local co = coroutine.create(5) end)

## wrap of no function
return pcall(function() local co = coroutine.wrap({}) end)

## status of no coroutine
return pcall(coroutine.status, nil)

## yield outside
return pcall(coroutine.yield)

## a thousand at once
local all = {} for i = 1, 1000 do all[i] = coroutine.wrap(function() coroutine.yield(i) return -i end) end
local sum = 0 for _, f in ipairs(all) do sum = sum + f() end for _, f in ipairs(all) do sum = sum + f() * 2 end return sum

## many values
return select("#", coroutine.wrap(function(...) return ... end)(table.unpack({}, 1, 5000)))

## a producer and a filter
local function gen(n) return coroutine.wrap(function() for i = 2, n do coroutine.yield(i) end end) end
local function filter(p, g) return coroutine.wrap(function() for n in g do if n % p ~= 0 then coroutine.yield(n) end end end) end
local out, x = {}, gen(50) while true do local n = x() if not n then break end out[#out + 1] = n x = filter(n, x) end
return table.concat(out, " ")
""")


@pytest.mark.parametrize(("code", "_"), SAME)
def test_they_behave_as_lua_s(lua: Lua, code: str, _: str) -> None:
    ok, *values = plain_lua()(code)

    outcome = lua.run(code)

    assert ok, values
    assert outcome.error is None
    assert (outcome.result or b"").decode().split("\t") == (values or [""])


def test_a_coroutine_lives_from_one_execution_to_the_next(lua: Lua) -> None:
    lua.result("co = coroutine.wrap(function() for i = 1, 3 do coroutine.yield(i) end end)")

    assert [lua.result("return co()") for _ in range(3)] == ["1", "2", "3"]


@pytest.mark.parametrize("call", ["coroutine.resume(5)", "coroutine.close('x')"])
def test_what_is_no_coroutine_is_refused_in_lua_s_words(lua: Lua, call: str) -> None:
    assert "bad argument #1 to" in lua.error(call).message
    assert lua.error(call).message.startswith("In[1]:1: ")


def test_coroutines_are_collected(lua: Lua) -> None:
    lua.result("for _ = 1, 20000 do coroutine.wrap(function() coroutine.yield() end)() end collectgarbage()")

    assert lua.engine.memory_used_bytes < 1024 * 1024


def test_a_wrapped_error_names_the_script_s_places(lua: Lua) -> None:
    error = lua.error("local function work()\n error('x')\nend\nlocal co = coroutine.wrap(work)\nco()")

    assert error.message == "In[1]:5: In[1]:2: x"
    assert error.traceback[-1] == "  In[1]:5: in main chunk"


def test_output_and_input_work_inside(lua: Lua) -> None:
    lua.host.lines.append(b"asked")
    code = "local co = coroutine.wrap(function() print(io.read()) display(1) coroutine.yield() end) co()"

    assert lua.output(code) == "asked\n"
    assert lua.host.bundles() == [{"text/plain": "1"}]
