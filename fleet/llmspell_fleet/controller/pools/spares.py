"""Warm kernels at `strict`: the spawner's spares, and which kernels are to be made of them.

A spare is a process and no kernel: it has no record, and whoever adopts kernels finds none. So a claim is the start of
a new kernel, which takes a spare where it would take a fork. If that was killed meanwhile, it is a fork after all.
"""

from collections import Counter
from time import perf_counter

from llmspell_fleet.controller.kernels.entry import Entry
from llmspell_fleet.controller.pools.claims import Claims
from llmspell_fleet.controller.pools.tenants import Tenants
from llmspell_fleet.controller.supervision.supervisor import Supervisor
from llmspell_fleet.model.ids import KernelId
from llmspell_fleet.model.kernel import Kernel, KernelSpec, Phase
from llmspell_fleet.policy.warm import SPARE, Warm
from llmspell_fleet.spawner.spawner import Spawner
from llmspell_kernel.zygote.protocol import Spares as Count

_ON_ITS_WAY = frozenset({Phase.PENDING, Phase.STARTING})


class Spares:
    """Belongs to the event loop."""

    def __init__(self, spawner: Spawner, supervisor: Supervisor, tenants: Tenants, claims: Claims) -> None:
        self._spawner = spawner
        self._supervisor = supervisor
        self._tenants = tenants
        self._claims = claims
        self._claimed: dict[KernelId, tuple[float, str]] = {}
        """Kernels that are to be made of one and do not serve yet: when that was said, and what it counts as."""

    @property
    def exist(self) -> bool:
        """Whether the spawner has such."""
        return self._spawner.spares is not None

    @property
    def count(self) -> Count:
        """Those that nobody has a claim to."""
        count = self._spawner.spares or Count()
        return Count(max(0, count.ready - self._promised), count.coming)

    @property
    def _promised(self) -> int:
        """Claims that the spawner has not carried out."""
        return sum(entry is not None and entry.process is None for entry in map(self._supervisor.get, self._claimed))

    def phases(self) -> Counter[Phase]:
        """As if they were kernels."""
        return Counter({Phase.READY: self.count.ready, Phase.STARTING: self.count.coming})

    def there(self) -> list[Warm]:
        """Those that nobody has a claim to, as the plan sees them."""
        ready, coming = self.count.ready, self.count.coming
        return [Warm(KernelId(f"spare-{n}"), SPARE, is_ready=n < ready) for n in range(ready + coming)]

    def have(self, number: int) -> None:
        """Come to so many that nobody has a claim to."""
        if number != self.count.ready + self.count.coming:
            self._spawner.have_spares(number + self._promised)

    def claim(self, spec: KernelSpec) -> Entry | None:
        """A new kernel, PENDING, that becomes of one; None = there is none."""
        if not self.count.ready:
            return None
        self._claimed[spec.id] = perf_counter(), self._claims.claimed(spec.tenant)
        return self._tenants.adopt(Kernel(spec=spec))

    def may_take(self, entry: Entry) -> bool:
        """Whether a start may take one: it was claimed for it, or nobody has a claim to it, as for a repair."""
        spec = entry.kernel.spec
        if spec.isolation_level != "strict":
            return False
        if entry.id in self._claimed:
            return True
        return self.count.ready > 0 and any(t.id == spec.tenant and t.spec.warm != "never" for t in self._tenants)

    def changed(self, entry: Entry) -> None:
        """A kernel's record was replaced: it may have come to what was claimed for it."""
        if entry.id not in self._claimed or entry.kernel.phase in _ON_ITS_WAY:
            return
        claimed_at, result = self._claimed.pop(entry.id)
        if entry.kernel.phase is Phase.READY and entry.process is not None and entry.process.was_spare:
            self._claims.given(entry.tenant, result, perf_counter() - claimed_at)
        else:
            self._claims.fell_through(entry.tenant)
