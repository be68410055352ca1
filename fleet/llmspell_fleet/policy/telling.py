"""Death certificates in words. Pure."""

from typing import Final

from llmspell_fleet.model.kernel import Cause, Death

AT_WORK: Final = "its execution began longer ago than its idle_timeout_s"
"""Of what was culled although it was busy (`cull_busy`); how long that is follows."""

_HOW: Final[dict[Cause, str]] = {
    "exited": "exited by itself",
    "signal": "was killed",
    "stopped": "was stopped",
    "restarted": "was restarted",
    "culled": "was culled: nobody used it for its idle_timeout_s",
    "drained": "was drained",
    "max_age": "reached its max_age_s",
    "stuck": "ran a script that did not stop when it was interrupted",
    "execution_limit": "ran a script that did not stop at its execution_timeout_s",
    "memory_limit": "needed more memory than its process may have",
    "out_of_memory": "was killed because its memory, or the machine's, was full",
    "fault": "had a fault of its own",
    "not_ready": "did not answer before its start deadline",
    "unresponsive": "stopped answering",
    "spawn_failed": "could not be started",
    "unknown": "ended, and nobody saw how",
}


def how_ended(death: Death) -> str:
    """What became of an incarnation, as the end of a sentence that begins with its name."""
    how = _HOW[death.cause]
    if death.cause == "signal" and death.signal:
        return f"was killed by {death.signal}"
    if death.cause == "exited" and death.exit_code is not None:
        return f"{how} with code {death.exit_code}"
    if death.cause == "culled" and death.detail.startswith(AT_WORK):
        return f"was culled: {death.detail}"
    return how
