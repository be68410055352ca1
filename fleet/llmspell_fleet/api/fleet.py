"""What the HTTP face asks of the fleet: the one door between `api` and `controller`.

Every method raises the errors of `llmspell_fleet.errors`, whose statuses are the answers. Authorisation is done before:
what comes in here is allowed, and a tenant's own view is filtered by the `tenant` argument.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from llmspell_fleet.model.event import Event
from llmspell_fleet.model.ids import KernelId, TenantId
from llmspell_fleet.model.plan import ApplyView
from llmspell_fleet.model.requests import (
    ApplyRequest,
    DrainRequest,
    ExecuteRequest,
    ForwardedSignal,
    KernelRequest,
    RollRequest,
    TenantChange,
    TenantRequest,
    UpgradeRequest,
)
from llmspell_fleet.model.views import (
    ConnectionView,
    Executed,
    ExecutionView,
    HealthView,
    KernelView,
    LogLine,
    RollView,
    TenantCreated,
    TenantView,
    TokenView,
    UpgradeView,
)
from llmspell_fleet.model.why import WhyView


class Fleet(Protocol):
    """The controller, as the API sees it."""

    @property
    def is_ready(self) -> bool:
        """Whether requests can be served: the state is loaded, the zygote lives, nothing is shutting down."""
        ...

    def health(self) -> HealthView:
        """How the fleet is."""
        ...

    async def upgrade(self, request: UpgradeRequest, connection: object) -> UpgradeView:
        """Become the code that is installed now, which answers on `connection`. ConflictError: this one goes on."""
        ...

    async def apply(self, request: ApplyRequest) -> ApplyView:
        """Be as a configuration says, or say what that would change."""
        ...

    # --- tenants

    async def create_tenant(self, request: TenantRequest) -> TenantCreated:
        """Make a tenant; returns when its replicas are READY or `wait_s` ran out."""
        ...

    def tenants(self) -> list[TenantView]:
        """All of them, by id."""
        ...

    def tenant(self, tenant: TenantId) -> TenantView:
        """One of them."""
        ...

    async def update_tenant(self, tenant: TenantId, change: TenantChange) -> TenantView:
        """Change what it should have; returns as `create_tenant` does."""
        ...

    async def delete_tenant(self, tenant: TenantId) -> None:
        """End it; returns when its kernels are gone."""
        ...

    async def renew_token(self, tenant: TenantId) -> TokenView:
        """Give it another token; those it had before open nothing any more."""
        ...

    async def restart_tenant(self, tenant: TenantId, request: RollRequest) -> RollView:
        """Give each of its kernels a new incarnation, a few at a time; returns at its end, or when `wait_s` ran out."""
        ...

    # --- kernels

    def kernels(self, tenant: TenantId | None) -> list[KernelView]:
        """A tenant's, or everybody's."""
        ...

    def kernel(self, kernel: KernelId, tenant: TenantId | None) -> KernelView:
        """One; NotFoundError also when it is not `tenant`'s (None = everybody's will do)."""
        ...

    async def create_kernel(self, request: KernelRequest) -> KernelView:
        """One more kernel for a tenant: its replicas grow by one."""
        ...

    async def delete_kernel(self, kernel: KernelId, tenant: TenantId | None) -> None:
        """End one: its tenant's replicas shrink by one. Returns when it is gone."""
        ...

    async def interrupt_kernel(self, kernel: KernelId, tenant: TenantId | None) -> None:
        """Interrupt what it runs."""
        ...

    async def restart_kernel(self, kernel: KernelId, tenant: TenantId | None) -> KernelView:
        """Give it a new incarnation; clears a FAILED one. Returns when it is READY."""
        ...

    def signal_kernel(self, kernel: KernelId, tenant: TenantId | None, name: ForwardedSignal) -> None:
        """Forward a signal to its process."""
        ...

    def signal_tenant(self, tenant: TenantId, name: ForwardedSignal) -> None:
        """Forward a signal to all kernels of a tenant that have a process."""
        ...

    def signal_all(self, name: ForwardedSignal) -> None:
        """Forward a signal to all kernels that have a process."""
        ...

    async def drain_kernel(self, kernel: KernelId, tenant: TenantId | None, request: DrainRequest) -> KernelView:
        """Let it finish what it runs, and end; returns when it has, or `wait_s` ran out."""
        ...

    async def drain_tenant(self, tenant: TenantId, request: DrainRequest) -> TenantView:
        """The same with all kernels of a tenant."""
        ...

    async def drain_all(self, request: DrainRequest) -> list[TenantView]:
        """The same with all kernels."""
        ...

    async def why(self, kernel: KernelId, tenant: TenantId | None) -> WhyView:
        """Why it is as it is, and what comes next; also of one that has left for good."""
        ...

    # --- executions

    async def execute(self, tenant: TenantId, request: ExecuteRequest, *, key: str | None) -> Executed:
        """Run code on one of the tenant's kernels; `key` is the Idempotency-Key."""
        ...

    def execute_stream(self, tenant: TenantId, request: ExecuteRequest) -> AsyncIterator[tuple[str, bytes]]:
        """As `execute`, in pieces: (event name, JSON).

        "output" `{"name": "stdout"/"stderr", "text"}`, "display" (a MIME bundle), at the end "result" (an
        `ExecuteView`) or "problem" (a `Problem`). Errors before the first piece are raised.
        """
        ...

    async def start_execution(self, tenant: TenantId, request: ExecuteRequest, *, key: str | None) -> ExecutionView:
        """As `execute`, without waiting for it."""
        ...

    async def execution(self, tenant: TenantId, execution: str) -> ExecutionView:
        """One that was started so, or with a key."""
        ...

    # --- leases

    async def lease(self, tenant: TenantId, session: str | None) -> ConnectionView:
        """Lend a kernel to a ZeroMQ client; one session has one lease."""
        ...

    def renew_lease(self, lease: str, tenant: TenantId | None, ttl_s: float | None) -> ConnectionView:
        """Keep it for longer."""
        ...

    def end_lease(self, lease: str, tenant: TenantId | None) -> None:
        """Give it back."""
        ...

    # --- what happened

    def logs(self, kernel: KernelId, tenant: TenantId | None, *, since: int) -> Sequence[LogLine]:
        """The lines kept in memory with a sequence number above `since`."""
        ...

    def follow_logs(self, kernel: KernelId, tenant: TenantId | None, *, since: int) -> AsyncIterator[LogLine]:
        """Those, and then the new ones as they come."""
        ...

    async def events(self, tenant: TenantId | None, *, since: int, limit: int) -> Sequence[Event]:
        """The events with a sequence number above `since`; None = everybody's."""
        ...

    def follow_events(self, tenant: TenantId | None, *, since: int) -> AsyncIterator[Event]:
        """Those, and then the new ones as they come."""
        ...
