"""Records to rows and back. What people may look for is a column; the rest is the model's own JSON."""

from functools import lru_cache
from typing import Any, Final

import msgspec

from llmspell_fleet.model.event import Event
from llmspell_fleet.model.ids import KernelId, TenantId
from llmspell_fleet.model.kernel import Death, Ending, Kernel, KernelSpec, Phase
from llmspell_fleet.model.tenant import TenantSpec
from llmspell_fleet.store.records import Execution, Finished, Lease, Placed, TenantRecord, TokenRecord

Row = tuple[Any, ...]


class Upsert(msgspec.Struct, frozen=True):
    """Rows for one table: `key` is replaced when it is there; None = what is there stays."""

    table: str
    columns: tuple[str, ...]
    key: str | None = None


TENANTS: Final = Upsert("tenants", ("id", "spec", "created_at", "uid"), "id")
KERNELS_DESIRED: Final = Upsert("kernels_desired", ("id", "tenant", "spec", "is_wanted"), "id")
KERNELS_OBSERVED: Final = Upsert(
    "kernels_observed",
    (
        *("id", "phase", "incarnation", "generation", "pid", "start_time", "spawned_at", "ready_at", "started_at"),
        *("crashes", "last_death", "ending", "isolation_level"),
    ),
    "id",
)
DEATHS: Final = Upsert("deaths", ("kernel_id", "incarnation", "at", "certificate"))
TOKENS: Final = Upsert("tokens", ("sha256", "kind", "tenant", "created_at"), "sha256")
LEASES: Final = Upsert("leases", ("id", "tenant", "session", "kernel_id", "expires_at"), "id")
EVENTS: Final = Upsert("events", ("seq", "at", "type", "tenant", "kernel_id", "data"))
PAST_TENANTS: Final = Upsert("past_tenants", ("tenant", "last_event"), "tenant")
NOTES: Final = Upsert("meta", ("name", "value"), "name")
EXECUTIONS: Final = Upsert("executions", ("id", "tenant", "key", "sha256", "created_at", "status", "is_waited_for"))

SELECT_KERNELS: Final = (
    "SELECT spec, is_wanted, phase, incarnation, generation, pid, start_time, spawned_at, ready_at, started_at, "
    "crashes, last_death, ending, isolation_level FROM kernels_desired JOIN kernels_observed USING (id) ORDER BY id"
)
SELECT_EXECUTIONS: Final = (
    "SELECT id, tenant, key, sha256, created_at, status, finished_at, http_status, outcome, is_waited_for, kernel_id, "
    "incarnation, after_ticket, head FROM executions"
)


@lru_cache(maxsize=256)
def upsert_sql(upsert: Upsert, rows: int) -> str:
    """The statement for so many rows at once."""
    values = ", ".join([f"({', '.join('?' * len(upsert.columns))})"] * rows)
    if upsert.key is None:
        conflict = "DO NOTHING"
    else:
        columns = [column for column in upsert.columns if column != upsert.key]
        old, new = ", ".join(columns), ", ".join(f"excluded.{column}" for column in columns)
        # A row that is as it was costs no page: a kernel's spec comes with each of its phases.
        conflict = f"({upsert.key}) DO UPDATE SET ({old}) = ({new}) WHERE ({old}) IS NOT ({new})"
    # Names of ours only: the values are parameters.
    return f"INSERT INTO {upsert.table} ({', '.join(upsert.columns)}) VALUES {values} ON CONFLICT {conflict}"  # noqa: S608


_encoder = msgspec.json.Encoder()
_tenant_specs = msgspec.json.Decoder(TenantSpec)
_kernel_specs = msgspec.json.Decoder(KernelSpec)
_deaths = msgspec.json.Decoder(Death)
_endings = msgspec.json.Decoder(Ending)
_times = msgspec.json.Decoder(tuple[float, ...])
_data = msgspec.json.Decoder(dict[str, Any])


def _json(value: object) -> str:
    return _encoder.encode(value).decode()


def tenant_row(record: TenantRecord) -> Row:
    """For TENANTS."""
    return record.spec.id, _json(record.spec), record.created_at, record.uid


