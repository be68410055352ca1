"""Lua lives here and nowhere else.

`engine` is the one adapter to lupa; `lua/` holds the prelude that makes the sandbox; `interrupt` stops a running
script from another thread; `worker` is the thread that owns Lua; `local` runs one script in this process.
"""
