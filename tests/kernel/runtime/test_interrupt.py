"""Interrupts: what they stop, what they leave alone. `Lua.stop` does the server's part: arm, then press on."""

import ctypes
import threading
from pathlib import Path

import lupa.lua54
import pytest

from llmspell_kernel.runtime.engine import Outcome
from llmspell_kernel.runtime.interrupt import Interrupter
from support.lua import DEADLINE_S, TRAPS, Lua, cases

WITHIN_S = 1.0

STOPPED = cases(r"""
## a plain loop
spin()

## a loop that calls
print("inside") for i = 1, math.huge do math.floor(i) end

## a goto
print("inside") ::again:: goto again

## a recursion that is caught
local function f(n) if n > 0 then return 1 + f(n - 1) end return 1 end
print("inside") while true do pcall(f, 150000) end

## a loop of pcall
print("inside") while true do pcall(function() while true do end end) end

## a loop of pcall of errors
print("inside") while true do pcall(error, "x") end

## a loop of pcall that raises what it caught
print("inside") while true do pcall(function() local _, why = pcall(spin) error(why, 0) end) end

## a loop of xpcall
while true do xpcall(spin, function(m) return m end) end

## a message handler that loops
xpcall(error, function() spin() end)

## a loop with a message handler that loops
while true do xpcall(spin, function() while true do end end) end

## message handlers in message handlers
xpcall(function() xpcall(error, function() xpcall(spin, spin) spin() end) end, spin)

## a message handler written in C
while true do xpcall(spin, string.rep) end

## a coroutine
coroutine.resume(coroutine.create(spin))

## a coroutine that catches
while true do coroutine.resume(coroutine.create(reentering)) end

## coroutines in coroutines
local function nest(depth) if depth == 0 then spin() end coroutine.wrap(nest)(depth - 1) end nest(50)

## coroutines in coroutines that each catch and go on
local function nest(depth)
    if depth == 0 then spin() end
    while true do pcall(coroutine.wrap(nest), depth - 1) end
end
nest(50)

## coroutines in coroutines that each resume the next
local function nest(depth)
    if depth == 0 then spin() end
    while true do coroutine.resume(coroutine.create(nest), depth - 1) end
end
nest(50)

## coroutines that take turns
print("inside")
local function turn() while true do coroutine.yield() end end
local a, b = coroutine.wrap(turn), coroutine.wrap(turn)
while true do a() b() end

## coroutines that are always new
print("inside") while true do coroutine.wrap(function() end)() end

## new coroutines in a coroutine
coroutine.wrap(function() print("inside") while true do coroutine.wrap(function() end)() end end)()

## a coroutine that ends as it catches
coroutine.wrap(function()
    while true do coroutine.resume(coroutine.create(function() return pcall(spin) end)) end
end)()

## a coroutine that is pcall
coroutine.wrap(function() while true do coroutine.resume(coroutine.create(pcall), spin) end end)()

## a coroutine that is xpcall
coroutine.wrap(function() while true do coroutine.resume(coroutine.create(xpcall), spin, spin) end end)()

## a coroutine that yields from pcall
print("inside")
local co = coroutine.wrap(function() while true do pcall(coroutine.yield, 1) end end)
while true do pcall(co) end

## closing a suspended coroutine
local co = coroutine.create(function() local x <close> = closing(spin) coroutine.yield() end)
coroutine.resume(co) coroutine.close(co)

## closing a suspended coroutine again and again
while true do
    local co = coroutine.create(function() local x <close> = closing(reentering) coroutine.yield() end)
    coroutine.resume(co) pcall(coroutine.close, co)
end

## closing a suspended coroutine in a coroutine
coroutine.wrap(function()
    local co = coroutine.create(function() local x <close> = closing(spin) coroutine.yield() end)
    coroutine.resume(co) coroutine.close(co)
end)()

## a wrapped coroutine that fails with something to close
coroutine.wrap(function() local x <close> = closing(spin) error("x") end)()

## a coroutine that was interrupted, closed
local co = coroutine.create(function() local x <close> = closing(spin) spin() end)
coroutine.resume(co) coroutine.close(co) spin()

## a coroutine whose resume had too many arguments
coroutine.wrap(function()
    local co = coroutine.create(function() end)
    pcall(function(...) coroutine.resume(co, ...) end, table.unpack({}, 1, 499000))
    spin()
end)()

## a coroutine whose resume had too many results
coroutine.wrap(function()
    local co = coroutine.create(function() return table.unpack({}, 1, 600000) end)
    pcall(function(...) coroutine.resume(co) end, table.unpack({}, 1, 300000))
    spin()
end)()

## a coroutine inside __close
while true do pcall(function() local x <close> = closing(function() coroutine.wrap(spin)() end) error("x") end) end

## __close at the end of a block
do local x <close> = closing(spin) end

## __close after an error
pcall(function() local x <close> = closing(spin) error("x") end)

## __close of a loop
for _ in next, {}, nil, closing(spin) do end

## __close that runs because of the interrupt
local x <close> = closing(spin) spin()

## many that do
local a <close>, b = closing(spin) local c <close> = closing(reentering)
while true do pcall(function() local d <close> = closing(spin) spin() end) end

## __index
return setmetatable({}, {__index = spin}).x

## __index that is caught
local t = setmetatable({}, {__index = spin}) while true do pcall(function() return t.x end) end

## __newindex
setmetatable({}, {__newindex = spin}).x = 1

## __call
setmetatable({}, {__call = spin})()

## __eq
local mt = {__eq = spin} return setmetatable({}, mt) == setmetatable({}, mt)

## __lt
local mt = {__lt = spin} return setmetatable({}, mt) < setmetatable({}, mt)

## __len
return #setmetatable({}, {__len = spin})

## __concat
return setmetatable({}, {__concat = spin}) .. "x"

## __add
return setmetatable({}, {__add = spin}) + 1

## __pairs
for _ in pairs(setmetatable({}, {__pairs = spin})) do end

## __tostring in print
print(setmetatable({}, {__tostring = spin}))

## __tostring in a format
return string.format("%s", setmetatable({}, {__tostring = spin}))

## __tostring of a result
return setmetatable({}, {__tostring = spin})

## __tostring in a result
return {{setmetatable({}, {__tostring = reentering})}, 1}

## __tostring of an error
error(setmetatable({}, {__tostring = spin}))

## __tostring in display
while true do pcall(display, setmetatable({}, {__tostring = spin})) end

## __index of the globals
setmetatable(_G, {__index = spin}) return anything

## __newindex of the globals
setmetatable(_G, {__newindex = spin}) anything = 1

## a comparator of table.sort
table.sort({3, 2, 1, 5, 4}, spin)

## a comparator that catches
while true do pcall(table.sort, {3, 2, 1}, function(a, b) pcall(spin) return a < b end) end

## a comparator that is a coroutine
table.sort({3, 2, 1}, coroutine.wrap(spin))

## a callback of gsub
return (("x"):rep(100):gsub("x", spin))

## a table of gsub
return (("x"):gsub("x", setmetatable({}, {__index = spin})))

## an iterator
for _ in coroutine.wrap(spin) do end

## gmatch
print("inside") while true do for _ in ("x"):gmatch("x") do end end

## a reader of load
load(spin)

## chunks that are loaded
print("inside") while true do load("x = 1")() end

## a module
require "spinning"

## a flood of output
print("inside") while true do print("x") end

## a flood of displays
print("inside") while true do display(1) end

## a flood of garbage
print("inside") while true do local t = {} for i = 1, 1000 do t[i] = {} end end

## a flood of collections
print("inside") while true do collectgarbage() end

## memory that is always out
print("inside") local t = {} while true do pcall(function() for i = 1, 1e9 do t[#t + 1] = i .. "x" end end) end

## memory that is always out, in coroutines
local t = {}
local function nest(depth)
    if depth == 0 then
        print("inside")
        while true do pcall(function() for i = 1, 1e9 do t[#t + 1] = i .. "x" end end) end
    end
    while true do pcall(coroutine.wrap(nest), depth - 1) end
end
nest(5)

## a display of a table that holds itself many times
local t = {1} for _ = 1, 50 do t = {t, t} end print("inside") display{json = t}

## moving what __index makes up
print("inside") table.move(setmetatable({}, {__index = function() return 1 end}), 1, 1e15, 2)

## an error that says it is an interrupt
print("inside") while true do pcall(error, "\3", 0) end
""")


