-- What there is to complete and inspect: the script's globals and what is in them, as flat rows of text.
-- A row is path, type, value, parameters, chunk and line, joined by "\0"; the parts of a path are joined by "\31",
-- rows by "\30". Nothing here runs the script's own code: no metamethods.
local P = ...
local type, next, rawget = P.base.type, P.base.next, P.base.rawget
local getinfo, getlocal, getmetatable = P.debug.getinfo, P.debug.getlocal, P.debug.getmetatable
local concat, insert, find, sub, gsub, format = P.table.concat, P.table.insert, P.string.find, P.string.sub, P.string.gsub, P.string.format
local tostring, quote = P.tostring, P.quote

local MAX_ROWS, MAX_CHILDREN, MAX_DEPTH, MAX_VALUE, MAX_NAME, MAX_LOOKS = 6000, 400, 3, 400, 200, 40000

local function clean(text)
    return (gsub(text, "[%z\30]", " "))
end

local function is_name(key)
    return type(key) == "string" and #key <= MAX_NAME and find(key, "^[%a_][%w_]*$")
end

local function parameters(f)
    local info = getinfo(f, "u")
    local names = {}
    for i = 1, info.nparams do
        names[i] = getlocal(f, i) or "?"
    end
    if info.isvararg then
        names[#names + 1] = "..."
    end
    return concat(names, ", ")
end

local function value_of(value, kind, budget)
    if kind == "string" then
        return clean(quote(P.clip(value, MAX_VALUE)))
    elseif kind == "table" then
        local mt = getmetatable(value)
        if mt and rawget(mt, "__tostring") ~= nil then
            return "table: " .. P.address(value)
        end
        return clean(P.outline(value, MAX_VALUE, budget))
    end
    return tostring(value)
end

-- The tables that a field is looked for in, the last one first: of two rows with one path the later counts.
local function tables_behind(value)
    local tables, mt = { value }, getmetatable(value)
    for _ = 1, 5 do
        local index = mt and rawget(mt, "__index")
        if type(index) ~= "table" or index == value then
            break
        end
        insert(tables, 1, index)
        mt = getmetatable(index)
    end
    return tables
end

local function add(rows, path, name, value, depth, seen, budget)
    local kind = type(value)
    local full = path == "" and name or path .. "\31" .. name
    local params, chunk, line = "", "", ""
    if kind == "function" then
        local info = getinfo(value, "S")
        if info.what == "Lua" and info.source ~= P.SOURCE then
            params, chunk, line = parameters(value), clean(sub(info.source, 1, MAX_NAME)), format("%d", info.linedefined)
        end
    end
    local text = depth > 2 and "" or value_of(value, kind, budget)
    rows[#rows + 1] = concat({ full, kind, text, params, chunk, line }, "\0")
    if kind ~= "table" or depth >= MAX_DEPTH or seen[value] then
        return
    end
    -- Only along the path: two names for one table both have its fields.
    seen[value] = true
    local count = 0
    for _, part in next, tables_behind(value) do
        for key, item in next, part do
            count = count + 1
            if count > MAX_CHILDREN or #rows >= MAX_ROWS then
                seen[value] = nil
                return
            end
            if is_name(key) then
                add(rows, full, key, item, depth + 1, seen, budget)
            end
        end
    end
    seen[value] = nil
end

function P.snapshot()
    local rows, seen, budget = {}, { [P.env] = true }, { looks = MAX_LOOKS }
    for key, value in next, P.env do
        if #rows >= MAX_ROWS then
            break
        end
        if is_name(key) then
            add(rows, "", key, value, 1, seen, budget)
        end
    end
    return concat(rows, "\30")
end
