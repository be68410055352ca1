"""Plain lupa in its own process, the yardstick of the CPU-bound figure; and the scripts that both sides run.

Reads script names from stdin, one a line, and answers each when it has run; an empty line runs nothing.
"""

import sys

SCRIPTS = {
    "fib": """
local function fib(n) if n < 2 then return n end return fib(n - 1) + fib(n - 2) end
return fib(32)
""",
    "sieve": """
local count, size = 0, 1000000
local composite = {}
for i = 2, size do
  if not composite[i] then
    count = count + 1
    for j = i * i, size, i do composite[j] = true end
  end
end
return count
""",
    "orbit": """
local x, y, vx, vy = 1.0, 0.0, 0.0, 1.0
for _ = 1, 2000000 do
  local r2 = x * x + y * y
  local a = -1.0 / (r2 * math.sqrt(r2))
  vx, vy = vx + a * x * 1e-3, vy + a * y * 1e-3
  x, y = x + vx * 1e-3, y + vy * 1e-3
end
return x * x + y * y > 0.5
""",
    "strings": """
local words = {}
for i = 1, 200000 do words[#words + 1] = ("%d:%s"):format(i, ("ab"):rep(i % 7)) end
local text, seen = table.concat(words, " "), 0
for word in text:gmatch("%d+:ab") do seen = seen + #word end
return seen
""",
}


def main() -> None:
    """Run each script that is asked for in one runtime, made as lupa makes it."""
    from lupa.lua54 import LuaRuntime

    lua = LuaRuntime()
    for name in sys.stdin:
        lua.execute(SCRIPTS.get(name.strip(), ""))
        print("done", flush=True)


if __name__ == "__main__":
    main()
