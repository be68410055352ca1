"""The fleet as the HTTP face asks for it: `api.fleet.Fleet`, put together from the controller's parts."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import msgspec

from llmspell_fleet.controller.kernels.entry import Entry
from llmspell_fleet.controller.requests.pools import Pools
from llmspell_fleet.controller.work import streaming
from llmspell_fleet.errors import UnavailableError
from llmspell_fleet.model.event import Event
from llmspell_fleet.model.ids import KernelId, TenantId
from llmspell_fleet.model.requests import ExecuteRequest, UpgradeRequest
from llmspell_fleet.model.views import (
    ConnectionView,
    Executed,
    ExecutionView,
    LeaseInfo,
    LogLine,
    UpgradeView,
)
from llmspell_fleet.model.why import WhyView
from llmspell_fleet.store.records import Lease


class Service(Pools):
    """The rest of `api.fleet.Fleet`: executions, leases, and what happened."""

    on_upgrade: Callable[[UpgradeRequest, object], Awaitable[UpgradeView]] | None = None
    """Replaces this process's code; set by whoever owns the process."""

    async def upgrade(self, request: UpgradeRequest, connection: object) -> UpgradeView:
        """Become the code that is installed now (Fleet)."""
        if self.on_upgrade is None:
            raise UnavailableError("the fleet is about to start, or to end")
        return await self.on_upgrade(request, connection)

    # --- executions

    async def execute(self, tenant: TenantId, request: ExecuteRequest, *, key: str | None) -> Executed:
        """Run code (Fleet)."""
        found = self._of.tenants.get(tenant)
        if key is not None:
            return await self._of.recorded.execute(found, request, key)
        executions = self._of.executions
        executions.reserve(found)
        try:
            return Executed(200, await executions.run(found, request))
        finally:
            executions.release(found)

    def execute_stream(self, tenant: TenantId, request: ExecuteRequest) -> AsyncIterator[tuple[str, bytes]]:
        """Run code, and tell what it prints (Fleet)."""
        return streaming.stream(self._of.executions, self._of.tenants.get(tenant), request, self._of.background)

    async def start_execution(self, tenant: TenantId, request: ExecuteRequest, *, key: str | None) -> ExecutionView:
        """Run code later (Fleet)."""
        return await self._of.recorded.start(self._of.tenants.get(tenant), request, key)

    async def execution(self, tenant: TenantId, execution: str) -> ExecutionView:
        """What that came to (Fleet)."""
        self._of.tenants.get(tenant)
        return await self._of.recorded.show(tenant, execution)

    # --- leases

    async def lease(self, tenant: TenantId, session: str | None) -> ConnectionView:
        """Lend a kernel (Fleet)."""
        found = self._of.tenants.get(tenant)
        if session is not None:
            self._of.ended.check_session(tenant, session)
        limit_s = found.spec.limits.execution_timeout_s
        due = self._loop.time() + (min(limit_s, 10.0) if limit_s else 10.0)
        entry, name = await self._of.executions.place(found, session, due)
        lease = self._of.leases.grant(found, name, entry)
        await self._recorded()
        return self._lent(entry, lease)

    def renew_lease(self, lease: str, tenant: TenantId | None, ttl_s: float | None) -> ConnectionView:
        """Keep it (Fleet)."""
        renewed = self._of.leases.renew(lease, tenant, ttl_s)
        return self._lent(self._entry(renewed.kernel_id, None), renewed)

    def end_lease(self, lease: str, tenant: TenantId | None) -> None:
        """Give it back (Fleet)."""
        self._of.leases.end(lease, tenant)

    def _lent(self, entry: Entry, lease: Lease) -> ConnectionView:
        if entry.connection is None:
            raise UnavailableError(f"kernel {entry.id} is {entry.kernel.phase.value} and cannot be connected to now")
        connection: dict[str, Any] = {
            name: value for name, value in msgspec.to_builtins(entry.connection).items() if value is not None
        }
        return ConnectionView(
            kernel_id=entry.id,
            session=lease.session,
            lease=LeaseInfo(id=lease.id, expires_at=lease.expires_at),
            connection=connection,
        )

    # --- what happened

    async def why(self, kernel: KernelId, tenant: TenantId | None) -> WhyView:
        """Why it is as it is, and what comes next (Fleet)."""
        deaths = await self._of.store.deaths(kernel)
        gone = self._of.ended.kernel(kernel, tenant)
        if gone is not None:
            return self._of.explainer.explain_gone(gone, deaths)
        entry = self._entry(kernel, tenant)
        await self._of.culling.refresh(entry)
        return self._of.explainer.explain(entry, deaths)

    def logs(self, kernel: KernelId, tenant: TenantId | None, *, since: int) -> Sequence[LogLine]:
        """Its lines (Fleet)."""
        return self._entry(kernel, tenant).output.since(since)

    def follow_logs(self, kernel: KernelId, tenant: TenantId | None, *, since: int) -> AsyncIterator[LogLine]:
        """Its lines as they come (Fleet)."""
        return self._entry(kernel, tenant).output.follow(since)

    async def events(self, tenant: TenantId | None, *, since: int, limit: int) -> Sequence[Event]:
        """What happened (Fleet)."""
        if since < self._of.events.first_kept - 1:
            return await self._of.store.recent_events(since=since, limit=limit, tenant=tenant)
        return self._of.events.since(since, tenant, limit)

    def follow_events(self, tenant: TenantId | None, *, since: int) -> AsyncIterator[Event]:
        """What happens (Fleet)."""
        return self._of.events.follow(since, tenant)
