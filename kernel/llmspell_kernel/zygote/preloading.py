"""What a kernel imports only when it is needed: imported once, before the fork.

In a zygote this saves each child the work; at isolation level `strict` there is no later, since the interpreter's own
files are then out of reach.
"""

from importlib import import_module
from typing import Final

LATE: Final = (
    *("fnmatch", "re", "socket", "traceback"),
    *("llmspell_kernel.analysis", "llmspell_kernel.config", "llmspell_kernel.daemon.logs"),
    *("llmspell_kernel.runtime.checker", "llmspell_kernel.runtime.modules"),
)


def preload() -> None:
    """Import all of it."""
    for name in LATE:
        import_module(name)
