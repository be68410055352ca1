"""What waits to be written: the last word on each row, so that its size is that of the state and not of its history."""

from collections import deque
from typing import TYPE_CHECKING, Final

from llmspell_fleet.model.ids import KernelId, TenantId
from llmspell_fleet.model.kernel import Death, Kernel

if TYPE_CHECKING:
    from llmspell_fleet.model.event import Event
    from llmspell_fleet.store.records import Finished, Lease, Placed, TenantRecord, TokenRecord

DEATHS_PER_KERNEL: Final = 20


class Batch:
    """Changes of one commit. None = the row is to go.

    Written in the order of the attributes: tenants that are deleted go first with all that is theirs, so what is
    here besides belongs to their successors of the same name.
    """

    __slots__ = (
        *("deaths", "deleted_tenants", "events", "finished", "kernels", "leases", "notes", "placed", "tenants"),
        "tokens",
    )

    def __init__(self) -> None:
        self.deleted_tenants: dict[TenantId, int] = {}
        """With the last event's number at that time."""
        self.tenants: dict[TenantId, TenantRecord] = {}
        self.kernels: dict[KernelId, Kernel | None] = {}
        self.deaths: dict[KernelId, deque[Death]] = {}
        self.tokens: dict[str, TokenRecord | None] = {}
        self.leases: dict[str, Lease | None] = {}
        self.events: list[Event] = []
        self.placed: dict[str, Placed] = {}
        self.finished: dict[str, Finished | None] = {}
        self.notes: dict[str, str | None] = {}
        """What else a controller leaves for its successor, by name."""

    def __len__(self) -> int:
        """How many changes there are."""
        return (
            len(self.deleted_tenants)
            + len(self.tenants)
            + len(self.kernels)
            + len(self.deaths)
            + len(self.tokens)
            + len(self.leases)
            + len(self.events)
            + len(self.placed)
            + len(self.finished)
            + len(self.notes)
        )

    def delete_tenant(self, tenant: TenantId, *, last_event: int) -> None:
        """Forget what waits for `tenant`, and note that it is to go with all that is stored of it."""
        self.deleted_tenants[tenant] = last_event
        self.tenants.pop(tenant, None)
        for kernel_id, kernel in self.kernels.items():
            if kernel is not None and kernel.spec.tenant == tenant:
                self.kernels[kernel_id] = None
        self.deaths = {key: deaths for key, deaths in self.deaths.items() if deaths[-1].tenant != tenant}
        for sha256, token in self.tokens.items():
            if token is not None and token.tenant == tenant:
                self.tokens[sha256] = None
        for lease_id, lease in self.leases.items():
            if lease is not None and lease.tenant == tenant:
                self.leases[lease_id] = None

    def delete_kernel(self, kernel: KernelId) -> None:
        """Note that `kernel` is to go with its certificates."""
        self.kernels[kernel] = None
        self.deaths.pop(kernel, None)

    def add_death(self, death: Death) -> None:
        """Note a certificate; the oldest of a kernel give way, as they do in the database."""
        if (deaths := self.deaths.get(death.kernel_id)) is None:
            deaths = self.deaths[death.kernel_id] = deque(maxlen=DEATHS_PER_KERNEL)
        deaths.append(death)

    def merge(self, newer: "Batch") -> None:
        """Take what was noted after this."""
        for tenant, last_event in newer.deleted_tenants.items():
            self.delete_tenant(tenant, last_event=last_event)
        self.tenants.update(newer.tenants)
        for kernel_id, kernel in newer.kernels.items():
            if kernel is None:
                self.delete_kernel(kernel_id)
            else:
                self.kernels[kernel_id] = kernel
        for deaths in newer.deaths.values():
            for death in deaths:
                self.add_death(death)
        self.tokens.update(newer.tokens)
        self.leases.update(newer.leases)
        self.events.extend(newer.events)
        self.placed.update(newer.placed)
        self.finished.update(newer.finished)
        self.notes.update(newer.notes)
