"""The kernel: one hardened Lua 5.4 runtime in a process of its own, and the faces that clients talk to.

Importing this package imports nothing else: a kernel's start is counted in milliseconds.
"""

__version__ = "0.1.0"
