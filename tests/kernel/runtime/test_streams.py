"""`io` for scripts: reading as Lua reads a file, writing that chains, and no files."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from lupa.lua54 import LuaRuntime

from support.lua import Lua, RecordingHost


@pytest.fixture(scope="module")
def shared() -> Lua:
    return Lua()


@pytest.fixture(scope="module")
def reads(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Reads formats from a real file with a real Lua: `(text, code of the formats) -> values as text`."""
    path = tmp_path_factory.mktemp("input") / "text"
    lua = LuaRuntime(encoding=None, register_eval=False, register_builtins=False)
    run: Any = lua.execute(
        b"""
        return function(path, code)
            local file <close> = io.open(path)
            return load("local file = ... " .. code)(file)
        end
        """
    )

    def read(text: str, code: str) -> Any:
        path.write_text(text)
        return run(str(path).encode(), code.encode()).decode()

    return read


SHOW = """
local out = {}
for _, form in ipairs{FORMATS} do
    local values = table.pack(file:read(table.unpack(form)))
    for i = 1, values.n do
        local value = values[i]
        out[#out + 1] = math.type(value) or type(value)
        out[#out + 1] = type(value) == "string" and ("%q"):format(value) or tostring(value)
    end
end
return table.concat(out, " ")
"""

FORMATS = st.lists(
    st.lists(st.sampled_from(["'l'", "'L'", "'n'", "'a'", "0", "1", "3", "'*l'", "'*n'", "7.0"]), max_size=3),
    min_size=1,
    max_size=6,
)
LINES = st.lists(
    st.one_of(
        st.text("ab \t", max_size=6),
        st.from_regex(
            r" ?[-+]?(0[xX])?[0-9a-fA-F]{0,5}(\.[0-9a-f]{0,3})?([eEpP][-+]?[0-9]{0,2})?[ x,.]?", fullmatch=True
        ),
        st.sampled_from(["0x", "0x.p1", ".", "-", "1e", "1e+", "inf", "nan", "1..2", "0x1p-2 7", "1" * 250, "--1"]),
    ),
    max_size=5,
)


@given(lines=LINES, formats=FORMATS)
@example(lines=["", " 12", "x"], formats=[["'n'"], ["'n'", "'l'"]])
def test_reading_is_lua_s(shared: Lua, reads: Any, lines: list[str], formats: list[list[str]]) -> None:
    text = "".join(f"{line}\n" for line in lines)
    code = SHOW.replace("FORMATS", ", ".join("{" + ", ".join(form) + "}" for form in formats))
    shared.host.lines.clear()
    shared.host.lines.extend(line.encode() for line in lines)
    shared.engine.forget_input()

    assert shared.result("local file = io.stdin " + code) == reads(text, code)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("return io.read()", "one"),
        ("return io.read('l', 'L')", "one\ttwo\n"),
        ("return io.stdin:read('l')", "one"),
        ("local t = {} for line in io.lines() do t[#t + 1] = line end return table.concat(t, '|')", "one|two|3"),
        ("local all = {} for line in io.lines(nil, 'L') do all[#all + 1] = line end return table.concat(all)",
         "one\ntwo\n3\n"),
        ("local n = 0 for a, b in io.stdin:lines(1, 'l') do n = n + #a + #b end return n", "7"),
        ("return io.read('*a')", "one\ntwo\n3\n"),
        ("return io.read('a'), io.read('a'), io.read('l')", "one\ntwo\n3\n\t\tnil"),
        ("io.read('a') return io.read(0), io.read(1), io.read('n')", "nil\tnil\tnil"),
        ("io.read() io.read() return io.read('n') + 1", "4"),
        ("return io.read(2), io.read(2), io.read(0)", "on\te\n\t"),
    ],
)  # fmt: skip
def test_a_script_reads_its_front_end_s_lines(lua: Lua, code: str, expected: str) -> None:
    lua.host.lines.extend([b"one", b"two", b"3"])

    assert lua.result(code) == expected


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("io.read('x')", "In[1]:1: bad argument #1 to 'read' (invalid format)"),
        ("io.read('l', {})", "In[1]:1: bad argument #2 to 'read' (invalid format)"),
        ("io.read(-1)", "In[1]:1: bad argument #1 to 'read' (expected a number of bytes, found -1)"),
        ("io.read(1.5)", "In[1]:1: bad argument #1 to 'read' (expected a number of bytes, found 1.5)"),
        ("io.stdin:read('x')", "In[1]:1: bad argument #1 to 'read' (invalid format)"),
        ("for _ in io.lines(nil, 'x') do end", "In[1]:1: bad argument #1 to 'read' (invalid format)"),
        ("io.stdout:read()", "In[1]:1: this stream is for writing, not for reading"),
        ("io.stderr:lines()", "In[1]:1: this stream is for writing, not for reading"),
        ("io.stdin:write('x')", "In[1]:1: io.stdin is for reading, not for writing"),
        ("io.stdin.read()", "In[1]:1: bad argument #1 to 'read' (stream expected, got nil)"),
        ("io.stdout.write('x')", "In[1]:1: bad argument #1 to 'write' (stream expected, got string)"),
        ("io.write({})", "In[1]:1: bad argument #1 to 'write' (string expected, got table)"),
        ("io.stdout:write(1, nil)", "In[1]:1: bad argument #2 to 'write' (string expected, got nil)"),
        (
            "io.lines('file')",
            'In[1]:1: io.lines reads from io.stdin only: this kernel has no files (found the name "file")',
        ),
        ("io.open('file')", "In[1]:1: attempt to call a nil value (field 'open')"),
    ],
)
def test_a_wrong_call_is_refused(lua: Lua, code: str, message: str) -> None:
    lua.host.lines.extend([b"one", b"two"])

    assert lua.error(code).message.startswith(message)


