"""What kernels write to their standard output and error: kept in memory within bounds, and in a file.

It comes through a FIFO in the kernel's directory that both ends hold open for reading and writing: neither a dead
kernel nor a dead controller ends it.
"""

import asyncio
import contextlib
import errno
import os
import stat
from collections import deque
from collections.abc import AsyncIterator, Sequence

from llmspell_fleet.controller.dates import date_now
from llmspell_fleet.controller.followers import Followers
from llmspell_fleet.model.printable import printable
from llmspell_fleet.model.views import LogLine

KEPT_LINES = 500
KEPT_BYTES = 64 * 1024
LONGEST_LINE = 4096
"""Bytes; what is longer becomes several lines."""
LONGEST_FILE = 4 * 1024 * 1024
"""Bytes after which a kernel's log file is put aside; one such file is kept."""

_AT_ONCE = 64 * 1024

PAUSE_S = 0.1
"""How long a kernel is not read that wrote more at once than is kept: others want the controller too."""


class Output:
    """The lines of one kernel, over all its incarnations. Belongs to the event loop."""

    def __init__(self, fifo: str, log_files: Sequence[str]) -> None:
        self._fifo = fifo
        self.log_files = log_files
        """Where lines go besides memory, from now on."""
        self._lines: deque[LogLine] = deque()
        self._bytes = 0
        self._seq = 0
        self._rest = b""
        self._descriptor = -1
        self.incarnation = 0
        """Whose lines these are (`begin`)."""
        self.dropped = 0
        """Lines that did not reach a log file."""
        self.followers: Followers[LogLine] = Followers()

    def open(self, loop: asyncio.AbstractEventLoop) -> None:
        """Make the FIFO if it is gone, and listen. OSError when it cannot be."""
        if self._descriptor >= 0 and os.path.exists(self._fifo):
            return
        self.close(loop)
        with contextlib.suppress(FileExistsError):
            os.mkfifo(self._fifo, 0o600)
        descriptor = os.open(self._fifo, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW)
        if not stat.S_ISFIFO(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(errno.EINVAL, "expected a FIFO", self._fifo)
        self._descriptor = descriptor
        loop.add_reader(descriptor, self._readable, loop)

    def _readable(self, loop: asyncio.AbstractEventLoop) -> None:
        if self.read():
            loop.remove_reader(self._descriptor)
            loop.call_later(PAUSE_S, self._listen_again, loop, self._descriptor)

    def _listen_again(self, loop: asyncio.AbstractEventLoop, descriptor: int) -> None:
        if self._descriptor == descriptor:
            loop.add_reader(descriptor, self._readable, loop)

    def close(self, loop: asyncio.AbstractEventLoop) -> None:
        """Listen no more. The FIFO is its directory's."""
        if self._descriptor >= 0:
            self._finish()
            loop.remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def end(self, loop: asyncio.AbstractEventLoop) -> None:
        """Listen no more, and nobody follows any more."""
        self.close(loop)
        self.followers.end()

    def read(self) -> bool:
        """Take what was written; whether it was more than is kept. Of too many lines the first are dropped: a gap."""
        if self._descriptor < 0:
            return False
        try:
            data = os.read(self._descriptor, _AT_ONCE)
        except BlockingIOError:
            return False
        *lines, rest = (self._rest + data).split(b"\n")
        count = len(lines)
        if count > KEPT_LINES:
            self._seq += count - KEPT_LINES
            self.dropped += count - KEPT_LINES
            del lines[:-KEPT_LINES]
        pieces = [piece for line in lines for piece in _pieces(line)]
        *begun, self._rest = _pieces(rest)
        if pieces or begun:
            self._take(pieces + begun)
        return count > KEPT_LINES or len(data) == _AT_ONCE

    def begin(self, incarnation: int) -> None:
        """Lines are another incarnation's from now on; what the last one did not finish stays its own."""
        self._finish()
        self.incarnation = incarnation

    def _finish(self) -> None:
        self.read()
        if self._rest:
            self._take([self._rest])
            self._rest = b""

    def _take(self, lines: Sequence[bytes]) -> None:
        at = date_now()
        texts = [_printable(line) for line in lines]
        for text in texts:
            self._seq += 1
            line = LogLine(seq=self._seq, at=at, text=text, incarnation=self.incarnation)
            self._lines.append(line)
            self._bytes += len(text.encode())
            self.followers.tell(line)
        while len(self._lines) > KEPT_LINES or self._bytes > KEPT_BYTES:
            self._bytes -= len(self._lines.popleft().text.encode())
        written = "".join(f"{at} [{self.incarnation}] {text}\n" for text in texts).encode("utf-8", "replace")
        for path in self.log_files:
            try:
                _append(path, written)
            except OSError:
                self.dropped += len(texts)

    def last(self, most: int) -> tuple[str, ...]:
        """The last lines of the present incarnation, an unfinished one included."""
        self.read()
        texts = [line.text for line in self._lines if line.incarnation == self.incarnation]
        if self._rest:
            texts.append(_printable(self._rest))
        return tuple(texts[-most:])

    def since(self, seq: int) -> list[LogLine]:
        """The lines kept with a number above `seq`."""
        return [line for line in self._lines if line.seq > seq]

    async def follow(self, seq: int) -> AsyncIterator[LogLine]:
        """Those, and then the new ones as they come."""
        with self.followers.follow() as new:
            for line in self.since(seq):
                yield line
            async for line in new:
                yield line


def _append(path: str, written: bytes) -> None:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
    with open(os.open(path, flags, 0o600), "ab", buffering=0) as log:
        log.write(written)
        if log.tell() > LONGEST_FILE:
            os.replace(path, f"{path}.1")


def _pieces(line: bytes) -> list[bytes]:
    return [line[at : at + LONGEST_LINE] for at in range(0, len(line) or 1, LONGEST_LINE)]


def _printable(line: bytes) -> str:
    """A line as text without what would drive a terminal."""
    return printable(line.decode("utf-8", "replace"))
