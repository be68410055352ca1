"""Whose processes kernels are at `strict`, where the fleet is root: each tenant's own user, and nobody else's."""

from msgspec.structs import replace

from llmspell_fleet.controller.kernels.entry import Entry
from llmspell_fleet.controller.limits.isolation import Isolation
from llmspell_fleet.controller.pools.tenant import Tenant
from llmspell_fleet.controller.pools.tenants import Tenants
from llmspell_fleet.controller.supervision.supervisor import Supervisor


class Users:
    """Belongs to the event loop."""

    def __init__(self, tenants: Tenants, supervisor: Supervisor, isolation: Isolation) -> None:
        self._tenants = tenants
        self._supervisor = supervisor
        self._isolation = isolation
        self._last: int | None = None
        """Given last: the next one is another, also when this one is free again."""
        tenants.uid_of = self.of

    def of(self, tenant: Tenant) -> int | None:
        """The user of a tenant's kernels at `strict`; None = they stay whose the fleet is, or there is none left.

        It is the tenant's until that is gone: at another level too, since processes of before may still be that user's.
        """
        if tenant.record.uid is None:
            uid = next((uid for entry in tenant.entries.values() if (uid := entry.kernel.spec.uid) is not None), None)
            if uid is None and tenant.spec.isolation_level == "strict":
                uid = self._isolation.uid_for(self._taken(), after=self._last)
                self._last = uid or self._last
            if uid is not None:
                self._tenants.own_user(tenant, uid)
        return tenant.record.uid

    def require(self) -> None:
        """ConflictError when there is none left for another tenant."""
        self._isolation.require_uid(self._taken())

    def give(self, entry: Entry) -> None:
        """A kernel that is to be started at `strict` and was made before it was to be has its tenant's user now."""
        spec = entry.kernel.spec
        if spec.isolation_level == "strict" and spec.uid is None and entry.tenant in self._tenants:
            uid = self.of(self._tenants.get(entry.tenant))
            if uid is not None:
                self._supervisor.change_spec(entry, replace(spec, uid=uid))

    def is_ours(self, uid: int) -> bool:
        """Whether it is some tenant's, or could be."""
        return self._isolation.may_give(uid) or uid in self._taken()

    def _taken(self) -> set[int]:
        uids = {entry.kernel.spec.uid for entry in self._supervisor} | {tenant.record.uid for tenant in self._tenants}
        return {uid for uid in uids if uid is not None}
