"""What is asked of the database. These run in the writer's thread, so that they see what was noted before them."""

import sqlite3
from collections.abc import Callable
from typing import TypeVar

import msgspec

from llmspell_fleet.model.event import Event
from llmspell_fleet.model.ids import KernelId, TenantId
from llmspell_fleet.model.kernel import Death
from llmspell_fleet.store import rows
from llmspell_fleet.store.records import Execution, Loaded
from llmspell_fleet.store.rows import Row

T = TypeVar("T")


class BadRowError(Exception):
    """A row that is not what we write."""


def load(connection: sqlite3.Connection, next_event: int) -> Loaded:
    """Everything that a controller starts from."""
    return Loaded(
        tenants=_all(connection, "SELECT * FROM tenants ORDER BY id", rows.to_tenant),
        kernels=_all(connection, rows.SELECT_KERNELS, rows.to_kernel),
        tokens=_all(connection, "SELECT * FROM tokens ORDER BY sha256", rows.to_token),
        leases=_all(connection, "SELECT * FROM leases ORDER BY id", rows.to_lease),
        next_event_seq=next_event,
        notes=dict(_all(connection, "SELECT substr(name, 6), value FROM meta WHERE name LIKE 'note %'", _pair)),
    )


def _pair(row: Row) -> tuple[str, str]:
    return row[0], row[1]


def next_event(connection: sqlite3.Connection) -> int:
    """The first number that was never given to an event."""
    reserved = value(connection, "SELECT value FROM meta WHERE name = 'next_event'") or 1
    return max(reserved, (value(connection, "SELECT max(seq) FROM events") or 0) + 1)


def events(connection: sqlite3.Connection, since: int, limit: int, tenant: TenantId | None) -> list[Event]:
    """At most `limit` with numbers above `since`, the oldest first; of `tenant` alone when it is given."""
    if tenant is None:
        sql = "SELECT * FROM events WHERE seq > ? ORDER BY seq LIMIT ?"
        return _all(connection, sql, rows.to_event, since, limit)
    past = value(connection, "SELECT last_event FROM past_tenants WHERE tenant = ?", tenant) or 0
    sql = "SELECT * FROM events WHERE tenant = ? AND seq > ? ORDER BY seq LIMIT ?"
    return _all(connection, sql, rows.to_event, tenant, max(since, past), limit)


def deaths(connection: sqlite3.Connection, kernel: KernelId) -> list[Death]:
    """A kernel's certificates, the oldest first."""
    sql = "SELECT certificate FROM deaths WHERE kernel_id = ? ORDER BY id"
    return _all(connection, sql, rows.to_death, kernel)


def execution(connection: sqlite3.Connection, tenant: TenantId, execution_id: str) -> Execution | None:
    """One of a tenant's."""
    found = _all(connection, f"{rows.SELECT_EXECUTIONS} WHERE id = ?", rows.to_execution, execution_id)
    return found[0] if found and found[0].tenant == tenant else None


def execution_of_key(connection: sqlite3.Connection, tenant: TenantId, key: str) -> Execution | None:
    """The one that has this key."""
    sql = f"{rows.SELECT_EXECUTIONS} WHERE tenant = ? AND key = ?"
    found = _all(connection, sql, rows.to_execution, tenant, key)
    return found[0] if found else None


def pending_executions(connection: sqlite3.Connection) -> list[Execution]:
    """Those without an outcome, the oldest first."""
    sql = f"{rows.SELECT_EXECUTIONS} WHERE status = 'pending' ORDER BY created_at, rowid"
    return _all(connection, sql, rows.to_execution)


def value(connection: sqlite3.Connection, sql: str, *parameters: str | int) -> int | None:
    """The number that a query finds."""
    row = connection.execute(sql, parameters).fetchone()
    return None if row is None else row[0]


def _all(
    connection: sqlite3.Connection, sql: str, convert: Callable[[Row], T], *parameters: str | int | None
) -> list[T]:
    try:
        return [convert(row) for row in connection.execute(sql, parameters)]
    except (msgspec.MsgspecError, ValueError) as error:
        raise BadRowError(f"a row of `{sql}` is not what llmspell writes: {error}") from error
