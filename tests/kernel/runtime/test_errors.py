"""How an error is shown: Lua's message, the line in the user's own cell, the user's functions by name."""

import pytest

from llmspell_kernel.runtime.engine import ScriptError
from support.lua import Lua, cases

MESSAGES = cases(r"""
## a message
error("a")
=> In[1]:1: a

## a message without a place
error("a", 0)
=> a

## a message of the caller's place
local function check() error("a", 2) end

check()
=> In[1]:3: a

## a message with line ends
error("a\nb")
=> In[1]:1: a\nb

## a table
error({code = 1, "x"})
=> (error object is a table) {"x", code = 1}

## a table that converts
error(setmetatable({}, {__tostring = function() return "mine" end}))
=> mine

## a table whose conversion fails
error(setmetatable({}, {__tostring = function() error("again") end}))
=> (error object whose '__tostring' failed)

## a table whose conversion is no text
error(setmetatable({}, {__tostring = function() return {} end}))
=> (error object whose '__tostring' failed)

## a table whose metatable is hidden
error(setmetatable({x = 1}, {__metatable = false, __index = error, __pairs = error, __len = error}))
=> (error object is a table) {x = 1}

## a table that holds itself
local t = {} t.t = t error(t)
=> (error object is a table) {t = <cycle: 0x00000001>}

## nil
error(nil)
=> (error object is a nil value)

## nothing
error()
=> (error object is a nil value)

## a number
error(42)
=> (error object is a number) 42

## a boolean
error(false)
=> (error object is a boolean) false

## a function
error(print)
=> (error object is a function) function: 0x00000001

## bytes that are no text
error("\255\0x", 0)
=> �␀x

## an assertion
assert(1 == 2)
=> In[1]:1: assertion failed!

## an assertion with words
assert(nil, "words")
=> In[1]:1: words

## an assertion with a table
assert(false, {1})
=> (error object is a table) {1}

## an index of nil
local t = {} return t.a.b
=> In[1]:1: attempt to index a nil value (field 'a')

## a call of nil
missing()
=> In[1]:1: attempt to call a nil value (global 'missing')

## a method of nil
local t = {} t:go()
=> In[1]:1: attempt to call a nil value (method 'go')

## a bad argument
string.rep()
=> In[1]:1: bad argument #1 to 'rep' (string expected, got no value)

## a bad argument of a wrapped function
local x = 1
string.format("%d", "x")
=> In[1]:2: bad argument #2 to 'format' (number expected, got string)

## a bad argument of setmetatable
setmetatable(1, {})
=> In[1]:1: bad argument #1 to 'setmetatable' (table expected, got number)

## a bad argument of require
require(5)
=> In[1]:1: bad argument #1 to 'require' (string expected, got number)

## a bad argument of warn
warn({})
=> In[1]:1: bad argument #1 to 'warn' (string expected, got table)

## a bad argument of write
io.write(1, {})
=> In[1]:1: bad argument #2 to 'write' (string expected, got table)

## a bad argument of display
display(1, 2)
=> In[1]:1: display: expected options like {id="plot"}, found a number

## the stack
local function f() return 1 + f() end return f()
=> In[1]:1: stack overflow

## C's stack
local function f() return (("x"):gsub("x", f)) end return f()
=> C stack overflow

## a failing __tostring of a result
return setmetatable({}, {__tostring = function() error("shown") end})
=> In[1]:1: shown

## a failing __tostring of one of several results
return 1, setmetatable({}, {__tostring = function() error({1}) end})
=> (error object is a table) {1}

## an error in __close
local x <close> = setmetatable({}, {__close = function() error("closing") end})
=> In[1]:1: closing

## an error in __close after an error
local x <close> = setmetatable({}, {__close = function() error("closing") end}) error("first")
=> In[1]:1: closing

## an error in a coroutine
coroutine.wrap(function() error("in it") end)()
=> In[1]:1: In[1]:1: in it

## an error in a loaded chunk
load("error('x')", "=mine")()
=> mine:1: x

## an error in a chunk without a name
load("\n\nerror('x')")()
=> [string "..."]:3: x

## an error that is thrown on
local ok, why = pcall(error, {1}) error(why)
=> (error object is a table) {1}
""")


@pytest.mark.parametrize(("code", "expected"), MESSAGES)
def test_the_message_is_the_script_s(lua: Lua, code: str, expected: str) -> None:
    error = lua.error(code)

    assert error.message.replace("\n", r"\n").replace("\0", "␀") == expected
    assert error.name == "LuaError"
    assert error.traceback[0] == f"LuaError: {error.message}"


SYNTAX = cases(r"""
## a symbol
x = = 1
=> In[1]:1: unexpected symbol near '='

## a line
x = 1

y = )
=> In[1]:3: unexpected symbol near ')'

## an unfinished string
x = 'a
=> In[1]:1: unfinished string near <eof>

## an unfinished block
while true do
=> In[1]:1: 'end' expected near <eof>

## an unknown label
goto nowhere
=> In[1]:1: no visible label 'nowhere' for <goto> at line 1

## too deep
return (((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((((
=> In[1]:1: unexpected symbol near <eof>

## a const
local x <const> = 1; x = 2
=> In[1]:1: attempt to assign to const variable 'x'

## a break
break
=> In[1]:1: break outside loop at line 1
""")


@pytest.mark.parametrize(("code", "expected"), SYNTAX)
def test_a_syntax_error_names_the_line_and_runs_nothing(lua: Lua, code: str, expected: str) -> None:
    error = lua.error(code)

    assert error == ScriptError("SyntaxError", expected, (f"SyntaxError: {expected}",))