@pytest.fixture
def lua(tmp_path: Path) -> Lua:
    (tmp_path / "spinning.lua").write_text("spin()")
    (tmp_path / "whole.lua").write_text("return 7")
    lua = Lua(module_paths=(str(tmp_path),))
    lua.result(TRAPS)
    return lua


KEPT = """
kept = {1}
counting = coroutine.wrap(function() for i = 1, 100 do coroutine.yield(i) end end)
counting()
"""


@pytest.mark.parametrize(("code", "_"), STOPPED)
def test_an_interrupt_stops_it_and_the_next_execution_is_as_ever(lua: Lua, code: str, _: str) -> None:
    lua.result(KEPT)

    stopped = lua.stop(code)

    assert stopped.outcome.status == "interrupted"
    assert stopped.outcome.error is not None
    assert stopped.outcome.error.name == "Interrupted"
    assert stopped.after_s < WITHIN_S
    lua.result("setmetatable(_G, nil)")
    assert lua.result("return kept[1], counting(), counting()") == "1\t2\t3"
    assert lua.result("return coroutine.wrap(function() return pcall(error, 'x') end)()") == "false\tx"
    assert lua.result("return require 'whole'") == "7\twhole.lua"


@pytest.mark.parametrize(
    ("reason", "status", "name", "message"),
    [
        ("interrupt", "interrupted", "Interrupted", "interrupted at In[1]:3"),
        ("timeout", "timeout", "ExecutionTimeout", "stopped: the execution time limit was reached at In[1]:3"),
        ("output", "error", "OutputLimit", "stopped: the output limit of one execution was reached at In[1]:3"),
        ("shutdown", "interrupted", "Interrupted", "interrupted: the kernel is shutting down at In[1]:3"),
        ("unwritable", "error", "OutputError", "stopped: the output could not be written at In[1]:3"),
    ],
)
def test_the_outcome_says_why_and_where(lua: Lua, reason: str, status: str, name: str, message: str) -> None:
    code = 'local function work()\n\n print("inside") while true do end\nend\nwork()'

    outcome = lua.stop(code, reason=reason).outcome

    assert outcome.error is not None
    assert (outcome.status, outcome.error.name, outcome.error.message) == (status, name, message)
    headline, title, *frames = outcome.error.traceback
    assert (headline, title) == (f"{name}: {message}", "stack traceback:")
    assert frames[-2:] == ["  In[1]:3: in local 'work'", "  In[1]:5: in main chunk"]


