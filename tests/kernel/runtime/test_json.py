"""display{json=…} and the bundles of display: what a front end gets is always valid JSON."""

import base64
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.lua import Lua, cases

BUNDLES = cases(r"""
## a number
display(1)
=> {"text/plain": "1"}

## nothing
display()
=> {"text/plain": "nil"}

## a table
display({1, {a = 2}})
=> {"text/plain": "{1, {a = 2}}"}

## text
display{text = "plain"}
=> {"text/plain": "plain"}

## html
display{html = "<b>x</b>"}
=> {"text/html": "<b>x</b>", "text/plain": "<html>"}

## several forms
display{html = "<b>x</b>", text = "x", markdown = "**x**"}
=> {"text/html": "<b>x</b>", "text/markdown": "**x**", "text/plain": "x"}

## svg and latex
display{svg = "<svg/>", latex = "$x$"}
=> {"image/svg+xml": "<svg/>", "text/latex": "$x$", "text/plain": "<latex, svg>"}

## json
display{json = {a = {1, 2}, b = "x"}}
=> {"application/json": {"a": [1, 2], "b": "x"}, "text/plain": "<json>"}

## a table with one key that is no form is no bundle
display{html = "x", other = 1}
=> {"text/plain": "{html = \"x\", other = 1}"}

## a table with a metatable is no bundle
display(setmetatable({html = "x"}, {}))
=> {"text/plain": "{html = \"x\"}"}

## a table that converts
display(setmetatable({html = "x"}, {__tostring = function() return "mine" end}))
=> {"text/plain": "mine"}

## an empty table
display{}
=> {"text/plain": "{}"}

## text that is no text
display{text = "\255\0\"\\\n"}
=> {"text/plain": "\ufffd\u0000\"\\\n"}

## a picture that is text already
display{png = "iVBORw0K"}
=> {"image/png": "iVBORw0K", "text/plain": "<png>"}

## a picture in bytes
display{png = "\137PNG\r\n\26\n"}
=> {"image/png": "iVBORw0KGgo=", "text/plain": "<png>"}

## a photograph in bytes
display{jpeg = "\255\216\255"}
=> {"image/jpeg": "/9j/", "text/plain": "<jpeg>"}
""")


@pytest.mark.parametrize(("code", "expected"), BUNDLES)
def test_a_bundle_is_published(lua: Lua, code: str, expected: str) -> None:
    assert lua.result(code) is None

    assert lua.host.bundles() == [json.loads(expected)]


REFUSED = cases(r"""
## a form that is no string
display{html = 1}
=> In[1]:1: display: expected a string for 'html', found a number

## a string that only seems one
display{text = setmetatable({}, {__tostring = function() return "x" end})}
=> In[1]:1: display: expected a string for 'text', found a table

## a function in JSON
display{json = {print}}
=> In[1]:1: JSON has no form for a function

## not a number
display{json = 0/0}
=> In[1]:1: JSON has no number for

## infinity
display{json = {1/0}}
=> In[1]:1: JSON has no number for inf

## a table that holds itself
local t = {} t[1] = t display{json = t}
=> In[1]:1: JSON has no form for a table that holds itself

## too deep
local t = {} for _ = 1, 100 do t = {t} end display{json = t}
=> In[1]:1: a JSON value is at most 64 tables deep

## a key that is neither a string nor a number
display{json = {[true] = 1}}
=> In[1]:1: a JSON object's keys are strings or numbers, found a boolean

## an option that there is not
display(1, {name = "x"})
=> In[1]:1: display: expected the option 'id', found name

## an option that converts
display(1, {[setmetatable({}, {__tostring = function() return "x" end})] = 1})
=> In[1]:1: display: expected the option 'id', found x

## an id that is no string
display(1, {id = 5})
=> In[1]:1: display: expected an id that is a string, found 5

## an id that is empty
update_display("", 1)
=> In[1]:1: update_display: expected an id that is a string, found

## no id
update_display(nil, 1)
=> In[1]:1: update_display: expected an id that is a string, found nil
""")


@pytest.mark.parametrize(("code", "expected"), REFUSED)
def test_what_has_no_form_is_refused_with_the_reason(lua: Lua, code: str, expected: str) -> None:
    assert lua.error(code).message.strip().startswith(expected.strip())
    assert lua.host.published == []


