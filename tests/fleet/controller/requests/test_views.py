"""Kernels as clients see them."""

import pytest

from llmspell_fleet.controller.kernels.entry import Entry
from llmspell_fleet.controller.kernels.output import Output
from llmspell_fleet.controller.requests.views import kernel_view
from llmspell_fleet.model.ids import KernelId, TenantId
from llmspell_fleet.model.kernel import Kernel, KernelSpec, Phase
from llmspell_fleet.observe.usage import ProcessUsage

LOOKED_AT = ProcessUsage(memory_bytes=2**20, cpu_s=1.0, threads=3, files=9)


@pytest.mark.parametrize(
    ("phase", "pid", "memory_bytes"),
    [
        (Phase.READY, 7, 2**20),
        (Phase.STARTING, None, None),
        (Phase.BACKOFF, None, None),
        (Phase.STOPPED, None, None),
        (Phase.FAILED, None, None),
    ],
)
def test_what_was_seen_of_a_process_that_has_ended_is_not_shown(
    phase: Phase, pid: int | None, memory_bytes: int | None
) -> None:
    spec = KernelSpec(id=KernelId("k"), tenant=TenantId("t"))
    entry = Entry(Kernel(spec=spec, phase=phase, pid=pid), Output("/nowhere", []))

    usage = kernel_view(entry, LOOKED_AT, 1.0, {}).usage

    assert usage.memory_bytes == memory_bytes
    assert (usage.cpu_s is None) == (memory_bytes is None)
