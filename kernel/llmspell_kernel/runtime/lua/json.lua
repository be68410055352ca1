-- JSON encoding of Lua values, for display data. A table whose keys are 1..n is an array, every other an object.
local P = ...
local type, error, next, rawget, rawlen = P.base.type, P.base.error, P.base.next, P.base.rawget, P.base.rawlen
local format, gsub, byte, concat = P.string.format, P.string.gsub, P.string.byte, P.table.concat
local math_type, huge = P.math.type, P.math.huge
local valid_utf8, tostring = P.valid_utf8, P.tostring

local MAX_DEPTH = 64
local ESCAPES = { ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t", ["\\"] = "\\\\", ['"'] = '\\"', ["\b"] = "\\b", ["\f"] = "\\f" }

local function quote(text)
    return '"' .. gsub(valid_utf8(text), '[%c\\"]', function(c)
        return ESCAPES[c] or format("\\u%04x", byte(c))
    end) .. '"'
end

local encode

local function encode_array(value, length, depth, path)
    local parts = {}
    for i = 1, length do
        parts[i] = encode(rawget(value, i), depth, path)
    end
    return "[" .. concat(parts, ",") .. "]"
end

local function encode_object(value, depth, path)
    local parts = {}
    for key, item in next, value do
        if type(key) ~= "string" and type(key) ~= "number" then
            error("a JSON object's keys are strings or numbers, found a " .. type(key), 0)
        end
        parts[#parts + 1] = quote(tostring(key)) .. ":" .. encode(item, depth, path)
    end
    return "{" .. concat(parts, ",") .. "}"
end

function encode(value, depth, path)
    local kind = type(value)
    if kind == "string" then
        return quote(value)
    elseif kind == "boolean" then
        return value and "true" or "false"
    elseif kind == "nil" then
        return "null"
    elseif kind == "number" then
        if value ~= value or value == huge or value == -huge then
            error("JSON has no number for " .. tostring(value), 0)
        end
        return math_type(value) == "integer" and format("%d", value) or format("%.17g", value)
    elseif kind ~= "table" then
        error("JSON has no form for a " .. kind, 0)
    elseif path[value] then
        error("JSON has no form for a table that holds itself", 0)
    elseif depth >= MAX_DEPTH then
        error("a JSON value is at most " .. MAX_DEPTH .. " tables deep", 0)
    end
    path[value] = true
    local length, count = rawlen(value), 0
    for _ in next, value do
        count = count + 1
        if count > length then
            break
        end
    end
    local text
    if count == length and length > 0 then
        text = encode_array(value, length, depth + 1, path)
    else
        text = encode_object(value, depth + 1, path)
    end
    path[value] = nil
    return text
end

P.json_quote = quote
function P.json(value)
    return encode(value, 0, {})
end
