"""Errors as problem documents (RFC 9457): what clients are answered, and what is recorded of a failed execution."""

from typing import Final

import msgspec

from llmspell_fleet.errors import FleetError, GoneError, KernelDiedError, TooManyError
from llmspell_fleet.model.views import Problem

MAX_DETAIL: Final = 1000
"""Characters: what a client sent is quoted, not echoed."""


def problem_of(error: FleetError) -> Problem:
    """The document that tells of `error`."""
    detail = str(error)
    return Problem(
        type=f"urn:llmspell:problem:{error.title.lower().replace(' ', '-')}",
        title=error.title,
        status=error.status,
        detail=detail if len(detail) <= MAX_DETAIL else detail[:MAX_DETAIL] + "…",
        limit=error.limit if isinstance(error, TooManyError) and error.limit else msgspec.UNSET,
        death=(isinstance(error, KernelDiedError | GoneError) and error.death) or msgspec.UNSET,
    )
