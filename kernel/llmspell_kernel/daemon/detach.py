"""Leaving the terminal: a double fork whose parent learns how it went.

The parent waits on a pipe that only the daemon holds open. A line on it is the daemon's word, ready or
failed; its end without a line means that the daemon is gone, so a vanished daemon is noticed at once. Must
run before any thread, event loop or ZeroMQ context exists: none of them survives a fork.
"""

import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import NoReturn

import msgspec

from llmspell_kernel.errors import LlmspellError
from llmspell_kernel.safe_files import open_log

_LAST_LINES = 10
_TAIL_BYTES = 8192


class Outcome(msgspec.Struct, frozen=True):
    """How the daemon's start went, as its parent learned it."""

    exit_code: int
    """0 = the daemon is ready and goes on."""
    message: str
    pid: int


class _LogTail(msgspec.Struct, frozen=True):
    """The end of a log file, without what was in it before this start."""

    path: str
    start: int

    def read(self) -> str:
        """The last lines, as the end of a message."""
        try:
            with open(self.path, "rb") as log:
                log.seek(max(self.start, os.fstat(log.fileno()).st_size - _TAIL_BYTES))
                lines = log.read().decode(errors="replace").splitlines()[-_LAST_LINES:]
        except OSError as error:
            return f"; its log {self.path} cannot be read: {error.strerror}"
        if not lines:
            return f"; it wrote nothing to its log {self.path}"
        return f"; the last lines of its log {self.path}:\n" + "\n".join(f"  {line}" for line in lines)


class Readiness:
    """The daemon's end of the pipe: one word to the parent, then silence."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor: int | None = descriptor

    def ready(self, message: str) -> None:
        """Let the parent end with success; `message` is for whoever started it."""
        self._tell(Outcome(0, message, os.getpid()))

    def failed(self, message: str, exit_code: int) -> None:
        """Let the parent end with `exit_code` after printing `message`."""
        self._tell(Outcome(exit_code, message, os.getpid()))

    def _tell(self, outcome: Outcome) -> None:
        if self._descriptor is None:
            return
        descriptor, self._descriptor = self._descriptor, None
        with os.fdopen(descriptor, "wb") as pipe:
            try:
                pipe.write(msgspec.json.encode(outcome) + b"\n")
                pipe.flush()
            except BrokenPipeError:
                # The parent was killed while it waited: the daemon is no worse for it.
                return


def run_detached(
    main: Callable[[Readiness], int], *, log_file: str, deadline_s: float = 30.0, what: str = "the kernel"
) -> Outcome:
    """Run `main` in a daemon and return once it is ready, failed, vanished, or silent for `deadline_s`.

    The daemon has its own session, no terminal, umask 077, ``/`` as its directory, and writes to `log_file`
    (0600, appended to). `main` reports through the Readiness it is given and returns the daemon's exit
    code; an exception that escapes it before that is reported for it. A daemon silent until the deadline is
    killed. `what` is the daemon in messages.
    """
    threading = sys.modules.get("threading")
    if threading is not None and threading.active_count() > 1:
        raise RuntimeError("a process with threads cannot become a daemon: they would not survive the fork")
    log = open_log(log_file)
    log_start = os.fstat(log).st_size
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    middle = os.fork()
    if middle == 0:
        os.setsid()
        # The second fork: not being a session's leader, the daemon can never get a terminal again.
        if os.fork() != 0:
            os._exit(0)
        _become_daemon(main, log, writing, what)
    os.close(log)
    os.close(writing)
    os.waitpid(middle, 0)
    try:
        return _await(reading, deadline_s, _LogTail(log_file, log_start), what)
    finally:
        os.close(reading)


def _become_daemon(main: Callable[[Readiness], int], log: int, pipe: int, what: str) -> NoReturn:
    exit_code = 1
    readiness = Readiness(pipe)
    try:
        os.umask(0o077)
        os.chdir("/")
        _redirect(log)
        _close_others(pipe)
        os.write(pipe, b"%d\n" % os.getpid())
        exit_code = main(readiness)
        readiness.failed(f"{what} ended before it was ready", exit_code or 1)
    except LlmspellError as error:
        print(error, file=sys.stderr)  # noqa: T201 - standard error is the log here
        exit_code = error.exit_code
        readiness.failed(str(error), exit_code)
    except BaseException as error:  # noqa: BLE001 - the last frame of this process: nobody else would hear of it
        traceback.print_exc()
        readiness.failed(f"{type(error).__name__}: {error} (this is llmspell's own fault)", exit_code)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(exit_code)


def _redirect(log: int) -> None:
    null = os.open(os.devnull, os.O_RDONLY)
    os.dup2(null, 0)
    os.dup2(log, 1)
    os.dup2(log, 2)
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # type: ignore[union-attr] # a file, now that it is descriptor 1 or 2


def _close_others(kept: int) -> None:
    highest = os.sysconf("SC_OPEN_MAX")
    os.closerange(3, kept)
    os.closerange(kept + 1, highest if 0 < highest < 1 << 20 else 1 << 20)


def _await(pipe: int, deadline_s: float, tail: _LogTail, what: str) -> Outcome:
    give_up_at = time.monotonic() + deadline_s
    received = b""
    while received.count(b"\n") < 2:
        left_s = give_up_at - time.monotonic()
        if left_s <= 0 or not select.select([pipe], [], [], left_s)[0]:
            return _kill_silent(received, deadline_s, tail, what)
        part = os.read(pipe, 65536)
        if not part:
            text = f"{what} ended before it was ready, without a word"
            return Outcome(1, text + tail.read(), _pid(received))
        received += part
    return msgspec.json.decode(received.split(b"\n")[1], type=Outcome)


def _kill_silent(received: bytes, deadline_s: float, tail: _LogTail, what: str) -> Outcome:
    # The pipe is still open, so the process that wrote its pid on it lives: the pid cannot be another's yet.
    pid = _pid(received)
    if pid:
        os.kill(pid, signal.SIGKILL)
    text = f"{what} was not ready within {deadline_s:g} s and was ended"
    return Outcome(1, text + tail.read(), pid)


def _pid(received: bytes) -> int:
    first, newline, _ = received.partition(b"\n")
    return int(first) if newline else 0