def _hooks(lua: Lua) -> str:
    """Where a hook is installed: the main state and every coroutine that the script keeps in `all`."""
    found: bytes = lua.trusted(
        """
        local P = ...
        local out = {}
        if P.debug.gethook() then out[1] = "main" end
        for name, co in P.base.next, P.env.all do
            if P.debug.gethook(co) then out[#out + 1] = name end
        end
        return P.table.concat(out, " ")
        """
    )
    return found.decode()


def test_no_hook_is_installed_but_while_an_interrupt_is_pending(lua: Lua) -> None:
    lua.result("all = {idle = coroutine.create(spin), half = coroutine.create(coroutine.yield)}")
    lua.result("coroutine.resume(all.half) all.dead = coroutine.create(print) coroutine.resume(all.dead)")
    before = _hooks(lua)

    lua.stop(
        """
        all.outer = coroutine.create(function()
            all.inner = coroutine.create(function()
                all.unborn = coroutine.create(spin)
                pcall(spin)
            end)
            coroutine.resume(all.inner)
        end)
        coroutine.resume(all.outer)
        """
    )

    assert (before, _hooks(lua)) == ("", "")


def test_the_state_that_lupa_runs_in_is_the_one_that_is_hooked(lua: Lua) -> None:
    """Against the C API itself, past Lua's own debug library."""
    library = ctypes.PyDLL(lupa.lua54.__file__)
    library.lua_gethookmask.argtypes = [ctypes.c_void_p]
    prelude = lua.engine._prelude
    main = int(prelude[b"mailbox_addresses"].split()[0], 16)

    lua.stop("spin()")

    assert library.lua_gethookmask(main) == 0


def test_an_interrupt_for_an_execution_that_has_ended_does_nothing(lua: Lua) -> None:
    lua.result("x = 1")

    assert not lua.engine.interrupter.arm(lua.number, "interrupt")
    assert not lua.engine.interrupter.arm(None, "interrupt")
    assert not lua.engine.interrupter.press_again()
    assert lua.result("local s = 0 for i = 1, 1000 do s = s + i end return s") == "500500"


def test_an_interrupt_for_one_to_come_waits_for_it_and_hits_no_other(lua: Lua) -> None:
    first, second = lua.number + 1, lua.number + 2
    assert lua.engine.interrupter.arm(second, "interrupt")

    outcomes = [lua.run("local s = 0 for i = 1, 1000 do s = s + i end return s") for _ in (first, second, second + 1)]

    assert [outcome.status for outcome in outcomes] == ["ok", "interrupted", "ok"]


def test_an_interrupt_hits_the_execution_that_is_meant_and_not_the_next(lua: Lua) -> None:
    """Interrupts as they come, many times: none may arrive late."""
    interrupter = lua.engine.interrupter
    done = threading.Event()

    def shower() -> None:
        while not done.is_set():
            interrupter.arm(lua.number - lua.number % 2, "interrupt")

    thread = threading.Thread(target=shower, daemon=True)
    thread.start()
    try:
        odd = []
        for _ in range(2000):
            outcome = lua.run("local s = 0 for i = 1, 50 do s = s + i end return s")
            if lua.number % 2:
                odd.append(outcome)
    finally:
        done.set()
        thread.join(DEADLINE_S)

    assert {(outcome.status, outcome.result) for outcome in odd} == {("ok", b"1275")}


