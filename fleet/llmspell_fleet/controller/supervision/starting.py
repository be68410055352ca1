"""Starts of kernels' processes, in batches: the intent is on disk before a process serves.

A kernel's first process may be there sooner: if nothing is recorded of a kernel, nobody was told of it, and its process
is ended by the next controller, as one that nobody wants. That of a later incarnation would be taken for its
predecessor's; it waits.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from msgspec.structs import replace

from llmspell_fleet.controller.kernels import files
from llmspell_fleet.controller.kernels.entry import Entry
from llmspell_fleet.controller.limits.holding import Holder
from llmspell_fleet.errors import StoreError
from llmspell_fleet.model.ids import KernelId
from llmspell_fleet.paths import FleetPaths
from llmspell_fleet.spawner.spawner import Spawner
from llmspell_fleet.store.store import Store
from llmspell_kernel.errors import RefusedError

if TYPE_CHECKING:
    from llmspell_kernel.zygote.protocol import Confinement, StartKernel

_LOG: Final = logging.getLogger("llmspell.fleet")


class Starts:
    """What is to be started. Belongs to the event loop."""

    def __init__(
        self,
        spawner: Spawner,
        store: Store,
        paths: FleetPaths,
        holder: Holder,
        on_failed: Callable[[KernelId, str, bool], None],
        *,
        log_level: str,
    ) -> None:
        self._loop: Final = asyncio.get_running_loop()
        self._spawner = spawner
        self._store = store
        self._paths = paths
        self._holder = holder
        self._on_failed = on_failed
        self.log_level = log_level
        self.isolate: Callable[[Entry, Confinement], Confinement] = lambda _entry, confinement: confinement
        """Adds what a kernel's isolation level asks for; RefusedError: it cannot be had."""
        self.may_be_spare: Callable[[Entry], bool] = lambda _entry: False
        """Whether a process that waits for it may become a kernel's (`controller.pools.warm`)."""
        self._wanted: list[Entry] = []
        self._has_wanted = asyncio.Event()
        self._tickets = 0

    def ask(self, entry: Entry) -> None:
        """Start a process for a kernel: its spawner answers."""
        self._wanted.append(entry)
        self._has_wanted.set()

    async def run(self) -> None:
        """Do so, until cancelled."""
        while True:
            await self._has_wanted.wait()
            self._has_wanted.clear()
            batch, self._wanted = self._wanted, []
            first = [entry for entry in batch if entry.kernel.incarnation <= 1]
            later = [entry for entry in batch if entry.kernel.incarnation > 1]
            begun = [entry for entry in first if self._start(entry)]
            # Not sooner: the thread that writes would keep this one from going on.
            written = self._store.flush()
            for entry in begun:
                entry.written = written
            await _done(written)
            for entry in later:
                self._start(entry)

    def _start(self, entry: Entry) -> bool:
        """Ask for a process; False: it was told that there will be none, or is asked again."""
        try:
            request = self._prepared(entry)
        except Exception:  # noqa: BLE001 - it has failed, and others are to be started all the same
            _LOG.exception("kernel %s cannot be started", entry.id)
            self._on_failed(entry.id, "a fault of the fleet's own: its log has the details", False)
            return False
        if request is not None:
            self._spawner.start(request)
        return request is not None

    def _prepared(self, entry: Entry) -> "StartKernel | None":
        """Make what a process needs before there is one; None: it was told that there will be none."""
        level = entry.kernel.spec.isolation_level
        if entry.kernel.isolation_level != level:
            # Changed since: whoever adopts the process goes by what is on disk.
            entry.kernel = replace(entry.kernel, isolation_level=level)
            self._store.save_kernel(entry.kernel)
            self.ask(entry)
            return None
        self._tickets += 1
        entry.output.begin(entry.kernel.incarnation)
        try:
            files.make_kernel_dir(self._paths, entry.id)
            entry.output.open(self._loop)
            request = files.start_request(
                self._paths,
                entry.kernel.spec,
                entry.connection,
                ticket=self._tickets,
                confinement=self._holder.begin(entry),
                proof=self._holder.proof(entry.id),
                log_level=self.log_level,
                may_be_spare=self.may_be_spare(entry),
            )
        except (OSError, RefusedError) as fault:
            self._on_failed(entry.id, str(fault), False)
            return None
        try:
            return replace(request, confinement=self.isolate(entry, request.confinement))
        except RefusedError as fault:
            self._on_failed(entry.id, str(fault), True)
            return None


async def _done(written: "asyncio.Future[None]") -> None:
    # A store that cannot write says so in /health. Starts go on: processes say whose they are.
    with contextlib.suppress(StoreError):
        await written
