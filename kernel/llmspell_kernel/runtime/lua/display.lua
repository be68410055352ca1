-- display, update_display and clear_output: rich output as MIME bundles.
local P = ...
local type, error, next, rawget = P.base.type, P.base.error, P.base.next, P.base.rawget
local concat, sort, byte, sub, rep = P.table.concat, P.table.sort, P.string.byte, P.string.sub, P.string.rep
local json, json_quote, tostring = P.json, P.json_quote, P.tostring
local publish = P.host.publish

local MIME = {
    text = "text/plain",
    html = "text/html",
    markdown = "text/markdown",
    latex = "text/latex",
    svg = "image/svg+xml",
    json = "application/json",
    png = "image/png",
    jpeg = "image/jpeg",
}

local ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/"

-- Two characters for each 12 bits, made at the first picture.
local PAIRS

local function make_pairs()
    PAIRS = {}
    for high = 1, 64 do
        for low = 1, 64 do
            PAIRS[#PAIRS + 1] = sub(ALPHABET, high, high) .. sub(ALPHABET, low, low)
        end
    end
end

local function base64(bytes)
    if not PAIRS then
        make_pairs()
    end
    local out = {}
    for i = 1, #bytes, 3 do
        local a, b, c = byte(bytes, i, i + 2)
        local bits = a << 16 | (b or 0) << 8 | (c or 0)
        out[#out + 1] = PAIRS[(bits >> 12) + 1]
        out[#out + 1] = PAIRS[(bits & 0xFFF) + 1]
    end
    local missing = -#bytes % 3
    if missing > 0 then
        out[#out] = sub(out[#out], 1, 2 - missing) .. rep("=", missing)
    end
    return concat(out)
end

local function encode(kind, value)
    if kind == "json" then
        return json(value)
    elseif type(value) ~= "string" then
        error("display: expected a string for '" .. kind .. "', found a " .. type(value), 0)
    end
    local is_raw = kind == "png" and sub(value, 1, 4) == "\137PNG" or kind == "jpeg" and sub(value, 1, 2) == "\255\216"
    return json_quote(is_raw and base64(value) or value)
end

-- The MIME bundle that a value stands for, as JSON: a table with only display keys is a bundle, all else is text.
local function bundle(value)
    local kinds = {}
    if type(value) == "table" and P.debug.getmetatable(value) == nil then
        for key in next, value do
            if type(key) ~= "string" or not MIME[key] then
                kinds = {}
                break
            end
            kinds[#kinds + 1] = key
        end
    end
    if #kinds == 0 then
        return '{"text/plain":' .. json_quote(P.display(value)) .. "}"
    end
    sort(kinds)
    local members, has_text = {}, false
    for _, kind in next, kinds do
        members[#members + 1] = '"' .. MIME[kind] .. '":' .. encode(kind, rawget(value, kind))
        has_text = has_text or kind == "text"
    end
    if not has_text then
        members[#members + 1] = '"text/plain":"<' .. concat(kinds, ", ") .. '>"'
    end
    return "{" .. concat(members, ",") .. "}"
end

local function id_of(id, caller)
    if type(id) ~= "string" or id == "" then
        error(caller .. ": expected an id that is a string, found " .. P.display(id), 3)
    end
    return id
end

function P.env.display(value, options)
    local id
    if options ~= nil then
        if type(options) ~= "table" then
            error("display: expected options like {id=\"plot\"}, found a " .. type(options), 2)
        end
        for key in next, options do
            if key ~= "id" then
                error("display: expected the option 'id', found " .. P.display(key), 2)
            end
        end
        id = rawget(options, "id")
        id = id ~= nil and id_of(id, "display") or nil
    end
    publish("display_data", bundle(value), id)
end

function P.env.update_display(id, value)
    id_of(id, "update_display")
    publish("update_display_data", bundle(value), id)
end

function P.env.clear_output(wait)
    publish("clear_output", wait and '{"wait":true}' or '{"wait":false}', nil)
end

P.bundle = bundle
