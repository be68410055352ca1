-- Coroutines, with the running one known to the interrupter: hooks are per coroutine in Lua, and the thread that asks
-- for an interrupt must know which one runs. `slots[1]` holds it; `slots[2]` the one that runs after all where Lua
-- raised an error between two lines of this file (arguments or results that do not fit on a stack); `slots[3]` turns
-- true with an interrupt. interrupt.py reads and writes them through the mailbox coroutine.
local P = ...
local type, error, select, setmetatable, next = P.base.type, P.base.error, P.base.select, P.base.setmetatable, P.base.next
local create, resume, close, status, running = P.coroutine.create, P.coroutine.resume, P.coroutine.close, P.coroutine.status, P.coroutine.running
local sethook, gethook, real_format = P.debug.sethook, P.debug.gethook, P.string.format

local main = running()
local slots = { main, main, false }
local every = setmetatable({}, { __mode = "k" })
-- Died by an interrupt: Lua leaves hooks disabled in them, so what they hold open may never be run.
local broken = setmetatable({}, { __mode = "k" })

local mailbox = create(function()
    return slots
end)
P.mailbox_addresses = real_format("%p %p", main, mailbox)
-- Kept, or it would be collected.
P.mailbox = mailbox

local function raise()
    error("\3", 0)
end

local function settle(co, previous, ok, ...)
    slots[1], slots[2] = previous, previous
    if slots[3] then
        broken[co] = not ok or nil
        -- The other thread knows only the coroutine that ran: from here the interrupt travels up by itself.
        sethook(raise, "", 1)
        raise()
    end
    return ok, ...
end

local function tracked_resume(co, ...)
    if not every[co] then
        -- Not a coroutine that a script made: an error, whichever it is.
        return P.coroutine.resume(co)
    end
    local previous = running()
    slots[1], slots[2] = co, previous
    return settle(co, previous, resume(co, ...))
end

-- What a coroutine holds open is closed in it: it runs once more.
local function tracked_close(co)
    if broken[co] then
        return false, "interrupted"
    end
    local state = every[co] and status(co)
    if state ~= "suspended" and state ~= "dead" then
        return P.coroutine.close(co)
    end
    local previous = running()
    slots[1], slots[2] = co, previous
    return settle(co, previous, close(co))
end

local function tracked_create(f, name)
    if type(f) ~= "function" then
        error("bad argument #1 to '" .. name .. "' (function expected, got " .. (f == nil and "no value" or type(f)) .. ")", 3)
    end
    local co = create(f)
    every[co] = true
    return co
end

local function results_or_error(co, ok, ...)
    if ok then
        return ...
    end
    local fault = ...
    if status(co) == "dead" then
        local closed, replaced = tracked_close(co)
        if not closed then
            fault = replaced
        end
    end
    error(fault, type(fault) == "string" and 2 or 0)
end

P.env.coroutine = {
    create = function(f)
        local co = tracked_create(f, "create")
        return co
    end,
    resume = tracked_resume,
    wrap = function(f)
        local co = tracked_create(f, "wrap")
        return function(...)
            return results_or_error(co, tracked_resume(co, ...))
        end
    end,
    close = tracked_close,
    isyieldable = P.coroutine.isyieldable,
    running = running,
    status = status,
    yield = P.coroutine.yield,
}

-- After an interrupted execution: takes the hook out of every coroutine that may have it, and forgets the modules
-- whose loading it broke off.
function P.unhook()
    sethook()
    for co in next, every do
        if gethook(co) and status(co) == "dead" then
            broken[co] = true
        end
        sethook(co)
    end
    slots[1], slots[2], slots[3] = main, main, false
    P.loading = {}
end
