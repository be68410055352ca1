"""Every function that scripts have, called with anything: nothing crashes, hangs, or hands out an object of the host's.

Left out are the three that walk through a length which the script makes up, in one call into C: only the end of the
process stops those.
"""

import pytest

from support.lua import Lua, in_a_process

CALLS = r"""
local seed, count = SEED, 10000
local type, pcall, pairs, sort = type, pcall, pairs, table.sort
local unpack, pack, random = table.unpack, table.pack, math.random
local create, resume, close, yield = coroutine.create, coroutine.resume, coroutine.close, coroutine.yield
local setmetatable, error, next, stdout, G = setmetatable, error, next, io.stdout, _G

local by_name, names, seen = {}, {}, {}
local function gather(library, path)
    seen[library] = true
    for name, value in pairs(library) do
        if type(value) == "function" then
            by_name[path .. name] = value
        elseif type(value) == "table" and not seen[value] then
            gather(value, path .. name .. ".")
        end
    end
end
gather(G, "")
for _, name in pairs{"read", "write", "lines", "flush", "close", "seek", "setvbuf"} do
    by_name["stream:" .. name] = stdout[name]
end
for _, name in pairs{"table.move", "table.insert", "table.remove"} do by_name[name] = nil end
for name in pairs(by_name) do names[#names + 1] = name end
sort(names)

local function odd()
    return setmetatable({}, {
        __index = function(_, k) return k end, __len = function() return random(0, 5) end, __name = "\0odd",
        __tostring = function() return random(2) == 1 and "t" or {} end, __call = function(...) return ... end,
        __pairs = function() return next, {} end, __close = function() end, __eq = function() return true end,
        __lt = function() return true end, __concat = function() return "c" end, __mode = "k",
        __metatable = random(2) == 1 and "m" or nil,
    })
end
local texts = {
    "", "abc", "%d%s%5.2f%q", "%p%s", "[a-", "(%w+)()%f[x]%b()%1", "\27Lua", "return ...", "\255\0\254", "n", "*a",
    "collect", "!*t", "<i4s2z", "k", "@on", "x = = 1", "t", "b",
}
local pool = {
    function() end, function() return true end, function() return random(-5, 70) end, function() return 1.5 end,
    function() return 0 / 0 end, function() return 1 / 0 end, function() return texts[random(#texts)] end,
    function() return texts[random(#texts)] end, function() return {} end, function() return {1, 2, 3} end,
    function() return {html = "<b>", id = "i"} end, function() return {year = 2020, month = 1, day = 1} end, odd, odd,
    function() return by_name[names[random(#names)]] end, function() return function(...) return ... end end,
    function() return error end, function() return function() yield(1) end end, function() return stdout end,
    function() return G end, function() return create(function(...) yield(...) return ... end) end,
}

math.randomseed(seed)
local values = {}
for i = 1, count do
    local name, args, n = names[random(#names)], {}, random(0, 5)
    for j = 1, n do
        local at = random(#pool + 1)
        if at > #pool then args[j] = values[random(20)] else args[j] = pool[at]() end
    end
    local co = create(function(...) return by_name[name](...) end)
    local out = pack(resume(co, unpack(args, 1, n)))
    pcall(close, co)
    for j = 1, out.n do
        if type(out[j]) == "userdata" then error("an object of the host's from " .. name) end
    end
    values[random(20)] = out[random(1, out.n + 1)]
end
return "survived"
"""


@pytest.mark.parametrize("seed", range(3))
def test_random_calls_do_no_harm(seed: int) -> None:
    ended = in_a_process(
        [CALLS.replace("SEED", str(seed)), "return 1 + 1"],
        memory_bytes=64 * 1024 * 1024,
        lines=[f"line {number}" for number in range(1000)],
        deadline_s=100,
    )

    assert (ended.returncode, ended.stderr) == (0, "")
    assert [(outcome["message"], outcome["result"]) for outcome in ended.outcomes] == [(None, "survived"), (None, "2")]


def test_what_was_done_to_the_globals_does_not_reach_the_host() -> None:
    lua = Lua(memory_bytes=64 * 1024 * 1024)
    lua.host.lines.extend(b"line %d" % number for number in range(1000))

    lua.run(CALLS.replace("SEED", "7").replace("10000", "3000"))

    assert lua.result("return 1 + 1") == "2"
    assert lua.engine.evaluate(b"{1}", lua.number) == (True, b'{"text/plain":"{1}"}')
    assert lua.engine.symbols()
