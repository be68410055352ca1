"""Whole pools as the HTTP face asks for them: restarted a few kernels at a time, configured anew."""

from collections.abc import Callable

from llmspell_fleet.controller.requests.operations import Operations
from llmspell_fleet.model.ids import TenantId
from llmspell_fleet.model.plan import ApplyView
from llmspell_fleet.model.requests import ApplyRequest, RollRequest
from llmspell_fleet.model.views import RollView, TokenView
from llmspell_fleet.policy.rolling import share


class Pools(Operations):
    """What is asked of a tenant's kernels together. Belongs to the event loop."""

    configure: Callable[[ApplyRequest], ApplyView]
    """Set before anybody is served."""

    async def apply(self, request: ApplyRequest) -> ApplyView:
        """Be as a configuration says, or say what that would change (Fleet)."""
        if not request.dry_run:
            self._require_open()
        view = self.configure(request)
        await self._recorded()
        return view

    async def renew_token(self, tenant: TenantId) -> TokenView:
        """Give it another token, and end those before (Fleet)."""
        self._require_open()
        found = self._of.tenants.get(tenant)
        self._of.tokens.revoke(found.id)
        token = self._of.tokens.issue("tenant", found.id)
        await self._recorded()
        return TokenView(tenant=found.id, token=token)

    async def restart_tenant(self, tenant: TenantId, request: RollRequest) -> RollView:
        """Give each of its kernels a new incarnation, a few at a time (Fleet)."""
        self._require_open()
        found = self._of.tenants.get(tenant)
        size = found.spec.replicas
        unavailable = share(request.max_unavailable, size, up=False)
        surge = share(request.max_surge, size, up=True)
        if not surge and isinstance(request.max_unavailable, str) and request.max_unavailable.strip("0") != "%":
            unavailable = max(1, unavailable)  # a share of few kernels, which was not to be none
        self._of.rolls.start(found, max_unavailable=unavailable, max_surge=surge)
        await self._recorded()
        await self._of.rolls.ended(tenant, request.wait_s)
        assert found.roll is not None
        return found.roll
