"""What was executed in this kernel's life: the answers to history_request."""

import re
from collections import deque
from collections.abc import Iterator
from typing import Final

from llmspell_kernel.jupyter.contents import HistoryRequest

SESSION: Final = 1
"""A kernel keeps the history of its own life only; Jupyter counts sessions from 1."""

LONGEST: Final = 10_000
LARGEST_BYTES: Final = 8 * 1024 * 1024

Entry = tuple[int, int, str] | tuple[int, int, tuple[str, str | None]]


class History:
    """The most recent inputs with what they answered, bounded by number and by size."""

    def __init__(self) -> None:
        self._entries: deque[tuple[int, str, str | None]] = deque()
        self._bytes = 0

    def add(self, count: int, source: str, output: str | None) -> None:
        """Remember the cell with this execution count."""
        self._entries.append((count, source, output))
        self._bytes += len(source) + len(output or "")
        while len(self._entries) > LONGEST or self._bytes > LARGEST_BYTES:
            _, old_source, old_output = self._entries.popleft()
            self._bytes -= len(old_source) + len(old_output or "")

    def sources(self) -> Iterator[tuple[int, str]]:
        """Execution counts with the code of each."""
        return ((count, source) for count, source, _ in self._entries)

    def select(self, request: HistoryRequest) -> list[Entry]:
        """The entries that a request asks for, the oldest first."""
        if request.hist_access_type == "range":
            found = self._range(request)
        elif request.hist_access_type == "search":
            found = self._search(request)
        else:
            found = _last(list(self._entries), request.n)
        if request.output:
            return [(SESSION, count, (source, output)) for count, source, output in found]
        return [(SESSION, count, source) for count, source, _ in found]

    def _range(self, request: HistoryRequest) -> list[tuple[int, str, str | None]]:
        # 0 is the session that runs, negative numbers count back from it: there is only the one.
        if request.session not in (0, SESSION):
            return []
        stop = request.stop
        return [e for e in self._entries if e[0] >= request.start and (stop is None or e[0] < stop)]

    def _search(self, request: HistoryRequest) -> list[tuple[int, str, str | None]]:
        matches = _glob(request.pattern or "*")
        found = [entry for entry in self._entries if matches.fullmatch(entry[1])]
        if request.unique:
            # The last of each is kept, in the order of those.
            found = sorted({entry[1]: entry for entry in found}.values(), key=lambda entry: entry[0])
        return _last(found, request.n)


def _last(entries: list[tuple[int, str, str | None]], count: int | None) -> list[tuple[int, str, str | None]]:
    if count is None:
        return entries
    return entries[-count:] if count > 0 else []


def _glob(pattern: str) -> re.Pattern[str]:
    """`*`, `?` and `[…]` as in file names. The translation is free of catastrophic backtracking."""
    from fnmatch import translate

    return re.compile(translate(pattern))
