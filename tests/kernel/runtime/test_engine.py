"""Executions: what persists, what does not, arguments, limits, and what an outcome holds."""

import pytest

from llmspell_kernel.limits import MIB, KernelLimits
from llmspell_kernel.runtime.engine import Engine, Outcome
from support.lua import Lua, RecordingHost


def test_globals_persist_and_locals_do_not(lua: Lua) -> None:
    lua.result("kept = 1 local gone = 2 function double(x) return 2 * x end")

    assert lua.result("return kept, gone, double(4)") == "1\tnil\t8"


def test_closures_keep_their_locals(lua: Lua) -> None:
    lua.result("local n = 0 function count() n = n + 1 return n end")

    assert [lua.result("return count()") for _ in range(3)] == ["1", "2", "3"]


@pytest.mark.parametrize(
    ("case", "code", "expected"),
    [
        ("an expression", b"1+1", Outcome("ok", b"2")),
        ("a return", b"return 1+1", Outcome("ok", b"2")),
        ("a statement", b"x = 1", Outcome("ok")),
        ("nothing", b"", Outcome("ok")),
        ("white space", b" \n\t", Outcome("ok")),
        ("a line end of another system", b"return 1\r\n", Outcome("ok", b"1")),
        ("an expression with a comment", b"1 + 1 -- two", Outcome("ok", b"2")),
        ("an expression over lines", b"1 +\n1", Outcome("ok", b"2")),
        ("a call", b"print('x')", Outcome("ok")),
        ("a method call", b"('x'):upper()", Outcome("ok", b"X")),
        ("varargs", b"...", Outcome("ok")),
        ("several", b"1, 2", Outcome("ok", b"1\t2")),
        ("bytes", b"return '\xff\\0'", Outcome("ok", b"\xff\0")),
        ("a string that is shown", b"return 'x'", Outcome("ok", b"x")),
    ],
)
def test_a_cell_comes_to_an_outcome(lua: Lua, case: str, code: bytes, expected: Outcome) -> None:
    assert lua.run(code) == expected


def test_arguments_are_a_script_s_own(lua: Lua) -> None:
    lua.engine.set_arguments(b"script.lua", (b"one", b"\xff"))

    assert lua.run("return ..., #arg, arg[0]", arguments=(b"one", b"\xff")).result == b"one\t2\tscript.lua"
    assert lua.run("return select('#', ...)").result == b"0"


def test_a_large_cell_is_run_too(lua: Lua) -> None:
    body = "x = 0 " + "x = x + 1 " * 50_000

    assert lua.result(body + "return x") == "50000"


def test_ten_megabytes_of_code_are_compiled(lua: Lua) -> None:
    assert lua.run(b"--" + b"x" * 10_000_000 + b"\nreturn 1") == Outcome("ok", b"1")


def test_a_line_is_a_cell_s_own(lua: Lua) -> None:
    lua.result("\n\nfunction fail() error('here') end")

    outcome = lua.run("\nfail()", chunk="=In[2]")

    assert outcome.error is not None
    assert outcome.error.message == "In[1]:3: here"
    assert outcome.error.traceback[-1] == "  In[2]:2: in main chunk"


def test_limits_may_change_between_executions(lua: Lua) -> None:
    lua.engine.limits = KernelLimits(memory_bytes=4 * MIB)
    assert lua.error("x = ('x'):rep(8 << 20)").name == "MemoryError"
    lua.engine.limits = KernelLimits(memory_bytes=64 * MIB)

    assert lua.result("x = ('x'):rep(8 << 20) return #x") == str(8 * MIB)


def test_engines_share_nothing() -> None:
    one, other = Lua(), Lua()
    one.result("x = 1 string.mine = 1")

    assert other.result("return x, string.mine") == "nil\tnil"


def test_seeds_come_from_outside() -> None:
    engines = [Engine(RecordingHost(), KernelLimits()) for _ in range(3)]
    for engine, seed in zip(engines, [bytes(16), bytes(16), b"\xff" * 16], strict=True):
        engine.reseed(seed)

    results = [engine.execute(b"return math.random(1 << 62)", b"=In[1]", 1).result for engine in engines]

    assert results[0] == results[1] != results[2]


def test_many_executions_leave_nothing_behind(lua: Lua) -> None:
    for number in range(2000):
        lua.run(f"return {number} + 1")
    lua.result("collectgarbage()")
    before = lua.engine.memory_used_bytes

    for number in range(2000):
        lua.run(f"return {number} + 1, {{}}, 'x' .. {number}")
        lua.run("local t = {} return t.x.y")
    lua.result("collectgarbage()")

    assert lua.engine.memory_used_bytes < before + 32 * 1024


def test_an_evaluation_shares_the_globals_and_changes_no_result(lua: Lua) -> None:
    lua.result("x = 5")

    assert lua.engine.evaluate(b"x", lua.number) == (True, b'{"text/plain":"5"}')
    assert lua.engine.evaluate(b"nil", lua.number) == (True, b'{"text/plain":"nil"}')
    assert lua.engine.evaluate(b"'a', 'b'", lua.number) == (True, b'{"text/plain":"a"}')
    assert lua.result("return x") == "5"
