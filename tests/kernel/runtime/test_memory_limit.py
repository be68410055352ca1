"""A script at its memory limit gets an error; the process neither aborts nor hangs, whatever it calls there.

Lua raises "not enough memory" by a long jump. Where that crosses a frame of Python the process is lost, so everything
here runs in a process of its own.
"""

from pathlib import Path

import pytest

from llmspell_kernel.limits import KIB, MIB
from llmspell_kernel.runtime.engine import HEADROOM_BYTES
from support.lua import Lua, in_a_process

LIMIT = 3 * MIB

FILLS = {
    "with small tables": "t = {} pcall(function() for i = 1, 1e9 do t[i] = {} end end) ",
    "with strings of all sizes": """
        t = {}
        local size = 1 << 20
        while size > 1 do
            while pcall(function() t[#t + 1] = ('x'):rep(size) size = size + 1 end) do end
            size = size // 2
        end
        """,
    "to the last byte": """
        t = {}
        while pcall(function() t = {t} end) do end
        pcall(function() for i = 1, 1e9 do t = {t, ('y'):rep(i)} end end)
        """,
    "with coroutines": "t = {} pcall(function() for i = 1, 1e9 do t[i] = coroutine.wrap(print) end end) ",
    "with one string": "t = '' pcall(function() while true do t = t .. ('x'):rep(9999) end end) ",
}

AT_THE_LIMIT = {
    "print a value": "print('hello', {}, 1)",
    "print a number": "print(1)",
    "print a string": "print('x')",
    "write": "io.write('a', 1)",
    "flush": "io.stdout:flush()",
    "warn": "warn('x')",
    "read a line": "return io.read()",
    "read a number": "return io.read('n')",
    "read everything": "return #io.read('a')",
    "display a table": "display({1, 2})",
    "display a string": "display('a')",
    "display a bundle": "display{text = 'x', html = '<b>', json = {1, 2, {x = 1}}}",
    "update a display": "update_display('a', 1)",
    "clear the output": "clear_output(true)",
    "require a module": "return require 'small'",
    "require a large module": "return #require 'large'",
    "require no module": "return require 'none'",
    "require what does not compile": "return require 'broken'",
    "raise an error": "error(('m'):rep(100))",
    "raise a table": "error({1, 2, 3})",
    "raise a huge error": "error(('m'):rep(1e6))",
    "raise what was kept": "error(t)",
    "raise an error that raises": "error(setmetatable({}, {__tostring = function() return ('x'):rep(1e6) end}))",
    "return a string": "return ('x'):rep(1e6)",
    "return a table": "return {1, 2, {3}}",
    "return what was kept": "return t",
    "return many values": "return table.unpack({}, 1, 200)",
    "return a number": "return 1",
    "convert": "return setmetatable({}, {__tostring = function() return ('x'):rep(1e5) end})",
    "format": "return string.format('%s %p %s', {}, {}, print)",
    "make a coroutine": "return coroutine.wrap(function() return 1 end)()",
    "nest coroutines": "local function f() coroutine.wrap(f)() end f()",
    "load": "return load('return 1')",
    "recurse": "local function f() return f() + 1 end f()",
    "handle an error": "return xpcall(error, function(m) return {m} end)",
    "call back": "return (('x'):rep(100):gsub('x', function() print('y') end))",
    "close": "local x <close> = setmetatable({}, {__close = function() t = {t} print('c') end}) error('x')",
    "iterate": "for _, v in pairs({1, 2, 3}) do print(v) end for line in io.lines() do print(line) break end",
    "all, again and again": """
        for i = 1, 10 do
            pcall(print, i, {}) pcall(io.read) pcall(require, 'small') pcall(display, i) pcall(error, {})
            pcall(warn, 'x') pcall(require, 'none') pcall(clear_output) pcall(io.write, ('x'):rep(i * 1000))
        end
        """,
    "be let go": "t = nil",
}


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("modules")
    (folder / "small.lua").write_text("return 7")
    (folder / "broken.lua").write_text("return = 7")
    (folder / "large.lua").write_text(f"return '{'x' * 3_000_000}'")
    return str(folder)


@pytest.mark.parametrize("when", ["in the same cell", "in the next cell"])
@pytest.mark.parametrize("fill", FILLS)
def test_a_script_at_its_limit_may_do_anything(fill: str, when: str, modules: str) -> None:
    cells = []
    for action in AT_THE_LIMIT.values():
        cells += [FILLS[fill] + action, ""] if when == "in the same cell" else [FILLS[fill], action]
        cells += ["t = nil", "collectgarbage()", "return 1 + 1"]

    ended = in_a_process(
        cells,
        memory_bytes=LIMIT,
        module_paths=[modules],
        lines=[f"line {number}" for number in range(500)] + ["x" * 200_000] * 3,
        deadline_s=100,
    )

    done = len(ended.outcomes) // 5
    assert (ended.returncode, ended.stderr) == (0, ""), f"after {list(AT_THE_LIMIT)[done]}"
    assert len(ended.outcomes) == len(cells)
    for number, action in enumerate(AT_THE_LIMIT):
        first, second, released, collected, sum_of_two = ended.outcomes[5 * number : 5 * number + 5]
        assert {first["status"], second["status"]} <= {"ok", "error"}, action
        assert released["status"] == collected["status"] == "ok", action
        assert collected["heap"] < LIMIT / 2, action
        assert sum_of_two["result"] == "2", action
        assert max(first["heap"], second["heap"]) <= LIMIT + HEADROOM_BYTES + MIB, action


