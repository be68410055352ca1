"""The faults a person can act on, by what the process that meets one answers.

``str(error)`` is the whole message: what was expected, what was found, where, and what to do. Whoever owns
the process prints it and exits with ``exit_code``; nobody else prints or swallows it.
"""

import errno


class LlmspellError(Exception):
    """Something was tried and failed."""

    exit_code = 1


class MisuseError(LlmspellError):
    """The caller asked wrongly: an argument, a file or a configuration that cannot be meant."""

    exit_code = 2


class NotRunningError(LlmspellError):
    """The kernel that was named is not running, or does not answer."""

    exit_code = 3


class RefusedError(LlmspellError):
    """It was understood and is refused: unsafe, already running, or not built yet."""

    exit_code = 4


class PeerError(LlmspellError):
    """Whoever is at the other end sent what cannot be obeyed; the message is dropped and counted."""


def lacks_memory(fault: BaseException | None) -> bool:
    """Whether the process had no more memory when this happened, or what this is the consequence of."""
    while fault is not None:
        if isinstance(fault, MemoryError) or getattr(fault, "errno", None) == errno.ENOMEM:
            return True
        fault = fault.__cause__ or fault.__context__
    return False
