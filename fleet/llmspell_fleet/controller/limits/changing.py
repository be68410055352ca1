"""A change of a running kernel's limits, as far as it is outside the kernel; and how limits become bounds."""

import resource
from typing import Final

from msgspec.structs import replace

from llmspell_fleet.cgroups.hierarchy import Resource
from llmspell_fleet.cgroups.kernel import KernelCgroups
from llmspell_fleet.cgroups.tree import FleetCgroups
from llmspell_fleet.controller.kernels import hold as rules
from llmspell_fleet.controller.kernels.entry import Entry
from llmspell_fleet.controller.kernels.grip import Grip
from llmspell_fleet.controller.kernels.hold import Hold
from llmspell_fleet.controller.limits.own_root import resize
from llmspell_fleet.controller.limits.rlimits import Rlimits, mib
from llmspell_fleet.model.tenant import Limits
from llmspell_kernel.zygote.confine import HEADROOM_BYTES

STARTING_BYTES: Final = 64 * 1024 * 1024
"""What a process is granted for itself until it is ready and its own need is measured."""

MARGIN_BYTES: Final = 8 * 1024 * 1024
"""A bound of memory is not lowered to less than this above what is in use: the system would have to kill."""


def memory_bound(grip: Grip, limits: Limits) -> int:
    """Bytes that a process may hold, 0 = no bound: its own need, its scripts' limit, and room for what is under way."""
    if not limits.memory_bytes:
        return 0
    return (grip.baseline_bytes or STARTING_BYTES) + rules.memory_need(limits) + HEADROOM_BYTES


def cpu_bound(limits: Limits) -> float:
    """Percent of one processor, 0 = no bound. In version 1 nobody may be granted more than all of its tenant are."""
    bounds = [bound for bound in (limits.cpu_percent, limits.total_cpu_percent) if bound]
    return min(bounds, default=0.0)


def process_bound(limits: Limits) -> int:
    """Processes and threads with the kernel's own, 0 = no bound."""
    return limits.processes and limits.processes + rules.OWN_TASKS


class Change:
    """One change of a running kernel's limits, as far as it is outside the kernel."""

    def __init__(self, cgroups: FleetCgroups, entry: Entry) -> None:
        assert entry.process is not None
        self._all_cgroups = cgroups
        self._grip = entry.grip
        self._spec = entry.kernel.spec
        self._pid = entry.process.pid
        self._held = entry.grip.hold
        self._rlimits = Rlimits(entry.process.pid)
        self._late: dict[str, str] = {}
        self._cgroups = set(self._held.cgroups)
        self._memory_need = self._held.memory_need

    def carry_out(self) -> Hold:
        """Hold the process to what can be; the rest is late, with the reason."""
        old, new = self._held.limits, self._spec.limits
        if self._held.isolation_level != "none":
            self._memory(old, new)
            for what, is_changed, do in (
                ("cpu_percent", cpu_bound(old) != cpu_bound(new), self._cpu),
                ("processes", old.processes != new.processes, self._processes),
                ("files", rules.descriptors(old) != rules.descriptors(new), self._files),
                ("storage_bytes", old.storage_bytes != new.storage_bytes, self._storage),
            ):
                if is_changed or what in self._held.late:
                    try:
                        do(new)
                    except OSError as fault:
                        self._late[what] = f"{fault.strerror or fault}; it holds from the next incarnation on"
        if new.max_message_bytes > old.max_message_bytes:
            self._late["max_message_bytes"] = (
                "its sockets were made for smaller ones; it holds from the next incarnation on"
            )
        # What is inside the kernel holds when that has said so.
        kept = {name: getattr(old, name) for name in (*self._late, *rules.INSIDE)}
        return Hold(
            limits=replace(new, **kept),
            isolation_level=self._held.isolation_level,
            cgroups=frozenset(self._cgroups),
            storage=self._held.storage,
            memory_need=self._memory_need,
            late=self._late,
        )

    def _memory(self, old: Limits, new: Limits) -> None:
        need = rules.memory_need(new)
        if need == self._memory_need and self._held.late.keys().isdisjoint(rules.OF_MEMORY):
            return
        try:
            self._bound_memory(new, need)
        except OSError as fault:
            is_late = {"memory_bytes": new.memory_bytes != old.memory_bytes, "output_bytes": _is_more(old, new)}
            for what, is_so in is_late.items():
                if is_so:
                    self._late[what] = f"{fault.strerror or fault}; it holds from the next incarnation on"
        else:
            self._memory_need = need

    def _bound_memory(self, new: Limits, need: int) -> None:
        made = self._in("memory")
        if made is None:
            self._rlimits.change_data(self._memory_need, need)
            return
        bound, used = memory_bound(self._grip, new), made.memory_used()
        if bound and used + MARGIN_BYTES > bound:
            raise OSError(
                f"scripts are held to it, but the process holds {mib(used)} and would have to be killed; "
                "it follows when it holds less, or"
            )
        made.bound_memory(bound)

    def _cpu(self, new: Limits) -> None:
        made = self._in("cpu")
        if made is not None:
            made.bound_cpu(cpu_bound(new))

    def _processes(self, new: Limits) -> None:
        made = self._in("pids")
        if made is not None:
            made.bound_processes(process_bound(new))
        else:
            # Its threads are made: no bound is too low for it.
            self._rlimits.set(resource.RLIMIT_NPROC, new.processes)

    def _files(self, new: Limits) -> None:
        self._rlimits.set(resource.RLIMIT_NOFILE, rules.descriptors(new))

    def _storage(self, new: Limits) -> None:
        if self._held.storage == "tmpfs":
            resize(self._pid, new.storage_bytes)
        else:
            self._rlimits.set(resource.RLIMIT_FSIZE, new.storage_bytes)

    def _in(self, kind: Resource) -> KernelCgroups | None:
        """Its cgroups with one that bounds `kind`, which it is brought into if need be; None = there is none."""
        made = self._grip.cgroups
        if made is not None and kind in made.bounds:
            return made
        if kind not in self._all_cgroups.resources:
            return None
        before = made.processes() if made is not None else [self._pid]
        wider = self._all_cgroups.make(self._spec.tenant, self._spec.id, {*(made.bounds if made else ()), kind})
        assert wider is not None
        for directory in wider.paths:
            if made is None or directory not in made.paths:
                for pid in before:
                    wider.move(pid, directory)
        self._grip.cgroups = wider
        self._cgroups.add(kind)
        return wider


def _is_more(old: Limits, new: Limits) -> bool:
    """Whether more output may be held than before: less of it asks for no room."""
    return rules.memory_need(replace(old, output_bytes=new.output_bytes)) > rules.memory_need(old)
