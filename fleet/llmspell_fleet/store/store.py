"""The door to what is stored. Every method is for the controller's loop and takes microseconds on it.

Two threads: the loop's, which notes changes, and one that writes them and answers what is asked
(`writer`). Nothing but the latter touches the connection.
"""

import asyncio
import os
import sqlite3
from collections.abc import Callable
from concurrent.futures import Future
from typing import Final, Self, TypeVar

from llmspell_fleet.errors import BadRequestError, NotFoundError, StoreError
from llmspell_fleet.model.event import Event
from llmspell_fleet.model.ids import KernelId, TenantId
from llmspell_fleet.model.kernel import Death, Kernel
from llmspell_fleet.store import lock, reading
from llmspell_fleet.store.database import Database
from llmspell_fleet.store.inbox import Inbox
from llmspell_fleet.store.opening import WHAT, explain, open_database
from llmspell_fleet.store.records import Begun, Execution, Finished, Lease, Loaded, Placed, TenantRecord, TokenRecord
from llmspell_fleet.store.writer import Writer
from llmspell_kernel.errors import RefusedError
from llmspell_kernel.safe_files import ensure_directory

T = TypeVar("T")

MAX_WAITING_EVENTS: Final = 50_000
"""Events beyond are dropped, and counted. Other changes are bounded by the state that they are about."""


