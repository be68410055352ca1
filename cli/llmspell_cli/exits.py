"""What the exit codes of every command mean; `llmspell_kernel.errors` carries the same numbers."""

from enum import IntEnum


class Exit(IntEnum):
    """Exit codes."""

    DONE = 0
    FAILED = 1
    MISUSE = 2
    NOT_RUNNING = 3
    REFUSED = 4
    INTERRUPTED = 130
    """128 + SIGINT, as shells have it."""
