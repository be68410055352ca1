"""Whatever is saved is what is loaded by the next controller."""

import asyncio
import string
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from llmspell_fleet.model.event import Event, EventType
from llmspell_fleet.model.ids import KernelId, TenantId
from llmspell_fleet.model.kernel import Cause, Death, Ending, Kernel, KernelSpec, Phase, Rung, RunningExecution
from llmspell_fleet.model.tenant import Limits, TenantSpec
from llmspell_fleet.store.records import Lease, TenantRecord, TokenRecord
from llmspell_fleet.store.store import Store

_COUNTS = st.integers(0, 2**31 - 1)
_TIMES = st.floats(0, 1e9)
_TEXTS = st.text(max_size=40)
_DATES = st.datetimes().map(lambda at: f"{at.isoformat(timespec='microseconds')}Z")
_KERNEL_IDS = st.uuids().map(lambda value: KernelId(str(value)))
_TENANTS = st.text(string.ascii_lowercase + string.digits + "_-", min_size=1, max_size=63).map(
    lambda t: TenantId(f"t{t}"[:63])
)

limits = st.builds(
    Limits,
    memory_bytes=st.integers(0, 2**50),
    cpu_percent=st.floats(0, 100_000),
    execution_timeout_s=_TIMES,
    max_clients=st.integers(1, 100_000),
)
tenant_specs = st.builds(
    TenantSpec,
    id=_TENANTS,
    replicas=_COUNTS,
    strategy=st.sampled_from(["round_robin", "least_loaded", "sticky"]),
    limits=limits,
    isolation_level=st.sampled_from(["none", "process", "strict"]),
    idle_timeout_s=_TIMES,
)
kernel_specs = st.builds(
    KernelSpec,
    id=_KERNEL_IDS,
    tenant=_TENANTS,
    name=_TEXTS,
    limits=limits,
    isolation_level=st.sampled_from(["none", "process", "strict"]),
    idle_timeout_s=_TIMES,
    spawner=st.sampled_from(["zygote", "subprocess"]),
    port=st.none() | st.integers(0, 65535),
    log_file=st.none() | _TEXTS,
    pid_file=st.none() | _TEXTS,
)
deaths = st.builds(
    Death,
    kernel_id=_KERNEL_IDS,
    tenant=_TENANTS,
    incarnation=_COUNTS,
    pid=st.none() | _COUNTS,
    at=_DATES,
    cause=st.sampled_from(Cause.__args__),
    exit_code=st.none() | st.integers(-64, 255),
    signal=st.none() | st.just("SIGKILL"),
    detail=_TEXTS,
    uptime_s=_TIMES,
    executions=st.lists(st.builds(RunningExecution, id=_TEXTS, sha256=_TEXTS, running_s=_TIMES), max_size=3).map(tuple),
    stderr=st.lists(_TEXTS, max_size=20).map(tuple),
)
kernels = st.builds(
    Kernel,
    spec=kernel_specs,
    phase=st.sampled_from(Phase),
    is_wanted=st.booleans(),
    incarnation=_COUNTS,
    generation=_COUNTS,
    pid=st.none() | _COUNTS,
    start_time=st.none() | st.integers(0, 2**63 - 1),
    spawned_at=_TIMES,
    ready_at=_TIMES,
    started_at=_DATES | st.just(""),
    crashes=st.lists(_TIMES, max_size=5).map(tuple),
    last_death=st.none() | deaths,
    ending=st.none()
    | st.builds(
        Ending,
        cause=st.sampled_from(Cause.__args__),
        restarts=st.booleans(),
        detail=_TEXTS,
        step=st.none() | st.sampled_from(Rung.__args__),
    ),
    isolation_level=st.sampled_from([None, "none", "process", "strict"]),
)
events = st.builds(
    Event,
    seq=st.integers(1, 1000),
    at=_DATES,
    type=st.sampled_from(EventType.__args__),
    tenant=st.none() | _TENANTS,
    kernel_id=st.none() | _KERNEL_IDS,
    data=st.dictionaries(_TEXTS, st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | _TEXTS, max_size=3),
)
sha256s = st.binary(min_size=32, max_size=32).map(bytes.hex)
tokens = st.builds(
    TokenRecord,
    sha256=sha256s,
    kind=st.sampled_from(["admin", "viewer", "tenant"]),
    tenant=st.none() | _TENANTS,
    created_at=_DATES,
)
leases = st.builds(Lease, id=_TEXTS, tenant=_TENANTS, session=_TEXTS, kernel_id=_KERNEL_IDS, expires_at=_DATES)
tenants = st.builds(TenantRecord, spec=tenant_specs, created_at=_DATES, uid=st.none() | st.integers(1, 2**32 - 2))


def _by(records: list[Any], key: str) -> dict[Any, Any]:
    """The last of each key, as a table keeps it."""
    return {getattr(record, key): record for record in records}


@settings(max_examples=60)
@given(
    kernels=st.lists(kernels, max_size=40),
    tenants=st.lists(tenants, max_size=5),
    tokens=st.lists(tokens, max_size=5),
    leases=st.lists(leases, max_size=5),
    events=st.lists(events, max_size=40, unique_by=lambda event: event.seq),
)
def test_any_record_survives_saving_and_loading(
    kernels: list[Kernel],
    tenants: list[TenantRecord],
    tokens: list[TokenRecord],
    leases: list[Lease],
    events: list[Event],
) -> None:
    events.sort(key=lambda event: event.seq)
    with tempfile.TemporaryDirectory() as directory:
        path = str(Path(directory) / "fleet.db")
        store = Store.open(path)
        for kernel in kernels:
            store.save_kernel(kernel)
        for tenant in tenants:
            store.save_tenant(tenant)
        for token in tokens:
            store.save_token(token)
        for lease in leases:
            store.save_lease(lease)
        for event in events:
            store.record_event(event)
        store.close()

        store = Store.open(path)
        loaded = store.load()
        recent = asyncio.run(store.recent_events(since=0, limit=1000, tenant=None))
        store.close()

    assert _by(loaded.kernels, "id") == _by(kernels, "id")
    assert {row.spec.id: row for row in loaded.tenants} == {row.spec.id: row for row in tenants}
    assert _by(loaded.tokens, "sha256") == _by(tokens, "sha256")
    assert _by(loaded.leases, "id") == _by(leases, "id")
    assert recent == events
    assert loaded.next_event_seq == (events[-1].seq + 1 if events else 1)


@settings(max_examples=30)
@given(kernel=kernels, found=st.lists(deaths, max_size=30))
def test_any_certificate_survives_and_the_last_20_are_kept(kernel: Kernel, found: list[Death]) -> None:
    found = [type(death)(**{**_fields(death), "kernel_id": kernel.id}) for death in found]
    with tempfile.TemporaryDirectory() as directory:
        path = str(Path(directory) / "fleet.db")
        store = Store.open(path)
        store.save_kernel(kernel)
        for death in found:
            store.record_death(death)
        store.close()

        store = Store.open(path)
        kept = asyncio.run(store.deaths(kernel.id))
        store.close()

    assert kept == found[-20:]


def _fields(death: Death) -> dict[str, Any]:
    return {name: getattr(death, name) for name in death.__struct_fields__}