@pytest.mark.parametrize(
    "code",
    [
        "error('\\3', 0)",
        "error('\\3')",
        "error('In[1]:1: \\3', 0)",
        "coroutine.wrap(error)('\\3', 0)",
        "xpcall(error, error, '\\3', 0)",
        "local x <close> = closing(function() error('\\3', 0) end)",
    ],
)
def test_an_error_that_looks_like_an_interrupt_is_an_error(lua: Lua, code: str) -> None:
    outcome = lua.run(code)

    assert outcome.status == ("ok" if code.startswith("xpcall") else "error")
    assert outcome.error is None or outcome.error.name == "LuaError"
    assert lua.result("return coroutine.resume(coroutine.create(error), '\\3')") == "false\t\3"
    assert lua.result("return xpcall(error, function(m) return m .. '!' end, '\\3')") == "false\t\3!"


def test_a_coroutine_that_was_interrupted_is_dead_and_what_it_held_stays_shut(lua: Lua) -> None:
    lua.stop("co = coroutine.create(function() local x <close> = closing(print) spin() end) coroutine.resume(co)")

    assert lua.result("return coroutine.status(co)") == "dead"
    assert lua.result("return coroutine.close(co)") == "false\tinterrupted", "Lua would run it with hooks disabled"
    assert lua.result("return coroutine.resume(co)") == "false\tcannot resume dead coroutine"


def test_a_coroutine_that_was_only_suspended_goes_on(lua: Lua) -> None:
    lua.result("co = coroutine.wrap(function() for i = 1, 9 do coroutine.yield(i) end end) co()")

    lua.stop("co() spin()")

    assert lua.result("return co()") == "3"


def test_a_module_whose_loading_was_broken_off_can_be_required_again(lua: Lua) -> None:
    lua.stop("require 'spinning'")
    lua.result("spin = function() loaded = true end")

    assert lua.result("require 'spinning' return loaded") == "true"


def test_user_expressions_are_interrupted_too(lua: Lua) -> None:
    answers: list[tuple[bool, bytes]] = []
    lua.host.inside.clear()
    lua.number += 1
    thread = threading.Thread(
        target=lambda: answers.append(lua.engine.evaluate(b"(function() spin() end)()", lua.number)), daemon=True
    )
    thread.start()
    assert lua.host.inside.wait(DEADLINE_S)
    lua.engine.interrupter.arm(lua.number, "interrupt")
    thread.join(DEADLINE_S)

    assert not answers[0][0]
    assert lua.result("return 1 + 1") == "2"


def test_interrupts_again_and_again_leave_no_trace(lua: Lua) -> None:
    """The interrupting thread looks at coroutines while Lua makes and collects them."""
    lua.result("function deep(n) if n == 0 then error('x') end return 1 + deep(n - 1) end")
    loops = [
        "coroutine.wrap(function() print('inside') while true do coroutine.wrap(print)() collectgarbage() end end)()",
        "print('inside') while true do pcall(deep, 1500) collectgarbage('step') end",
        "print('inside') while true do local t = {} for i = 1, 99 do t[i] = coroutine.create(print) end end",
    ]
    for turn in range(60):
        assert lua.stop(loops[turn % len(loops)]).outcome.status == "interrupted"
    lua.result("collectgarbage()")

    assert lua.engine.memory_used_bytes < 1024 * 1024
    assert lua.result("return counting == nil") == "true"


class Recorded:
    """A hook that keeps what was asked of it."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def press(self) -> None:
        self.asked.append("press")

    def release(self) -> None:
        self.asked.append("release")


def test_the_rules_of_numbers() -> None:
    hook = Recorded()
    interrupter = Interrupter(hook)  # type: ignore[arg-type]
    armed: list[str] = []
    interrupter.on_arm = lambda: armed.append("woken")

    interrupter.begin(3)
    assert interrupter.arm(3, "timeout")
    assert interrupter.arm(None, "interrupt")
    assert interrupter.pending
    assert interrupter.press_again()
    assert interrupter.end() == "timeout", "the first reason counts"
    assert not interrupter.pending
    assert not interrupter.press_again()
    assert not interrupter.arm(3, "interrupt")
    interrupter.begin(4)
    assert interrupter.end() is None
    assert (hook.asked, armed) == (["press", "press", "press", "release"], ["woken", "woken"])


def test_an_interrupt_in_the_last_call_is_over_with_it(lua: Lua) -> None:
    lua.host.on_write = lambda: lua.engine.interrupter.arm(None, "interrupt") and None

    first, second = lua.run("io.write('x')"), lua.run("return 2")

    assert first.status in {"ok", "interrupted"}
    assert second == Outcome("ok", b"2")
