"""Names that a text gives. In the tables `|` is the cursor."""

import re
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmspell_kernel.analysis import tokens
from llmspell_kernel.analysis.library import KEYWORDS
from llmspell_kernel.analysis.scope import DEEPEST_LITERAL, THIS_CELL, assigned_globals, names_at
from llmspell_kernel.analysis.symbols import UNKNOWN, Symbol, SymbolTable

PIECES = st.sampled_from(
    [
        *KEYWORDS,
        "a",
        "b",
        "t.x",
        "t:m",
        "_G.y",
        "self",
        "1",
        '"s"',
        "=",
        ",",
        ";",
        ".",
        ":",
        "::",
        "..",
        "...",
        "(",
        ")",
        "[",
        "]",
        "{",
        "}",
        "<const>",
        "<",
        "+",
        "--c\n",
        "[[l]]",
        "[[",
        '"',
        "\n",
        "é",
        "😀",
    ]
)
PROGRAMS = st.one_of(st.text(), st.lists(PIECES, max_size=60).map(" ".join))


def at(marked: str) -> tuple[str, int]:
    return marked.replace("|", "", 1), marked.index("|")


@pytest.mark.parametrize(
    ("case", "marked", "expected"),
    [
        ("several names with attributes", "local a, b <const>, c <close> = 1\n|", "a b c"),
        ("names without values", "local a, b\n|", "a b"),
        ("a name is not known in its own value", "local a = |", ""),
        ("nor while its value goes on", "local a = f(1, |", ""),
        ("nor behind an operator", "local a = b +\n|", ""),
        ("a word being written is not a name yet", "local al|", ""),
        ("a word being written ends the value", "local alpha = 1\nal|", "alpha"),
        ("a call on the next line belongs to the value", "local a = f\n(|", ""),
        ("the next statement ends the value", "local a = 1 local b = |", "a"),
        ("a semicolon ends the value", "local a = 1; f(|", "a"),
        ("an attribute being written", "local a <|", "a"),
        ("a local function knows itself", "local function f() |", "f"),
        ("a function variable does not", "local f = function() |", ""),
        ("parameters", "function f(a, b, ...) |", "a b"),
        ("parameters of an anonymous function", "g(function(a) |", "a"),
        ("parameters end with their function", "function f(a) end |", ""),
        ("parameters that are being written", "function f(a, |", "a"),
        ("a method's self", "function t.u:m(a) |", "a self"),
        ("a function in a table has no self", "function t.u.m(a) |", "a"),
        ("a function without parameters yet", "function f |", ""),
        ("a numeric loop", "for i = 1, 10 do |", "i"),
        ("a loop's limits do not know its variable", "for i = 1, |", ""),
        ("a generic loop", "for k, v in pairs(t) do |", "k v"),
        ("a generic loop's list does not know its names", "for k, v in |", ""),
        ("a loop whose do is missing", "for i = 1, 10\nprint(|", "i"),
        ("a loop ends", "for i = 1, 10 do local a end |", ""),
        ("a loop over a function's result", "for k in (function() for j in x do |", "j"),
        ("a while loop", "while x do local a = 1 |", "a"),
        ("a while loop ends", "while x do local a = 1 end |", ""),
        ("a do block", "do local a = 1 do local b = 2 end |", "a"),
        ("a repeat block", "repeat local a = 1 |", "a"),
        ("a repeat's condition knows the block's names", "repeat local a = 1 until a == |", "a"),
        ("they end with the condition", "repeat local a = 1 until a == 2 f(|", ""),
        ("until and end at once", "do repeat local a = 1 until a end |", ""),
        ("an if block", "if x then local a = 1 |", "a"),
        ("a condition is of no branch", "if x then local a = 1 elseif |", ""),
        (
            "each branch has its own names",
            "if x then local a = 1 elseif y then local b = 1 else local c = 1 |",
            "c",
        ),
        ("an if ends", "if x then local a = 1 else local b = 1 end |", ""),
        ("an unfinished loop in a branch", "if x then for i = 1, 2 do else |", ""),
        ("an end too many", "local a = 1 end end |", "a"),
        ("an until too many", "local a = 1 until a |", "a"),
        ("an else too many", "local a = 1 else |", "a"),
        ("an end closes an unfinished repeat", "do local a = 1 repeat local b = 1 end |", ""),
        ("an open parenthesis before a statement", "print(\nlocal a = 1\n|", "a"),
        ("an open table before a statement", "local t = { x = 1,\nlocal a = 1\n|", "a t"),
        ("a function in an open call", "f(\nfunction g(a) |", "a"),
        ("upvalues", "local a = 1\nlocal function f(b) return function(c) |", "a b c f"),
        ("a table's functions", "local t = { f = function(a) |", "a"),
        ("hidden names count once", "local a = 1 do local a = 2 |", "a"),
        ("goto, labels, break and return", "::top:: local a = 1 goto top break return |", "a"),
        ("a break does not swallow a name", "break\nlocal a = 1\n|", "a"),
        (
            "comments and strings are no code",
            "local a = 1 -- local b = 1\nf('local c = 1', [[local d = 1\n]])|",
            "a",
        ),
        ("text behind the cursor does not count", "|local a = 1", ""),
    ],
)
def test_locals(case: str, marked: str, expected: str) -> None:
    assert sorted(names_at(*at(marked)).locals) == expected.split()


