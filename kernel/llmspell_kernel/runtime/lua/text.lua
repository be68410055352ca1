-- Values as text: addresses are masked by stable numbers, tables are shown as literals within bounds.
local P = ...
local type, rawget, rawlen, next, pcall, error, select = P.base.type, P.base.rawget, P.base.rawlen, P.base.next, P.base.pcall, P.base.error, P.base.select
local real_tostring, setmetatable, getmetatable = P.base.tostring, P.base.setmetatable, P.debug.getmetatable
-- Originals that a wrapper stands for are called as fields: Lua's own messages then say their names.
local originals = P.string
local format, find, gsub, byte, sub, rep, gmatch = P.string.format, P.string.find, P.string.gsub, P.string.byte, P.string.sub, P.string.rep, P.string.gmatch
local concat, sort, unpack = P.table.concat, P.table.sort, P.table.unpack
local math_type, utf8_len = P.math.type, P.utf8.len

local ids = setmetatable({}, { __mode = "k" })
local last_id = 0

-- A number for this object that is the same each time and says nothing of where it lies in memory.
local function address(value)
    local id = ids[value]
    if not id then
        last_id = last_id + 1
        id = format("0x%08x", last_id)
        ids[value] = id
    end
    return id
end

local function tostring(value)
    local kind = type(value)
    if kind == "number" then
        return real_tostring(value)
    elseif kind == "string" then
        return value
    elseif kind == "boolean" or kind == "nil" then
        return real_tostring(value)
    end
    local name = kind
    local mt = getmetatable(value)
    if mt then
        local convert = rawget(mt, "__tostring")
        if convert ~= nil then
            local text = convert(value)
            if type(text) == "number" then
                return real_tostring(text)
            elseif type(text) ~= "string" then
                error("'__tostring' must return a string", 2)
            end
            return text
        end
        local given = rawget(mt, "__name")
        if type(given) == "string" then
            name = given
        end
    end
    return name .. ": " .. address(value)
end

local HAS_NO_ADDRESS = { string = true, number = true, boolean = true, ["nil"] = true }

-- string.format with masked addresses. The original does the work unless an argument or `%p` would show one.
local function mask_arguments(fmt, ...)
    local args, count = { ... }, select("#", ...)
    local masked, position = "", 1
    local at = 0
    while position <= #fmt do
        local from, to, spec, conversion = find(fmt, "%%([-+ #0]*%d*%.?%d*)(.)", position)
        if not from then
            break
        end
        masked = masked .. sub(fmt, position, from - 1)
        local shown = sub(fmt, from, to)
        if conversion ~= "%" then
            at = at + 1
            local value = args[at]
            if conversion == "p" then
                if find(spec, "^%-?%d?%d?$") and not find(spec, "^%-?0") then
                    args[at] = HAS_NO_ADDRESS[type(value)] and "(null)" or address(value)
                    shown = "%" .. spec .. "s"
                else
                    -- Not a form that it can have: the original says so.
                    args[at] = nil
                end
            elseif conversion == "s" and at <= count then
                args[at] = tostring(value)
            end
        end
        masked = masked .. shown
        position = to + 1
    end
    return masked .. sub(fmt, position), args, count
end

-- What a format can show: 1 = nothing but numbers and literals, 2 = strings, 3 = addresses. Scripts use few formats
-- and use them often.
local shows, remembered, MAX_FORMAT = {}, 0, 200

local function classify(fmt)
    if type(fmt) ~= "string" then
        return 1
    end
    local class = find(fmt, "p", 1, true) and 3 or find(fmt, "s", 1, true) and 2 or 1
    if remembered == 256 then
        shows, remembered = {}, 0
    end
    if #fmt <= MAX_FORMAT then
        shows[fmt], remembered = class, remembered + 1
    end
    return class
end

local function masked_format(fmt, ...)
    local class = shows[fmt] or classify(fmt)
    if class == 1 then
        return originals.format(fmt, ...)
    elseif class == 2 then
        local a, b, c, d = ...
        local plain = (a == nil or HAS_NO_ADDRESS[type(a)])
            and (b == nil or HAS_NO_ADDRESS[type(b)])
            and (c == nil or HAS_NO_ADDRESS[type(c)])
            and (d == nil or HAS_NO_ADDRESS[type(d)])
        for i = 5, select("#", ...) do
            plain = plain and HAS_NO_ADDRESS[type((select(i, ...)))]
        end
        if plain then
            return originals.format(fmt, ...)
        end
    end
    local masked, args, count = mask_arguments(fmt, ...)
    return originals.format(masked, unpack(args, 1, count))
end

-- The first bytes of a text, cut between characters.
local function head(text, most)
    local last = most
    while last > most - 3 and byte(text, last + 1) & 0xC0 == 0x80 do
        last = last - 1
    end
    return sub(text, 1, last)
end

local function clip(text, most)
    return #text <= most and text or head(text, most) .. format(" … (%d bytes)", #text)
end

