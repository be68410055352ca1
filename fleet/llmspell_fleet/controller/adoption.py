"""Taking up what is stored: tenants, kernels, and the processes that an earlier controller left running."""

import asyncio
import os

from msgspec.structs import replace

from llmspell_fleet.controller.dates import date_now
from llmspell_fleet.controller.supervisor import Supervisor
from llmspell_fleet.controller.tenants import Tenants
from llmspell_fleet.model.kernel import Kernel, Phase
from llmspell_fleet.paths import FleetPaths
from llmspell_fleet.policy.events import Adopted
from llmspell_fleet.policy.lifecycle import HAS_PROCESS
from llmspell_fleet.spawner.spawner import Spawner
from llmspell_kernel.connection import read_connection_file
from llmspell_kernel.errors import LlmspellError


def adopt(kernels: list[Kernel], tenants: Tenants, supervisor: Supervisor, spawner: Spawner, paths: FleetPaths) -> int:
    """Take the stored kernels in; returns how many of them still run."""
    adopted = 0
    now = asyncio.get_running_loop().time()
    for stored in kernels:
        if stored.spec.tenant not in tenants:
            continue
        entry = tenants.adopt(_without_process(stored))
        if stored.pid is None or stored.start_time is None:
            continue
        process = spawner.recover(stored.id, stored.pid, stored.start_time)
        if process is None:
            continue
        adopted += 1
        event = Adopted(
            incarnation=stored.incarnation,
            pid=process.pid,
            start_time=process.start_time,
            at=stored.spawned_at or now,
            date=stored.started_at or date_now(),
        )
        try:
            supervisor.take_over(entry, process, event)
            connection = read_connection_file(os.path.join(paths.runtime, f"kernel-{stored.id}.json"))
            supervisor.connect(entry, connection)
        except (LlmspellError, OSError):
            # It was about to start: it answers nobody, and the start deadline ends it.
            continue
    return adopted


def _without_process(stored: Kernel) -> Kernel:
    """As stored, but where it said that there is a process, that has to be seen first."""
    is_down = stored.phase is Phase.STOPPED and stored.is_wanted and stored.phase not in HAS_PROCESS
    return replace(
        stored,
        phase=Phase.STOPPED if is_down else Phase.PENDING,
        pid=None,
        start_time=None,
        ready_at=0.0,
        crashes=(),
    )
