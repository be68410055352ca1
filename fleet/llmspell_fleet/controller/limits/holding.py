"""Holds kernels' processes to their limits: before they begin, while they run, and when they end.

What cgroups can bound, they do; else rlimits; what is inside the kernel is the kernel's own, which is told by a message
that proves to come from here: clients of a kernel hold its key, and must not lift its limits.
"""

import asyncio
import contextlib
import hmac
import logging
import secrets
from collections.abc import Callable
from functools import partial
from typing import Final

from msgspec.structs import replace

from llmspell_fleet.cgroups.kernel import KernelCgroups
from llmspell_fleet.cgroups.tree import FleetCgroups
from llmspell_fleet.controller.kernels import hold as rules
from llmspell_fleet.controller.kernels.entry import Entry
from llmspell_fleet.controller.kernels.grip import Grip
from llmspell_fleet.controller.kernels.hold import Hold
from llmspell_fleet.controller.limits.changing import (
    MARGIN_BYTES,
    STARTING_BYTES,
    Change,
    cpu_bound,
    memory_bound,
    process_bound,
)
from llmspell_fleet.controller.limits.rlimits import mib
from llmspell_fleet.errors import ConflictError
from llmspell_fleet.model.ids import KernelId
from llmspell_fleet.model.kernel import KernelSpec
from llmspell_fleet.model.tenant import IsolationLevel, Limits, TenantSpec
from llmspell_fleet.policy.lifecycle import HAS_PROCESS
from llmspell_kernel.errors import RefusedError
from llmspell_kernel.safe_files import read_private, write_private
from llmspell_kernel.zygote.confine import HEADROOM_BYTES
from llmspell_kernel.zygote.protocol import Confinement

_LOG: Final = logging.getLogger("llmspell.fleet")

SECRET_BYTES: Final = 32

HOLDS: Final = b'{"status":"ok"}'
"""A kernel's answer to other limits, unless it was started by a fleet with another secret."""

SAME_BYTES: Final = 1024 * 1024
"""Needs of two incarnations that differ by less are the same."""


def load_secret(path: str) -> bytes:
    """The secret that is kept at `path`, made when there is none: it outlives the controller, as kernels do."""
    try:
        found = read_private(path, what="fleet's key", limit_bytes=1024)
    except FileNotFoundError:
        found = b""
    if len(found) < SECRET_BYTES:
        found = secrets.token_bytes(SECRET_BYTES)
        write_private(path, found, what="fleet's key")
    return found


