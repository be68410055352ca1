"""Wall-clock dates, for people and for records; everything that decides uses monotonic time."""

from datetime import UTC, datetime, timedelta


def date_now(after_s: float = 0.0) -> str:
    """Now, or so many seconds later: ISO 8601 in UTC with microseconds and Z."""
    return (datetime.now(UTC) + timedelta(seconds=after_s)).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
