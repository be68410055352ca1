"""Recorded executions that an earlier controller did not see the end of: what became of each, asked of its kernel.

Before an execution is sent, it is recorded where to (`store.records.Placed`). What was sent to nobody never began. A
kernel that lives is asked (`llmspell_kernel.jupyter.succession`): it runs it still, or has kept its reply, or has never
heard of it, and will not begin it any more. Of a kernel that died, its progress tells what it had begun.
"""

from collections import defaultdict
from collections.abc import Sequence
from typing import Final

import msgspec

from llmspell_fleet.controller.kernels import files
from llmspell_fleet.controller.kernels.entry import Entry
from llmspell_fleet.controller.pools.tenants import Tenants
from llmspell_fleet.controller.supervision.supervisor import Supervisor
from llmspell_fleet.controller.work.executions import died
from llmspell_fleet.errors import FleetError, KernelDiedError, OutcomeUnknownError, UnavailableError
from llmspell_fleet.model.ids import KernelId
from llmspell_fleet.model.kernel import Death, Kernel
from llmspell_fleet.model.views import Executed
from llmspell_fleet.paths import FleetPaths
from llmspell_fleet.problems import problem_of
from llmspell_fleet.router.channel import Lost
from llmspell_fleet.router.progress import ProgressReader
from llmspell_fleet.store.records import Execution, Placed
from llmspell_fleet.store.store import Store

UNKNOWN: Final = "the fleet's controller ended while this ran, and its kernel has not kept what became of it"
_NOT_BEGUN: Final = "the fleet's controller ended before this began: it did not run, and can be sent again"


class Unfinished:
    """The pending executions of an earlier controller. Belongs to the event loop."""

    def __init__(self, pending: Sequence[Execution], supervisor: Supervisor, tenants: Tenants, store: Store) -> None:
        self.executions = pending
        self._supervisor = supervisor
        self._tenants = tenants
        self._store = store
        self._asked: dict[KernelId, list[str]] = defaultdict(list)
        for execution in pending:
            if execution.placed is not None:
                self._asked[execution.placed.kernel_id].append(execution.id)
        self._begun: dict[tuple[KernelId, int], int] = {}

    def look(self, kernels: Sequence[Kernel], paths: FleetPaths) -> None:
        """See what kernels have begun, before another incarnation counts from the beginning."""
        for kernel in kernels:
            if kernel.id not in self._asked:
                continue
            try:
                progress = ProgressReader(files.progress_path(paths, kernel.id))
            except (OSError, ValueError):
                continue
            self._begun[kernel.id, kernel.incarnation] = progress.begun
            progress.close()

    def asked_of(self, kernel: KernelId) -> list[str]:
        """Which of them were sent there."""
        return self._asked.get(kernel, [])

    async def outcome(self, execution: Execution) -> Executed | None:
        """What became of it, waited for while it runs; None = it never began, and its key is free."""
        placed = execution.placed
        if placed is None:
            return _not_begun(execution)
        entry = self._supervisor.get(placed.kernel_id)
        if entry is None or not entry.is_adopted or entry.kernel.incarnation != placed.incarnation:
            return await self._of_dead(execution, placed, entry)
        try:
            return await self._of_living(execution, placed, entry)
        except Lost as lost:
            if not lost.had_begun or self._had_not_begun(placed):
                return _not_begun(execution)
            return _failed(KernelDiedError(died(placed.kernel_id, lost), lost.death))

    async def _of_living(self, execution: Execution, placed: Placed, entry: Entry) -> Executed | None:
        await entry.wait_until(lambda _kernel: entry.channel is not None or entry.process is None, None)
        if entry.channel is None:
            return await self._of_dead(execution, placed, entry)
        inherited = await entry.channel.inherited()
        content = inherited.replies.get(execution.id)
        if content is None and execution.id in inherited.running:
            tenant = self._tenants.get(execution.tenant)
            tenant.executions += 1
            try:
                content = await inherited.running[execution.id]
            finally:
                tenant.executions -= 1
        if content is not None:
            return Executed(200, placed.head + content[1:])
        if inherited.forgotten <= placed.after_ticket:
            return _not_begun(execution)
        return _failed(OutcomeUnknownError(UNKNOWN))

    async def _of_dead(self, execution: Execution, placed: Placed, entry: Entry | None) -> Executed | None:
        if self._had_not_begun(placed):
            return _not_begun(execution)
        death = await self._death(placed, entry)
        if death is None:
            return _failed(OutcomeUnknownError(UNKNOWN))
        return _failed(KernelDiedError(died(placed.kernel_id, Lost(death, had_begun=True)), death))

    def _had_not_begun(self, placed: Placed) -> bool:
        begun = self._begun.get((placed.kernel_id, placed.incarnation))
        return begun is not None and begun <= placed.after_ticket

    async def _death(self, placed: Placed, entry: Entry | None) -> Death | None:
        last = entry.kernel.last_death if entry is not None else None
        if last is not None and last.incarnation == placed.incarnation:
            return last
        deaths = await self._store.deaths(placed.kernel_id)
        return next((one for one in deaths if one.incarnation == placed.incarnation), None)


def _not_begun(execution: Execution) -> Executed | None:
    """Who waits for it asks again, with its key; nobody else will."""
    if execution.key is not None and execution.is_waited_for:
        return None
    return _failed(UnavailableError(_NOT_BEGUN))


def _failed(fault: FleetError) -> Executed:
    return Executed(fault.status, msgspec.json.encode(problem_of(fault)))
