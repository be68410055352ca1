"""What a wait status and the last words say about why a kernel ended. Pure."""

from collections.abc import Sequence
from typing import Final

import msgspec
from msgspec.structs import replace

from llmspell_fleet.model.kernel import Cause

_ENDINGS: Final[dict[int, Cause]] = {
    0: "stopped",
    40: "culled",
    41: "restarted",
    42: "stuck",
    43: "fault",
    44: "memory_limit",
    45: "execution_limit",
}
"""Exit codes by which a supervised kernel says why it ends (`llmspell_kernel.options.Ending`)."""

_DETAILS: Final[dict[Cause, str]] = {
    "stopped": "told to by somebody else than the fleet",
    "culled": "unused for its idle_timeout_s",
    "restarted": "a client asked for a restart",
    "stuck": "a script did not stop when it was interrupted",
    "execution_limit": "a script did not stop when its execution time was over",
    "memory_limit": "the process reached its bound of memory",
    "fault": "a fault of the kernel's own: its log has the details",
    "unknown": "nobody saw its exit status",
}


_SIGABRT: Final = 6
_OUT_OF_MEMORY: Final = ("std::bad_alloc", "OUT OF MEMORY", "cannot allocate memory for thread-local data")
"""What the C++ runtime, ZeroMQ, we and the C library write before they abort a process that gets no more memory."""
_ABORTED: Final = 127
"""The exit code by which the C library's loader ends a process."""


_NO_THREAD: Final = ("(src/thread.cpp", "can't start new thread")
"""What ZeroMQ and Python write when the system gives them no thread."""
_NO_THREAD_DETAIL: Final = (
    "the system gave it no thread: too many processes and threads, or too little memory (ulimit -u, pids.max of its "
    "cgroups, kernel.threads-max)"
)


class Ended(msgspec.Struct, frozen=True):
    """How a process ended."""

    cause: Cause
    detail: str
    exit_code: int | None = None
    signal: int | None = None


def how_it_ended(status: int | None, last_lines: Sequence[str] = ()) -> Ended:
    """The meaning of a status as from waitpid(2), None = nobody saw it; `last_lines` are of standard error."""
    if status is None:
        return Ended("unknown", _DETAILS["unknown"])
    number = status & 0x7F
    code = status >> 8 & 0xFF
    is_aborted = number == _SIGABRT or (not number and code == _ABORTED)
    if is_aborted and any(word in line for line in last_lines for word in _OUT_OF_MEMORY):
        ended = Ended("memory_limit", _DETAILS["memory_limit"])
        return replace(ended, signal=number) if number else replace(ended, exit_code=code)
    has_no_thread = any(word in line for line in last_lines for word in _NO_THREAD)
    if number:
        return Ended("signal", _NO_THREAD_DETAIL if number == _SIGABRT and has_no_thread else "", signal=number)
    cause = _ENDINGS.get(code, "exited")
    detail = _NO_THREAD_DETAIL if code == 1 and has_no_thread else _DETAILS.get(cause, "")
    return Ended(cause, detail, exit_code=code)
