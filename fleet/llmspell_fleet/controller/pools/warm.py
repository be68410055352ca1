"""Kernels that are READY before anybody needs them: started in the background, given to a tenant when it needs one.

A warm kernel is one like any other, with an id and a key of its own, of tenant `_warm`, which nobody can be: no request
is routed to it. A claim makes it a tenant's for good: used kernels never come back.

At isolation level `strict` it is no kernel yet that is kept, but a process that can become one (`pools.spares`).

A kernel that was claimed a moment before the controller was killed may still be recorded as warm. So the kernel itself
is told at the claim, before anything else, and one that is found by the next controller is asked.
"""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Mapping
from time import perf_counter
from typing import Final

import msgspec

from llmspell_fleet.controller.background import Background
from llmspell_fleet.controller.kernels.entry import Entry
from llmspell_fleet.controller.pools.claims import Claims, Waiting
from llmspell_fleet.controller.pools.spares import Spares
from llmspell_fleet.controller.pools.tenant import Tenant
from llmspell_fleet.controller.pools.tenants import Tenants
from llmspell_fleet.controller.supervision.supervisor import Supervisor
from llmspell_fleet.errors import ConflictError
from llmspell_fleet.model.ids import WARM, KernelId
from llmspell_fleet.model.kernel import Kernel, KernelSpec, Phase
from llmspell_fleet.observe.metrics import Metrics
from llmspell_fleet.policy.events import StartAsked, StopAsked
from llmspell_fleet.policy.lifecycle import HAS_PROCESS
from llmspell_fleet.policy.warm import SPARE, SpecKey, Warm, is_fresh, key, plan, why_not
from llmspell_fleet.spawner.spawner import Spawner
from llmspell_kernel.connection import new_kernel_id

_LOG: Final = logging.getLogger("llmspell.fleet")

MOST_AT_ONCE: Final = 2
"""Warm kernels that start at one time."""

LOOK_S: Final = 0.05
"""How soon it is looked again whether a tenant's kernel still starts, which comes first."""

PATIENCE_S: Final = 1.0
"""How long the pool waits for that: a fleet in which something always starts is to have its warm kernels too."""

REST_S: Final = 0.5
"""How often it is looked although nothing has changed."""

ANSWER_S: Final = 2.0
"""How long a kernel that was found may take to say whether it is somebody's."""


