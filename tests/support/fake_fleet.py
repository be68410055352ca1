"""A fleet in memory, behind a real HTTP server: for tests of the HTTP face alone."""

import asyncio
import contextlib
import tempfile
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import aiohttp
import msgspec

from llmspell_fleet.api import sockets
from llmspell_fleet.api.options import HttpOptions
from llmspell_fleet.api.server import HttpServer, serve_http
from llmspell_fleet.errors import (
    BadRequestError,
    ConflictError,
    KernelDiedError,
    NotFoundError,
    TooManyError,
    UnavailableError,
)
from llmspell_fleet.model.event import Event, EventType
from llmspell_fleet.model.ids import KernelId, TenantId
from llmspell_fleet.model.kernel import Death
from llmspell_fleet.model.labels import changed as changed_labels
from llmspell_fleet.model.plan import ApplyView, Change, Drift
from llmspell_fleet.model.requests import (
    ApplyRequest,
    DrainRequest,
    ExecuteRequest,
    ForwardedSignal,
    KernelRequest,
    LimitsChange,
    RollRequest,
    TenantChange,
    TenantRequest,
    UpgradeRequest,
)
from llmspell_fleet.model.tenant import Limits
from llmspell_fleet.model.views import (
    CheckView,
    ConnectionView,
    ErrorView,
    Executed,
    ExecuteView,
    ExecutionView,
    HealthView,
    KernelView,
    LeaseInfo,
    LogLine,
    ProcessView,
    RollView,
    TenantCreated,
    TenantView,
    TokenView,
    UpgradeView,
    Usage,
)
from llmspell_fleet.model.why import WhyView
from llmspell_fleet.policy.rolling import share
from llmspell_fleet.problems import problem_of
from support.homes import DEADLINE_S

AT = "2025-01-01T00:00:00.000000Z"
TOKENS = {"admin": "admin-token", "viewer": "viewer-token", "tenant": "acme-token", "other tenant": "globex-token"}


class Principal(msgspec.Struct, frozen=True):
    kind: Literal["admin", "viewer", "tenant"]
    tenant: TenantId | None = None


PRINCIPALS = {
    "admin-token": Principal("admin"),
    "viewer-token": Principal("viewer"),
    "acme-token": Principal("tenant", TenantId("acme")),
    "globex-token": Principal("tenant", TenantId("globex")),
}


class FakeMetrics:
    """Remembers what was reported."""

    def __init__(self) -> None:
        self.finished: list[tuple[str, str, int]] = []

    def render(self, accept: str) -> tuple[bytes, str]:
        kind = "application/openmetrics-text" if "openmetrics" in accept else "text/plain; version=0.0.4"
        return b"llmspell_up 1\n", kind

    def request_finished(self, route: str, method: str, status: int, seconds: float) -> None:
        assert seconds >= 0
        self.finished.append((route, method, status))


