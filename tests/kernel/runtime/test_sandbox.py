"""Ways out of the sandbox. The first tables are those of SECURITY.md, the others what was tried beyond them."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmspell_kernel.limits import KernelLimits
from llmspell_kernel.runtime.engine import Engine
from support.lua import Lua, RecordingHost, cases, in_a_process

NAMES = {
    "_G": """_G _VERSION arg assert clear_output collectgarbage coroutine display error getmetatable io ipairs load math
        next os pairs pcall print rawequal rawget rawlen rawset require select setmetatable string table tonumber
        tostring type update_display utf8 warn xpcall""",
    "string": "byte char find format gmatch gsub len lower match pack packsize rep reverse sub unpack upper",
    "table": "concat insert move pack remove sort unpack",
    "math": """abs acos asin atan ceil cos deg exp floor fmod huge log max maxinteger min mininteger modf pi rad random
        randomseed sin sqrt tan tointeger type ult""",
    "utf8": "char charpattern codepoint codes len offset",
    "coroutine": "close create isyieldable resume running status wrap yield",
    "os": "clock date difftime time",
    "io": "lines read stderr stdin stdout write",
}


@pytest.mark.parametrize("library", NAMES)
def test_scripts_see_what_is_named_and_nothing_else(lua: Lua, library: str) -> None:
    found = lua.result(
        f"local t = {{}} for name in pairs({library}) do t[#t + 1] = name end return table.concat(t, ' ')"
    )

    assert set((found or "").split()) == set(NAMES[library].split()) - {"arg"}


ABSENT = """
    python lupa package debug dofile loadfile module unpack setfenv getfenv newproxy gcinfo loadstring jit ffi bit
    os.execute os.exit os.getenv os.remove os.rename os.tmpname os.setlocale
    io.open io.popen io.input io.output io.tmpfile io.type io.close string.dump
"""


@pytest.mark.parametrize("gone", ABSENT.split())
def test_what_could_reach_the_machine_does_not_exist(lua: Lua, gone: str) -> None:
    assert lua.result(f"return {gone}") == "nil"


CLOSED = cases(r"""
## the string metatable is hidden
return getmetatable('')
=> false

## and cannot be replaced
return pcall(setmetatable, '', {})
=> false\tbad argument #1 to 'setmetatable' (table

## a stream's metatable is hidden
return getmetatable(io.stdout)
=> false

## and is not to be replaced
return pcall(setmetatable, io.stdout, {})
=> false\tcannot change a protected met

## functions have no metatable
return getmetatable(print), getmetatable(string.rep)
=> nil\tnil

## coroutines have none
return getmetatable((coroutine.running()))
=> nil

## booleans, numbers and nil have none
return getmetatable(true), getmetatable(1), getmetatable(nil)
=> nil\tnil

## bytecode is not loaded
return load('\27Lua')
=> nil\tattempt to load a binary chunk (mode is 't')

## nor when asked for
return load('\27Lua', 'x', 'b')
=> nil\tattempt to load a text chunk (mode is 'b')

## nor either way
return load('\27LuaS', 'x', 'bt')
=> nil\tattempt to load a binary chunk (mode is 't')

## nor from a reader
local n = 0 return load(function() n = n + 1 return ({'\27', 'Lua'})[n] end)
=> nil\tattempt to load a binary chunk (mode is 't')

## a mode that is no string is text
return load('return 1', 'x', nil)()
=> 1

## text is refused where only bytecode was wanted
return load('return 1', 'x', 'b')
=> nil\tattempt to load a te

## a loaded chunk sees the script's globals
return load('return _G')() == _G, load('return _ENV')() == _G
=> true

## a loaded chunk's globals may be given
return load('return x', 'c', 't', {x = 3})()
=> 3

## or none
return pcall(load('return x', 'c', 't', nil))
=> false\t

## a chunk cannot take the prelude's name
return load('error("here", 1)', '=?') ~= nil
=> true

## a collected table has no finalizer
return pcall(setmetatable, {}, {__gc = print})
=> false\t'__gc' is not avai

## not even a false one
return pcall(setmetatable, {}, {__gc = false})
=> false\t'__gc' is not available

