-- The first part of the prelude: keeps the originals of the standard library for the parts that follow, and empties
-- the globals that Lua itself knows, so that no script ever sees them (scripts get a table of their own: sandbox.lua).
--
-- Rules for everything in this folder, since scripts share the Lua state with it:
--   * no method calls on strings (`s:sub()`): a script may edit the `string` table that they go through;
--   * raw access only (rawget, rawlen, next) to a script's tables, except where a metamethod is meant to run;
--   * no table, function or thread of a script is ever handed to the host, and nothing of the host's to a script.
-- Every part is loaded without debug information (engine.py), so that an error raised by an original that a wrapper
-- calls carries no position inside this folder; run.lua puts the script's own position there.
local host = ...
local next, pairs = next, pairs

local function copy(library)
    local out = {}
    for name, value in pairs(library) do
        out[name] = value
    end
    return out
end

local P = {
    host = host,
    base = copy(_G),
    string = copy(string),
    table = copy(table),
    math = copy(math),
    utf8 = copy(utf8),
    coroutine = copy(coroutine),
    os = copy(os),
    debug = copy(debug),
    SOURCE = "=?",
    VERSION = _VERSION,
}

-- luaL_argerror looks up a function's name in package.loaded. The originals stay there, out of scripts' reach, so
-- that errors raised by a wrapped function's original still say "bad argument #1 to 'string.rep'".
local loaded = package.loaded
for name in pairs(copy(loaded)) do
    loaded[name] = nil
end
loaded._G = P.base
loaded.string, loaded.table, loaded.math, loaded.utf8 = P.string, P.table, P.math, P.utf8
loaded.coroutine, loaded.os = P.coroutine, P.os

local string_metatable = getmetatable("")
P.string_metatable = string_metatable
string_metatable.__metatable = false
-- No script should ever hold an object of the host's; one that did would find its metatable shut.
P.debug.getmetatable(host.write).__metatable = false

-- Of a long text the host takes pieces, as it comes to them, and never a copy of the whole. No character is cut in two.
local AT_ONCE = 0x10000
local byte, sub, host_write = P.string.byte, P.string.sub, host.write

function P.write(fd, text)
    local first, length = 1, #text
    while length - first >= AT_ONCE do
        local last = first + AT_ONCE - 1
        for _ = 1, 3 do
            if byte(text, last + 1) & 0xC0 ~= 0x80 then
                break
            end
            last = last - 1
        end
        host_write(fd, sub(text, first, last))
        first = last + 1
    end
    host_write(fd, first == 1 and text or sub(text, first))
end

local globals = _G
for name in next, copy(globals) do
    globals[name] = nil
end
-- Compiles one part of the prelude.
function P.part(source)
    return P.base.load(P.string.dump(P.base.load(source, "=prelude", "t"), true), "=?", "b")
end
return P
