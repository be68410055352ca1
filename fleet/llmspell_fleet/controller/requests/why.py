"""One kernel explained: gathers what `policy.why` looks at."""

import asyncio
from collections.abc import Sequence

from llmspell_fleet.controller.dates import date_now
from llmspell_fleet.controller.kernels.entry import Entry
from llmspell_fleet.controller.pools.autoscaling import Autoscaling
from llmspell_fleet.controller.pools.ended import Gone
from llmspell_fleet.controller.pools.leases import Leases
from llmspell_fleet.controller.pools.tenant import Tenant
from llmspell_fleet.controller.pools.tenants import Tenants
from llmspell_fleet.controller.supervision.culling import Culling
from llmspell_fleet.controller.supervision.supervisor import Supervisor
from llmspell_fleet.model.kernel import Death, KernelSpec
from llmspell_fleet.model.why import Coming, WhyView
from llmspell_fleet.policy.lifecycle import shown
from llmspell_fleet.policy.reconcile import plan
from llmspell_fleet.policy.why import Explanation, Situation, explain, explain_gone


class Explainer:
    """Belongs to the event loop."""

    def __init__(
        self, supervisor: Supervisor, tenants: Tenants, leases: Leases, culling: Culling, autoscaling: Autoscaling
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._supervisor = supervisor
        self._tenants = tenants
        self._leases = leases
        self._culling = culling
        self._autoscaling = autoscaling

    def explain(self, entry: Entry, deaths: Sequence[Death]) -> WhyView:
        """A kernel that is there; `deaths` are its stored certificates, the oldest first."""
        explained = explain(entry.kernel, self._situation(entry))
        return _view(entry.kernel.spec, shown(entry.kernel, entry.load).value, explained, deaths)

    def explain_gone(self, gone: Gone, deaths: Sequence[Death]) -> WhyView:
        """A kernel that has left for good."""
        known = deaths or ([] if gone.death is None else [gone.death])
        return _view(gone.spec, "GONE", explain_gone(gone.death), known)

    def _situation(self, entry: Entry) -> Situation:
        now = self._loop.time()
        tenant = self._tenants.get(entry.tenant) if entry.tenant in self._tenants else None
        outlook = self._culling.outlook(entry)
        shrinks_at = self._autoscaling.shrinks_at(tenant) if tenant is not None else None
        return Situation(
            now=now,
            policy=self._supervisor.policy,
            tenant=tenant.spec if tenant is not None else None,
            named=self._supervisor.dependencies.named(entry) if entry.kernel.spec.depends_on else {},
            running=entry.load,
            timer_in_s=max(0.0, entry.timer.when() - now) if entry.timer is not None else None,
            cull_in_s=outlook.ends_at - now if outlook is not None and outlook.ends_at is not None else None,
            cull_why=outlook.why if outlook is not None else "",
            leases=tuple(at - now for at in self._leases.ending_of(entry)),
            shrinks_in_s=shrinks_at - now if shrinks_at is not None and self._is_first(tenant, entry) else None,
            is_closing=self._supervisor.is_closing,
        )

    def _is_first(self, tenant: Tenant | None, entry: Entry) -> bool:
        """Whether it would leave if its tenant had one kernel less."""
        if tenant is None:
            return False
        loads = {one.id: one.load + one.leases for one in tenant.entries.values()}
        kernels = [one.kernel for one in tenant.entries.values()]
        fewer = sum(kernel.is_wanted for kernel in kernels) - 1
        return entry.id in plan(fewer, kernels, loads, self._tenants.pinned).remove


def _view(spec: KernelSpec, phase: str, explained: Explanation, deaths: Sequence[Death]) -> WhyView:
    return WhyView(
        kernel_id=spec.id,
        name=spec.name,
        tenant=spec.tenant,
        phase=phase,
        summary=explained.summary,
        because=list(explained.because),
        next=[_dated(coming) for coming in explained.next],
        deaths=list(reversed(deaths)),
    )


def _dated(coming: Coming) -> Coming:
    if coming.in_s is None:
        return coming
    return Coming(
        what=coming.what,
        in_s=round(coming.in_s, 3),
        at=date_now(coming.in_s),
        setting=coming.setting,
        detail=coming.detail,
    )