def to_tenant(row: Row) -> TenantRecord:
    """From TENANTS."""
    return TenantRecord(spec=_tenant_specs.decode(row[1]), created_at=row[2], uid=row[3])


def desired_row(kernel: Kernel) -> Row:
    """For KERNELS_DESIRED."""
    return kernel.spec.id, kernel.spec.tenant, _json(kernel.spec), kernel.is_wanted


def observed_row(kernel: Kernel) -> Row:
    """For KERNELS_OBSERVED."""
    return (
        kernel.spec.id,
        kernel.phase.value,
        kernel.incarnation,
        kernel.generation,
        kernel.pid,
        kernel.start_time,
        kernel.spawned_at,
        kernel.ready_at,
        kernel.started_at,
        _json(kernel.crashes),
        None if kernel.last_death is None else _json(kernel.last_death),
        None if kernel.ending is None else _json(kernel.ending),
        kernel.isolation_level,
    )


def to_kernel(row: Row) -> Kernel:
    """From SELECT_KERNELS."""
    return Kernel(
        spec=_kernel_specs.decode(row[0]),
        is_wanted=bool(row[1]),
        phase=Phase(row[2]),
        incarnation=row[3],
        generation=row[4],
        pid=row[5],
        start_time=row[6],
        spawned_at=row[7],
        ready_at=row[8],
        started_at=row[9],
        crashes=_times.decode(row[10]),
        last_death=None if row[11] is None else _deaths.decode(row[11]),
        ending=None if row[12] is None else _endings.decode(row[12]),
        isolation_level=row[13],
    )


def death_row(death: Death) -> Row:
    """For DEATHS."""
    return death.kernel_id, death.incarnation, death.at, _json(death)


def to_death(row: Row) -> Death:
    """From the column `certificate`."""
    return _deaths.decode(row[0])


def token_row(record: TokenRecord) -> Row:
    """For TOKENS."""
    return record.sha256, record.kind, record.tenant, record.created_at


def to_token(row: Row) -> TokenRecord:
    """From TOKENS."""
    return TokenRecord(sha256=row[0], kind=row[1], tenant=row[2], created_at=row[3])


def lease_row(lease: Lease) -> Row:
    """For LEASES."""
    lease.session.encode()  # a client chose it: half a surrogate pair cannot be stored
    return lease.id, lease.tenant, lease.session, lease.kernel_id, lease.expires_at


def to_lease(row: Row) -> Lease:
    """From LEASES."""
    return Lease(id=row[0], tenant=TenantId(row[1]), session=row[2], kernel_id=KernelId(row[3]), expires_at=row[4])


def event_row(event: Event) -> Row:
    """For EVENTS."""
    return event.seq, event.at, event.type, event.tenant, event.kernel_id, _json(event.data)


def to_event(row: Row) -> Event:
    """From EVENTS."""
    return Event(seq=row[0], at=row[1], type=row[2], tenant=row[3], kernel_id=row[4], data=_data.decode(row[5]))


def begun_row(execution: Execution) -> Row:
    """For EXECUTIONS."""
    return (
        execution.id,
        execution.tenant,
        execution.key,
        execution.sha256,
        execution.created_at,
        execution.status,
        execution.is_waited_for,
    )


def placed_row(placed: Placed) -> Row:
    """For the update that records where an execution is sent."""
    return placed.kernel_id, placed.incarnation, placed.after_ticket, placed.head, placed.id


def finished_row(finished: Finished) -> Row:
    """For the update that records an outcome."""
    outcome = finished.outcome
    return finished.status, finished.finished_at, finished.http_status, len(outcome), outcome, finished.id


def to_execution(row: Row) -> Execution:
    """From SELECT_EXECUTIONS."""
    return Execution(
        id=row[0],
        tenant=TenantId(row[1]),
        key=row[2],
        sha256=row[3],
        created_at=row[4],
        status=row[5],
        finished_at=row[6],
        http_status=row[7],
        outcome=row[8],
        is_waited_for=bool(row[9]),
        placed=None
        if row[10] is None
        else Placed(id=row[0], kernel_id=KernelId(row[10]), incarnation=row[11], after_ticket=row[12], head=row[13]),
    )