class Store:
    """Desired and observed state, and what happened, across restarts of the controller.

    A commit survives the end of the process, `kill -9` included; the machine's loss of power may take the last
    ones with it, and leaves the database whole.
    """

    def __init__(self, database: Database, *, path: str, lock_descriptor: int) -> None:
        self._path = path
        self._lock_descriptor = lock_descriptor
        self._inbox = Inbox()
        self._next_event = database.next_event
        self.dropped_events = 0
        """Since the start, because too many waited."""
        self._writer = Writer(database, self._inbox, path=path)

    @classmethod
    def open(cls, path: str, *, max_events: int = 100_000) -> Self:
        """Open the database at `path`, made with its directory unless it exists, and hold it until `close`.

        `max_events` are kept in it, and a tenth more. RefusedError says what is in the way, and what to do.
        """
        ensure_directory(os.path.dirname(path))
        descriptor = lock.hold(f"{path}.lock", what=f"{WHAT} {path}")
        try:
            connection = open_database(path)
            try:
                return cls(Database(connection, max_events=max_events), path=path, lock_descriptor=descriptor)
            except BaseException:
                connection.close()
                raise
        except sqlite3.Error as error:
            os.close(descriptor)
            raise RefusedError(explain(error, path)) from error
        except BaseException:
            os.close(descriptor)
            raise

    def close(self) -> None:
        """Commit what waits, put everything into the database file and let go of it. The second call does nothing.

        StoreError tells that something could not be written. Blocks for as long as the last commit takes.
        """
        if not self._inbox.close():
            return
        try:
            self._writer.finish(next_event=self._next_event)
        finally:
            os.close(self._lock_descriptor)

    @property
    def fault(self) -> str | None:
        """Why nothing can be written at present; what waits is kept and tried again. None = all is well."""
        return self._writer.fault

    @property
    def waiting(self) -> int:
        """How many changes are not committed yet."""
        return len(self._inbox.waiting.batch) + self._writer.changes

    # --- at start

    def load(self) -> Loaded:
        """Everything to start from. Blocks. RefusedError tells of a row that is not ours."""
        return self._read_now(lambda connection: reading.load(connection, self._next_event))

    def pending_executions(self) -> list[Execution]:
        """Those that a dead controller left without an outcome, the oldest first. Blocks."""
        return self._read_now(reading.pending_executions)

    # --- changes

    def save_tenant(self, tenant: TenantRecord) -> None:
        """Make or replace a tenant."""
        with self._inbox.lock:
            self._inbox.waiting.batch.tenants[tenant.spec.id] = tenant
            self._inbox.ring_soon()

    def delete_tenant(self, tenant: TenantId) -> None:
        """Remove it with its kernels, their certificates, its tokens, leases and executions.

        Its events stay, and a later tenant of its name does not see them.
        """
        with self._inbox.lock:
            waiting = self._inbox.waiting
            waiting.batch.delete_tenant(tenant, last_event=self._next_event - 1)
            gone = [future for execution, future in waiting.begins if execution.tenant == tenant]
            waiting.begins = [begin for begin in waiting.begins if begin[0].tenant != tenant]
            self._inbox.ring_soon()
        for future in gone:
            if not future.done():
                future.set_exception(NotFoundError(f"tenant {tenant} was deleted"))

    def save_kernel(self, kernel: Kernel) -> None:
        """Record what should be of a kernel and what is."""
        with self._inbox.lock:
            self._inbox.waiting.batch.kernels[kernel.spec.id] = kernel
            self._inbox.ring_soon()

    def delete_kernel(self, kernel: KernelId) -> None:
        """Remove it with its certificates; later ones of it are not kept."""
        with self._inbox.lock:
            self._inbox.waiting.batch.delete_kernel(kernel)
            self._inbox.ring_soon()

    def record_death(self, death: Death) -> None:
        """Keep a certificate, among the last 20 of its kernel."""
        with self._inbox.lock:
            self._inbox.waiting.batch.add_death(death)
            self._inbox.ring_soon()

    def record_event(self, event: Event) -> None:
        """Keep an event, whose number is above all before it."""
        with self._inbox.lock:
            self._next_event = event.seq + 1
            events = self._inbox.waiting.batch.events
            if len(events) + self._writer.events >= MAX_WAITING_EVENTS:
                self.dropped_events += 1
                return
            events.append(event)
            self._inbox.ring_soon()

    def save_token(self, token: TokenRecord) -> None:
        """Keep a token's hash."""
        with self._inbox.lock:
            self._inbox.waiting.batch.tokens[token.sha256] = token
            self._inbox.ring_soon()

    def delete_token(self, sha256: str) -> None:
        """Remove a token's hash."""
        with self._inbox.lock:
            self._inbox.waiting.batch.tokens[sha256] = None
            self._inbox.ring_soon()

    def save_lease(self, lease: Lease) -> None:
        """Make or renew a lease."""
        with self._inbox.lock:
            self._inbox.waiting.batch.leases[lease.id] = lease
            self._inbox.ring_soon()

    def delete_lease(self, lease: str) -> None:
        """End a lease."""
        with self._inbox.lock:
            self._inbox.waiting.batch.leases[lease] = None
            self._inbox.ring_soon()

    def save_note(self, name: str, text: str | None) -> None:
        """Leave something for the next controller (`Loaded.notes`); None = it is no longer to be known."""
        with self._inbox.lock:
            self._inbox.waiting.batch.notes[name] = text
            self._inbox.ring_soon()

    def flush(self) -> "asyncio.Future[None]":
        """Done when everything that was noted before is committed. StoreError: it is not, and is tried on."""
        future = asyncio.get_running_loop().create_future()
        try:
            with self._inbox.lock:
                self._inbox.ring()
                self._inbox.waiting.flushes.append(future)
        except StoreError as fault:
            future.set_exception(fault)
        return future

    # --- executions

    async def begin_execution(self, execution: Execution) -> Begun | Execution:
        """Record that `execution` begins; once for each key of a tenant, of however many that ask at once.

        Begun = it is the first, is committed, and is to be run. Otherwise the first of that key, pending or with its
        outcome: one that was pending may have finished since, as `execution` tells. ConflictError: the first had
        another body. StoreError: nothing was recorded, so nothing is to be run.
        Whoever is cancelled while waiting here calls `finish_execution` all the same: it may have begun.
        """
        try:
            (execution.key or "").encode()
        except UnicodeEncodeError:
            raise BadRequestError("the Idempotency-Key should be text and is not: send printable characters") from None
        future = asyncio.get_running_loop().create_future()
        with self._inbox.lock:
            self._inbox.waiting.begins.append((execution, future))
            self._inbox.ring()
        answer: Begun | Execution = await future
        return answer

    def place_execution(self, placed: Placed) -> None:
        """Record where it is about to be sent; `flush` before it is."""
        with self._inbox.lock:
            self._inbox.waiting.batch.placed[placed.id] = placed
            self._inbox.ring()

    def finish_execution(self, finished: Finished) -> None:
        """Record the outcome, which stays as it is: a second one changes nothing."""
        with self._inbox.lock:
            self._inbox.waiting.batch.finished.setdefault(finished.id, finished)
            self._inbox.ring_soon()

    def abandon_execution(self, execution: str) -> None:
        """It never began, and its key is free again."""
        with self._inbox.lock:
            self._inbox.waiting.batch.finished.setdefault(execution, None)
            self._inbox.ring()

    async def execution(self, tenant: TenantId, execution: str) -> Execution | None:
        """One of a tenant's, for 24 hours."""
        return await self._read(lambda connection: reading.execution(connection, tenant, execution))

    # --- what happened

    async def recent_events(self, *, since: int, limit: int, tenant: TenantId | None) -> list[Event]:
        """At most `limit` with numbers above `since`, the oldest first; None = everybody's."""
        return await self._read(lambda connection: reading.events(connection, since, limit, tenant))

    async def deaths(self, kernel: KernelId) -> list[Death]:
        """The certificates of a kernel, the oldest first."""
        return await self._read(lambda connection: reading.deaths(connection, kernel))

    # --- reading

    def _ask(self, read: Callable[[sqlite3.Connection], T]) -> "Future[T]":
        future: Future[T] = Future()
        with self._inbox.lock:
            self._inbox.waiting.reads.append((read, future))
            self._inbox.ring()
        return future

    async def _read(self, read: Callable[[sqlite3.Connection], T]) -> T:
        return await asyncio.wrap_future(self._ask(read))

    def _read_now(self, read: Callable[[sqlite3.Connection], T]) -> T:
        try:
            return self._ask(read).result()
        except StoreError as error:
            raise RefusedError(str(error)) from error
