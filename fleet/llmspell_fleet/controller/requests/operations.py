"""What operators do to kernels that run, as the HTTP face asks: signals and draining, of one, a tenant's or all."""

import signal
from collections.abc import Iterable
from typing import Final

from llmspell_fleet.controller.kernels.entry import Entry
from llmspell_fleet.controller.kernels.files import send_signal
from llmspell_fleet.controller.requests.provisioning import Provisioning
from llmspell_fleet.errors import ConflictError
from llmspell_fleet.model.ids import KernelId, TenantId
from llmspell_fleet.model.kernel import Kernel, Phase
from llmspell_fleet.model.requests import DrainRequest, ForwardedSignal
from llmspell_fleet.model.views import KernelView, TenantView
from llmspell_fleet.policy.events import DrainAsked, RestartAsked, StartAsked, TerminateAsked
from llmspell_fleet.policy.lifecycle import HAS_PROCESS, TAKES_WORK

_NUMBERS: Final[dict[ForwardedSignal, signal.Signals]] = {
    "INT": signal.SIGINT,
    "TERM": signal.SIGTERM,
    "HUP": signal.SIGHUP,
    "USR1": signal.SIGUSR1,
    "USR2": signal.SIGUSR2,
}


class Operations(Provisioning):
    """Every method is one request. Belongs to the event loop."""

    # --- signals

    def signal_kernel(self, kernel: KernelId, tenant: TenantId | None, name: ForwardedSignal) -> None:
        """Forward a signal to one kernel (Fleet)."""
        entry = self._entry(kernel, tenant)
        if entry.process is None:
            raise ConflictError(f"kernel {kernel} has no process: it is {entry.kernel.phase.value}")
        self._signal(entry, name)

    def signal_tenant(self, tenant: TenantId, name: ForwardedSignal) -> None:
        """Forward a signal to all kernels of a tenant (Fleet)."""
        self._signal_all(self._of.tenants.get(tenant).entries.values(), name)

    def signal_all(self, name: ForwardedSignal) -> None:
        """Forward a signal to all kernels (Fleet)."""
        self._signal_all(self._of.supervisor, name)

    def _signal_all(self, entries: Iterable[Entry], name: ForwardedSignal) -> None:
        for entry in list(entries):
            if entry.process is not None:
                self._signal(entry, name)

    def _signal(self, entry: Entry, name: ForwardedSignal) -> None:
        assert entry.process is not None
        self._of.supervisor.emit(entry, "kernel.signalled", {"signal": f"SIG{name}", "pid": entry.process.pid})
        if name == "TERM":
            # A stop like others: what follows it is the restart rule's, and a kernel that does not end is killed.
            self._of.supervisor.apply(entry, TerminateAsked())
        else:
            send_signal(entry.process, _NUMBERS[name])

    # --- draining

    async def drain_kernel(self, kernel: KernelId, tenant: TenantId | None, request: DrainRequest) -> KernelView:
        """Let a kernel finish what it runs, and end (Fleet)."""
        entry = self._entry(kernel, tenant)
        await self._drain([entry], request)
        return self.kernel(kernel, tenant)

    async def drain_tenant(self, tenant: TenantId, request: DrainRequest) -> TenantView:
        """The same with all kernels of a tenant (Fleet)."""
        found = self._of.tenants.get(tenant)
        await self._drain(found.entries.values(), request)
        return self._view(found)

    async def drain_all(self, request: DrainRequest) -> list[TenantView]:
        """The same with all kernels (Fleet)."""
        await self._drain(self._of.supervisor, request)
        return self.tenants()

    async def _drain(self, entries: Iterable[Entry], request: DrainRequest) -> None:
        self._require_open()
        give_up_at = self._loop.time() + request.wait_s
        leaving = [(entry, entry.kernel.incarnation) for entry in entries]
        for entry, _before in leaving:
            self._drain_one(entry, restarts=request.restart)
        await self._recorded()
        for entry, before in leaving:
            await entry.wait_until(
                lambda k, before=before: _is_over(k, before, restarts=request.restart),  # type: ignore[misc]
                max(0.0, give_up_at - self._loop.time()),
            )

    def _drain_one(self, entry: Entry, *, restarts: bool) -> None:
        apply = self._of.supervisor.apply
        if not restarts:
            apply(entry, DrainAsked("drained"))
        elif entry.kernel.phase not in HAS_PROCESS:
            apply(entry, RestartAsked())
        else:
            apply(entry, DrainAsked("restarted"))
            apply(entry, StartAsked())  # what was on its way down already comes back as well


def _is_over(kernel: Kernel, before: int, *, restarts: bool) -> bool:
    if not restarts:
        return kernel.phase not in HAS_PROCESS
    return kernel.phase is Phase.FAILED or (kernel.incarnation > before and kernel.phase in TAKES_WORK)