## one that is set later never runs
local mt = {} for _ = 1, 9 do setmetatable({}, mt) end mt.__gc = function() escaped = true end
    collectgarbage() collectgarbage() return escaped
=> nil

## and is refused the second time
local mt = {} local t = setmetatable({}, mt) mt.__gc = print return pcall(setmetatable, t, mt)
=> false\t'__gc' is not available

## one inherited by __index is none
local mt = setmetatable({}, {__index = {__gc = function() escaped = true end}}) setmetatable({}, mt)
    collectgarbage() return escaped
=> nil

## the collector cannot be stopped
return pcall(collectgarbage, 'stop')
=> false\tcollectgarbage: expected

## nor tuned
return pcall(collectgarbage, 'setpause', 1000000)
=> false\tcollectgarbage: expected

## nor switched
return pcall(collectgarbage, 'generational')
=> false\tcollectgarbage: expected

## its option is not run
return pcall(collectgarbage, setmetatable({}, {__index = function() return 1 end}))
=> false\tcollectgarbage: expected

## the main coroutine cannot be closed
return pcall(coroutine.close, (coroutine.running()))
=> false\tcannot close a running coroutine

## nor resumed
return coroutine.resume((coroutine.running()))
=> false\tcannot resume non-suspended coroutine

## nor yielded from
return pcall(coroutine.yield, 1)
=> false\tattempt to yield from outside a coroutine

## a stream's methods want a stream
return pcall(io.stdout.write, {}, 'x')
=> false\tbad argument #1 to 'write'

## and not any number
return pcall(io.stdout.write, 1, 'x')
=> false\tbad argument #1 to 'write'

## standard input is not for writing
return pcall(io.stdin.write, io.stdin, 'x')
=> false\tio.stdin is for reading

## io.lines has no files
return pcall(io.lines, '/etc/passwd')
=> false\tio.lines reads from io.stdin only

## os.date reads a clock and nothing else
return pcall(os.date, '%Q')
=> false\tbad argument #1 to 'os.date'

## a seed is no address
math.randomseed(7) local a, b = math.randomseed() math.randomseed(7) local c, d = math.randomseed() return a
    == c and b == d
=> true

## the name of an error is not run
return pcall(error, setmetatable({}, {__name = {}}))
=> false\t{}

## a loop of __index ends
local t = {} setmetatable(t, {__index = t}) return pcall(function() return t.x end)
=> false\tIn[1]:1: '__index' chain too long

## _G may have a metatable
setmetatable(_G, {__index = function(_, k) return k .. '!' end}) local x = odd setmetatable(_G, nil) return x
=> odd!

## the globals may be replaced
local _ENV = {tostring = tostring} return tostring(print)
=> nil
""")


@pytest.mark.parametrize(("code", "expected"), CLOSED)
def test_a_way_out_is_shut(lua: Lua, code: str, expected: str) -> None:
    found = lua.result(code)

    assert found is not None
    assert found.startswith(expected)


def test_nothing_of_the_host_is_in_reach(lua: Lua) -> None:
    """A walk over everything that hangs on the globals, through metatables and a function's environment too."""
    found = lua.trusted(
        """
        local P = ...
        local base, debug, seen, bad = P.base, P.debug, {}, {}
        local function walk(value, path)
            local kind = base.type(value)
            if kind == "userdata" then
                bad[#bad + 1] = path
            elseif value == P or value == P.base or value == P.debug or value == P.host then
                bad[#bad + 1] = path
            elseif kind == "table" and not seen[value] then
                seen[value] = true
                for key, item in base.next, value do
                    walk(key, path .. "." .. base.tostring(key))
                    walk(item, path .. "." .. base.tostring(key))
                end
                local metatable = debug.getmetatable(value)
                -- What getmetatable gives, and what indexing reaches.
                if metatable then
                    walk(base.getmetatable(value), path .. "<metatable>")
                    walk(base.rawget(metatable, "__index"), path .. "<index>")
                end
            end
        end
        walk(P.env, "_G")
        return P.table.concat(bad, " ")
        """
    )

    assert found == b""


def test_the_globals_that_lua_itself_knows_are_empty(lua: Lua) -> None:
    assert lua.trusted("for key in ({...})[1].base.next, _ENV do return key end") is None


class Failing(RecordingHost):
    """A host that breaks its promise to raise nothing."""

    def flush(self) -> None:
        raise RuntimeError("private words")


