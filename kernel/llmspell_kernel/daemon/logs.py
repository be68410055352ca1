"""The log of a kernel: lines for people or JSON lines, written by a thread of its own, rotated by size.

Whoever logs never waits for the disk, unless no thread can be made: records go through a bounded queue, and a full
queue drops them and says how many. Imported only by processes that log: the standard `logging` costs 20 ms of a start.
"""

import copy
import logging
import os
import queue
import sys
from datetime import UTC, datetime
from logging.handlers import QueueHandler, QueueListener

import msgspec

from llmspell_kernel.options import LogOptions
from llmspell_kernel.safe_files import open_log

LOGGER = "llmspell"
"""The name that all loggers of this project begin with."""

_LONGEST_QUEUE = 10_000


class LogSink:
    """An installed log. `close` ends its listener thread once everything logged before is written."""

    def __init__(self, handler: logging.Handler, log_file: "_LogFile | None", level: str) -> None:
        self._handler = handler
        self._log_file = log_file
        waiting: queue.Queue[logging.LogRecord] = queue.Queue(_LONGEST_QUEUE)
        self._entrance = _DroppingHandler(waiting)
        self._listener: _PatientListener | None = _PatientListener(waiting, handler)
        self._logger = logging.getLogger(LOGGER)
        self._logger.propagate = False
        self._logger.addHandler(self._entrance)
        self._is_closed = False
        self.set_level(level)
        try:
            self._listener.start()
        except RuntimeError:
            # No thread can be made any more, by a bound of processes or of memory: whoever logs writes.
            self._logger.removeHandler(self._entrance)
            self._logger.addHandler(handler)
            self._listener = None

    def set_level(self, level: str) -> None:
        """Log `level` (debug, info, warning, error) and what is more urgent."""
        self._logger.setLevel(level.upper())

    def reopen(self) -> None:
        """Write to the file that now has the log's name: whatever rotates logs from outside asks for this."""
        if self._log_file is not None:
            self._handler.acquire()
            try:
                self._log_file.reopen()
            finally:
                self._handler.release()

    def close(self) -> None:
        """Write what waits and give the log back. Closing again does nothing."""
        if self._is_closed:
            return
        self._is_closed = True
        self._logger.removeHandler(self._entrance)
        self._logger.removeHandler(self._handler)
        self._logger.propagate = True
        if self._listener is not None:
            self._listener.stop()
        self._handler.close()
        if self._log_file is not None:
            self._log_file.close()


def configure(options: LogOptions) -> LogSink:
    """Install the log that `options` ask for, until it is closed."""
    log_file = None if options.file is None else _LogFile(options)
    handler: logging.Handler = logging.StreamHandler(sys.stderr if log_file is None else log_file)
    handler.setFormatter(_JsonLines() if options.json_lines else _ConsoleLines())
    return LogSink(handler, log_file, options.level)


class _LogFile:
    """A file to append to that puts itself aside when it is full. Used under its handler's lock only."""

    def __init__(self, options: LogOptions) -> None:
        assert options.file is not None
        self._path = options.file
        self._limit_bytes = options.rotate_bytes
        self._kept = options.rotate_count
        self._owns_stdio = options.owns_stdio
        self._descriptor = -1
        self.reopen()

    def write(self, text: str) -> None:
        content = memoryview(text.encode(errors="backslashreplace"))
        # Asked each time: with owns_stdio others append to the file too.
        size = os.fstat(self._descriptor).st_size
        if self._limit_bytes and size and size + len(content) > self._limit_bytes:
            self._rotate()
        while content:
            content = content[os.write(self._descriptor, content) :]

    def flush(self) -> None:
        """Nothing waits here: every write went to the system."""

    def reopen(self) -> None:
        descriptor = open_log(self._path)
        if self._descriptor >= 0:
            os.close(self._descriptor)
        self._descriptor = descriptor
        if self._owns_stdio:
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)

    def close(self) -> None:
        os.close(self._descriptor)

    def _rotate(self) -> None:
        try:
            for number in range(self._kept, 1, -1):
                if os.path.exists(f"{self._path}.{number - 1}"):
                    os.replace(f"{self._path}.{number - 1}", f"{self._path}.{number}")
            if self._kept:
                os.replace(self._path, f"{self._path}.1")
            else:
                os.unlink(self._path)
        except FileNotFoundError:
            # Somebody else moved it away; a new one is begun below all the same.
            pass
        self.reopen()


class _DroppingHandler(QueueHandler):
    """Queues records without ever waiting; what finds no room is counted, and the count is logged."""

    def __init__(self, waiting: "queue.Queue[logging.LogRecord]") -> None:
        super().__init__(waiting)
        self._dropped = 0

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        # The standard one also flattens exceptions into the text, for queues between processes.
        prepared = copy.copy(record)
        prepared.msg = record.getMessage()
        prepared.args = None
        return prepared

    def enqueue(self, record: logging.LogRecord) -> None:
        try:
            if self._dropped:
                text = f"{self._dropped} log lines were dropped: they came faster than they could be written"
                self.queue.put_nowait(logging.makeLogRecord({**record.__dict__, "msg": text, "exc_info": None}))
                self._dropped = 0
            self.queue.put_nowait(record)
        except queue.Full:
            self._dropped += 1


class _PatientListener(QueueListener):
    """Ends also when its queue is full, which the standard one takes for an error."""

    def enqueue_sentinel(self) -> None:
        self.queue.put(None)  # type: ignore[attr-defined] # typeshed knows only what every queue has


def _instant(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _ConsoleLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        # A client's text must not be able to begin a line of its own.
        message = record.getMessage().replace("\n", "\\n").replace("\r", "\\r")
        line = f"{_instant(record)} {record.levelname.lower():<7} {record.name}: {message}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


class _JsonLines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _instant(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process,
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return msgspec.json.encode(line).decode()
