"""The tables, for the one thread that writes them: a batch is one transaction, in as few statements as will do.

Each statement gives the interpreter lock away and has to get it back, which takes long exactly when the
controller's loop is busy: so many rows go in one.
"""

import contextlib
import logging
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Final, TypeVar

from llmspell_fleet.errors import ConflictError
from llmspell_fleet.model.event import Event
from llmspell_fleet.store import reading, rows
from llmspell_fleet.store.batch import Batch
from llmspell_fleet.store.opening import roll_back
from llmspell_fleet.store.records import Begun, Execution, Finished, Placed
from llmspell_fleet.store.rows import Row, Upsert, upsert_sql

_logger = logging.getLogger("llmspell.fleet.store")

T = TypeVar("T")

MAX_EXECUTIONS: Final = 100_000
MAX_OUTCOMES_BYTES: Final = 256 * 1024 * 1024
"""Of all outcomes together: the oldest of the tenant that has most of them give way, and nobody else's."""
EXECUTIONS_KEPT_FOR: Final = timedelta(hours=24)

_ROWS_PER_STATEMENT: Final = 32
_PRUNED_AT_ONCE: Final = 1000
"""Rows, so that no commit takes more than milliseconds longer because of them."""
_AGE_CHECKED_EVERY_S: Final = 60.0
_RESERVED_EVENTS: Final = 1000
"""A controller that is killed may have told events whose numbers were not committed: its successor begins above."""
_OLDEST_BEFORE: Final = (
    "SELECT id, outcome_bytes FROM executions WHERE status != 'pending' AND created_at < ? "
    "ORDER BY created_at, rowid LIMIT ?"
)
_OLDEST_OF_TENANT: Final = (
    "SELECT id, outcome_bytes FROM executions WHERE status != 'pending' AND tenant = ? "
    "ORDER BY created_at, rowid LIMIT ?"
)
_MOST_BYTES: Final = (
    "SELECT tenant FROM executions WHERE status != 'pending' GROUP BY tenant ORDER BY sum(outcome_bytes) DESC LIMIT 1"
)
_MOST_EXECUTIONS: Final = (
    "SELECT tenant FROM executions WHERE status != 'pending' GROUP BY tenant ORDER BY count(*) DESC LIMIT 1"
)
_SET_NEXT_EVENT: Final = "REPLACE INTO meta (name, value) VALUES ('next_event', ?)"