class WarmPool:
    """All warm kernels. Belongs to the event loop."""

    def __init__(
        self, tenants: Tenants, supervisor: Supervisor, spawner: Spawner, metrics: Metrics, background: Background
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._tenants = tenants
        self._supervisor = supervisor
        self._metrics = metrics
        self._claims = Claims(metrics)
        self._spares = Spares(spawner, supervisor, tenants, self._claims)
        self._background = background
        self.size = 0
        """Kernels of the default spec that are kept warm."""
        self.default = KernelSpec(id=KernelId(""), tenant=WARM)
        self._entries: dict[KernelId, Entry] = {}
        self._unchecked: set[KernelId] = set()
        """Found by this controller, and not asked yet whether they are somebody's."""
        self._waiting = Waiting(self._claims)
        self._has_changed = asyncio.Event()
        self._held_since: float | None = None
        self._is_used = False
        """Whether changes of kernels matter here."""
        tenants.watchers.append(self._changed)
        tenants.claim = self.claim
        tenants.adopt_warm = self.adopt
        supervisor.on_spares = self._spares_changed
        supervisor.starts.may_be_spare = self._spares.may_take

    # --- what there is

    def phases(self) -> Mapping[Phase, int]:
        """How many are in each phase."""
        phases = Counter(entry.kernel.phase for entry in self._entries.values())
        return phases + self._spares.phases()

    @property
    def wanted(self) -> int:
        """How many there should be."""
        return sum(self._wanted().values())

    def _wanted(self) -> Counter[SpecKey]:
        wanted = Counter(self._waiting.demand)
        if self.size:
            wanted[key(self.default)] += self.size
        for tenant in self._tenants:
            lacking = tenant.lacking if tenant.spec.warm == "require" else 0
            number = tenant.spec.warm_size + lacking
            if not number or tenant.is_leaving or tenant.spec.warm == "never":
                continue
            spec = self._tenants.new_spec(tenant)
            if not self._why_not(spec):
                wanted[key(spec)] += number
        return wanted

    def _why_not(self, spec: KernelSpec) -> str:
        return why_not(spec, has_spares=self._spares.exist)

    def _room(self) -> int:
        """How many there may be besides what tenants were promised; what they lack may come from here."""
        lacking = sum(tenant.lacking for tenant in self._tenants if tenant.spec.warm == "require")
        return min(self._tenants.max_kernels, self._tenants.capacity) - self._tenants.promised + lacking

    # --- claims

    def claim(self, tenant: Tenant, spec: KernelSpec) -> Entry | None:
        """A kernel of `tenant`, which was warm, as `spec` but for its id; None = there is none for it."""
        if tenant.spec.warm == "never" or self._why_not(spec):
            return None
        began = perf_counter()
        wanted = key(spec)
        if wanted == SPARE and (coming := self._spares.claim(spec)) is not None:
            return coming
        entry = next((one for one in self._entries.values() if self._fits(one, spec, wanted)), None)
        if entry is None or entry.channel is None:
            self._claims.missed(tenant, is_kept_some=bool(self.size or tenant.spec.warm_size))
            return None
        del self._entries[entry.id]
        # The kernel hears of it before anything that the tenant has it run.
        entry.channel.claim(name=spec.name, log_level=self._supervisor.starts.log_level)
        if entry.connection is not None and spec.name:
            entry.connection = msgspec.structs.replace(entry.connection, name=spec.name)
        self._supervisor.change_spec(entry, msgspec.structs.replace(spec, id=entry.id))
        self._tenants.take_in(tenant, entry)
        data: dict[str, object] = {"incarnation": entry.kernel.incarnation, "pid": entry.kernel.pid, "warm": True}
        self._supervisor.emit(entry, "kernel.ready", data)
        self._claims.given(tenant.id, self._claims.claimed(tenant.id), perf_counter() - began)
        self._has_changed.set()
        return entry

    def _fits(self, entry: Entry, spec: KernelSpec, wanted: SpecKey) -> bool:
        kernel = entry.kernel
        return (
            kernel.phase is Phase.READY
            and kernel.is_wanted
            and not kernel.is_silent
            and entry.id not in self._unchecked
            and key(kernel.spec) == wanted
            and is_fresh(spec, self._loop.time() - kernel.spawned_at)
        )

    async def secure(self, spec: KernelSpec, number: int, wait_s: float) -> None:
        """Have as many warm kernels for `spec`, which the caller claims in the same step.

        UnavailableError: there were not as many in time. ConflictError: there can be none.
        """
        if reason := self._why_not(spec):
            raise ConflictError(f"a kernel of tenant {spec.tenant} cannot be a warm one (warm is require): {reason}")
        wanted = key(spec)

        def there() -> int:
            if wanted == SPARE:
                return self._spares.count.ready
            return sum(self._fits(entry, spec, wanted) for entry in self._entries.values())

        with self._waiting.wanting(wanted, number):
            self._has_changed.set()
            await self._waiting.until(there, number, spec.tenant, wait_s)

    # --- what keeps them

    async def run(self) -> None:
        """Keep as many as are wanted, when nothing more urgent is to be started."""
        for entry in list(self._entries.values()):
            if entry.kernel.phase not in HAS_PROCESS:
                self._supervisor.apply(entry, StopAsked())  # of an earlier controller, and gone: another will do
        while True:
            wait_s = REST_S if self._supervisor.is_closing else self._look()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(wait_s):
                    await self._has_changed.wait()
            self._has_changed.clear()

    def _look(self) -> float:
        """Carry the plan out; returns when to look again."""
        wanted = self._wanted()
        self._claims.forget_others(self._tenants)
        spares = self._spares.there()
        self._is_used = bool(wanted or self._entries or spares)
        self._renew()
        there = [
            Warm(entry.id, key(entry.kernel.spec), is_ready=entry.kernel.phase is Phase.READY)
            for entry in self._entries.values()
            if entry.kernel.is_wanted
        ]
        planned = plan(wanted, [*there, *spares], room=self._room(), may_start=True, most_at_once=MOST_AT_ONCE)
        for kernel in self._entries.keys() & planned.stop:
            # Nothing runs in it, and nobody has seen it: there is nothing to be let finish.
            self._supervisor.apply(self._entries[kernel], StopAsked(is_forced=True))
        kept = sum(spare.id not in planned.stop for spare in spares)
        self._spares.have(kept)
        if planned.start and self._is_starting_others():
            return LOOK_S
        self._held_since = None
        self._spares.have(kept + planned.start.count(SPARE))
        for wanted_key in planned.start:
            if wanted_key != SPARE:
                self._start(wanted_key)
        return REST_S

    def _renew(self) -> None:
        """End those that have become too old for a tenant that could have been given them: others take their place."""
        if not self._entries:
            return
        ageing = [tenant for tenant in self._tenants if tenant.spec.max_age_s and tenant.spec.warm != "never"]
        bounded = [spec for spec in map(self._tenants.new_spec, ageing) if not self._why_not(spec)]
        now = self._loop.time()
        for entry in list(self._entries.values()):
            age_s = now - entry.kernel.spawned_at
            same = (spec for spec in bounded if key(spec) == key(entry.kernel.spec))
            if entry.kernel.phase is Phase.READY and not all(is_fresh(spec, age_s) for spec in same):
                self._supervisor.apply(entry, StopAsked())

    def _is_starting_others(self) -> bool:
        """Whether a tenant's kernel starts, which comes first; not for ever."""
        now = self._loop.time()
        if not any(e.kernel.phase is Phase.STARTING and e.tenant != WARM for e in self._supervisor):
            return False
        self._held_since = self._held_since or now
        return now - self._held_since < PATIENCE_S

    def _start(self, wanted: SpecKey) -> None:
        spec = KernelSpec(
            id=KernelId(new_kernel_id()),
            tenant=WARM,
            limits=wanted.limits,
            isolation_level=wanted.isolation_level,
            spawner=wanted.spawner,
        )
        self._metrics.add_tenant(WARM)
        entry = self._supervisor.add(Kernel(spec=spec))
        self._entries[entry.id] = entry
        self._supervisor.apply(entry, StartAsked())

    def adopt(self, kernel: Kernel) -> Entry:
        """Take in one that an earlier controller has recorded: it is asked first whether it is still nobody's."""
        self._metrics.add_tenant(WARM)
        entry = self._supervisor.add(kernel)
        self._entries[entry.id] = entry
        self._unchecked.add(entry.id)
        return entry

    def _changed(self, entry: Entry, was: Kernel) -> None:
        """A kernel's record was replaced."""
        kernel = entry.kernel
        if kernel.phase is was.phase and kernel.is_wanted == was.is_wanted:
            return
        if self._is_used:
            self._has_changed.set()
        self._spares.changed(entry)
        if entry.id not in self._entries:
            return
        if kernel.phase is Phase.READY:
            if entry.id in self._unchecked:
                self._background.run(self._check(entry))
            else:
                self._is_there()
        elif not kernel.is_wanted and kernel.phase not in HAS_PROCESS:
            del self._entries[entry.id]
            self._unchecked.discard(entry.id)
            # After this event: whoever applied it still looks at the entry.
            self._loop.call_soon(self._supervisor.forget, entry)

    def _spares_changed(self) -> None:
        if self._is_used:
            self._has_changed.set()
        if self._spares.count.ready:
            self._is_there()

    async def _check(self, entry: Entry) -> None:
        is_nobodys = await _is_nobodys(entry)
        self._unchecked.discard(entry.id)
        if is_nobodys:
            self._is_there()
        else:
            _LOG.warning("kernel %s is recorded as nobody's, and may have been used: it ends", entry.id)
            self._supervisor.apply(entry, StopAsked())

    def _is_there(self) -> None:
        """One more can be claimed: by who waits for it, and by tenants that take no others."""
        if not self._waiting.wake():
            for tenant in self._tenants:
                if tenant.spec.warm == "require" and tenant.lacking:
                    # Not from within the event that made it ready.
                    self._loop.call_soon(self._tenants.reconcile, tenant)


async def _is_nobodys(entry: Entry) -> bool:
    """Whether a kernel says that it was never given to anybody."""
    if entry.channel is None:
        return False
    try:
        async with asyncio.timeout(ANSWER_S):
            told = await entry.channel.statistics()
    except (TimeoutError, ConnectionError):
        return False
    return told.state == "idle" and not (told.claimed or told.executions or told.waiting)
