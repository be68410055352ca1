"""The library's descriptions, held against a real Lua 5.4."""

import pytest

from llmspell_kernel.analysis.library import KEYWORDS, LIBRARY

lua54 = pytest.importorskip("lupa.lua54")

NOT_KEPT = {"string.dump"}


def lua_names(library: str) -> set[str]:
    listing = "local text = '' for name in pairs(...) do text = text .. ' ' .. name end return text"
    runtime = lua54.LuaRuntime()
    return {f"{library}.{name}" for name in runtime.execute(listing, runtime.globals()[library]).split()}


@pytest.mark.parametrize("library", ["coroutine", "math", "string", "table", "utf8"])
def test_a_library_is_described_completely_and_without_inventions(library: str) -> None:
    described = {name for name in LIBRARY if name.startswith(library + ".")}

    assert described == lua_names(library) - NOT_KEPT


@pytest.mark.parametrize("name", LIBRARY)
def test_an_entry_has_a_signature_of_its_name_and_a_short_text(name: str) -> None:
    signature, text = LIBRARY[name]

    assert signature.replace(":", ".").startswith(name)
    assert 1 <= len(text.splitlines()) <= 3
    assert text.endswith((".", "…", "`"))


@pytest.mark.parametrize("name", [name for name in LIBRARY if name.partition(".")[0] not in ("io", "os")])
def test_an_entry_s_signature_says_whether_it_is_a_function(name: str) -> None:
    if name in ("clear_output", "display", "update_display"):
        return
    kind = lua54.LuaRuntime().execute(f"return type({name})")

    assert ("(" in LIBRARY[name][0]) == (kind == "function")


@pytest.mark.parametrize("keyword", sorted(KEYWORDS))
def test_a_keyword_cannot_be_a_name(keyword: str) -> None:
    with pytest.raises(lua54.LuaSyntaxError):
        lua54.LuaRuntime().execute(f"local {keyword} = 1")


def test_there_are_as_many_keywords_as_lua_has() -> None:
    assert len(KEYWORDS) == 22
