"""Whether code compiles, asked of a Lua state that never runs anything."""

from collections.abc import Callable

from lupa.lua54 import LuaRuntime

_CHECK = b"""
local pcall, load, sub = pcall, load, string.sub
return function(code)
    -- Through pcall, so that lupa's own handler does not add to what the parser says.
    local _, chunk, unfinished = pcall(load, "return nil, " .. code, "=cell", "t")
    if chunk then return nil end
    local _, statements, fault = pcall(load, code, "=cell", "t")
    if statements then return nil end
    return sub(unfinished, -5) == "<eof>" and unfinished or fault
end
"""


def make_checker() -> Callable[[bytes], bytes | None]:
    """A function from code to None when it compiles, else to Lua's message; `<eof>` ends that of unfinished code."""
    lua = LuaRuntime(encoding=None, register_eval=False, register_builtins=False, attribute_filter=_deny, max_memory=0)
    check: Callable[[bytes], bytes | None] = lua.execute(_CHECK)
    return check


def _deny(_object: object, _name: object, _is_setting: bool) -> object:
    raise AttributeError("attribute access is not available")