@pytest.mark.parametrize(
    ("case", "code", "expected"),
    [
        ("an assignment", "x = 1", {"x": Symbol("number")}),
        ("several names", "x, y = 'a', f()", {"x": Symbol("string"), "y": UNKNOWN}),
        ("statements in a line", "x = f(1) y = g'a' z = h", {"x": UNKNOWN, "y": UNKNOWN, "z": UNKNOWN}),
        ("in a then", "if a then x = 1 end", {"x": Symbol("number")}),
        ("in an else", "if a then else x = 1 end", {"x": Symbol("number")}),
        ("in a loop", "while a do x = 1 end", {"x": Symbol("number")}),
        ("in a function", "f(function(a) x = 1 end)", {"x": Symbol("number")}),
        ("behind a function", "x.y = function() end z = 1", {
            "x": Symbol("table", children={"y": Symbol("function", None, "", THIS_CELL, 1)}),
            "z": Symbol("number"),
        }),
        ("a comparison assigns nothing", "f(x == 1)", {}),
        ("a call assigns nothing", "f(x)", {}),
        ("a field of a call assigns nothing known", "f().x = 1", {}),
        ("an index assigns nothing known", "t[1] = 2", {}),
        ("table fields are no globals", "f{ x = 1 }", {}),
        ("a local is no global", "local x = 1 x = 2", {}),
        ("a loop's variable is no global", "for i = 1, 2 do i = 3 end", {}),
        ("a loop's variable, then a global", "for i = 1, 2 do end i = 3", {"i": Symbol("number")}),
        ("_G", "_G.x = 1", {"x": Symbol("number")}),
        ("fields", "t.a.b = true", {
            "t": Symbol("table", children={"a": Symbol("table", children={"b": Symbol("boolean")})})
        }),
        ("fields of a local", "local t = {} t.a = 1", {}),
        ("a literal's fields", "t = { a = 1, 2, b = { c = 's' }; d = nil, [1] = 2 }", {
            "t": Symbol("table", children={
                "a": Symbol("number"),
                "b": Symbol("table", children={"c": Symbol("string")}),
                "d": UNKNOWN,
            })
        }),
        ("a value that starts with a literal", "x = 1 + 2 y = 's' and 1", {"x": UNKNOWN, "y": UNKNOWN}),
        ("a concatenation", "x = 1 .. a", {"x": Symbol("string")}),
        ("a value that is not known later", "x = 1 x = f()", {"x": Symbol("number")}),
        ("one value for two names", "x, y = 1", {"x": Symbol("number"), "y": UNKNOWN}),
        ("more values than names", "x = 1, 2", {"x": Symbol("number")}),
    ],
)  # fmt: skip
def test_globals(case: str, code: str, expected: dict[str, Symbol]) -> None:
    assert assigned_globals(code) == expected