@pytest.mark.parametrize(
    ("case", "expression"),
    [
        ("its metatable is hidden", "getmetatable(fault)"),
        ("its attributes are denied", "select(2, pcall(function() return fault.__traceback__ end)) == nil"),
        ("its class is denied", "select(2, pcall(function() return fault.__class__ end)) == nil"),
        ("its frame is denied", "pcall(function() return fault.__traceback__.tb_frame.f_globals end)"),
        ("nothing of it can be set", "pcall(function() fault.args = 1 end)"),
        ("it has no items", "pcall(function() return fault[0] end)"),
        ("it cannot be called", "pcall(fault)"),
    ],
)
def test_an_exception_of_the_host_would_be_of_no_use(case: str, expression: str) -> None:
    engine = Engine(Failing(), KernelLimits())

    outcome = engine.execute(
        f"local _, fault = pcall(io.stdout.flush, io.stdout) return type(fault), ({expression}) or false".encode(),
        b"=In[1]",
        1,
    )

    assert outcome.result == b"userdata\tfalse"


EDITED = """
for _, library in pairs{string, table, math, utf8, coroutine, os} do
    for name in pairs(library) do library[name] = function() error("edited") end end
end
local G, next = _G, next
local keep = {display = display, write = io.write, read = io.read, require = require, error = error}
for name in next, G do G[name] = nil end
for name, value in next, keep do G[name] = value end
"""


@pytest.mark.parametrize(
    ("case", "code", "expected"),
    [
        ("a number", "return 1 + 1", "2"),
        ("a string's method is the script's own", "return ('x'):upper()", "In[1]:3: edited"),
        ("a table", "return {1, {a = 'x\\n'}, 2.5}", '{1, {a = "x\\n"}, 2.5}'),
        ("display", "display{a = 1}", None),
        ("input", "return read('n', 'l')", "5\t"),
        ("output", "write(1, 'x')", "{}"),
        ("an error", "error{code = 1}", "(error object is a table) {code = 1}"),
        ("a syntax error", "x = = 1", "In[1]:1: unexpected symbol near '='"),
        ("a runtime error", "local t = nil; return t.x", "In[1]:1: attempt to index a nil value (local 't')"),
        ("a missing module", "require 'none'", "In[1]:1: module 'none' not found: this kernel has no module director"),
    ],
)
def test_edited_libraries_do_not_reach_the_prelude(lua: Lua, case: str, code: str, expected: str | None) -> None:
    lua.host.lines.append(b"5")
    assert lua.run(EDITED).error is None

    outcome = lua.run(code)

    found = outcome.error.message if outcome.error else outcome.result and outcome.result.decode()
    assert found == expected or (expected and found and found.startswith(expected))
    assert lua.engine.symbols() is not None
    assert lua.engine.evaluate(b"{1}", lua.number) == (True, b'{"text/plain":"{1}"}')


def _real_addresses(lua: Lua) -> list[str]:
    """Of the objects that the address tests show."""
    found: bytes = lua.trusted(
        "local P = ... return P.string.format('%p %p %p %p', P.env.object, P.env.f, P.env.co, P.env.print)"
    )
    return [address.removeprefix("0x") for address in found.decode().split()]


OBJECTS = "object, f, co = setmetatable({}, {__name = 'thing'}), function() end, coroutine.create(print)"

SHOWN = cases(r"""
## tostring
return tostring(object), tostring(f), tostring(co), tostring(print)

## print
print(object, f, co, print)

## a result
return f, co, print, io.stdout, {f, co, {[f] = co}}

## %p
return string.format('%p %p %p %p', object, f, co, print)

## %s
return string.format('%s %s %s %10s', object, f, co, print)

## %p of a string
return string.format('%p %p', 'short', ('long'):rep(99))

## %p with a width
return string.format('%-30p|%30p', object, f)

## as a method
return ('%p'):format(f)

## many arguments
return string.format('%d %d %d %d %s', 1, 2, 3, 4, f)

## the error of %d
return select(2, pcall(string.format, '%d', f))

## the error of concat
return select(2, pcall(table.concat, {f}))

## the error of arithmetic
return select(2, pcall(function() return object + f end))

## the error of a call
return select(2, pcall(function() return object() end))

## the error of a comparison
return select(2, pcall(function() return object < object end))

## warn
return select(2, pcall(warn, f))

## a seed
return math.randomseed()

## an error object
error(f)

## an error object in a table
error({f, co})

## a display
display(f) display({f}) return pcall(display, {json = f})

## %q
return select(2, pcall(string.format, '%q', f))

## an error of a stream
return select(2, pcall(io.stdout.write, f)), select(2, pcall(io.write, f))

## an error of require
return select(2, pcall(require, f))

## an error of load
return select(2, pcall(load, object)), select(2, load(function() return f end))

## a coroutine's error
return coroutine.resume(coroutine.create(function() error(f) end))

## a cycle
local t = {} t.t = t return t
""")


