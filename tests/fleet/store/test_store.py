"""What the controller notes is there for the next one: rows, certificates, events, in whatever order it came."""

import asyncio
import contextlib
import string
import tempfile
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmspell_fleet.errors import StoreError
from llmspell_fleet.model.event import Event
from llmspell_fleet.model.ids import KernelId, TenantId
from llmspell_fleet.model.kernel import Death, Kernel, KernelSpec, Phase
from llmspell_fleet.model.tenant import TenantSpec
from llmspell_fleet.store import store as store_module
from llmspell_fleet.store.batch import Batch
from llmspell_fleet.store.records import Lease, TenantRecord, TokenRecord
from llmspell_fleet.store.store import Store

NOW = "2031-04-05T06:07:08.000009Z"
A, B = TenantId("a"), TenantId("b")


def tenant(name: TenantId, *, replicas: int = 1) -> TenantRecord:
    return TenantRecord(spec=TenantSpec(id=name, replicas=replicas), created_at=NOW)


def kernel(kernel_id: KernelId, owner: TenantId = A, *, incarnation: int = 1) -> Kernel:
    return Kernel(spec=KernelSpec(id=kernel_id, tenant=owner), phase=Phase.READY, incarnation=incarnation)


def death(kernel_id: KernelId, incarnation: int, owner: TenantId = A) -> Death:
    return Death(
        kernel_id=kernel_id, tenant=owner, incarnation=incarnation, pid=7, at=NOW, cause="signal", signal="SIGKILL"
    )


def event(seq: int, owner: TenantId | None = None) -> Event:
    return Event(seq=seq, at=NOW, type="kernel.ready", tenant=owner, data={"seq": seq})


def new_id() -> KernelId:
    return KernelId(str(uuid4()))


@contextlib.asynccontextmanager
async def opened(path: Path, *, max_events: int = 100_000) -> AsyncIterator[Store]:
    store = Store.open(str(path), max_events=max_events)
    try:
        yield store
    finally:
        store.close()


# --- rows


@pytest.mark.asyncio
async def test_what_is_flushed_is_there_though_the_store_was_never_closed(path: Path) -> None:
    one = kernel(new_id())
    async with opened(path) as store:
        store.save_kernel(one)
        await store.flush()

        copy = path.parent / "copy.db"
        for suffix in ("", "-wal"):
            copy.with_name(f"copy.db{suffix}").write_bytes(path.with_name(f"fleet.db{suffix}").read_bytes())
            copy.with_name(f"copy.db{suffix}").chmod(0o600)
    async with opened(copy) as store:
        assert store.load().kernels == [one]


@pytest.mark.asyncio
async def test_what_is_noted_is_written_although_nobody_flushes(path: Path, store: Store) -> None:
    store.save_kernel(one := kernel(new_id()))

    async with asyncio.timeout(20):
        while not store.load().kernels:  # noqa: ASYNC110  another thread tells nobody of it
            await asyncio.sleep(0)

    assert store.load().kernels == [one]


def test_without_a_loop_it_is_written_too(path: Path, store: Store) -> None:
    store.save_kernel(one := kernel(new_id()))

    assert store.load().kernels == [one]


@pytest.mark.asyncio
async def test_a_flush_with_nothing_to_write_returns(store: Store) -> None:
    await store.flush()
    await store.flush()


@pytest.mark.asyncio
async def test_the_last_word_counts(path: Path) -> None:
    first, second = new_id(), new_id()
    async with opened(path) as store:
        for incarnation in range(1, 100):
            store.save_kernel(kernel(first, incarnation=incarnation))
        await store.flush()
        store.save_kernel(kernel(second))
        store.delete_kernel(first)
        store.save_lease(Lease(id="l", tenant=A, session="s", kernel_id=second, expires_at="x"))
        store.save_lease(Lease(id="l", tenant=A, session="s", kernel_id=second, expires_at="y"))
        store.save_token(TokenRecord(sha256="0" * 64, kind="admin", tenant=None, created_at=NOW))
        store.delete_token("0" * 64)
    async with opened(path) as store:
        loaded = store.load()

    assert [found.id for found in loaded.kernels] == [second]
    assert [lease.expires_at for lease in loaded.leases] == ["y"]
    assert loaded.tokens == []


