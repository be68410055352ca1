-- Compiling and running a cell: what the host calls for each execution.
local P = ...
local base, host = P.base, P.host
local type, error, select, xpcall, load, next = base.type, base.error, base.select, base.xpcall, base.load, base.next
local getinfo, concat = P.debug.getinfo, P.table.concat
local find, sub, gsub, format = P.string.find, P.string.sub, P.string.gsub, P.string.format
local tostring, display, clip, is_interrupt, env = P.tostring, P.display, P.clip, P.is_interrupt, P.env
local collectgarbage = base.collectgarbage

local HEAD, TAIL = 12, 10
local MAX_MESSAGE, MAX_NAME, MAX_LEVELS, MAX_RESULT, MAX_RESULTS = 0x10000, 200, 200, 0x100000, 256

---------------------------------------------------------------------------------------------------------- traceback --

local function last_level()
    local low, high = 1, 1
    while getinfo(high, "l") do
        low, high = high, high * 2
    end
    while low < high do
        local middle = (low + high) // 2
        if getinfo(middle, "l") then
            low = middle + 1
        else
            high = middle
        end
    end
    return high - 1
end

-- Standard functions by name, so that a frame says "string.gsub" and not "function <[C]>".
local function known_names()
    local names = {}
    for _, pair in next, { { "", env }, { "string.", env.string }, { "table.", env.table }, { "math.", env.math }, { "utf8.", env.utf8 }, { "coroutine.", env.coroutine }, { "os.", env.os }, { "io.", env.io } } do
        for name, value in next, pair[2] do
            if type(value) == "function" then
                names[value] = pair[1] .. name
            end
        end
    end
    return names
end
local NAMES = base.setmetatable(known_names(), { __mode = "k" })

local function describe(info)
    local known = NAMES[info.func]
    if known then
        return "function '" .. known .. "'"
    elseif info.what == "main" then
        return "main chunk"
    elseif info.name and info.namewhat ~= "" then
        local kind = info.namewhat
        if kind == "global" or kind == "field" then
            kind = "function"
        end
        return kind .. " '" .. clip(info.name, MAX_NAME) .. "'"
    elseif info.what == "C" then
        return "C function"
    end
    return format("function <%s:%d>", info.short_src, info.linedefined)
end