@pytest.mark.parametrize(("code", "_expected"), SHOWN)
def test_an_address_is_never_shown(lua: Lua, code: str, _expected: str) -> None:
    lua.run(OBJECTS)
    outcome = lua.run(code)

    shown = f"{outcome} {lua.host.written} {lua.host.published} {lua.engine.symbols()}"

    assert not [address for address in _real_addresses(lua) if address in shown]
    assert not re.search(r"0x(?!0000)[0-9a-f]{8}|0x[0-9a-f]{9,}", shown)


FORMATS = st.lists(
    st.one_of(
        st.text("%-+ #0123456789.", max_size=6).map(lambda spec: "%" + spec),
        st.sampled_from("psdcqaix5% \0"),
    ),
    max_size=8,
).map("".join)


@pytest.fixture(scope="module")
def shared() -> Lua:
    lua = Lua()
    lua.run(OBJECTS)
    return lua


@given(form=FORMATS, order=st.lists(st.sampled_from(["object", "f", "co", "print", "1", "'s'", "nil"]), max_size=6))
def test_no_format_shows_an_address(shared: Lua, form: str, order: list[str]) -> None:
    quoted = "'" + "".join(f"\\x{byte:02x}" for byte in form.encode()) + "'"
    outcome = shared.run(f"return select(2, pcall(string.format, {', '.join([quoted, *order])}))")

    shown = str(outcome)

    assert not [address for address in _real_addresses(shared) if address in shown]


def test_an_error_inside_load_is_the_script_s_alone(lua: Lua) -> None:
    """Lua hands an error of a reader, or of a parser that is too deep, to the handler of the whole execution."""
    assert lua.result("return load(function() error('no more') end)") == "nil\tIn[1]:1: no more"
    assert lua.result("return load(function() error({}) end)") == "nil\t{}"
    assert lua.result("return load('return ' .. ('('):rep(999))") == "nil\tC stack overflow"
    assert lua.error("load()").message == "In[1]:1: bad argument #1 to 'load' (function expected, got nil)"


def test_an_object_keeps_its_number(lua: Lua) -> None:
    assert lua.result("f = function() end return tostring(f) == string.format('function: %p', f)") == "true"
    assert lua.result("return tostring(f)") == lua.result("return tostring(f)")
    assert lua.result("return tostring({}) ~= tostring({})") == "true"


def test_a_seed_decides_the_numbers_and_is_not_told(lua: Lua) -> None:
    other = Lua()
    other.engine.reseed(bytes(range(1, 17)))

    code = "return math.random(1 << 60)"
    numbers = [lua.result(code), other.result(code)]
    lua.engine.reseed(bytes(range(16)))

    assert numbers[0] != numbers[1]
    assert lua.result(code) == numbers[0]


