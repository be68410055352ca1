"""What may stand in query strings. Values are text, read as their types: true, false, 1 or 0, and whole numbers."""

from collections.abc import Sequence
from typing import Annotated, TypeVar

import msgspec

from llmspell_fleet.errors import BadRequestError
from llmspell_fleet.model.labels import selector, selects
from llmspell_fleet.model.views import KernelView, TenantView

T = TypeVar("T", KernelView, TenantView)

Since = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class LogsQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which lines of a log."""

    since: Since = 0
    """Only those with a sequence number above it."""
    follow: bool = False
    """Go on as lines come."""
    grep: Annotated[str, msgspec.Meta(max_length=200)] | None = None
    """Only those that contain this text, as it is: it is no regular expression."""


class EventsQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which events."""

    since: Since = 0
    """Only those with a sequence number above it."""


class SelectionQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which of a list."""

    label: Annotated[str, msgspec.Meta(min_length=1, max_length=1000)] | None = None
    """Only those with these labels: `name=value` or `name`, with commas between them."""


class ExecuteQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How to execute."""

    wait: bool = True
    """False = answer 202 at once; as `wait` in the body."""


class ConnectionQuery(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which lease."""

    session: Annotated[str, msgspec.Meta(min_length=1, max_length=200)] | None = None
    """Whose work it is for; one session has one lease. None = a new one."""


def selected(items: Sequence[T], query: SelectionQuery) -> list[T]:
    """Those of `items` that are asked for. BadRequestError."""
    try:
        wanted = selector(query.label) if query.label else {}
    except ValueError as fault:
        raise BadRequestError(f"label: {fault}") from None
    return [item for item in items if selects(wanted, item.labels)]
