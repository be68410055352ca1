"""From a snapshot of the fleet to the metrics that show its state."""

from collections import defaultdict
from collections.abc import Callable

from llmspell_fleet.model.kernel import Phase
from llmspell_fleet.observe.catalogue import Catalogue
from llmspell_fleet.observe.snapshot import KernelSample, Snapshot
from llmspell_fleet.observe.usage import ProcessUsage

Series = dict[tuple[str, ...], float]
"""Values by their labels."""

_ACTIVE = (Phase.READY, Phase.BUSY, Phase.DRAINING)
_WARM = (Phase.PENDING, Phase.STARTING, Phase.READY, Phase.STOPPING, Phase.BACKOFF, Phase.FAILED)
_DEAD = (Phase.BACKOFF, Phase.FAILED)


class Gauges:
    """Writes each snapshot into the catalogue; remembers the last one's CPU times."""

    def __init__(self, catalogue: Catalogue, label_of: Callable[[str], str], *, max_kernels: int) -> None:
        self._of = catalogue
        self._label_of = label_of
        self._max_kernels = max_kernels
        self._last: dict[str, tuple[int, float]] = {}
        """Incarnation and CPU seconds of each kernel at the last update."""
        self._last_at: float | None = None

    def update(self, snapshot: Snapshot) -> None:
        """Show this state until the next."""
        processes = [(kernel, kernel.usage) for kernel in snapshot.kernels if kernel.usage is not None]
        self._show_controller(snapshot)
        self._show_phases(snapshot)
        self._show_work(snapshot)
        self._show_memory(processes)
        self._show_kernels(processes, snapshot.at)

    def _show_controller(self, snapshot: Snapshot) -> None:
        of, own = self._of, snapshot.own
        of.kernel_capacity.set(snapshot.capacity)
        of.zmq_connections.set(snapshot.zmq_connections)
        of.http_connections.set(snapshot.http_connections)
        of.zygote_up.set(int(snapshot.is_zygote_up))
        of.store_up.set(int(snapshot.is_store_up))
        of.store_queue.set(snapshot.store_queue_length)
        of.controller_memory.set(own.memory_bytes)
        of.controller_cpu.set(own.cpu_s)
        of.controller_files.set(own.files)
        of.controller_max_files.set(own.max_files)

    def _show_phases(self, snapshot: Snapshot) -> None:
        of = self._of
        tenants = {self._label_of(tenant.id) for tenant in snapshot.tenants}
        tenants |= {self._label_of(kernel.tenant) for kernel in snapshot.kernels}
        # Zeros too: a rule about kernels that are not READY needs the series to be there.
        phases: Series = {(tenant, phase.value): 0 for tenant in sorted(tenants) for phase in Phase}
        for kernel in snapshot.kernels:
            phases[self._label_of(kernel.tenant), kernel.phase.value] += 1
        of.kernels.replace(phases)
        of.warm_kernels.replace({(phase.value,): snapshot.warm.get(phase, 0) for phase in _WARM})
        of.warm_wanted.set(snapshot.warm_wanted)
        of.kernels_total.set(len(snapshot.kernels))
        of.kernels_active.set(sum(kernel.phase in _ACTIVE for kernel in snapshot.kernels))
        of.kernels_dead.set(sum(kernel.phase in _DEAD for kernel in snapshot.kernels))

    def _show_work(self, snapshot: Snapshot) -> None:
        running: Series = defaultdict(int)
        waiting: Series = defaultdict(int)
        leases: Series = defaultdict(int)
        for tenant in snapshot.tenants:
            label = (self._label_of(tenant.id),)
            running[label] += tenant.running
            waiting[label] += tenant.waiting
            leases[label] += tenant.leases
        self._of.tenants.set(len(snapshot.tenants))
        self._of.executions_running.replace(running)
        self._of.executions_waiting.replace(waiting)
        self._of.leases.replace(leases)

    def _show_memory(self, processes: list[tuple[KernelSample, ProcessUsage]]) -> None:
        resident: Series = defaultdict(int)
        proportional: dict[tuple[str, ...], list[int]] = defaultdict(list)
        count: dict[tuple[str, ...], int] = defaultdict(int)
        for kernel, usage in processes:
            label = (self._label_of(kernel.tenant),)
            resident[label] += usage.memory_bytes
            count[label] += 1
            if usage.pss_bytes is not None:
                proportional[label].append(usage.pss_bytes)
        self._of.tenant_memory.replace(resident)
        # Kernels that were not looked at yet count like the mean of their siblings.
        self._of.tenant_proportional_memory.replace(
            {label: sum(seen) * count[label] // len(seen) for label, seen in proportional.items()}
        )

    def _show_kernels(self, processes: list[tuple[KernelSample, ProcessUsage]], at: float) -> None:
        memory: Series = {}
        cpu: Series = {}
        percent: Series = {}
        uptime: Series = {}
        for kernel, usage in processes:
            tenant = self._label_of(kernel.tenant)
            used_s, over_s = self._cpu_since_last(kernel, usage, at)
            # What adopted kernels used before this controller began was counted by the one before it.
            self._of.tenant_cpu.add(used_s if self._last_at is not None else 0, tenant)
            if len(memory) < self._max_kernels:
                labels = (tenant, kernel.id)
                memory[labels] = usage.memory_bytes
                cpu[labels] = usage.cpu_s
                percent[labels] = round(100 * used_s / over_s, 2) if over_s > 0 else 0
                uptime[labels] = round(kernel.uptime_s, 3)
        self._of.kernel_memory.replace(memory)
        self._of.kernel_cpu.replace(cpu)
        self._of.kernel_cpu_percent.replace(percent)
        self._of.kernel_uptime.replace(uptime)
        self._of.kernels_omitted.set(len(processes) - len(memory))
        self._last = {kernel.id: (kernel.incarnation, usage.cpu_s) for kernel, usage in processes}
        self._last_at = at

    def _cpu_since_last(self, kernel: KernelSample, usage: ProcessUsage, at: float) -> tuple[float, float]:
        """CPU seconds that were not counted yet, and the seconds in which they were used."""
        incarnation, cpu_s = self._last.get(kernel.id, (None, 0.0))
        if self._last_at is None or incarnation != kernel.incarnation:
            return usage.cpu_s, kernel.uptime_s
        return max(0.0, usage.cpu_s - cpu_s), at - self._last_at