DISASTERS = cases(r"""
## nested parentheses
return load('return ' .. ('('):rep(1e5) .. '1' .. (')'):rep(1e5))

## nested tables
return load('return ' .. ('{'):rep(1e5) .. ('}'):rep(1e5))

## nested functions
return load(('return function() '):rep(1e4) .. ('end '):rep(1e4))

## a long chain of calls
return load('return f' .. ('()'):rep(2e5))

## a long chain of operators
return load('return ' .. ('-'):rep(50) .. '1' .. ('..1'):rep(1e5))

## a thousand locals
return load('local a' .. (',a'):rep(1000) .. ' = 1')

## recursion through C
local function f() return (('x'):gsub('x', f)) end return f()

## recursion through sort
local function f() table.sort({3, 2, 1}, f) end f()

## recursion through pcall
local function f() return pcall(f) end return f()

## recursion through load
local function f() return load(f) end return f()

## recursion through metamethods
local t = setmetatable({}, {}) getmetatable(t).__index = function(_, k) return t[k + 1] end return t[1]

## recursion through tostring
local t = setmetatable({}, {__tostring = tostring}) return tostring(t)

## recursion through display
local t = setmetatable({}, {__tostring = function(t) display(t) end}) return t

## recursion through require
return require 'none'

## coroutines in coroutines
local function f() return coroutine.wrap(f)() end return f()

## closes in closes
local function f() local co = coroutine.create(function() local x <close> = setmetatable({}, {__close = f})
    coroutine.yield() end) coroutine.resume(co) coroutine.close(co) end f()

## errors in closes
local x <close> = setmetatable({}, {__close = function() error('a') end}) error('b')

## an error handler that fails
return xpcall(error, function() error('again') end)

## an error handler that recurses
local function h(m) return h(m) .. 'x' end return xpcall(error, h)

## every value of a huge table
local t = {} for i = 1, 200000 do t[i] = i end return table.unpack(t)

## too many values
return table.unpack({}, 1, 1e7)

## a huge select
return select(-1, table.unpack({}, 1, 240000))

## yielding on a full stack
local t = {} for i = 1, 5e5 do t[i] = i end local co = coroutine.wrap(function()
    coroutine.yield(table.unpack(t)) end) return select('#', co())

## a sort that lies
local t = {} for i = 1, 1000 do t[i] = i % 7 end table.sort(t, function() return true end)

## a sort that shrinks
local t = {} for i = 1, 1000 do t[i] = -i end table.sort(t, function(a, b) for i = 1, 10 do t[#t] = nil end
    return a < b end)

## a table that is changed while it is walked
local t = {} for i = 1, 99 do t[i] = i end for k in pairs(t) do t[k] = nil t[k .. 'x'] = 1 end

## next of a key that is not there
return next({}, 'x')

## a pattern that recurses
return ('a'):rep(300000):find(('a?'):rep(300000))

## a pattern that captures
return ('a'):find(('('):rep(40))

## a pattern that ends early
return ('a'):find('%')

## a frontier at the end
return ('a'):find('%f')

## a format that is long
return ('%99.99f'):format(1e308)

## a huge pack
return string.pack('!16 s4', ('x'):rep(1e6)):len()

## an odd pack
return string.unpack('s8', ('\255'):rep(8))

## utf8 beyond its end
return utf8.codepoint('\xf8\x88', 1, 2, true)

## os.date of far away
return os.date('%c', math.maxinteger)

## os.time of nowhere
return os.time{year = math.maxinteger, month = 1, day = 1}

## string.rep of too much
return ('x'):rep(math.maxinteger, 'y')

## table.concat of too much
return table.concat(setmetatable({}, {__index = function() return 'x' end, __len = function() return 1e9 end}))

## table.insert into a liar
return table.insert(setmetatable({}, {__len = function() return math.maxinteger end}), 1)

## the environment replaced
_ENV = nil

## a closed variable that is not
local x <close> = 5

## integer division by zero
return 1 // 0

## the least integer divided
return math.mininteger // -1, math.mininteger % -1

## shifts by anything
return 1 << math.mininteger, 1 >> math.maxinteger

## a loop to the end of integers
for i = math.maxinteger - 1, math.maxinteger do end
""")


def test_no_disaster_ends_the_process() -> None:
    """One process for all: it must be there at the end, and every cell after a disaster runs as ever."""
    cells = [cell for case in DISASTERS for cell in (str(case.values[0]), "return 1 + 1")]

    ended = in_a_process(cells, memory_bytes=64 * 1024 * 1024, deadline_s=110)

    assert (ended.returncode, ended.stderr) == (0, "")
    assert len(ended.outcomes) == len(cells)
    strange = [
        (DISASTERS[index // 2].id, outcome)
        for index, outcome in enumerate(ended.outcomes)
        if index % 2 and outcome["result"] != "2"
    ]
    assert not strange
    assert {outcome["status"] for outcome in ended.outcomes} <= {"ok", "error"}