@pytest.mark.parametrize(
    ("case", "code", "path", "expected"),
    [
        ("a function", "\n\nfunction f(a, ...) end", "f", Symbol("function", None, "a, ...", "In[1]", 3)),
        ("a field", "function t.u.f() end", "t.u.f", Symbol("function", None, "", "In[1]", 1)),
        ("a method", "function t:m(a) end", "t.m", Symbol("function", None, "self, a", "In[1]", 1)),
        ("a value", "f =\nfunction(a) end", "f", Symbol("function", None, "a", "In[1]", 2)),
        ("one in a table", "t = { f = function(a) end }", "t.f", Symbol("function", None, "a", "In[1]", 1)),
        ("what a method puts in self", "function t:m() self.x = 1 end", "t.x", Symbol("number")),
        ("lines as Lua counts them", "\r\n\rfunction f() end", "f", Symbol("function", None, "", "In[1]", 3)),
    ],
)  # fmt: skip
def test_definitions(case: str, code: str, path: str, expected: Symbol) -> None:
    assert SymbolTable(assigned_globals(code, "In[1]")).find(path.split(".")) == expected


def test_a_function_of_a_cell_that_has_not_run_says_so() -> None:
    assert names_at("local function f(a) end ", 24).locals["f"] == Symbol("function", None, "a", THIS_CELL, 1)


def test_locals_carry_what_their_literals_say() -> None:
    code = "local t, s, n, u = { x = 1 }, 'a', 1, f() t.y = {} for i = 1, 2 do "

    assert names_at(code, len(code)).locals == {
        "t": Symbol("table", children={"x": Symbol("number"), "y": Symbol("table", children={})}),
        "s": Symbol("string"),
        "n": Symbol("number"),
        "u": UNKNOWN,
        "i": Symbol("number"),
    }


def test_a_method_s_self_has_the_fields_of_its_table() -> None:
    code = "local t = { x = 1 } function t:m() "

    assert set(names_at(code, len(code)).locals["self"].children or ()) == {"x", "m"}


def test_line_numbers_hold_beyond_the_window() -> None:
    code = "x = 1\n" * tokens.WINDOW + "function f() end"

    assert assigned_globals(code)["f"].line == tokens.WINDOW + 1


def test_a_literal_s_fields_are_recorded_to_a_bounded_depth() -> None:
    code = "x = " + "{ a = " * 100 + "1" + " }" * 100
    found = SymbolTable(assigned_globals(code))

    assert found.find(["x"] + ["a"] * DEEPEST_LITERAL) == UNKNOWN
    assert found.find(["x"] + ["a"] * (DEEPEST_LITERAL + 1)) is None


def test_offsets_are_code_points() -> None:
    assert sorted(names_at("s = '😀😀' local a = 1\n", 22).locals) == ["a"]


@pytest.mark.parametrize(
    ("case", "path", "expected"),
    [
        ("a local hides a global", "a", ["number"]),
        ("a local without that field hides a global's", "a.x", []),
        ("the record counts before the text", "t", ["string", "table"]),
        ("the text supplements the record", "t.y", ["number"]),
        ("an unknown name", "z", []),
    ],
)
def test_finding_a_path(case: str, path: str, expected: list[str]) -> None:
    symbols = SymbolTable({"a": Symbol("table", children={"x": UNKNOWN}), "t": Symbol("string")})

    found = names_at("local a = 1 t.y = 1 ", 20).find(path.split("."), symbols)

    assert [symbol.type for symbol in found] == expected


NAME = st.sampled_from("abc")
PROBE = "P(@, a, b, c) "