def test_the_error_says_where_and_what_to_do(lua: Lua) -> None:
    error = lua.error("local t = {}\nlocal grow = function() for i = 1, 1e9 do t[i] = {} end end\ngrow()")

    assert error.name == "MemoryError"
    assert error.message == (
        "not enough memory: the script reached its limit; set large variables to nil, or raise memory_bytes"
    )
    assert error.traceback[0] == f"MemoryError: {error.message}"


@pytest.mark.parametrize(
    ("case", "code", "name", "message"),
    [
        ("one that Lua raised and the script passed on", "error(select(2, pcall(string.rep, 'x', 1 << 30)), 0)",
         "MemoryError", "not enough memory: the script"),
        ("with its position", "error(select(2, pcall(string.rep, 'x', 1 << 30)))",
         "MemoryError", "In[1]:1: not enough memory: the script"),
        ("words like it in a message of the script's own", "error('not enough memory cards')",
         "LuaError", "In[1]:1: not enough memory cards"),
    ],
)  # fmt: skip
def test_only_lua_s_own_words_are_a_memory_error(lua: Lua, case: str, code: str, name: str, message: str) -> None:
    error = lua.error(code)

    assert error.name == name
    assert error.message.startswith(message)


def test_a_script_may_catch_it_and_go_on(lua: Lua) -> None:
    assert lua.result("local ok, why = pcall(string.rep, 'x', 1 << 30) return ok, why") == "false\tnot enough memory"
    assert lua.result("return #('x'):rep(1 << 20)") == str(1 << 20)


def test_a_cell_that_compiles_into_too_much_is_a_memory_error() -> None:
    lua = Lua(memory_bytes=2 * MIB)
    many = b"local t = {" + b"{}," * 2_000_000 + b"}"

    error = lua.error(many)

    assert error.name == "MemoryError"
    assert lua.result("return 1 + 1") == "2"


def test_without_a_limit_a_script_may_hold_more() -> None:
    lua = Lua(memory_bytes=0)

    assert lua.result("return #('x'):rep(200 << 20)") == str(200 << 20)


def test_the_limit_holds_at_every_execution(lua: Lua) -> None:
    for _ in range(3):
        assert lua.error("local x = ('x'):rep(200 << 20)").name == "MemoryError"
        assert lua.engine.memory_used_bytes < 2 * MIB


def test_what_a_result_takes_is_not_held(lua: Lua) -> None:
    lua.result("big = {} for i = 1, 1000 do big[i] = ('x'):rep(1000) end")
    before = lua.engine.memory_used_bytes

    for _ in range(50):
        lua.result("return big")
        lua.engine.symbols()
    lua.result("collectgarbage()")

    assert lua.engine.memory_used_bytes < before + 256 * KIB


@pytest.mark.parametrize("size", [15 * KIB, 17 * KIB, 300 * KIB])
def test_a_cell_of_any_size_runs_when_memory_is_out(size: int) -> None:
    """A small cell is compiled within the limit, a large one beyond it, and both when nothing is left."""
    filler = "--" + "x" * size + "\n"
    cells = [FILLS["to the last byte"], filler + "return 1", filler + "t = nil", filler + "return 2"]

    ended = in_a_process(cells, memory_bytes=LIMIT)

    assert ended.returncode == 0
    assert [outcome["status"] for outcome in ended.outcomes[2:]] == ["ok", "ok"]
    assert ended.outcomes[3]["result"] == "2"


def test_user_expressions_at_the_limit_are_errors(lua: Lua) -> None:
    lua.result(FILLS["to the last byte"].replace("1e9", "1e5"))

    ok, text = lua.engine.evaluate(b"('x'):rep(1 << 30)", lua.number)

    assert (ok, text) == (False, b"not enough memory")
    assert lua.engine.evaluate(b"1 + 1", lua.number) == (True, b'{"text/plain":"2"}')


def test_modules_stay_within_the_limit(tmp_path: Path) -> None:
    (tmp_path / "wide.lua").write_text(f"return '{'x' * (6 * MIB)}'")
    lua = Lua(memory_bytes=4 * MIB, module_paths=(str(tmp_path),))

    assert lua.error("require 'wide'").name == "MemoryError"
    assert lua.result("return 1 + 1") == "2"
