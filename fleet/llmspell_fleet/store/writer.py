"""The one thread that writes: what came in while it wrote is its next commit.

The controller's loop is told of each commit by one `call_soon_threadsafe`. A batch that cannot be written is kept,
merged with what comes after it, and tried again. Nobody waits for that: whoever asks is told that it is not durable.
"""

import asyncio
import contextlib
import logging
import sqlite3
import threading
import time
from typing import Any, Final

from llmspell_fleet.errors import StoreError
from llmspell_fleet.store.batch import Batch
from llmspell_fleet.store.database import Database
from llmspell_fleet.store.inbox import Inbox, Waiting
from llmspell_fleet.store.opening import explain
from llmspell_fleet.store.reading import BadRowError

_logger = logging.getLogger("llmspell.fleet.store")

RETRY_AFTER_S: Final = 0.5

Answer = tuple["asyncio.Future[Any]", object]
"""Who asked, and what to tell; an exception is raised there."""


class Writer:
    """The thread. Its attributes may be read from any, and are written by it alone."""

    def __init__(self, database: Database, inbox: Inbox, *, path: str) -> None:
        self._database = database
        self._inbox = inbox
        self._path = path
        self._batch = Batch()
        self._retry_at = 0.0
        self.events = 0
        """Taken and not committed yet."""
        self.fault: str | None = None
        """What the last commit met, for people; None = nothing."""
        # The end of the process must not wait for a thread that waits: `Store.close` ends it.
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    @property
    def changes(self) -> int:
        """Taken and not committed yet, events among them."""
        return len(self._batch)

    def finish(self, *, next_event: int) -> None:
        """End, after the inbox was closed; blocks. StoreError tells that something could not be written."""
        self._thread.join()
        try:
            self._database.close(next_event=next_event)
        except sqlite3.Error as error:
            raise StoreError(f"not everything was recorded: {explain(error, self._path)}") from error
        if self._batch:
            raise StoreError(f"not everything was recorded: {self.fault}")

    def _run(self) -> None:
        is_last = False
        while not is_last:
            waiting = self._inbox.take(self._patience_s())
            is_last = waiting.is_last
            self._serve(waiting)

    def _patience_s(self) -> float | None:
        return None if self.fault is None else max(0.0, self._retry_at - time.monotonic())

    def _serve(self, waiting: Waiting) -> None:
        if self._batch:
            self._batch.merge(waiting.batch)
        else:
            self._batch = waiting.batch
        self.events = len(self._batch.events)
        answers: list[Answer]
        if self.fault is not None and not waiting.is_last and time.monotonic() < self._retry_at:
            answers = self._refusals(waiting)
        else:
            answers = self._commit(waiting)
        if answers:
            _tell(answers)
        for read, future in waiting.reads:
            if future.set_running_or_notify_cancel():
                try:
                    future.set_result(read(self._database.connection))
                except sqlite3.Error as error:
                    future.set_exception(StoreError(explain(error, self._path)))
                except BadRowError as error:
                    future.set_exception(StoreError(f"{self._path}: {error}"))
                except Exception as error:  # noqa: BLE001 - the thread must live on
                    future.set_exception(StoreError(_own_fault(error)))

    def _commit(self, waiting: Waiting) -> list[Answer]:
        begun: list[Any] = []
        try:
            if self.fault is not None:
                self._database.probe()
            if waiting.begins or self._batch:
                begun = self._database.commit(self._batch, [execution for execution, _ in waiting.begins])
        except sqlite3.Error as error:
            self._fail(explain(error, self._path))
            return self._refusals(waiting)
        except Exception as error:  # noqa: BLE001 - the thread must live on: what waits is kept, and /health tells
            self._fail(_own_fault(error))
            return self._refusals(waiting)
        if self.fault is not None:
            _logger.warning("the store writes again; before: %s", self.fault)
        self.fault = None
        self._batch = Batch()
        self.events = 0
        answers: list[Answer] = [(future, answer) for (_, future), answer in zip(waiting.begins, begun, strict=True)]
        answers.extend((future, None) for future in waiting.flushes)
        return answers

    def _fail(self, fault: str) -> None:
        if fault != self.fault:
            _logger.error("not written, tried again every %g s: %s", RETRY_AFTER_S, fault)
        self.fault = fault
        self._retry_at = time.monotonic() + RETRY_AFTER_S

    def _refusals(self, waiting: Waiting) -> list[Answer]:
        error = StoreError(f"nothing can be recorded: {self.fault}")
        asked: list[asyncio.Future[Any]] = [future for _, future in waiting.begins]
        asked.extend(waiting.flushes)
        return [(future, error) for future in asked]


def _own_fault(error: Exception) -> str:
    """What nobody foresaw, for people; the log has more."""
    _logger.error("a fault of the store's own", exc_info=error)
    return f"the store has a fault of its own: {type(error).__name__}: {error}"


def _tell(answers: list[Answer]) -> None:
    # A loop that has ended has nobody left to be told.
    with contextlib.suppress(RuntimeError):
        answers[0][0].get_loop().call_soon_threadsafe(_deliver, answers)


def _deliver(answers: list[Answer]) -> None:
    for future, answer in answers:
        if future.done():
            continue
        if isinstance(answer, BaseException):
            future.set_exception(answer)
        else:
            future.set_result(answer)
