"""Runs cells in this process and says what each came to, a line of JSON each (support/lua.py starts it)."""

import json
import sys

from support.lua import Lua


def main() -> None:
    order = json.load(sys.stdin)
    lua = Lua(memory_bytes=order.get("memory_bytes", 0), module_paths=tuple(order.get("module_paths", ())))
    lua.host.lines.extend(line.encode() for line in order.get("lines", ()))
    for cell in order["cells"]:
        outcome = lua.run(cell)
        error = outcome.error
        answer = {
            "status": outcome.status,
            "result": None if outcome.result is None else outcome.result.decode("utf-8", "replace")[:1000],
            "error": error and error.name,
            "message": error and error.message[:1000],
            "heap": lua.engine.memory_used_bytes,
        }
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()


main()