def bodies(statements: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Blocks of these statements, with a look at the locals before, between and after them."""
    gaps = st.sampled_from([" ", "\n", ";", " --a\n", "--[[local a]] "])
    pairs = st.lists(st.tuples(statements, gaps), max_size=3)
    return pairs.map(lambda pairs: PROBE + "".join(text + gap + PROBE for text, gap in pairs))


def values(body: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    plain = [
        "1",
        "'s'",
        "{}",
        "{x = 1, 2}",
        "f(1)",
        "f{a = 1}.x",
        "f's'",
        "1 + 2",
        "not nil",
        "-1",
        "#'s'",
        "(1)",
    ]
    return st.one_of(
        st.sampled_from(plain),
        st.builds("(function({}) {} return 1 end)(1)".format, NAME, body),
        st.builds("f({{x = function({}) {} end}})".format, NAME, body),
        st.builds("f(1, function(...) {} end, 'local a = 1')".format, body),
    )


def statements(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    body, value = bodies(inner), values(bodies(inner))
    return st.one_of(
        st.builds("local {} = {}".format, NAME, value),
        st.builds("local {} <const>, {} = {}, {}".format, NAME, NAME, value, value),
        st.builds("f({})".format, value),
        st.builds("x = {}".format, value),
        st.builds("t.x, x = {}, {}".format, value, value),
        st.builds("do {} end".format, body),
        st.builds("while {} do {} break end".format, value, body),
        st.builds("repeat {} until {}".format, body, value),
        st.builds(f"repeat {{}} until {PROBE}".format, body),
        st.builds("for {} = 1, {} and 1 do {} end".format, NAME, value, body),
        st.builds("for {}, {} in once({}) do {} end".format, NAME, NAME, value, body),
        st.builds("if {} then {} else {} end".format, value, body, body),
        st.builds("if not ({}) then {} elseif 1 then {} end".format, value, body, body),
        st.builds("if nil then {} else {} end".format, body, body),
        st.builds("local function {0}({1}) {2} end {0}(1)".format, NAME, NAME, body),
        st.builds("function g({}) {} end g(1)".format, NAME, body),
        st.builds("function t.u:m({}) {} return {} end t.u:m(1)".format, NAME, body, value),
    )


PRELUDE = """
local seen = {}
function P(at, ...)
  local names = ""
  for i, name in ipairs{"a", "b", "c"} do if select(i, ...) ~= nil then names = names .. name end end
  seen[#seen + 1] = at .. " " .. names
  return true
end
function f(...)
  for _, v in ipairs{...} do
    if type(v) == "table" and type(v.x) == "function" then v.x(1) end
    if type(v) == "function" then v(1) end
  end
  return {x = 1}
end
function once() return function(_, last) if not last then return 1, 1 end end end
t = {u = {}}
function result() return table.concat(seen, "\\n") end
"""


@settings(max_examples=60)
@given(bodies(st.recursive(st.just("local a = 1"), statements, max_leaves=12)))
def test_the_locals_of_finished_code_are_those_of_a_real_lua(program: str) -> None:
    lua = pytest.importorskip("lupa.lua54").LuaRuntime()
    numbers = count()
    code = re.sub("@", lambda _: f"'{next(numbers)}'", program)
    lua.execute(PRELUDE)
    lua.execute(code)
    seen = dict(line.partition(" ")[::2] for line in lua.execute("return result()").split("\n"))

    found = {at: names_at(code, code.index(f"P('{at}'")).locals for at in seen}

    assert {at: "".join(name for name in "abc" if name in names) for at, names in found.items()} == seen


@given(PROGRAMS, st.integers(-5, 200))
def test_any_text_has_names_at_any_offset(text: str, offset: int) -> None:
    names = names_at(text, offset)

    assert all(name.isidentifier() for name in [*names.locals, *names.globals])


@given(PROGRAMS)
def test_any_text_has_globals(text: str) -> None:
    assert all(name.isidentifier() for name in assigned_globals(text))


@pytest.mark.usefixtures("unmeasured")
@pytest.mark.parametrize(
    "unit",
    [
        "do ",
        "repeat ",
        "if x then ",
        "function() ",
        "{ a = ",
        "f(",
        "until x ",
        "end ",
        "a, ",
        "a.",
        "do x = 1 ",
        "repeat end ",
        "local t = { f = function() ",
        "for i in ",
        "function a.b:m() self.c = {} ",
    ],
)
def test_nesting_without_end_costs_no_more_than_its_length(unit: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # Far beyond the window that callers are held to: quadratic work or recursion would not come back.
    monkeypatch.setattr(tokens, "WINDOW", 1_000_000)
    code = unit * (300_000 // len(unit))

    names = names_at(code, len(code))

    assert len(names.locals) + len(names.globals) <= len(code)