-- Bytes that are not UTF-8 are shown as the replacement character wherever text leaves the kernel as JSON.
local function valid_utf8(text)
    if utf8_len(text) then
        return text
    end
    local out, position = {}, 1
    while position <= #text do
        local _, bad = utf8_len(text, position)
        if not bad then
            break
        end
        out[#out + 1] = sub(text, position, bad - 1)
        out[#out + 1] = "\u{FFFD}"
        position = bad + 1
    end
    out[#out + 1] = sub(text, position)
    return concat(out)
end

---------------------------------------------------------------------------------------------------------- display --

-- MAX_TEXT bounds what is shown as it is, MAX_CHARS a table as a literal, MAX_LOOKS the keys that are looked at for it.
local MAX_DEPTH, MAX_ITEMS, MAX_CHARS, MAX_STRING, MAX_TEXT, MAX_LOOKS, WIDTH = 6, 100, 16000, 2000, 1 << 20, 200000, 88

local ESCAPES = { ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t", ["\\"] = "\\\\", ['"'] = '\\"' }

local function quote(text)
    local cut = #text > MAX_STRING
    local shown = cut and head(text, MAX_STRING) or text
    shown = gsub(shown, '[%c\\"\127]', function(c)
        return ESCAPES[c] or format("\\x%02x", byte(c))
    end)
    shown = '"' .. valid_utf8(shown) .. '"'
    if cut then
        shown = shown .. format(" … (%d bytes)", #text)
    end
    return shown
end

local KEYWORDS = {}
for word in gmatch("and break do else elseif end false for function goto if in local nil not or repeat return then true until while", "%a+") do
    KEYWORDS[word] = true
end

local RANK = { number = 1, string = 2, boolean = 3 }

local function key_before(a, b)
    local ka, kb = type(a), type(b)
    if ka ~= kb then
        return (RANK[ka] or 9) < (RANK[kb] or 9)
    end
    if ka == "number" or ka == "string" then
        return a < b
    elseif ka == "boolean" then
        return not a and b
    end
    return address(a) < address(b)
end

local show

local function show_key(key, state)
    if type(key) == "string" then
        if #key <= 200 and find(key, "^[%a_][%w_]*$") and not KEYWORDS[key] then
            return key
        end
        return "[" .. quote(key) .. "]"
    end
    return "[" .. show(key, state, MAX_DEPTH) .. "]"
end

-- The first keys outside the array part, sorted; a table of millions is sampled, never walked to its end.
local function some_keys(value, array_length, state)
    local keys, more = {}, false
    local key = next(value)
    while key ~= nil do
        local in_array = math_type(key) == "integer" and key >= 1 and key <= array_length
        if not in_array then
            if #keys == 4 * MAX_ITEMS then
                more = true
                break
            end
            keys[#keys + 1] = key
        end
        state.looks = state.looks - 1
        if state.looks < 0 then
            more = true
            break
        end
        key = next(value, key)
    end
    sort(keys, key_before)
    return keys, more
end

local function join(parts, depth)
    local length = 0
    for i = 1, #parts do
        length = length + #parts[i] + 2
        if find(parts[i], "\n", 1, true) then
            length = WIDTH + 1
        end
    end
    if length <= WIDTH then
        return "{" .. concat(parts, ", ") .. "}"
    end
    local indent = rep("  ", depth + 1)
    return "{\n" .. indent .. concat(parts, ",\n" .. indent) .. "\n" .. rep("  ", depth) .. "}"
end

local function show_table(value, state, depth)
    state.left = state.left - 8
    if state.path[value] then
        return "<cycle: " .. address(value) .. ">"
    elseif depth >= MAX_DEPTH then
        return next(value) == nil and "{}" or "{…}"
    end
    state.path[value] = true
    local parts, length = {}, rawlen(value)
    local shown = length < MAX_ITEMS and length or MAX_ITEMS
    for i = 1, shown do
        parts[#parts + 1] = show(rawget(value, i), state, depth + 1)
        if state.left <= 0 then
            break
        end
    end
    if length > #parts then
        parts[#parts + 1] = format("… (%d items)", length)
    end
    local keys, more = some_keys(value, length, state)
    for i = 1, #keys do
        if i > MAX_ITEMS or state.left <= 0 then
            more = true
            break
        end
        local key = show_key(keys[i], state)
        state.left = state.left - #key
        parts[#parts + 1] = key .. " = " .. show(rawget(value, keys[i]), state, depth + 1)
    end
    if more then
        parts[#parts + 1] = #keys > MAX_ITEMS and "… (more keys)" or "…"
    end
    state.path[value] = nil
    return join(parts, depth)
end

function show(value, state, depth)
    local text
    local kind = type(value)
    if kind == "string" then
        text = quote(value)
    elseif kind == "table" then
        local mt = getmetatable(value)
        if mt and rawget(mt, "__tostring") ~= nil and not state.plain then
            local ok, converted = pcall(tostring, value)
            text = ok and valid_utf8(clip(converted, MAX_STRING)) or "table: " .. address(value)
        else
            return show_table(value, state, depth)
        end
    else
        text = tostring(value)
    end
    state.left = state.left - #text
    return text
end

-- A table as a literal without running any of the script's own code. `budget.looks` is what all outlines share.
local function outline(value, most, budget)
    local looks = budget.looks < most and budget.looks or most
    local state = { path = {}, left = most, looks = looks, plain = true }
    local text = looks > 0 and show_table(value, state, 0) or "{…}"
    budget.looks = budget.looks - (looks - state.looks)
    return clip(text, most)
end

-- A value as a person wants to see it: strings as they are, tables as literals, everything else as tostring says.
local function display(value)
    if type(value) == "table" then
        local mt = getmetatable(value)
        if not (mt and rawget(mt, "__tostring") ~= nil) then
            return show_table(value, { path = {}, left = MAX_CHARS, looks = MAX_LOOKS }, 0)
        end
    end
    return clip(tostring(value), MAX_TEXT)
end

P.address, P.tostring, P.format, P.valid_utf8, P.clip, P.quote, P.display, P.outline =
    address, tostring, masked_format, valid_utf8, clip, quote, display, outline
