"""What a wait status says about why a kernel ended. Pure."""

from typing import Final

import msgspec

from llmspell_fleet.model.kernel import Cause

_ENDINGS: Final[dict[int, Cause]] = {0: "stopped", 40: "culled", 41: "restarted", 42: "stuck", 43: "fault"}
"""Exit codes by which a supervised kernel says why it ends (`llmspell_kernel.options.Ending`)."""

_DETAILS: Final[dict[Cause, str]] = {
    "stopped": "told to by somebody else than the fleet",
    "culled": "unused for its idle_timeout_s",
    "restarted": "a client asked for a restart",
    "stuck": "a script did not stop when it was interrupted",
    "fault": "a fault of the kernel's own: its log has the details",
    "unknown": "nobody saw its exit status",
}


class Ended(msgspec.Struct, frozen=True):
    """How a process ended."""

    cause: Cause
    detail: str
    exit_code: int | None = None
    signal: int | None = None


def how_it_ended(status: int | None) -> Ended:
    """The meaning of a status as from waitpid(2); None = nobody saw it."""
    if status is None:
        return Ended("unknown", _DETAILS["unknown"])
    number = status & 0x7F
    if number:
        return Ended("signal", "", signal=number)
    code = status >> 8 & 0xFF
    cause = _ENDINGS.get(code, "exited")
    return Ended(cause, _DETAILS.get(cause, ""), exit_code=code)