local function add_frames(lines, from, to)
    for level = from, to do
        local info = getinfo(level, "Slnf")
        if not info then
            break
        end
        local ours, hidden = info.source == P.SOURCE, false
        -- Frames of this prelude are shown only where they stand for a function that the script called by name, and
        -- nothing that those call.
        if ours or info.what == "C" then
            local caller = getinfo(level + 1, "S")
            hidden = caller and caller.source == P.SOURCE or ours and not NAMES[info.func]
        end
        if not hidden then
            local place = (ours or info.currentline < 0) and "[C]" or info.short_src .. ":" .. info.currentline
            -- One frame is one line, whatever the names in it hold.
            lines[#lines + 1] = gsub(place .. ": in " .. describe(info), "%c", "?")
        end
    end
end

local function traceback()
    local lines = {}
    local last = last_level() - 2
    if last <= HEAD + TAIL then
        add_frames(lines, 4, last)
    else
        add_frames(lines, 4, HEAD)
        lines[#lines + 1] = format("… (%d more)", last - HEAD - TAIL)
        add_frames(lines, last - TAIL, last)
    end
    -- The bottom is this file's own call of the chunk.
    while #lines > 0 and sub(lines[#lines], 1, 3) == "[C]" do
        lines[#lines] = nil
    end
    return concat(lines, "\n")
end

-- An error value as the text that a person reads.
local function message_of(value)
    if type(value) == "string" then
        -- Where the stack ran out inside the prelude, Lua puts a position in front that says nothing.
        return clip(sub(value, 1, 6) == "?:-1: " and sub(value, 7) or value, MAX_MESSAGE)
    elseif type(value) == "nil" then
        return "(error object is a nil value)"
    elseif type(value) == "table" then
        local mt = P.debug.getmetatable(value)
        if not (mt and base.rawget(mt, "__tostring") ~= nil) then
            return "(error object is a table) " .. display(value)
        end
        local ok, text = base.pcall(tostring, value)
        return ok and clip(text, MAX_MESSAGE) or "(error object whose '__tostring' failed)"
    end
    return "(error object is a " .. type(value) .. ") " .. tostring(value)
end

-- "In[1]:3: " of the script's innermost frame, for a message that was raised inside the prelude and so has no place.
-- Not looked for far away: each level costs a walk from the top.
local function place()
    local inside = false
    for level = 3, MAX_LEVELS do
        local info = getinfo(level, "Sl")
        if not info then
            break
        elseif info.source == P.SOURCE then
            inside = true
        elseif info.what ~= "C" then
            return inside and info.short_src .. ":" .. info.currentline .. ": " or ""
        end
    end
    return ""
end

local function on_error(value)
    host.headroom()
    if is_interrupt(value) then
        -- The hook is disabled here and raises again at the first instruction after: nothing returned would arrive.
        P.interrupted_at = traceback()
        return value
    end
    local message = message_of(value)
    if type(value) == "string" and not find(message, "^[^\n]-:%d+: ") then
        message = place() .. message
    end
    return { message = message, frames = traceback() }
end

---------------------------------------------------------------------------------------------------------------- run --

-- An expression is run as `return nil, EXPRESSION`: a plain `return f()` would be a tail call, which drops the cell's
-- own frame from tracebacks. The second result is the fault, the third whether that nil leads the results.
-- What is neither is an expression if it would be one with more to follow: `1 +` is unfinished, not wrong.
local function compile(code, name)
    local chunk, unfinished = load("return nil, " .. code, name, "t", env)
    if chunk then
        return chunk, nil, true
    end
    local statements, fault = load(code, name, "t", env)
    if not statements and sub(unfinished, -5) == "<eof>" then
        fault = unfinished
    end
    return statements, fault
end

local function fail(value)
    if type(value) == "table" and value.frames then
        return "error", value.message, value.frames
    end
    -- Lua gives no handler a chance when memory is out or the handler itself failed.
    host.headroom()
    local message = message_of(value)
    if find(message, "not enough memory", 1, true) then
        collectgarbage()
    end
    return "error", message, ""
end

local function display_all(count, ...)
    local parts, left = {}, MAX_RESULT
    for i = 1, count do
        if i > MAX_RESULTS or left < 0 then
            parts[i] = format("… (%d values)", count)
            break
        end
        parts[i] = display((select(i, ...)))
        left = left - #parts[i]
    end
    return concat(parts, "\t")
end

local function show(count, first, ...)
    if count == 1 then
        local kind = type(first)
        if kind == "number" or kind == "string" and #first <= MAX_RESULT then
            return "ok", tostring(first)
        end
    end
    host.headroom()
    local ok, text = xpcall(display_all, on_error, count, first, ...)
    if not ok then
        return fail(text)
    end
    return "ok", text
end

local function finish(is_expression, ok, ...)
    if not ok then
        return fail((...))
    end
    local count = select("#", ...)
    if is_expression then
        if count == 1 then
            return "ok"
        end
        return show(count - 1, select(2, ...))
    elseif count == 0 then
        return "ok"
    end
    return show(count, ...)
end

-- Returns "ok" [text], "syntax" message, or "error" message frames. The further arguments are a script's own `...`.
function P.run(code, name, ...)
    host.headroom()
    local chunk, fault, is_expression = compile(code, name)
    if not chunk then
        return "syntax", clip(fault, MAX_MESSAGE)
    end
    host.limit()
    return finish(is_expression, xpcall(chunk, on_error, ...))
end

-- The same for a cell that is sure to fit, with the limit set already: no call to the host at all.
function P.run_small(code, name)
    local chunk, fault, is_expression = compile(code, name)
    if not chunk then
        return "syntax", clip(fault, MAX_MESSAGE)
    end
    return finish(is_expression, xpcall(chunk, on_error))
end

-- Where the last interrupt found the script: lines of a traceback, once.
function P.take_interrupted_at()
    local frames = P.interrupted_at
    P.interrupted_at = nil
    return frames or ""
end

-- The value of one expression, as `user_expressions` wants it: true and a MIME bundle, or false and a message.
function P.evaluate(code)
    host.limit()
    local chunk, fault = load("return " .. code, "=expression", "t", env)
    if not chunk then
        return false, clip(fault, MAX_MESSAGE)
    end
    local ok, value = base.pcall(chunk)
    if not ok then
        return false, message_of(value)
    end
    host.headroom()
    local shown, data = base.pcall(P.bundle, value)
    return shown, shown and data or message_of(data)
end

function P.set_arguments(script, ...)
    local list = { ... }
    list[0] = script
    env.arg = list
end
