"""The database's tables, and the steps from each older version to this one."""

from typing import Final

APPLICATION_ID: Final = 0x4C535046
"""In the database's header (`file` and SQLite show it): nobody else's database is taken for ours."""

_VERSION_1: Final = (
    "CREATE TABLE meta (name TEXT PRIMARY KEY, value NOT NULL) WITHOUT ROWID",
    # --- what should be
    """CREATE TABLE tenants (
        id TEXT PRIMARY KEY, spec TEXT NOT NULL, created_at TEXT NOT NULL
    ) WITHOUT ROWID""",
    """CREATE TABLE kernels_desired (
        id TEXT PRIMARY KEY, tenant TEXT NOT NULL, spec TEXT NOT NULL, is_wanted INTEGER NOT NULL
    ) WITHOUT ROWID""",
    "CREATE INDEX kernels_by_tenant ON kernels_desired (tenant)",
    """CREATE TABLE tokens (
        sha256 TEXT PRIMARY KEY, kind TEXT NOT NULL, tenant TEXT, created_at TEXT NOT NULL
    ) WITHOUT ROWID""",
    # --- what is
    """CREATE TABLE kernels_observed (
        id TEXT PRIMARY KEY, phase TEXT NOT NULL, incarnation INTEGER NOT NULL, generation INTEGER NOT NULL,
        pid INTEGER, start_time INTEGER, spawned_at REAL NOT NULL, ready_at REAL NOT NULL, started_at TEXT NOT NULL,
        crashes TEXT NOT NULL, last_death TEXT
    ) WITHOUT ROWID""",
    """CREATE TABLE leases (
        id TEXT PRIMARY KEY, tenant TEXT NOT NULL, session TEXT NOT NULL, kernel_id TEXT NOT NULL,
        expires_at TEXT NOT NULL
    ) WITHOUT ROWID""",
    # --- what happened
    """CREATE TABLE deaths (
        id INTEGER PRIMARY KEY, kernel_id TEXT NOT NULL, incarnation INTEGER NOT NULL, at TEXT NOT NULL,
        certificate TEXT NOT NULL
    )""",
    "CREATE INDEX deaths_by_kernel ON deaths (kernel_id)",
    """CREATE TABLE events (
        seq INTEGER PRIMARY KEY, at TEXT NOT NULL, type TEXT NOT NULL, tenant TEXT, kernel_id TEXT, data TEXT NOT NULL
    )""",
    "CREATE INDEX events_by_tenant ON events (tenant)",
    # Events up to `last_event` are those of an earlier tenant of that name, which a later one must not see.
    "CREATE TABLE past_tenants (tenant TEXT PRIMARY KEY, last_event INTEGER NOT NULL) WITHOUT ROWID",
    """CREATE TABLE executions (
        id TEXT PRIMARY KEY, tenant TEXT NOT NULL, key TEXT, sha256 TEXT NOT NULL, created_at TEXT NOT NULL,
        status TEXT NOT NULL, finished_at TEXT, http_status INTEGER, outcome_bytes INTEGER NOT NULL DEFAULT 0,
        outcome BLOB, UNIQUE (tenant, key)
    )""",
    # With all that pruning asks for, so that no outcome is read for it.
    "CREATE INDEX executions_by_age ON executions (created_at, status, outcome_bytes)",
    "CREATE INDEX executions_pending ON executions (created_at) WHERE status = 'pending'",
    # --- what goes with what
    """CREATE TRIGGER tenant_deleted AFTER DELETE ON tenants BEGIN
        DELETE FROM kernels_desired WHERE tenant = OLD.id;
        DELETE FROM tokens WHERE tenant = OLD.id;
        DELETE FROM leases WHERE tenant = OLD.id;
        DELETE FROM executions WHERE tenant = OLD.id;
    END""",
    """CREATE TRIGGER kernel_deleted AFTER DELETE ON kernels_desired BEGIN
        DELETE FROM kernels_observed WHERE id = OLD.id;
        DELETE FROM deaths WHERE kernel_id = OLD.id;
    END""",
    # 20 are kept of each kernel (`batch.DEATHS_PER_KERNEL`), none of one that was deleted meanwhile.
    """CREATE TRIGGER deaths_bounded AFTER INSERT ON deaths BEGIN
        DELETE FROM deaths WHERE kernel_id = NEW.kernel_id AND (
            id <= (SELECT id FROM deaths WHERE kernel_id = NEW.kernel_id ORDER BY id DESC LIMIT 1 OFFSET 20)
            OR NOT EXISTS (SELECT 1 FROM kernels_desired WHERE id = NEW.kernel_id)
        );
    END""",
)

_VERSION_2: Final = (
    # Where an execution went, so that a later controller can ask what became of it; see `records.Placed`.
    "ALTER TABLE executions ADD COLUMN is_waited_for INTEGER NOT NULL DEFAULT 1",
    "ALTER TABLE executions ADD COLUMN kernel_id TEXT",
    "ALTER TABLE executions ADD COLUMN incarnation INTEGER",
    "ALTER TABLE executions ADD COLUMN after_ticket INTEGER",
    "ALTER TABLE executions ADD COLUMN head BLOB",
    # Why its process is being ended, and what follows: NULL = nobody asked for that.
    "ALTER TABLE kernels_observed ADD COLUMN ending TEXT",
    # What a kernel's process was started with, and whose a tenant's are: neither is what should be by now.
    "ALTER TABLE kernels_observed ADD COLUMN isolation_level TEXT",
    "ALTER TABLE tenants ADD COLUMN uid INTEGER",
    # With all that is asked for when there are too many: whose are most, and which of those are the oldest.
    "CREATE INDEX executions_by_tenant ON executions (tenant, created_at, status, outcome_bytes)",
)

MIGRATIONS: Final = (_VERSION_1, _VERSION_2)
"""The statements of step n lead from version n to n + 1. A released step never changes: add another."""

VERSION: Final = len(MIGRATIONS)
"""Of the schema, in PRAGMA user_version."""