class Holder:
    """Belongs to the event loop. `secret` is what kernels know their fleet's messages by."""

    def __init__(self, cgroups: FleetCgroups, secret: bytes, tell: Callable[[Entry, str, float], None]) -> None:
        self.cgroups = cgroups
        self._secret = secret
        self._tell_unenforced = tell
        self._late: set[Entry] = set()
        self._left: list[KernelCgroups] = []
        self.storage: Callable[[IsolationLevel], rules.StorageLayer] = lambda _level: "rlimit"
        """What bounds the files of kernels of a level."""

    def proof(self, kernel: str) -> str:
        """What a kernel is told at its start, and nobody else."""
        return hmac.digest(self._secret, kernel.encode(), "sha256").hex()

    def expected(self, spec: KernelSpec) -> Hold:
        """What its next incarnation will be held to."""
        can = rules.needed_cgroups(spec) & self.cgroups.resources
        level = spec.isolation_level
        need = rules.memory_need(spec.limits)
        storage = self.storage(level)
        return Hold(limits=spec.limits, isolation_level=level, cgroups=can, storage=storage, memory_need=need)

    def take_in(self, entry: Entry) -> None:
        """A kernel is new here; it has no process of ours yet."""
        entry.grip.hold = self.expected(entry.kernel.spec)
        self._say_unenforced(entry)

    def require_enforced(self, spec: TenantSpec) -> None:
        """ConflictError when a tenant at `strict` is to have limits that nobody can enforce here."""
        if spec.isolation_level != "strict":
            return
        hold = self.expected(KernelSpec(id=KernelId(""), tenant=spec.id, limits=spec.limits, isolation_level="strict"))
        if names := rules.unenforced(hold):
            raise ConflictError(
                f"isolation_level strict, and nobody can enforce {', '.join(names)} here: set them to 0, or use "
                "process; `llmspell fleet doctor` says what to install or configure"
            )

    # --- an incarnation's life

    def begin(self, entry: Entry) -> Confinement:
        """Make what will hold the process that is started now. RefusedError: it may not start without."""
        spec, grip = entry.kernel.spec, entry.grip
        hold = self.expected(spec)
        if spec.isolation_level != "none":
            try:
                self._prepare(grip, spec, hold)
            except OSError as fault:
                reason = f"its cgroups cannot be made: {fault}"
                if spec.isolation_level == "strict":
                    raise RefusedError(reason) from None
                _LOG.warning("kernel %s: %s; rlimits hold it instead", spec.id, reason)
                grip.cgroups = None
                hold = replace(hold, cgroups=frozenset())
        grip.hold = hold
        self._say_unenforced(entry)
        if spec.isolation_level == "strict" and (open_limits := rules.unenforced(hold)):
            raise RefusedError(f"isolation level strict, and nobody can enforce {', '.join(open_limits)} here")
        paths = grip.cgroups.paths if grip.cgroups is not None else ()
        return rules.confinement(spec, hold.cgroups, paths)

    def _prepare(self, grip: Grip, spec: KernelSpec, hold: Hold) -> None:
        made = grip.cgroups
        if made is not None and _is_astray(grip, spec):
            made.remove()
            made = None
        if made is None or frozenset(made.bounds) != hold.cgroups:
            made = self.cgroups.make(spec.tenant, spec.id, hold.cgroups)
            if made is None:
                return
        elif grip.written == spec.limits:
            return  # as its last incarnation left them
        self._bound(grip, made, spec.limits)
        grip.cgroups, grip.written, grip.tenant = made, spec.limits, spec.tenant

    def _bound(self, grip: Grip, made: KernelCgroups, limits: Limits) -> None:
        if "memory" in made.bounds:
            made.bound_memory(memory_bound(grip, limits))
        if "cpu" in made.bounds:
            made.bound_cpu(cpu_bound(limits))
        if "pids" in made.bounds:
            made.bound_processes(process_bound(limits))

    def ready(self, entry: Entry) -> None:
        """It answered, and has run nothing: what it holds now is its own."""
        grip = entry.grip
        if not entry.is_adopted and grip.cgroups is not None and "memory" in grip.cgroups.bounds:
            with contextlib.suppress(OSError):
                used = grip.cgroups.memory_used()
                # After a repair it is what it was: nothing need be written.
                if abs(used - grip.baseline_bytes) > SAME_BYTES:
                    grip.baseline_bytes = used
                    grip.cgroups.bound_memory(memory_bound(grip, grip.hold.limits))
        self.change(entry)

    def adopt(self, entry: Entry) -> None:
        """It was started by an earlier controller, and is held as that one left it."""
        assert entry.process is not None
        spec, grip = entry.kernel.spec, entry.grip
        level = entry.kernel.isolation_level
        if level is None:  # surely no more than this
            level = "process" if spec.isolation_level == "strict" else spec.isolation_level
        made = self.cgroups.find(entry.process.pid, spec.id) if level != "none" else None
        grip.cgroups, grip.tenant = made, made.tenant if made is not None else ""
        bounds = frozenset(made.bounds if made is not None else ())
        grip.hold = replace(self.expected(spec), isolation_level=level, cgroups=bounds, storage=self.storage(level))
        if made is not None and "memory" in made.bounds:
            with contextlib.suppress(OSError):
                state = made.memory_state()
                beyond = state.bound - rules.memory_need(spec.limits) - HEADROOM_BYTES
                grip.baseline_bytes = min(max(0, beyond), 4 * STARTING_BYTES)
                grip.kills = state.kills
        self._say_unenforced(entry)

    def why_killed(self, entry: Entry) -> str:
        """What the cgroup says of a process that ended by SIGKILL: how its memory ran out; "" = it did not."""
        grip = entry.grip
        if grip.cgroups is None or "memory" not in grip.cgroups.bounds:
            return ""
        try:
            state = grip.cgroups.memory_state()
        except OSError:
            return ""
        if state.kills <= grip.kills:
            return ""
        grip.kills = state.kills
        peak = "" if state.peak is None else f"it held up to {mib(state.peak)}, "
        of = grip.hold.limits.memory_bytes
        what = f"memory_bytes {mib(of)}" if of else "no memory_bytes"
        bound = f"its cgroup's bound is {mib(state.bound)}" if state.bound else "its cgroup has no bound"
        if state.bound and state.peak is not None and state.peak < state.bound - MARGIN_BYTES:
            bound += ", so that it was its tenant's or the machine's memory that ran out"
        return f"out of memory: {peak}{bound} ({what})"

    def ended(self, entry: Entry) -> None:
        """Its process is gone: nothing of it may live on, and the next one begins anew."""
        self._late.discard(entry)
        entry.grip.kill()
        entry.grip.hold = self.expected(entry.kernel.spec)

    def forget(self, entry: Entry) -> None:
        """The kernel leaves for good."""
        self._late.discard(entry)
        if entry.grip.cgroups is not None and not entry.grip.cgroups.remove():
            self._left.append(entry.grip.cgroups)
        entry.grip.cgroups = None

    # --- what changes

    def change(self, entry: Entry) -> None:
        """Its limits should be others: hold it to those that can hold at once."""
        spec, hold = entry.kernel.spec, entry.grip.hold
        if entry.process is not None and _is_astray(entry.grip, spec):
            self._bring_home(entry)
        if entry.process is None:
            if entry.kernel.phase not in HAS_PROCESS:
                entry.grip.hold = self.expected(spec)
            return
        if hold.limits == spec.limits and not hold.late:
            return
        outside = Change(self.cgroups, entry).carry_out()
        entry.grip.hold, entry.grip.written = outside, None
        (self._late.discard if rules.OF_MEMORY.isdisjoint(outside.late) else self._late.add)(entry)
        self._say_unenforced(entry)
        channel = entry.channel
        if channel is not None:
            incarnation = entry.kernel.incarnation
            told = rules.kernel_limits(spec)
            if "output_bytes" in outside.late:  # its process has no room for more
                told = replace(told, output_bytes=outside.limits.output_bytes)
            answer = channel.limit(told)
            answer.add_done_callback(partial(_holds, entry, incarnation, spec.limits))

    def _bring_home(self, entry: Entry) -> None:
        """A warm kernel was claimed by a tenant that is bounded as a whole: it goes into that one's directory."""
        spec, grip, was = entry.kernel.spec, entry.grip, entry.grip.cgroups
        assert was is not None
        try:
            made = self.cgroups.make(spec.tenant, spec.id, frozenset(was.bounds))
            if made is None:
                return
            self._bound(grip, made, grip.hold.limits)
            for pid in was.processes():
                for directory in made.paths:
                    made.move(pid, directory)
        except OSError as fault:
            _LOG.warning("kernel %s is not counted with its tenant's: %s", spec.id, fault)
            return
        grip.cgroups, grip.tenant = made, spec.tenant
        was.remove()

    def catch_up(self) -> None:
        """Try again what could not be at once: to be called now and then."""
        for entry in list(self._late):
            self.change(entry)
        self._left = [cgroups for cgroups in self._left if not cgroups.remove()]

    def bound_tenant(self, spec: TenantSpec) -> str:
        """Hold a tenant's kernels together to its totals; returns why that is not so, "" = it is."""
        limits, counted = spec.limits, self.counted(spec)
        try:
            if too_low := self.total_too_low(spec):
                return too_low
            self.cgroups.bound_tenant(
                spec.id,
                memory_bytes=limits.total_memory_bytes if "total_memory_bytes" in counted else 0,
                cpu_percent=limits.total_cpu_percent if "total_cpu_percent" in counted else 0,
            )
        except OSError as fault:
            return f"its cgroup cannot be bounded: {fault.strerror or fault}"
        return ""

    def counted(self, spec: TenantSpec) -> frozenset[str]:
        """Which totals of a tenant its cgroups count."""
        if spec.isolation_level == "none":
            return frozenset()
        names = {"memory": "total_memory_bytes", "cpu": "total_cpu_percent"}
        return frozenset(name for resource, name in names.items() if resource in self.cgroups.resources)

    def total_too_low(self, spec: TenantSpec) -> str:
        """Why a tenant's total would have the system kill one of its kernels at once; "" = it would not."""
        if "total_memory_bytes" not in self.counted(spec):
            return ""
        try:
            used = self.cgroups.tenant_memory(spec.id)
        except OSError:
            return ""
        if used and 0 < spec.limits.total_memory_bytes < used + MARGIN_BYTES:
            return (
                f"expected total_memory_bytes to be more than the {mib(used)} that its kernels hold now, "
                "since the system would have to kill one: stop or restart kernels first"
            )
        return ""

    def close(self) -> None:
        """All processes are gone."""
        self.catch_up()
        self.cgroups.close()

    def _say_unenforced(self, entry: Entry) -> None:
        names = tuple(rules.unenforced(entry.grip.hold))
        for name in names:
            if name not in entry.grip.told:
                self._tell_unenforced(entry, name, getattr(entry.grip.hold.limits, name))
        entry.grip.told = names


def _is_astray(grip: Grip, spec: KernelSpec) -> bool:
    has_total = spec.limits.total_memory_bytes or spec.limits.total_cpu_percent
    return bool(has_total) and grip.cgroups is not None and grip.tenant != spec.tenant


def _holds(entry: Entry, incarnation: int, limits: Limits, answer: "asyncio.Future[bytes]") -> None:
    """The kernel said that it holds its scripts and clients to `limits`."""
    is_there = not answer.cancelled() and answer.exception() is None and entry.kernel.incarnation == incarnation
    if not is_there or answer.result() != HOLDS:
        return
    hold = entry.grip.hold
    inside = {name: getattr(limits, name) for name in rules.INSIDE if name not in hold.late}
    entry.grip.hold = replace(hold, limits=replace(hold.limits, **inside))