@dataclass
class FakeFleet:
    """Tenants acme and globex, with a kernel each. What code does is said by its first word: see `_run`."""

    is_ready: bool = True
    status: Literal["healthy", "degraded", "unhealthy"] = "healthy"
    may_go_on: asyncio.Event = field(default_factory=asyncio.Event)
    """Lets code "wait" end."""
    begun: list[str] = field(default_factory=list)
    executed: list[str] = field(default_factory=list)
    applied: list[ApplyRequest] = field(default_factory=list)
    streams: int = 0
    """Iterators that are open."""
    interrupted: list[KernelId] = field(default_factory=list)
    signalled: list[tuple[KernelId, ForwardedSignal]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._tenants: dict[TenantId, TenantView] = {}
        self._kernels: dict[KernelId, KernelView] = {}
        self._recorded: dict[str, Executed] = {}
        self._executions: dict[str, ExecutionView] = {}
        self._leases: dict[str, tuple[TenantId, ConnectionView]] = {}
        self._events: list[Event] = []
        self._logs: dict[KernelId, list[LogLine]] = {}
        self._news = asyncio.Condition()
        for name in ("acme", "globex"):
            self._make(TenantRequest(id=name))

    def _make(self, request: TenantRequest) -> TenantView:
        tenant = TenantId(request.id)
        view = TenantView(
            id=tenant,
            replicas=request.replicas,
            ready=request.replicas,
            strategy=request.strategy or "least_loaded",
            limits=(request.limits or LimitsChange()).applied_to(Limits()),
            isolation_level=request.isolation_level or "process",
            idle_timeout_s=request.idle_timeout_s,
            created_at=AT,
            kernels=[],
            labels=request.labels,
        )
        self._tenants[tenant] = view
        for _ in range(request.replicas):
            self._new_kernel(tenant)
        self._note("tenant.created", tenant)
        return self.tenant(tenant)

    def _new_kernel(self, tenant: TenantId) -> KernelView:
        kernel = KernelView(
            id=KernelId(str(uuid.uuid4())),
            name="",
            tenant=tenant,
            phase="READY",
            pid=1234,
            incarnation=1,
            started_at=AT,
            uptime_s=1.0,
            restarts=0,
            usage=Usage(),
            limits={},
            last_death=None,
            labels=self._tenants[tenant].labels,
        )
        self._kernels[kernel.id] = kernel
        self._logs[kernel.id] = [LogLine(seq=n, at=AT, text=text) for n, text in enumerate(("one", "a.b", "two"), 1)]
        return kernel

    def _note(self, type_: EventType, tenant: TenantId | None = None) -> None:
        self._events.append(Event(seq=len(self._events) + 1, at=AT, type=type_, tenant=tenant))

    # --- what tests say

    async def happen(self, type_: EventType = "fleet.reloaded", tenant: TenantId | None = None) -> None:
        async with self._news:
            self._note(type_, tenant)
            self._news.notify_all()

    async def write(self, kernel: KernelId, text: str) -> None:
        async with self._news:
            lines = self._logs[kernel]
            lines.append(LogLine(seq=len(lines) + 1, at=AT, text=text))
            self._news.notify_all()

    def kernel_of(self, tenant: str) -> KernelId:
        return self.kernels(TenantId(tenant))[0].id

    # --- the Protocol

    def health(self) -> HealthView:
        return HealthView(
            status=self.status,
            name="fleet",
            checks={"zygote": CheckView(status=self.status)},
            controller=ProcessView(pid=1, uptime_s=1.0),
            zygote=ProcessView(pid=2, uptime_s=1.0),
            counts={"READY": len(self._kernels)},
            version="0",
        )

    async def apply(self, request: ApplyRequest) -> ApplyView:
        """A configuration of "wrong" is refused; of "same" changes nothing."""
        self.applied.append(request)
        if request.config == "wrong":
            raise BadRequestError("fleet.toml: not TOML\nfleet.toml: and more")
        if request.config == "same":
            return ApplyView(dry_run=request.dry_run, changes=(), drift=())
        change = Change(target="tenant acme", key="replicas", before=1, after=3, how="live")
        gone = Change(target="tenant old", key="", before={"replicas": 1}, after=None, how="removed")
        later = Change(target="fleet", key="[fleet] port", before=1, after=2, how="restart")
        drift = Drift(target="tenant globex", key="labels.a", configured=None, found="b")
        changes = (later, change, gone) if request.prune else (later, change)
        return ApplyView(dry_run=request.dry_run, changes=changes, drift=(drift,))

    async def create_tenant(self, request: TenantRequest) -> TenantCreated:
        if request.id in self._tenants:
            raise ConflictError(f"there is a tenant {request.id!r} already")
        if request.replicas > 100:
            raise TooManyError("100 kernels are the most", retry_after_s=2.5)
        view = self._make(request)
        return TenantCreated(**msgspec.structs.asdict(view), token="token-of-" + request.id)

    def tenants(self) -> list[TenantView]:
        return [self.tenant(name) for name in sorted(self._tenants)]

    def tenant(self, tenant: TenantId) -> TenantView:
        if tenant not in self._tenants:
            raise NotFoundError(f"there is no tenant {tenant!r}")
        return msgspec.structs.replace(self._tenants[tenant], kernels=self.kernels(tenant))

    async def update_tenant(self, tenant: TenantId, change: TenantChange) -> TenantView:
        changed = self.tenant(tenant)
        if change.replicas is not None:
            changed = msgspec.structs.replace(changed, replicas=change.replicas, ready=change.replicas)
            for kernel in changed.kernels[change.replicas :]:
                del self._kernels[kernel.id]
            for _ in range(change.replicas - len(changed.kernels)):
                self._new_kernel(tenant)
        if change.labels is not None:
            changed = msgspec.structs.replace(changed, labels=changed_labels(changed.labels, change.labels))
        self._tenants[tenant] = changed
        return self.tenant(tenant)

    async def renew_token(self, tenant: TenantId) -> TokenView:
        return TokenView(tenant=self.tenant(tenant).id, token=f"another-of-{tenant}")

    async def restart_tenant(self, tenant: TenantId, request: RollRequest) -> RollView:
        """It ends at once unless a tenth of a second is too long to wait; with 9 that may be unavailable it fails."""
        size = len(self.kernels(tenant))
        self.tenant(tenant)
        roll = RollView(
            status="failed" if request.max_unavailable == 9 else "rolling" if request.wait_s == 0.1 else "done",
            reason="a kernel did not become ready" if request.max_unavailable == 9 else "",
            total=size,
            done=0 if request.max_unavailable == 9 else size,
            max_unavailable=share(request.max_unavailable, size, up=False),
            max_surge=share(request.max_surge, size, up=True),
            started_at=AT,
            finished_at=AT,
        )
        self._tenants[tenant] = msgspec.structs.replace(self.tenant(tenant), roll=roll)
        return roll

    async def upgrade(self, request: UpgradeRequest, connection: object) -> UpgradeView:
        """It becomes itself; with `wait_s` 0 it cannot."""
        assert connection is not None
        if request.wait_s == 0 and not request.force:
            raise ConflictError("1 requests still run after 0 s")
        return UpgradeView(from_version="1", to_version="2", adopted=3, kernels=4, pid=5)

    async def delete_tenant(self, tenant: TenantId) -> None:
        self.tenant(tenant)
        del self._tenants[tenant]

    def kernels(self, tenant: TenantId | None) -> list[KernelView]:
        return [kernel for kernel in self._kernels.values() if tenant in {None, kernel.tenant}]

    def kernel(self, kernel: KernelId, tenant: TenantId | None) -> KernelView:
        found = self._kernels.get(kernel)
        if found is None or tenant not in {None, found.tenant}:
            raise NotFoundError(f"there is no kernel {kernel!r}")
        return found

    async def why(self, kernel: KernelId, tenant: TenantId | None) -> WhyView:
        found = self.kernel(kernel, tenant)
        return WhyView(
            kernel_id=kernel,
            name=found.name,
            tenant=found.tenant,
            phase=found.phase,
            summary="It is ready.",
            because=[],
            next=[],
            deaths=[],
        )

    async def create_kernel(self, request: KernelRequest) -> KernelView:
        self.tenant(request.tenant)
        return self._new_kernel(request.tenant)

    async def delete_kernel(self, kernel: KernelId, tenant: TenantId | None) -> None:
        del self._kernels[self.kernel(kernel, tenant).id]

    async def interrupt_kernel(self, kernel: KernelId, tenant: TenantId | None) -> None:
        self.interrupted.append(self.kernel(kernel, tenant).id)

    def signal_kernel(self, kernel: KernelId, tenant: TenantId | None, name: ForwardedSignal) -> None:
        self.signalled.append((self.kernel(kernel, tenant).id, name))

    def signal_tenant(self, tenant: TenantId, name: ForwardedSignal) -> None:
        self.signalled += [(kernel.id, name) for kernel in self.tenant(tenant).kernels]

    def signal_all(self, name: ForwardedSignal) -> None:
        self.signalled += [(kernel.id, name) for kernel in self.kernels(None)]

    async def drain_kernel(self, kernel: KernelId, tenant: TenantId | None, request: DrainRequest) -> KernelView:
        """With no time to wait it is not over yet."""
        found = self.kernel(kernel, tenant)
        if request.restart:
            return await self.restart_kernel(kernel, tenant)
        phase = "DRAINING" if request.wait_s == 0 else "STOPPED"
        self._kernels[kernel] = msgspec.structs.replace(found, phase=phase)
        return self._kernels[kernel]

    async def drain_tenant(self, tenant: TenantId, request: DrainRequest) -> TenantView:
        for kernel in self.tenant(tenant).kernels:
            await self.drain_kernel(kernel.id, tenant, request)
        return self.tenant(tenant)

    async def drain_all(self, request: DrainRequest) -> list[TenantView]:
        return [await self.drain_tenant(tenant, request) for tenant in sorted(self._tenants)]

    async def restart_kernel(self, kernel: KernelId, tenant: TenantId | None) -> KernelView:
        restarted = msgspec.structs.replace(self.kernel(kernel, tenant), restarts=1, incarnation=2)
        self._kernels[kernel] = restarted
        return restarted

    async def execute(self, tenant: TenantId, request: ExecuteRequest, *, key: str | None) -> Executed:
        if key is not None and (recorded := self._recorded.get(key)) is not None:
            return msgspec.structs.replace(recorded, is_replayed=True)
        try:
            executed = Executed(200, msgspec.json.encode(await self._run(tenant, request)))
        except KernelDiedError as error:
            if key is None:
                raise
            executed = Executed(error.status, msgspec.json.encode(problem_of(error)))
        if key is not None:
            self._recorded[key] = executed
        return executed

    async def _run(self, tenant: TenantId, request: ExecuteRequest) -> ExecuteView:
        kernel = self.tenant(tenant).kernels[0]
        word, _, rest = request.code.partition(" ")
        self.begun.append(request.code)
        if word == "wait":
            await self.may_go_on.wait()
        if word == "die":
            death = Death(
                kernel_id=kernel.id, tenant=tenant, incarnation=1, pid=1234, at=AT, cause="signal", signal="SIGKILL"
            )
            raise KernelDiedError("the kernel died while it ran this", death)
        if word == "busy":
            raise UnavailableError("no kernel is READY", retry_after_s=0.2)
        if word == "fault":
            raise ZeroDivisionError("a fault with a secret in it")
        self.executed.append(request.code)
        return ExecuteView(
            kernel_id=kernel.id,
            session=request.session or "s",
            status="error" if word == "error" else "ok",
            execution_count=1,
            stdout="x" * int(rest) if word == "print" else "",
            stderr="",
            result=None,
            data=None,
            error=ErrorView(name="Error", message="no", traceback=[]) if word == "error" else None,
            duration_s=0.001,
        )

    async def execute_stream(self, tenant: TenantId, request: ExecuteRequest) -> AsyncIterator[tuple[str, bytes]]:
        self.tenant(tenant)
        self.streams += 1
        try:
            if request.code == "busy":
                raise UnavailableError("no kernel is READY")
            yield "output", b'{"name":"stdout","text":"first"}'
            for n in range(int(request.code.partition(" ")[2] or 0)):
                yield "output", b'{"name":"stdout","text":"%06d%b"}' % (n, b"x" * 1000)
            try:
                yield "result", msgspec.json.encode(await self._run(tenant, request))
            except KernelDiedError as error:
                yield "problem", msgspec.json.encode(problem_of(error))
        finally:
            self.streams -= 1

    async def start_execution(self, tenant: TenantId, request: ExecuteRequest, *, key: str | None) -> ExecutionView:
        executed = await self.execute(tenant, request, key=key)
        view = ExecutionView(
            id=f"e{len(self._executions)}",
            status="done",
            created_at=AT,
            finished_at=AT,
            http_status=executed.status,
            outcome=msgspec.Raw(executed.body),
        )
        self._executions[f"{tenant}/{view.id}"] = view
        return view

    async def execution(self, tenant: TenantId, execution: str) -> ExecutionView:
        if (found := self._executions.get(f"{tenant}/{execution}")) is None:
            raise NotFoundError(f"there is no execution {execution!r}")
        return found

    async def lease(self, tenant: TenantId, session: str | None) -> ConnectionView:
        view = ConnectionView(
            kernel_id=self.tenant(tenant).kernels[0].id,
            session=session or "s",
            lease=LeaseInfo(id=f"l{len(self._leases)}", expires_at=AT),
            connection={"key": "k"},
        )
        self._leases[view.lease.id] = (tenant, view)
        return view

    def renew_lease(self, lease: str, tenant: TenantId | None, ttl_s: float | None) -> ConnectionView:
        assert ttl_s is None or ttl_s > 0
        owner, view = self._leases.get(lease, (None, None))
        if view is None or tenant not in {None, owner}:
            raise NotFoundError(f"there is no lease {lease!r}")
        return view

    def end_lease(self, lease: str, tenant: TenantId | None) -> None:
        self.renew_lease(lease, tenant, None)
        del self._leases[lease]

    def logs(self, kernel: KernelId, tenant: TenantId | None, *, since: int) -> Sequence[LogLine]:
        return self._logs[self.kernel(kernel, tenant).id][since:]

    def follow_logs(self, kernel: KernelId, tenant: TenantId | None, *, since: int) -> AsyncIterator[LogLine]:
        return self._follow(lambda after: self.logs(kernel, tenant, since=after), since)

    async def events(self, tenant: TenantId | None, *, since: int, limit: int) -> Sequence[Event]:
        return self._events_of(tenant, since, limit)

    def follow_events(self, tenant: TenantId | None, *, since: int) -> AsyncIterator[Event]:
        return self._follow(lambda after: self._events_of(tenant, after, 10_000), since)

    def _events_of(self, tenant: TenantId | None, since: int, limit: int) -> Sequence[Event]:
        return [one for one in self._events[since:] if tenant in {None, one.tenant}][:limit]

    async def _follow(self, after: Callable[[int], Sequence[Any]], since: int) -> AsyncIterator[Any]:
        self.streams += 1
        try:
            while True:
                async with self._news:
                    while not (items := after(since)):
                        await self._news.wait()
                for item in items:
                    since = item.seq
                    yield item
        finally:
            self.streams -= 1


@dataclass
class Site:
    """A served fleet, and a client of it."""

    fleet: FakeFleet
    metrics: FakeMetrics
    server: HttpServer
    client: aiohttp.ClientSession
    socket: Path

    @property
    def port(self) -> int:
        return int(self.server.url.rpartition(":")[2])

    async def ask(
        self,
        method: str,
        path: str,
        *,
        who: str | None = "admin",
        headers: dict[str, str] | None = None,
        **further: Any,
    ) -> "Reply":
        """One request; a body is given as `json` or `data`."""
        headers = dict(headers or {})
        if who is not None:
            headers.setdefault("Authorization", f"Bearer {TOKENS.get(who, who)}")
        async with self.client.request(method, self.server.url + path, headers=headers, **further) as response:
            return Reply(response.status, dict(response.headers), await response.read())

    async def raw(self, sent: bytes) -> bytes:
        """What comes back, until the server closes, for bytes as they are."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            writer.write(sent)
            async with asyncio.timeout(DEADLINE_S):
                return await reader.read()
        finally:
            writer.close()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()


@dataclass(frozen=True)
class Reply:
    """An answer, read to its end."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def detail(self) -> str:
        """What a problem document says; fails when this is none."""
        assert self.headers["Content-Type"] == "application/problem+json"
        document = self.json
        assert document["status"] == self.status
        assert document["type"].startswith("urn:llmspell:problem:")
        assert document["title"]
        return str(document["detail"])


async def until(condition: Callable[[], object], what: str) -> None:
    """Return once `condition` holds, while the event loop goes on."""
    give_up_at = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < give_up_at, f"not within {DEADLINE_S:g} s: {what}"
        await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def serving(**options: Any) -> AsyncIterator[Site]:
    """A fake fleet, served on a free port and a unix socket."""
    with tempfile.TemporaryDirectory(prefix="ls-") as folder:
        path = Path(folder) / "fleet.sock"
        fleet, metrics = FakeFleet(), FakeMetrics()
        settings = HttpOptions(socket=str(path), version="1.2.3", **options)
        server = await serve_http(fleet, PRINCIPALS.get, metrics, settings, *sockets.take("127.0.0.1", 0, str(path)))
        try:
            async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=30)) as client:
                yield Site(fleet, metrics, server, client, path)
        finally:
            await server.close()
