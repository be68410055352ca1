"""`require`: modules from the allow-listed directories and from nowhere else."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmspell_kernel.runtime.modules import MAX_MODULE_BYTES, find_module
from support.lua import Lua


@pytest.fixture
def allowed(tmp_path: Path) -> Path:
    folder = tmp_path / "allowed"
    (folder / "lib" / "deep").mkdir(parents=True)
    (folder / "one.lua").write_text("local name, path = ... return {name = name, path = path}")
    (folder / "lib" / "two.lua").write_text("return 2")
    (folder / "lib" / "init.lua").write_text("return 'package'")
    (folder / "lib" / "deep" / "three.lua").write_text("return 3")
    (tmp_path / "outside.lua").write_text("return 'outside'")
    return folder


@pytest.fixture
def modules(allowed: Path) -> Lua:
    return Lua(module_paths=(str(allowed),))


@pytest.mark.parametrize(
    ("case", "code", "expected"),
    [
        ("a module", "return require('one').name", "one"),
        ("its path, without the directory", "return require('one').path", "one.lua"),
        ("the second value", "return select(2, require('one'))", "one.lua"),
        ("in a folder", "return (require('lib.two'))", "2"),
        ("deeper", "return (require 'lib.deep.three')", "3"),
        ("a package", "return require 'lib'", "package\tlib/init.lua"),
        ("it runs once", "require('one').mark = 1 return require('one').mark", "1"),
        ("once for all executions", "return require('one') == require('one')", "true"),
    ],
)
def test_a_module_is_found(modules: Lua, case: str, code: str, expected: str) -> None:
    assert modules.result(code) == expected


TRAVERSALS = [
    "../outside", "..outside", "...outside", "/etc/passwd", "lib/../../outside", "lib/two", "lib\\two", ".", "..", "",
    "a..b", ".one", "one.", "one.lua\0", "one\0", "one\n", "%2e%2e", "ö", "one lua", "~", "$HOME", "a" * 65,
    ".".join("a" * 17), "-" * 1000,
]  # fmt: skip


@pytest.mark.parametrize("name", TRAVERSALS)
def test_a_name_cannot_be_a_path(modules: Lua, allowed: Path, name: str) -> None:
    found, *_ = find_module(name.encode(), (str(allowed),))
    quoted = "'" + "".join(f"\\{byte:03d}" for byte in name.encode()) + "'"

    assert not found
    assert "not found" in modules.error(f"require({quoted})").message


def test_names_that_only_look_odd_are_names(allowed: Path) -> None:
    (allowed / "a-b_C9.lua").write_text("return 1")

    assert find_module(b"a-b_C9", (str(allowed),)) == (True, b"return 1", b"a-b_C9.lua")


@pytest.fixture
def traps(allowed: Path, tmp_path: Path) -> Iterator[Path]:
    """The allowed directory with things in it that are no modules, and one writer for the FIFO."""
    (allowed / "linked.lua").symlink_to(tmp_path / "outside.lua")
    (allowed / "inward.lua").symlink_to("one.lua")
    (allowed / "linked").symlink_to(tmp_path)
    (allowed / "looped.lua").symlink_to("looped.lua")
    (allowed / "folder.lua").mkdir()
    (allowed / "empty").mkdir()
    os.mkfifo(allowed / "fifo.lua")
    (allowed / "secret.lua").write_text("return 1")
    (allowed / "huge.lua").write_bytes(b"--" + b"x" * MAX_MODULE_BYTES)
    writer = os.open(allowed / "fifo.lua", os.O_RDWR)
    yield allowed
    os.close(writer)


@pytest.mark.parametrize(
    ("case", "name", "words"),
    [
        ("a link to the outside", "linked", "no linked.lua or linked/init.lua in the module directories"),
        ("a link within", "inward", "no inward.lua"),
        ("a folder that is a link", "linked.outside", "no linked/outside.lua"),
        ("a link to itself", "looped", "no looped.lua"),
        ("a folder", "folder", "no folder.lua"),
        ("a folder without init.lua", "empty", "no empty.lua or empty/init.lua"),
        ("a FIFO that somebody writes to", "fifo", "no fifo.lua"),
        ("a file that is too large", "huge", f"expected at most {MAX_MODULE_BYTES} bytes, found more"),
        ("nothing", "nothing", "no nothing.lua"),
    ],
)
def test_what_is_no_plain_file_is_no_module(traps: Path, case: str, name: str, words: str) -> None:
    found, why = find_module(name.encode(), (str(traps),))

    assert not found
    assert isinstance(why, bytes)
    assert words in why.decode()
    assert str(traps) not in why.decode(), "a script need not know where the directories are"


def test_looking_leaves_no_descriptor_open(traps: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))

    for _ in range(50):
        for name in (
            b"one",
            b"linked",
            b"folder",
            b"fifo",
            b"huge",
            b"lib.two",
            b"lib.none",
            b"linked.outside",
            b"none",
        ):
            find_module(name, (str(traps), str(traps / "missing")))

    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_directories_are_looked_through_in_order(allowed: Path, tmp_path: Path) -> None:
    second = tmp_path / "second"
    second.mkdir()
    (second / "one.lua").write_text("return 'second'")
    (second / "only.lua").write_text("return 'only'")
    lua = Lua(module_paths=(str(tmp_path / "missing"), str(allowed), str(second)))

    assert lua.result("return require('one').name, (require 'only')") == "one\tonly"


@pytest.mark.parametrize(
    ("case", "text", "message"),
    [
        ("a syntax error", "x = = 1", "In[1]:1: error loading module 'made': made.lua:1: unexpected symbol near '='"),
        ("an error as it runs", "\nerror('broken')", "made.lua:2: broken"),
        ("an error that is a table", "error({1})", "(error object is a table) {1}"),
        ("bytecode", "\x1bLua", "In[1]:1: error loading module 'made': attempt to load a binary chunk (mode is 't')"),
        ("one that requires itself", "require 'made'", "made.lua:1: module 'made' is required by itself"),
        ("too deep", "return " + "(" * 300, "In[1]:1: error loading module 'made': C stack overflow"),
    ],
)
def test_a_module_that_fails_says_where(modules: Lua, allowed: Path, case: str, text: str, message: str) -> None:
    (allowed / "made.lua").write_text(text)

    assert modules.error("require 'made'").message == message


def test_a_module_that_failed_is_loaded_anew(modules: Lua, allowed: Path) -> None:
    (allowed / "made.lua").write_text("error('not yet')")
    modules.error("require 'made'")
    (allowed / "made.lua").write_text("return 'now'")

    assert modules.result("return (require 'made')") == "now"


def test_a_module_sees_the_script_s_globals_and_no_more(modules: Lua, allowed: Path) -> None:
    (allowed / "made.lua").write_text("made = (made or 0) + 1 return debug or package or os.execute or _ENV == _G")

    assert modules.result("made = 5 return require('made'), made") == "true\t6"


def test_modules_that_require_each_other_come_to_an_end(modules: Lua, allowed: Path) -> None:
    (allowed / "here.lua").write_text("return require 'there'")
    (allowed / "there.lua").write_text("return require 'here'")

    assert "is required by itself" in modules.error("require 'here'").message


def test_a_module_may_yield(modules: Lua, allowed: Path) -> None:
    (allowed / "made.lua").write_text("coroutine.yield('loading') return 'loaded'")

    assert modules.result("local co = coroutine.wrap(require) return co('made'), (co())") == "loading\tloaded"


def test_without_directories_there_are_no_modules(lua: Lua) -> None:
    assert "this kernel has no module directories" in lua.error("require 'one'").message
