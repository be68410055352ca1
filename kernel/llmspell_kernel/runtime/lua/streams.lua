-- `io` for scripts: three streams, no files. Reading asks the front end that the cell came from.
local P = ...
local base, host = P.base, P.host
local type, error, select, next, rawget, tonumber = base.type, base.error, base.select, base.next, base.rawget, base.tonumber
local setmetatable, tostring, concat = base.setmetatable, P.tostring, P.table.concat
local find, sub, match = P.string.find, P.string.sub, P.string.match
local unpack, tointeger = P.table.unpack, P.math.tointeger

-- The longest numeral that `read("n")` takes, as in Lua.
local MAX_NUMERAL = 200

local write = P.write
local Stream = {}
Stream.__index = Stream
Stream.__name = "stream"
Stream.__metatable = false

local fds = setmetatable({}, { __mode = "k" })

local function fd_of(stream, method)
    local fd = fds[stream]
    if not fd then
        error("bad argument #1 to '" .. method .. "' (stream expected, got " .. type(stream) .. "): call it as stream:" .. method .. "(…)", 3)
    end
    return fd
end

local function write_all(fd, ...)
    local count = select("#", ...)
    local parts = { ... }
    for i = 1, count do
        local kind = type(parts[i])
        if kind ~= "string" and kind ~= "number" then
            error("bad argument #" .. i .. " to 'write' (string expected, got " .. kind .. ")", 3)
        end
    end
    if count > 0 then
        write(fd, concat(parts, "", 1, count))
    end
end

-- What was read from the front end and not yet asked for.
local buffer, at_end = "", false

function P.forget_input()
    buffer, at_end = "", false
end

local function fill()
    if at_end then
        return false
    end
    local status, text = host.read_line()
    host.restore()
    if status == "line" then
        buffer = buffer .. text .. "\n"
        return true
    elseif status == "end" then
        at_end = true
        return false
    end
    error(text, 0)
end

local function read_line(keep_newline)
    while not find(buffer, "\n", 1, true) do
        if not fill() then
            break
        end
    end
    if buffer == "" then
        return nil
    end
    local line, newline, rest = match(buffer, "^([^\n]*)(\n?)(.*)$")
    buffer = rest
    return keep_newline and line .. newline or line
end

-- As Lua reads one from a file: white space, line ends among it, is skipped; what looks like a numeral is taken even
-- where it turns out not to be one. A line's end ends it, so that one line is enough to look at.
local function read_number()
    local first = find(buffer, "%S")
    while not first and fill() do
        first = find(buffer, "%S")
    end
    if not first then
        buffer = ""
        return nil
    end
    local _, last = find(buffer, "^[-+]?", first)
    local is_hex = find(buffer, "^0[xX]", last + 1)
    last = is_hex and last + 2 or last
    local _, integral = find(buffer, is_hex and "^%x*" or "^%d*", last + 1)
    local count = integral - last
    last = integral
    if find(buffer, "^%.", last + 1) then
        local _, fraction = find(buffer, is_hex and "^%x*" or "^%d*", last + 2)
        count = count + fraction - last - 1
        last = fraction
    end
    if count > 0 and find(buffer, is_hex and "^[pP]" or "^[eE]", last + 1) then
        _, last = find(buffer, "^[-+]?%d*", last + 2)
    end
    local text = sub(buffer, first, last)
    buffer = sub(buffer, last + 1)
    return #text <= MAX_NUMERAL and tonumber(text) or nil
end

local function read_count(count)
    while (#buffer < count or buffer == "") and fill() do
    end
    if buffer == "" then
        return nil
    end
    local text = sub(buffer, 1, count)
    buffer = sub(buffer, count + 1)
    return text
end

local function read_format(form, number, level)
    if type(form) == "number" then
        local count = tointeger(form)
        if not count or count < 0 then
            error("bad argument #" .. number .. " to 'read' (expected a number of bytes, found " .. tostring(form) .. ")", level)
        end
        return read_count(count)
    end
    local letter = type(form) == "string" and match(form, "^%*?([nalL])")
    if letter == "l" then
        return read_line(false)
    elseif letter == "L" then
        return read_line(true)
    elseif letter == "n" then
        return read_number()
    elseif letter == "a" then
        while fill() do
        end
        local text = buffer
        buffer = ""
        return text
    end
    error("bad argument #" .. number .. " to 'read' (invalid format): expected \"l\", \"L\", \"n\", \"a\" or a number of bytes", level)
end

local function read_formats(...)
    local count = select("#", ...)
    if count == 0 then
        return read_line(false)
    elseif count == 1 then
        return (read_format((...), 1, 4))
    end
    local out = {}
    for i = 1, count do
        out[i] = read_format((select(i, ...)), i, 4)
        if out[i] == nil then
            return unpack(out, 1, i)
        end
    end
    return unpack(out, 1, count)
end

local function readable(stream, method)
    if fd_of(stream, method) ~= 0 then
        error("this stream is for writing, not for reading", 3)
    end
end

function Stream:write(...)
    local fd = fd_of(self, "write")
    if fd == 0 then
        error("io.stdin is for reading, not for writing", 2)
    end
    write_all(fd, ...)
    return self
end

function Stream:read(...)
    readable(self, "read")
    return read_formats(...)
end

function Stream:lines(...)
    readable(self, "lines")
    local formats = { n = select("#", ...), ... }
    return function()
        return read_formats(unpack(formats, 1, formats.n))
    end
end

function Stream:flush()
    fd_of(self, "flush")
    host.flush()
    return self
end

function Stream:close()
    fd_of(self, "close")
    return nil, "the kernel's streams stay open"
end

function Stream:setvbuf()
    fd_of(self, "setvbuf")
    return true
end

function Stream:seek()
    fd_of(self, "seek")
    return nil, "a stream cannot be positioned"
end

local function stream(fd)
    local out = setmetatable({}, Stream)
    fds[out] = fd
    return out
end

local stdin, stdout, stderr = stream(0), stream(1), stream(2)
P.env.io = {
    stdin = stdin,
    stdout = stdout,
    stderr = stderr,
    write = function(...)
        write_all(1, ...)
        return stdout
    end,
    read = function(...)
        return read_formats(...)
    end,
    lines = function(name, ...)
        if name ~= nil then
            error("io.lines reads from io.stdin only: this kernel has no files (found the name " .. P.quote(tostring(name)) .. ")", 2)
        end
        return Stream.lines(stdin, ...)
    end,
}