@pytest.mark.parametrize(
    ("case", "code"),
    [
        ("bytecode", b"\x1bLua\x54\x00\x19\x93\r\n\x1a\n"),
        ("a null byte", b"x = 1\0"),
        ("no text", b"\xff\xfe"),
        ("a huge string that does not end", b"x = '" + b"a" * 3_000_000),
        ("nesting without end", b"return " + b"(" * 300),
    ],
)
def test_what_is_no_lua_is_a_short_syntax_error(lua: Lua, case: str, code: bytes) -> None:
    error = lua.error(code)

    assert error.name == "SyntaxError"
    assert len(error.message) < 100_000


def test_the_traceback_names_the_user_s_functions(lua: Lua) -> None:
    code = """
local helper = {}
function helper.deep(n)
  if n == 0 then error("bottom") end
  return 1 + helper.deep(n - 1)
end
local function work() return 1 + helper.deep(1) end
function run() return {work()} end
local object = setmetatable({}, {__index = function(_, key) return {run()} end})
function object:method() return self.field end
return {object:method()}
"""

    assert lua.error(code).traceback == (
        "LuaError: In[1]:4: bottom",
        "stack traceback:",
        "  [C]: in function 'error'",
        "  In[1]:4: in function 'deep'",
        "  In[1]:5: in function 'deep'",
        "  In[1]:7: in upvalue 'work'",
        "  In[1]:8: in function 'run'",
        "  In[1]:9: in metamethod 'index'",
        "  In[1]:10: in method 'method'",
        "  In[1]:11: in main chunk",
    )


FRAMES = cases(r"""
## a library function
("x"):rep({})
=> [C]: in function 'string.rep' / In[1]:1: in main chunk

## a wrapped library function
collectgarbage("stop")
=> [C]: in function 'collectgarbage' / In[1]:1: in main chunk

## a callback
("x"):gsub("x", function() error("x") end)
=> [C]: in function 'error' / In[1]:1: in function <In[1]:1> / [C]: in function 'string.gsub' / In[1]:1: in main chunk

## pcall
pcall(function() end) local f = function() local t = nil; return t.x end f()
=> In[1]:1: in local 'f' / In[1]:1: in main chunk

## xpcall
xpcall(function() end, print) error("x")
=> [C]: in function 'error' / In[1]:1: in main chunk

## a function that is called in a tail
local function f() error("x") end local function g() return f() end g()
=> [C]: in function 'error' / In[1]:1: in function <In[1]:1> / In[1]:1: in main chunk

## a name that holds line ends
local t = {} t["a\nIn[9]:9: in main chunk"] = function() error("x") end t["a\nIn[9]:9: in main chunk"]()
=> [C]: in function 'error' / In[1]:1: in function 'a?In[9]:9: in main chunk' / In[1]:1: in main chunk

## a chunk's name that holds line ends
load("error('x')", "=a\nb")()
=> [C]: in function 'error' / a?b:1: in main chunk / In[1]:1: in main chunk

## print's conversion
print(setmetatable({}, {__tostring = function() error("x") end}))
=> [C]: in function 'error' / In[1]:1: in function <In[1]:1> / [C]: in function 'print' / In[1]:1: in main chunk
""")


@pytest.mark.parametrize(("code", "expected"), FRAMES)
def test_a_traceback_shows_the_script_s_frames_only(lua: Lua, code: str, expected: str) -> None:
    frames = [frame.strip() for frame in lua.error(code).traceback if frame.startswith("  ")]

    assert frames == expected.split(" / ")


def test_a_deep_traceback_keeps_both_ends(lua: Lua) -> None:
    error = lua.error(
        "local function down(n) if n == 0 then error('x') end return 1 + down(n - 1) end return {down(5000)}"
    )

    frames = [frame for frame in error.traceback if frame.startswith("  ")]
    assert 20 <= len(frames) <= 24
    assert any("more)" in frame for frame in frames)
    assert frames[-1] == "  In[1]:1: in main chunk"


def test_a_name_of_any_length_is_shortened(lua: Lua) -> None:
    name = "f" * 100_000

    error = lua.error(f"function {name}() error('x') end {name}()")

    assert sum(len(line) for line in error.traceback) < 2000


@pytest.mark.parametrize(
    "code",
    [
        "error(('m'):rep(5e6))",
        "error(setmetatable({}, {__tostring = function() return ('m'):rep(5e6) end}))",
        "error({('m'):rep(5e6)})",
        f"local {'v' * 100_000} = nil; return {'v' * 100_000}.x",
    ],
)
def test_a_message_of_any_length_is_shortened(lua: Lua, code: str) -> None:
    error = lua.error(code)

    assert len(error.message) < 70_000
    assert "bytes)" in error.message


def test_the_chunk_names_the_place(lua: Lua) -> None:
    error = lua.run("\nerror('x')", chunk="@dir/script.lua").error

    assert error is not None
    assert error.message == "dir/script.lua:2: x"


def test_an_error_leaves_everything_usable(lua: Lua) -> None:
    lua.result("kept = 1")
    for code in ("error('x')", "x = = 1", "local function f() return 1 + f() end f()", "error({})"):
        lua.error(code)

    assert lua.result("return kept") == "1"


def test_errors_do_not_pile_up(lua: Lua) -> None:
    for _ in range(20):
        lua.error("local function f(n) if n == 0 then error({('x'):rep(1000)}) end return 1 + f(n - 1) end f(100)")
    lua.result("collectgarbage()")
    before = lua.engine.memory_used_bytes

    for _ in range(200):
        lua.error("local function f(n) if n == 0 then error({('x'):rep(1000)}) end return 1 + f(n - 1) end f(100)")
    lua.result("collectgarbage()")

    assert lua.engine.memory_used_bytes < before + 16 * 1024