@pytest.mark.asyncio
async def test_a_tenant_goes_with_all_that_is_its_own_and_nothing_else(path: Path) -> None:
    gone, kept = new_id(), new_id()
    async with opened(path) as store:
        for owner, kernel_id in ((A, gone), (B, kept)):
            store.save_tenant(tenant(owner))
            store.save_kernel(kernel(kernel_id, owner))
            store.record_death(death(kernel_id, 1, owner))
            store.save_lease(Lease(id=f"lease-{owner}", tenant=owner, session="s", kernel_id=kernel_id, expires_at="x"))
            store.save_token(TokenRecord(sha256=owner * 64, kind="tenant", tenant=owner, created_at=NOW))
        await store.flush()

        store.delete_tenant(A)
        await store.flush()
        loaded = store.load()

        assert [row.spec.id for row in loaded.tenants] == [B]
        assert [row.id for row in loaded.kernels] == [kept]
        assert [row.tenant for row in loaded.leases] == [B]
        assert [row.tenant for row in loaded.tokens] == [B]
        assert await store.deaths(gone) == []
        assert await store.deaths(kept) == [death(kept, 1, B)]


@pytest.mark.asyncio
async def test_the_certificates_of_a_deleted_kernel_go_and_late_ones_are_not_kept(store: Store) -> None:
    one = new_id()
    store.save_kernel(kernel(one))
    store.record_death(death(one, 1))
    await store.flush()

    store.delete_kernel(one)
    store.record_death(death(one, 2))

    assert await store.deaths(one) == []


@pytest.mark.asyncio
async def test_the_last_20_certificates_of_each_kernel_are_kept_however_they_come(store: Store) -> None:
    one, other = new_id(), new_id()
    store.save_kernel(kernel(one))
    store.save_kernel(kernel(other))
    for incarnation in range(1, 101):
        store.record_death(death(one, incarnation))
        if incarnation % 7 == 0:
            store.record_death(death(other, incarnation))
            await store.flush()

    assert [row.incarnation for row in await store.deaths(one)] == list(range(81, 101))
    assert [row.incarnation for row in await store.deaths(other)] == list(range(7, 101, 7))


# --- any order of changes, cut anywhere into commits

_IDS = [KernelId(str(UUID(int=number))) for number in range(3)]
_CHANGES = st.one_of(
    st.tuples(st.just("save tenant"), st.sampled_from([A, B]), st.integers(0, 3)),
    st.tuples(st.just("delete tenant"), st.sampled_from([A, B]), st.none()),
    st.tuples(st.just("save kernel"), st.sampled_from(_IDS), st.tuples(st.sampled_from([A, B]), st.integers(0, 3))),
    st.tuples(st.just("delete kernel"), st.sampled_from(_IDS), st.none()),
    st.tuples(st.just("save lease"), st.sampled_from(string.ascii_lowercase[:2]), st.sampled_from([A, B])),
    st.tuples(st.just("delete lease"), st.sampled_from(string.ascii_lowercase[:2]), st.none()),
    st.tuples(st.just("flush"), st.none(), st.none()),
)


class _Model:
    """What should be in the tables, by the plainest means."""

    def __init__(self) -> None:
        self.tenants: dict[str, TenantRecord] = {}
        self.kernels: dict[str, Kernel] = {}
        self.leases: dict[str, Lease] = {}

    def delete_tenant(self, name: TenantId) -> None:
        # What is of a tenant that was never saved is nobody's to delete: the controller saves the tenant first.
        self.tenants.pop(name)
        self.kernels = {key: row for key, row in self.kernels.items() if row.spec.tenant != name}
        self.leases = {key: row for key, row in self.leases.items() if row.tenant != name}


def _apply(store: Any, model: _Model, what: str, key: Any, value: Any) -> None:
    match what:
        case "save tenant":
            model.tenants[key] = tenant(key, replicas=value)
            store.save_tenant(model.tenants[key])
        case "delete tenant" if key in model.tenants:
            model.delete_tenant(key)
            store.delete_tenant(key)
        case "save kernel" if value[0] in model.tenants:
            known = model.kernels.get(key)
            owner = value[0] if known is None else known.spec.tenant
            model.kernels[key] = kernel(key, owner, incarnation=value[1])
            store.save_kernel(model.kernels[key])
        case "delete kernel":
            model.kernels.pop(key, None)
            store.delete_kernel(key)
        case "save lease" if value in model.tenants and key not in model.leases:
            model.leases[key] = Lease(id=key, tenant=value, session="s", kernel_id=_IDS[0], expires_at=NOW)
            store.save_lease(model.leases[key])
        case "delete lease":
            model.leases.pop(key, None)
            store.delete_lease(key)