class Unanswered(RecordingHost):
    """A host with nobody to ask."""

    def read_line(self) -> tuple[bytes, bytes]:
        return b"error", b"io.read: nobody answers"


def test_reading_without_anybody_to_ask_is_an_error_that_can_be_caught() -> None:
    lua = Lua(Unanswered())

    assert lua.error("local x = io.read()").message == "In[1]:1: io.read: nobody answers"
    assert lua.result("return pcall(io.read)") == "false\tio.read: nobody answers"


@pytest.mark.parametrize(
    ("code", "stdout", "stderr"),
    [
        ("io.write('a', 1, 2.5, 'b'):write('c', '\\n')", "a12.5bc\n", ""),
        ("io.stdout:write('x'):write():write('y')", "xy", ""),
        ("io.stderr:write('oops\\n')", "", "oops\n"),
        ("io.write()", "", ""),
        ("io.write(1.0, ' ', 2^63, ' ', -0.0)", "1.0 9.2233720368548e+18 -0.0", ""),
        ("warn('careful ', 1)", "", "Lua warning: careful 1\n"),
        ("warn('@off') warn('x') warn('@on') warn('y')", "", "Lua warning: y\n"),
        ("print('a') io.stderr:write('b') print('c')", "a\nc\n", "b"),
    ],
)
def test_writing_goes_where_it_should(lua: Lua, code: str, stdout: str, stderr: str) -> None:
    lua.run(code)

    assert (lua.host.text(1), lua.host.text(2)) == (stdout, stderr)


def test_the_order_of_the_streams_is_kept(lua: Lua) -> None:
    lua.result("print('a') io.stderr:write('b') io.write('c')")

    assert lua.host.written == [(1, b"a\n"), (2, b"b"), (1, b"c")]


def test_bytes_go_out_as_they_are(lua: Lua) -> None:
    lua.result("io.write('\\255\\0\\254')")

    assert lua.host.written == [(1, b"\xff\x00\xfe")]


def test_what_files_can_do_and_streams_cannot_is_said(lua: Lua) -> None:
    assert lua.result("return io.stdout:close()") == "nil\tthe kernel's streams stay open"
    assert lua.result("return io.stdout:seek()") == "nil\ta stream cannot be positioned"
    assert lua.result("return io.stdout:setvbuf('no')") == "true"
    assert lua.result("return io.stdout:flush() == io.stdout, io.write('') == io.stdout") == "true\ttrue"
    assert lua.host.flushed == 1


def test_input_is_forgotten_when_told(lua: Lua) -> None:
    lua.host.lines.extend([b"first second", b"third"])

    assert lua.result("return io.read(5)") == "first"
    lua.engine.forget_input()
    assert lua.result("return io.read('l', 'l')") == "third\tnil"
    lua.host.lines.append(b"fourth")
    assert lua.result("return io.read()") == "nil", "the end of the input stays"
    lua.engine.forget_input()
    assert lua.result("return io.read()") == "fourth"


def test_lines_may_hold_line_ends_and_be_huge(lua: Lua, tmp_path: Path) -> None:
    lua.host.lines.extend([b"a\nb", b"x" * 3_000_000])

    assert lua.result("return io.read(), io.read(), #io.read()") == "a\tb\t3000000"
