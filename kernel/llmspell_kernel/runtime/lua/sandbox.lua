-- The globals that scripts see. Everything here is allowed by name; what is not named does not exist for them.
local P = ...
local base, host = P.base, P.host
local type, error, rawget, select, next = base.type, base.error, base.rawget, base.select, base.next
local byte, find = P.string.byte, P.string.find
local concat, tostring = P.table.concat, P.tostring

local env = {}
P.env = env
env._G = env
env._VERSION = P.VERSION
for _, name in next, { "assert", "error", "getmetatable", "ipairs", "next", "pairs", "pcall", "rawequal", "rawget", "rawlen", "rawset", "select", "tonumber", "type" } do
    env[name] = base[name]
end
env.tostring = tostring

local function library(source, names)
    local out = {}
    for _, name in next, names do
        out[name] = source[name]
    end
    return out
end

env.string = library(P.string, { "byte", "char", "find", "format", "gmatch", "gsub", "len", "lower", "match", "pack", "packsize", "rep", "reverse", "sub", "unpack", "upper" })
env.table = library(P.table, { "concat", "insert", "move", "pack", "remove", "sort", "unpack" })
env.utf8 = library(P.utf8, { "char", "charpattern", "codepoint", "codes", "len", "offset" })
env.os = library(P.os, { "clock", "date", "difftime", "time" })
env.math = library(P.math, { "abs", "acos", "asin", "atan", "ceil", "cos", "deg", "exp", "floor", "fmod", "huge", "log", "max", "maxinteger", "min", "mininteger", "modf", "pi", "rad", "random", "randomseed", "sin", "sqrt", "tan", "tointeger", "type", "ult" })

env.string.format = P.format
P.string_metatable.__index = env.string

-- Without arguments the original seeds from an address and returns it.
function P.reseed(high, low)
    P.math.randomseed(high, low)
end
function env.math.randomseed(...)
    if select("#", ...) > 0 then
        return P.math.randomseed(...)
    end
    local random = P.math.random
    return P.math.randomseed(random(0), random(0))
end

-- A finalizer would run at any time, outside every limit.
function env.setmetatable(value, metatable)
    if type(metatable) == "table" and rawget(metatable, "__gc") ~= nil then
        error("'__gc' is not available in this kernel: use '__close' with a local <close> variable", 2)
    end
    return base.setmetatable(value, metatable)
end

local GC_OPTIONS = { collect = true, count = true, step = true, isrunning = true }
function env.collectgarbage(option, argument)
    option = option == nil and "collect" or option
    if not GC_OPTIONS[option] then
        error("collectgarbage: expected 'collect', 'count', 'step' or 'isrunning', found " .. P.quote(tostring(option)), 2)
    end
    return base.collectgarbage(option, argument)
end

-- Text only: malformed bytecode crashes the interpreter. The default environment is the script's, not Lua's own.
local function env_load(chunk, name, mode, ...)
    if type(mode) == "string" and not find(mode, "t", 1, true) then
        return nil, "attempt to load a text chunk (mode is '" .. mode .. "'): this kernel loads text only"
    end
    if name == nil then
        name = type(chunk) == "string" and chunk or "=(load)"
    elseif name == P.SOURCE then
        name = "=(load)"
    end
    local environment = env
    if select("#", ...) > 0 then
        environment = ...
    end
    -- Through pcall, since an error of a reader would else go to the handler of the whole execution.
    local ok, loaded, fault = base.pcall(base.load, chunk, name, "t", environment)
    if not ok then
        error(loaded, 2)
    end
    if loaded then
        return loaded
    end
    return nil, fault
end
env.load = env_load

-- An interrupt reaches every instruction, but none inside a message handler that it has itself called.
function env.xpcall(f, handler, ...)
    if type(handler) ~= "function" then
        return base.xpcall(f, handler, ...)
    end
    local function guarded(message)
        if P.is_interrupt(message) then
            return message
        end
        return handler(message)
    end
    return base.xpcall(f, guarded, ...)
end

-- The error value that the interrupt hook raises: luaL_error with "\3" as its format (interrupt.py says why). A script
-- may raise the same text itself, so the host has the last word.
local interrupted = host.interrupted
function P.is_interrupt(message)
    return type(message) == "string" and byte(message, -1) == 3 and interrupted()
end

local write = P.write
function env.print(...)
    local count = select("#", ...)
    if count == 1 then
        write(1, tostring((...)) .. "\n")
        return
    end
    local parts = { ... }
    for i = 1, count do
        parts[i] = tostring(parts[i])
    end
    write(1, concat(parts, "\t", 1, count) .. "\n")
end

local warnings = true
function env.warn(first, ...)
    local parts = { first, ... }
    for i = 1, select("#", ...) + 1 do
        if type(parts[i]) ~= "string" and type(parts[i]) ~= "number" then
            error("bad argument #" .. i .. " to 'warn' (string expected, got " .. type(parts[i]) .. ")", 2)
        end
    end
    if first == "@on" or first == "@off" then
        warnings = first == "@on"
    elseif warnings then
        write(2, "Lua warning: " .. concat(parts) .. "\n")
    end
end

---------------------------------------------------------------------------------------------------------- require --

local modules = {}
P.loading = {}
function env.require(name)
    if type(name) ~= "string" then
        error("bad argument #1 to 'require' (string expected, got " .. type(name) .. ")", 2)
    end
    if modules[name] ~= nil then
        return modules[name]
    elseif P.loading[name] then
        error("module '" .. name .. "' is required by itself", 2)
    end
    local found, source, path = host.find_module(name)
    host.restore()
    if not found then
        error("module '" .. name .. "' not found: " .. source, 2)
    end
    local chunk, fault = env_load(source, "@" .. path)
    if not chunk then
        error("error loading module '" .. name .. "': " .. fault, 2)
    end
    P.loading[name] = true
    local ok, value = base.pcall(chunk, name, path)
    P.loading[name] = nil
    if not ok then
        error(value, 0)
    end
    modules[name] = value == nil and true or value
    return modules[name], path
end