@settings(max_examples=100)
@given(st.lists(_CHANGES, max_size=40))
def test_any_order_of_changes_comes_to_the_same_however_it_is_cut_into_commits(changes: list[Any]) -> None:
    async def run(store: Store, model: _Model) -> None:
        for what, key, value in changes:
            if what == "flush":
                await store.flush()
            else:
                _apply(store, model, what, key, value)
        await store.flush()

    model = _Model()
    with tempfile.TemporaryDirectory() as directory:
        store = Store.open(str(Path(directory) / "fleet.db"))
        try:
            asyncio.run(run(store, model))
            loaded = store.load()
        finally:
            store.close()

    assert {row.spec.id: row for row in loaded.tenants} == model.tenants
    assert {row.id: row for row in loaded.kernels} == model.kernels
    assert {row.id: row for row in loaded.leases} == model.leases


class _Noted:
    """A batch with the store's names."""

    def __init__(self) -> None:
        self.batch = Batch()

    def save_tenant(self, record: TenantRecord) -> None:
        self.batch.tenants[record.spec.id] = record

    def delete_tenant(self, name: TenantId) -> None:
        self.batch.delete_tenant(name, last_event=0)

    def save_kernel(self, record: Kernel) -> None:
        self.batch.kernels[record.id] = record

    def delete_kernel(self, kernel_id: KernelId) -> None:
        self.batch.delete_kernel(kernel_id)

    def save_lease(self, lease: Lease) -> None:
        self.batch.leases[lease.id] = lease

    def delete_lease(self, lease: str) -> None:
        self.batch.leases[lease] = None


@given(st.lists(_CHANGES, max_size=40), st.integers(0, 40))
def test_two_batches_merged_are_the_batch_of_both(changes: list[Any], cut: int) -> None:
    model = _Model()
    whole, older, newer = _Noted(), _Noted(), _Noted()
    for number, (what, key, value) in enumerate(changes):
        before = _Model()
        before.tenants, before.kernels, before.leases = dict(model.tenants), dict(model.kernels), dict(model.leases)
        _apply(whole, model, what, key, value)
        _apply(older if number < cut else newer, before, what, key, value)

    older.batch.merge(newer.batch)

    for name in ("deleted_tenants", "tenants", "kernels", "leases"):
        assert getattr(older.batch, name) == getattr(whole.batch, name), name


# --- events


@pytest.mark.asyncio
async def test_events_are_read_in_pieces_and_by_tenant(store: Store) -> None:
    for seq in range(1, 101):
        store.record_event(event(seq, [None, A, B][seq % 3]))

    assert [row.seq for row in await store.recent_events(since=0, limit=1000, tenant=None)] == list(range(1, 101))
    assert [row.seq for row in await store.recent_events(since=40, limit=5, tenant=None)] == [41, 42, 43, 44, 45]
    assert [row.seq for row in await store.recent_events(since=40, limit=3, tenant=A)] == [43, 46, 49]
    assert await store.recent_events(since=100, limit=5, tenant=None) == []


@pytest.mark.asyncio
async def test_a_tenant_does_not_see_the_events_of_an_earlier_one_of_its_name(path: Path) -> None:
    async with opened(path) as store:
        store.save_tenant(tenant(A))
        store.record_event(event(1, A))
        store.record_event(event(2, A))
        store.delete_tenant(A)
        store.save_tenant(tenant(A))
        store.record_event(event(3, A))
    async with opened(path) as store:
        assert [row.seq for row in await store.recent_events(since=0, limit=9, tenant=A)] == [3]
        assert [row.seq for row in await store.recent_events(since=0, limit=9, tenant=None)] == [1, 2, 3]


