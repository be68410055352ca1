"""The time of day, for people: message dates and when clients came. Nothing is decided by it."""

import time
from typing import Final

_now: Final = time.time  # noqa: TID251 - dates are what the wall clock is for


RESOLUTION_S: Final = 0.0005
"""Messages closer together than this bear the same date."""


class DateClock:
    """ISO 8601 dates for headers; the formatting is done once a second."""

    def __init__(self) -> None:
        self._second = -1
        self._text = b""
        self._stamp = 0.0
        self._date = b""

    def now(self) -> bytes:
        """The time of day in UTC with microseconds."""
        stamp = _now()
        if -RESOLUTION_S < stamp - self._stamp < RESOLUTION_S:
            return self._date
        second = int(stamp)
        if second != self._second:
            self._second = second
            self._text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second)).encode()
        self._stamp = stamp
        self._date = b"%b.%06dZ" % (self._text, (stamp - second) * 1_000_000)
        return self._date

    def seconds(self) -> float:
        """Seconds since the epoch."""
        return _now()
