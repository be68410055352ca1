"""Kernels and leases that are no more: remembered for a while, so that who still names them is told why (410)."""

import asyncio
import logging
from collections import OrderedDict, deque
from collections.abc import Hashable, Mapping
from typing import Final, Generic, TypeVar

import msgspec

from llmspell_fleet.controller.kernels.entry import Entry
from llmspell_fleet.errors import GoneError
from llmspell_fleet.model.ids import KernelId, TenantId
from llmspell_fleet.model.kernel import Death, Kernel, KernelSpec
from llmspell_fleet.policy.lifecycle import HAS_PROCESS
from llmspell_fleet.policy.telling import how_ended
from llmspell_fleet.store.store import Store

_LOG: Final = logging.getLogger("llmspell.fleet")

KEPT: Final = 1000
"""Of each kind; beyond, the oldest is forgotten."""

STORED: Final = 200
"""Kernels that the next controller knows of too."""

LONGEST_LINE: Final = 500
"""Characters kept of each of a certificate's lines."""

NOTE: Final = "ended "
"""What the names of the stored ones begin with."""

FOR_S: Final = 3600.0

K = TypeVar("K", bound=Hashable)


class Gone(msgspec.Struct, frozen=True):
    """A kernel that is no more."""

    spec: KernelSpec
    death: Death | None
    """Its last; None = it never had a process."""
    at: float
    """Loop time since which that is known."""
    is_disowned: bool = False
    """Its tenant is gone too; one of the same name is another."""
    is_deleted: bool = False
    """Somebody deleted it, or its tenant: there is no such kernel (404). Why it ended can still be asked."""


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Gone).decode


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

    def of(self, tenant: TenantId) -> list[Gone]:
        return [gone for gone in self._kept.values() if gone.spec.tenant == tenant]

    def replace(self, key: K, gone: Gone) -> None:
        self._kept[key] = gone

    def forget(self, tenant: TenantId) -> None:
        for key in [key for key, gone in self._kept.items() if gone.spec.tenant == tenant]:
            del self._kept[key]


class Ended:
    """Belongs to the event loop."""

    def __init__(self, store: Store) -> None:
        self._loop = asyncio.get_running_loop()
        self._store = store
        self._stored: deque[KernelId] = deque()
        self._kernels: _Memory[KernelId] = _Memory()
        self._leases: _Memory[str] = _Memory()
        self._sessions: _Memory[tuple[TenantId, str]] = _Memory()

    def kernel_changed(self, entry: Entry, _was: Kernel) -> None:
        """A kernel's record was replaced: it may have left for good."""
        kernel, spec = entry.kernel, entry.kernel.spec
        if kernel.is_wanted or kernel.phase in HAS_PROCESS:
            return
        gone = self._gone(spec, kernel.last_death)
        self._kernels.add(spec.id, gone)
        self._store.save_note(NOTE + spec.id, _encode(gone).decode())
        self._stored.append(spec.id)
        while len(self._stored) > STORED:
            self._store.save_note(NOTE + self._stored.popleft(), None)

    def kernel_deleted(self, kernel: KernelId) -> None:
        """A kernel that has left did so because somebody deleted it."""
        gone = self._kernels.get(kernel, self._loop.time())
        if gone is not None:
            self._change(msgspec.structs.replace(gone, is_deleted=True))

    def _change(self, gone: Gone) -> None:
        self._kernels.replace(gone.spec.id, gone)
        if gone.spec.id in self._stored:
            self._store.save_note(NOTE + gone.spec.id, _encode(gone).decode())

    def restore(self, notes: Mapping[str, str]) -> None:
        """Know what the last controller knew."""
        stored = []
        for name, text in notes.items():
            if name.startswith(NOTE):
                try:
                    stored.append(_decode(text))
                except msgspec.MsgspecError as fault:
                    _LOG.warning("what was remembered of a kernel that is no more cannot be read: %s", fault)
                    self._store.save_note(name, None)
        for gone in sorted(stored, key=lambda gone: gone.death.at if gone.death is not None else ""):
            self._kernels.add(gone.spec.id, msgspec.structs.replace(gone, at=self._loop.time()))
            self._stored.append(gone.spec.id)

    def lease_ended(self, lease: str, session: str, spec: KernelSpec, death: Death | None) -> None:
        """A lease ended because its kernel did."""
        gone = self._gone(spec, death)
        self._leases.add(lease, gone)
        self._sessions.add((spec.tenant, session), gone)

    def forget(self, tenant: TenantId) -> None:
        """A tenant is gone: a later one of its name is not told of its kernels. The admin is."""
        self._leases.forget(tenant)
        self._sessions.forget(tenant)
        for gone in self._kernels.of(tenant):
            self._change(msgspec.structs.replace(gone, is_disowned=True, is_deleted=True))

    def kernel(self, kernel: KernelId, tenant: TenantId | None) -> Gone | None:
        """A kernel that left, if it is `tenant`'s (None = anybody's)."""
        return self._seen(self._kernels.get(kernel, self._loop.time()), tenant)

    def check_kernel(self, kernel: KernelId, tenant: TenantId | None) -> None:
        """GoneError when it was there, and left without being deleted."""
        gone = self.kernel(kernel, tenant)
        if gone is not None and not gone.is_deleted:
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

    def _gone(self, spec: KernelSpec, death: Death | None) -> Gone:
        if death is not None:
            death = msgspec.structs.replace(death, stderr=tuple(line[:LONGEST_LINE] for line in death.stderr))
        return Gone(spec, death, self._loop.time())

    @staticmethod
    def _seen(gone: Gone | None, tenant: TenantId | None) -> Gone | None:
        if gone is None or tenant is None:
            return gone
        return gone if tenant == gone.spec.tenant and not gone.is_disowned else None


def _how(gone: Gone) -> str:
    return "it never had a process" if gone.death is None else f"it {how_ended(gone.death)}, at {gone.death.at}"