@pytest.mark.asyncio
@pytest.mark.parametrize(("max_events", "at_once"), [(100, 1), (100, 7), (100, 1000), (5, 1), (2000, 5000)])
async def test_events_are_bounded_and_the_newest_stay(path: Path, max_events: int, at_once: int) -> None:
    last = max(3 * max_events, 3 * at_once)
    async with opened(path, max_events=max_events) as store:
        for seq in range(1, last + 1):
            store.record_event(event(seq))
            if seq % at_once == 0:
                await store.flush()
        kept = [row.seq for row in await store.recent_events(since=0, limit=100_000, tenant=None)]

    assert kept[-1] == last
    assert max_events <= len(kept) <= max_events * 1.1 + 1
    assert kept == list(range(kept[0], last + 1))


@pytest.mark.asyncio
async def test_what_is_past_of_a_tenant_is_forgotten_with_its_events(path: Path) -> None:
    async with opened(path, max_events=10) as store:
        store.delete_tenant(A)
        for seq in range(1, 100):
            store.record_event(event(seq, A))

        assert len(await store.recent_events(since=0, limit=100, tenant=A)) >= 10
        count = store._read_now(lambda connection: connection.execute("SELECT count(*) FROM past_tenants").fetchone())

    assert count == (0,)


@pytest.mark.asyncio
async def test_numbers_of_events_go_on_after_a_proper_end(path: Path) -> None:
    async with opened(path) as store:
        assert store.load().next_event_seq == 1
        store.record_event(event(1))
        store.record_event(event(2))
    async with opened(path) as store:
        assert store.load().next_event_seq == 3
    async with opened(path) as store:
        assert store.load().next_event_seq == 3


@pytest.mark.asyncio
async def test_events_beyond_the_bound_are_dropped_and_counted_and_state_is_not(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "MAX_WAITING_EVENTS", 10)
    async with opened(path) as store:
        entered, leave = threading.Event(), threading.Event()
        store._ask(lambda _: (entered.set(), leave.wait(20)))
        assert entered.wait(20)
        for seq in range(1, 31):
            store.record_event(event(seq))
            store.save_kernel(kernel(new_id()))
        leave.set()
        await store.flush()

        assert store.dropped_events == 20
        assert [row.seq for row in await store.recent_events(since=0, limit=99, tenant=None)] == list(range(1, 11))
        assert len(store.load().kernels) == 30


@pytest.mark.asyncio
async def test_a_record_that_cannot_be_written_is_told_and_the_others_are(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    store.record_event(event(1))
    store.record_event(Event(seq=2, at=NOW, type="kernel.ready", data={"what": object()}))
    store.record_event(event(3))
    store.save_lease(Lease(id="l", tenant=A, session="\ud800", kernel_id=_IDS[0], expires_at=NOW))
    store.save_kernel(kernel(_IDS[0]))
    await store.flush()

    assert [row.seq for row in await store.recent_events(since=0, limit=9, tenant=None)] == [1, 3]
    assert len(store.load().kernels) == 1
    assert [record.getMessage() for record in caplog.records] == [
        "a record cannot be written into leases and is left out",
        "a record cannot be written into events and is left out",
    ]


# --- the end


def test_closing_commits_what_waits(path: Path) -> None:
    kernels = [kernel(new_id()) for _ in range(500)]
    store = Store.open(str(path))
    for one in kernels:
        store.save_kernel(one)
    store.close()

    store = Store.open(str(path))
    found = store.load().kernels
    store.close()
    assert found == sorted(kernels, key=lambda one: one.id)


@pytest.mark.asyncio
async def test_who_waits_for_a_commit_when_it_is_closed_gets_it(path: Path) -> None:
    store = Store.open(str(path))
    store.save_kernel(kernel(new_id()))
    flush = asyncio.ensure_future(store.flush())
    await asyncio.sleep(0)
    store.close()

    await flush


@pytest.mark.asyncio
async def test_after_closing_nothing_is_taken(path: Path) -> None:
    store = Store.open(str(path))
    store.close()

    with pytest.raises(StoreError, match="the store is closed"):
        store.save_kernel(kernel(new_id()))
    with pytest.raises(StoreError, match="the store is closed"):
        await store.flush()
    with pytest.raises(StoreError, match="the store is closed"):
        await store.deaths(new_id())


def test_its_thread_ends_with_it(path: Path) -> None:
    before = threading.active_count()

    Store.open(str(path)).close()

    assert threading.active_count() == before