def test_kinds_and_ids_are_told_apart(lua: Lua) -> None:
    lua.result("display(1) display(2, {id = 'a'}) update_display('a', 3) clear_output() clear_output(true)")

    assert lua.host.published == [
        (b"display_data", b'{"text/plain":"1"}', None),
        (b"display_data", b'{"text/plain":"2"}', b"a"),
        (b"update_display_data", b'{"text/plain":"3"}', b"a"),
        (b"clear_output", b'{"wait":false}', None),
        (b"clear_output", b'{"wait":true}', None),
    ]


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("{}", {}),
        ("{1, 2}", [1, 2]),
        ("{1, nil, 3}", {"1": 1, "3": 3}),
        ("{[2] = 1}", {"2": 1}),
        ("{1, x = 2}", {"1": 1, "x": 2}),
        ("{[1.5] = 1}", {"1.5": 1}),
        ("math.maxinteger", 2**63 - 1),
        ("-0.0", 0.0),
        ("1e308", 1e308),
        ("5e-324", 5e-324),
        ("0.1", 0.1),
        ("true", True),
        ("'é\\u{1F600}'", "é😀"),
        ("setmetatable({1}, {__len = function() return 9 end, __pairs = error, __index = error})", [1]),
    ],
)
def test_a_value_becomes_json(lua: Lua, code: str, expected: object) -> None:
    lua.result(f"display{{json = {code}}}")

    assert lua.host.bundles()[0]["application/json"] == expected


@pytest.fixture(scope="module")
def shared() -> Lua:
    return Lua()


TREES = st.recursive(
    st.one_of(st.booleans(), st.integers(-(2**62), 2**62), st.floats(allow_nan=False, allow_infinity=False), st.text()),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=5), st.dictionaries(st.text(min_size=1), inner, min_size=1)
    ),
    max_leaves=20,
)


def _literal(value: object) -> str:
    match value:
        case bool():
            return str(value).lower()
        case str():
            return "'" + "".join(f"\\{byte:03d}" for byte in value.encode()) + "'"
        case list():
            return "{" + ", ".join(map(_literal, value)) + "}"
        case dict():
            return "{" + ", ".join(f"[{_literal(key)}] = {_literal(item)}" for key, item in value.items()) + "}"
        case _:
            return repr(value)


@given(value=TREES)
def test_json_is_what_python_reads(shared: Lua, value: object) -> None:
    shared.host.published.clear()
    shared.result(f"display{{json = {_literal(value)}}}")

    assert shared.host.bundles()[0]["application/json"] == value


@given(data=st.binary(max_size=400))
def test_any_bytes_make_valid_json(shared: Lua, data: bytes) -> None:
    shared.host.published.clear()
    quoted = "'" + "".join(f"\\{byte:03d}" for byte in data) + "'"
    shared.result(f"display({quoted}) display{{html = {quoted}, json = {{{quoted}, [{quoted}] = {quoted}}}}}")

    assert len(shared.host.bundles()) == 2


@given(data=st.binary(max_size=200))
def test_pictures_are_base64(shared: Lua, data: bytes) -> None:
    shared.host.published.clear()
    picture = b"\x89PNG" + data
    shared.result("display{png = '" + "".join(f"\\{byte:03d}" for byte in picture) + "'}")

    assert base64.b64decode(shared.host.bundles()[0]["image/png"], validate=True) == picture


def test_user_expressions_are_bundles_too(lua: Lua) -> None:
    lua.result("x = {1, 2}")

    assert lua.engine.evaluate(b"x", lua.number) == (True, b'{"text/plain":"{1, 2}"}')
    assert lua.engine.evaluate(b"{html = '<b>'}", lua.number) == (True, b'{"text/html":"<b>","text/plain":"<html>"}')


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("x.y.z", "expression:1: attempt to index a nil value (field 'y')"),
        ("1 +", "expression:1: unexpected symbol near <eof>"),
        ("error({code = 1})", "(error object is a table) {code = 1}"),
        ("error()", "(error object is a nil value)"),
        ("setmetatable({}, {__tostring = function() error({}) end})", "(error object is a table) {}"),
        ("setmetatable({}, {__tostring = function() error('é') end})", "expression:1: é"),
        ("{html = 1}", "display: expected a string for 'html', found a number"),
        ("{json = print}", "JSON has no form for a function"),
        ("1) print(1", "expression:1: <eof> expected near ')'"),
    ],
)
def test_a_user_expression_that_fails_says_why(lua: Lua, expression: str, message: str) -> None:
    lua.result("x = {}")

    assert lua.engine.evaluate(expression.encode(), lua.number) == (False, message.encode())
