"""Whether code is whole, asked beside a script that runs."""

import pytest

from llmspell_kernel.runtime.checker import make_checker
from support.lua import Lua

CODES = [
    "1 + 1", "x = 1", "", "-- only a comment", "return 1, 2", "return", "print('x')", "f(", "x =", "while true do",
    "if x then", "function f()", "x = 'a", "x = [[a", "x = = 1", "end", "goto x", "for i = 1, 2 do print(i) end", "1 +",
    "return 1 +", "local x <const> = 1", "x = 1 x = = 2", "\x1bLua", "x = {1, 2", "'text'", '"', "--[[", "--[[ ]]",
    "::a::", "break", "a.b:c", "(" * 300, "{1, 2", "function()", "not", "x y", "x, y", "'a' ..", "f() g(",
]  # fmt: skip


@pytest.mark.parametrize("code", CODES)
def test_it_says_what_running_the_code_would_say(lua: Lua, code: str) -> None:
    fault = make_checker()(code.encode())

    outcome = lua.run(code)

    is_syntax = outcome.error is not None and outcome.error.name == "SyntaxError"
    assert is_syntax == (fault is not None)
    if fault is not None:
        assert outcome.error is not None
        assert outcome.error.message == fault.decode().replace("cell:", "In[1]:")


@pytest.mark.parametrize(
    ("code", "unfinished"),
    [
        ("while true do", True),
        ("x =", True),
        ("f(", True),
        ("x = [[a", True),
        ("--[[ a", True),
        ("1 +", True),
        ("{1, 2", True),
        ("function() return", True),
        ("x y", False),
        ("1 2", False),
        ("x = = 1", False),
        ("end", False),
        ("x = 'a\n", False),
    ],
)
def test_the_end_of_unfinished_code_is_told_apart(code: str, unfinished: bool) -> None:
    fault = make_checker()(code.encode())

    assert fault is not None
    assert fault.endswith(b"<eof>") == unfinished


def test_it_runs_nothing_and_knows_no_host() -> None:
    check = make_checker()

    assert check(b"while true do end") is None
    assert check(b"error('ran')") is None
