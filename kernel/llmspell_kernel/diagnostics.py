"""What went wrong or stood out in this kernel, counted always and logged within bounds.

The standard `logging` costs a tenth of a start, so the log is opened when there is first something to say, unless it
goes to a file that others expect to see.
"""

import time
from collections import Counter
from typing import TYPE_CHECKING

from llmspell_kernel.options import LogOptions

if TYPE_CHECKING:
    import logging

    from llmspell_kernel.daemon.logs import LogSink

LONGEST_TEXT = 500
"""Characters of a client's text that go into one log line."""

LINES_PER_S = 20
"""Log lines of one kind in a second; what is beyond is counted only."""


class Diagnostics:
    """Counters, and a log that a hostile client cannot flood."""

    def __init__(self, options: LogOptions) -> None:
        self.counts: Counter[str] = Counter()
        self._options = options
        self._sink: LogSink | None = None
        self._logger: logging.Logger | None = None
        self._is_debug = options.level == "debug"
        self._second = 0
        self._lines: Counter[str] = Counter()
        if options.file is not None:
            self._log()

    def count(self, what: str) -> None:
        """Count something that needs no line."""
        self.counts[what] += 1

    def warn(self, what: str, text: str) -> None:
        """Count and log something that a client did wrong or that was lost."""
        self.counts[what] += 1
        second = int(time.monotonic())
        if second != self._second:
            self._second = second
            self._lines.clear()
        self._lines[what] += 1
        if self._lines[what] <= LINES_PER_S:
            self._log().warning("%s: %s", what, text[:LONGEST_TEXT])

    def info(self, text: str) -> None:
        """Log something that happened once."""
        self._log().info("%s", text)

    def debug(self, text: str) -> None:
        """Log a detail, if details are logged; ask `is_debug` before making a text that costs something."""
        if self._is_debug:
            self._log().debug("%s", text[:LONGEST_TEXT])

    @property
    def is_debug(self) -> bool:
        """Whether details are logged."""
        return self._is_debug

    def toggle_debug(self) -> str:
        """Begin or end logging details; returns the level that holds now."""
        self._is_debug = not self._is_debug
        quiet = "info" if self._options.level == "debug" else self._options.level
        level = "debug" if self._is_debug else quiet
        self._log()
        assert self._sink is not None
        self._sink.set_level(level)
        return level

    def follow(self, options: LogOptions) -> None:
        """Log as new options say: to the file that now has the name, at the level."""
        self._options = options
        self._is_debug = options.level == "debug"
        if self._sink is not None:
            self._sink.set_level(options.level)
            self._sink.reopen()

    def reopen(self) -> None:
        """Write to the file that now has the log's name."""
        if self._sink is not None:
            self._sink.reopen()

    def close(self) -> None:
        """Write what waits."""
        if self._sink is not None:
            self._sink.close()
            self._sink = self._logger = None

    def _log(self) -> "logging.Logger":
        if self._logger is None:
            import logging

            from llmspell_kernel.daemon.logs import configure

            self._sink = configure(self._options)
            self._logger = logging.getLogger("llmspell.kernel")
        return self._logger
