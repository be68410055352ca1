"""Kernels and leases that are no more: remembered for a while, so that who still names them is told why (410)."""

import asyncio
from collections import OrderedDict
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

import msgspec

from llmspell_fleet.errors import GoneError
from llmspell_fleet.model.ids import KernelId, TenantId
from llmspell_fleet.model.kernel import Death, KernelSpec
from llmspell_fleet.policy.telling import how_ended

KEPT: Final = 1000
"""Of each kind; beyond, the oldest is forgotten."""

FOR_S: Final = 3600.0

K = TypeVar("K", bound=Hashable)


class Gone(msgspec.Struct, frozen=True):
    """A kernel that is no more."""

    spec: KernelSpec
    death: Death | None
    """Its last; None = it never had a process."""
    at: float
    """Loop time."""


class _Memory(Generic[K]):
    """The newest things by their keys, within bounds of number and age."""

    def __init__(self) -> None:
        self._kept: OrderedDict[K, Gone] = OrderedDict()

    def add(self, key: K, gone: Gone) -> None:
        self._kept.pop(key, None)
        self._kept[key] = gone
        while len(self._kept) > KEPT:
            self._kept.popitem(last=False)

    def get(self, key: K, now: float) -> Gone | None:
        while self._kept and next(iter(self._kept.values())).at < now - FOR_S:
            self._kept.popitem(last=False)
        return self._kept.get(key)

    def pop(self, key: K) -> None:
        self._kept.pop(key, None)

    def forget(self, tenant: TenantId) -> None:
        for key in [key for key, gone in self._kept.items() if gone.spec.tenant == tenant]:
            del self._kept[key]


class Ended:
    """Belongs to the event loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._kernels: _Memory[KernelId] = _Memory()
        self._leases: _Memory[str] = _Memory()
        self._sessions: _Memory[tuple[TenantId, str]] = _Memory()

    def kernel_ended(self, spec: KernelSpec, death: Death | None) -> None:
        """A kernel has left for good."""
        self._kernels.add(spec.id, Gone(spec, death, self._loop.time()))

    def lease_ended(self, lease: str, session: str, spec: KernelSpec, death: Death | None) -> None:
        """A lease ended because its kernel did."""
        gone = Gone(spec, death, self._loop.time())
        self._leases.add(lease, gone)
        self._sessions.add((spec.tenant, session), gone)

    def forget(self, tenant: TenantId) -> None:
        """A tenant is gone: a later one of its name is not told of its kernels."""
        for memory in (self._kernels, self._leases, self._sessions):
            memory.forget(tenant)

    def kernel(self, kernel: KernelId, tenant: TenantId | None) -> Gone | None:
        """A kernel that left, if it is `tenant`'s (None = anybody's)."""
        return self._seen(self._kernels.get(kernel, self._loop.time()), tenant)

    def check_kernel(self, kernel: KernelId, tenant: TenantId | None) -> None:
        """GoneError when it was there."""
        gone = self.kernel(kernel, tenant)
        if gone is not None:
            raise GoneError(f"kernel {kernel} is no more: {_how(gone)}", gone.death)

    def check_lease(self, lease: str, tenant: TenantId | None) -> None:
        """GoneError when its kernel ended while it held."""
        gone = self._seen(self._leases.get(lease, self._loop.time()), tenant)
        if gone is not None:
            raise GoneError(
                f"the lease ended with kernel {gone.spec.id}: {_how(gone)}; ask for a connection again", gone.death
            )

    def check_session(self, tenant: TenantId, session: str) -> None:
        """GoneError when the kernel that the session had lent has ended: told once, then it may have another."""
        gone = self._sessions.get((tenant, session), self._loop.time())
        if gone is not None:
            self._sessions.pop((tenant, session))
            raise GoneError(
                f"kernel {gone.spec.id}, which session {session} had lent, has ended with all that was in it: "
                f"{_how(gone)}; ask again for another",
                gone.death,
            )

    @staticmethod
    def _seen(gone: Gone | None, tenant: TenantId | None) -> Gone | None:
        return gone if gone is not None and tenant in (None, gone.spec.tenant) else None


def _how(gone: Gone) -> str:
    return "it never had a process" if gone.death is None else f"it {how_ended(gone.death)}, at {gone.death.at}"