class Database:
    """A connection with what has to be known of its content. For one thread at a time."""

    def __init__(self, connection: sqlite3.Connection, *, max_events: int) -> None:
        self.connection = connection
        """For reading (`reading`)."""
        self._max_events = max_events
        self._oldest_event = reading.value(connection, "SELECT min(seq) FROM events")
        self.next_event = reading.next_event(connection)
        """The first number for an event of this holder of the database."""
        self._reserved_event = self.next_event
        self._executions, self._outcomes_bytes = self._count_executions()
        self._check_age_at = 0.0
        with self._transaction():
            self._reserve_events(self.next_event)

    def commit(self, batch: Batch, begins: Sequence[Execution]) -> list[Begun | Execution | ConflictError]:
        """Write it all or, with sqlite3.Error, nothing; returns what became of each of `begins`."""
        before = self._oldest_event, self._reserved_event, self._executions, self._outcomes_bytes
        try:
            with self._transaction():
                if batch.deleted_tenants:
                    self._delete_tenants(batch)
                inserted = self._upsert(rows.EXECUTIONS, begins, rows.begun_row)
                self._executions += inserted
                self._write(batch)
                # Asked for after outcomes are written: those of this batch are answers already.
                begun = self._begun(begins, inserted)
                self._prune_executions()
        except BaseException:
            self._oldest_event, self._reserved_event, self._executions, self._outcomes_bytes = before
            raise
        return begun

    def probe(self) -> None:
        """Write what is there already; sqlite3.Error when that cannot be."""
        with self._transaction():
            self._reserve_events(self._reserved_event - _RESERVED_EVENTS)

    def close(self, *, next_event: int) -> None:
        """Put everything into the database file itself, and let go of it."""
        try:
            with self._transaction():
                self.connection.execute(_SET_NEXT_EVENT, (next_event,))
            self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        finally:
            self.connection.close()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.connection.execute("COMMIT")
        except BaseException:
            roll_back(self.connection)
            raise

    def _write(self, batch: Batch) -> None:
        self._upsert(rows.TENANTS, batch.tenants.values(), rows.tenant_row)
        self._delete("kernels_desired", "id", (key for key, kernel in batch.kernels.items() if kernel is None))
        kernels = [kernel for kernel in batch.kernels.values() if kernel is not None]
        self._upsert(rows.KERNELS_DESIRED, kernels, rows.desired_row)
        self._upsert(rows.KERNELS_OBSERVED, kernels, rows.observed_row)
        self._upsert(rows.DEATHS, chain.from_iterable(batch.deaths.values()), rows.death_row)
        self._delete("tokens", "sha256", (key for key, token in batch.tokens.items() if token is None))
        self._upsert(rows.TOKENS, (token for token in batch.tokens.values() if token is not None), rows.token_row)
        self._delete("leases", "id", (key for key, lease in batch.leases.items() if lease is None))
        self._upsert(rows.LEASES, (lease for lease in batch.leases.values() if lease is not None), rows.lease_row)
        if batch.events:
            self._write_events(batch.events)
        self._delete("meta", "name", (f"note {name}" for name, text in batch.notes.items() if text is None))
        notes = ((f"note {name}", text) for name, text in batch.notes.items() if text is not None)
        self._upsert(rows.NOTES, notes, tuple)
        self._delete("executions", "id", (key for key, finished in batch.finished.items() if finished is None))
        for placed in batch.placed.values():
            self._place(placed)
        for finished in batch.finished.values():
            if finished is not None:
                self._finish(finished)

    def _delete_tenants(self, batch: Batch) -> None:
        for tenant in batch.deleted_tenants:
            self.connection.execute("DELETE FROM tenants WHERE id = ?", (tenant,))
        self._upsert(rows.PAST_TENANTS, batch.deleted_tenants.items(), tuple)
        self._executions, self._outcomes_bytes = self._count_executions()

    # --- events

    def _write_events(self, events: Sequence[Event]) -> None:
        self._upsert(rows.EVENTS, events, rows.event_row)
        newest = events[-1].seq
        if self._oldest_event is None:
            self._oldest_event = events[0].seq
        if newest >= self._reserved_event - _RESERVED_EVENTS // 2:
            self._reserve_events(newest)
        excess = newest - self._oldest_event + 1 - self._max_events
        if excess >= min(_PRUNED_AT_ONCE, self._max_events // 10 + 1):
            self._prune_events(newest, at_most=len(events) + _PRUNED_AT_ONCE)

    def _reserve_events(self, newest: int) -> None:
        self._reserved_event = newest + _RESERVED_EVENTS
        self.connection.execute(_SET_NEXT_EVENT, (self._reserved_event,))

    def _prune_events(self, newest: int, *, at_most: int) -> None:
        self.connection.execute(
            "DELETE FROM events WHERE seq IN (SELECT seq FROM events WHERE seq <= ? ORDER BY seq LIMIT ?)",
            (newest - self._max_events, at_most),
        )
        self._oldest_event = reading.value(self.connection, "SELECT min(seq) FROM events")
        self.connection.execute("DELETE FROM past_tenants WHERE last_event < ?", (self._oldest_event,))

    # --- executions

    def _begun(self, begins: Sequence[Execution], inserted: int) -> list[Begun | Execution | ConflictError]:
        if inserted == len(begins):
            return [Begun(begin.id) for begin in begins]
        return [self._begun_or_first(begin) for begin in begins]

    def _begun_or_first(self, begin: Execution) -> Begun | Execution | ConflictError:
        if begin.key is None:
            return Begun(begin.id)
        first = reading.execution_of_key(self.connection, begin.tenant, begin.key)
        if first is None:
            # The one that had this key was abandoned in this very batch.
            self._executions += self._upsert(rows.EXECUTIONS, [begin], rows.begun_row)
            return Begun(begin.id)
        if first.id == begin.id:
            return Begun(begin.id)
        if first.sha256 == begin.sha256:
            return first
        return ConflictError(
            f"the Idempotency-Key {begin.key[:100]!r} came with another request at {first.created_at}, and this one's "
            "body is different: send a new request with a new key"
        )

    def _place(self, placed: Placed) -> None:
        self.connection.execute(
            "UPDATE executions SET kernel_id = ?, incarnation = ?, after_ticket = ?, head = ? WHERE id = ?",
            rows.placed_row(placed),
        )

    def _finish(self, finished: Finished) -> None:
        # The first outcome is the outcome.
        cursor = self.connection.execute(
            "UPDATE executions SET status = ?, finished_at = ?, http_status = ?, outcome_bytes = ?, outcome = ? "
            "WHERE id = ? AND status = 'pending'",
            rows.finished_row(finished),
        )
        self._outcomes_bytes += cursor.rowcount * len(finished.outcome)

    def _prune_executions(self) -> None:
        now = time.monotonic()
        if now >= self._check_age_at:
            oldest = (datetime.now(UTC) - EXECUTIONS_KEPT_FOR).isoformat(timespec="microseconds")
            if self._delete_oldest_executions(_OLDEST_BEFORE, oldest) < _PRUNED_AT_ONCE:
                self._check_age_at = now + _AGE_CHECKED_EVERY_S
        if self._outcomes_bytes > MAX_OUTCOMES_BYTES:
            self._delete_oldest_of(_MOST_BYTES)
        if self._executions > MAX_EXECUTIONS:
            self._delete_oldest_of(_MOST_EXECUTIONS)

    def _delete_oldest_of(self, whose: str) -> None:
        """Until both bounds are kept, of the tenant that has most."""
        (tenant,) = self.connection.execute(whose).fetchone() or ("",)
        self._delete_oldest_executions(_OLDEST_OF_TENANT, tenant, is_for_room=True)

    def _delete_oldest_executions(self, which: str, value: str, *, is_for_room: bool = False) -> int:
        """All of these, or as many as make room; those that run are always kept."""
        found = self.connection.execute(which, (value, _PRUNED_AT_ONCE)).fetchall()
        gone = []
        for execution, outcome_bytes in found:
            is_over = self._executions > 0.99 * MAX_EXECUTIONS or self._outcomes_bytes > 0.99 * MAX_OUTCOMES_BYTES
            if is_for_room and not is_over:
                break
            gone.append(execution)
            self._executions -= 1
            self._outcomes_bytes -= outcome_bytes
        self._delete("executions", "id", gone)
        return len(gone)

    def _count_executions(self) -> tuple[int, int]:
        count = reading.value(self.connection, "SELECT count(*) FROM executions") or 0
        return count, reading.value(self.connection, "SELECT sum(outcome_bytes) FROM executions") or 0

    # --- statements

    def _delete(self, table: str, column: str, keys: Iterable[str]) -> None:
        if gone := [(key,) for key in keys]:
            self.connection.executemany(f"DELETE FROM {table} WHERE {column} = ?", gone)  # noqa: S608  names of ours

    def _upsert(self, upsert: Upsert, records: Iterable[T], to_row: Callable[[T], Row]) -> int:
        """How many rows were written. A record that cannot be one is told and left out, so that the others can."""
        written = 0
        waiting: list[Row] = []
        for record in records:
            try:
                waiting.append(to_row(record))
            except (ValueError, TypeError, OverflowError):
                _logger.exception("a record cannot be written into %s and is left out", upsert.table)
            if len(waiting) == _ROWS_PER_STATEMENT:
                written += self._insert(upsert, waiting)
                waiting = []
        while waiting:
            # Sizes are powers of two, so that SQLite's statements are few and stay prepared.
            size = 1 << (len(waiting).bit_length() - 1)
            written += self._insert(upsert, waiting[:size])
            waiting = waiting[size:]
        return written

    def _insert(self, upsert: Upsert, values: list[Row]) -> int:
        return self.connection.execute(upsert_sql(upsert, len(values)), list(chain.from_iterable(values))).rowcount
