"""What a kernel needs it still has when it is locked down, and without cgroups: its threads, and sight of its clients."""

import asyncio
import contextlib
import itertools
import os
import signal
from collections.abc import Iterator

import msgspec
import pytest

from llmspell_fleet.spawner.spawner import Process
from llmspell_kernel.client.kernel_client import KernelClient
from llmspell_kernel.connection import ConnectionInfo
from llmspell_kernel.limits import KernelLimits
from support.homes import wait_until
from support.hostile import ATTACKER, MODES, Mode, spawning_as
from support.kernels import READY_S
from support.peers import ANSWER_S, Client
from support.poorer import WITHOUT_CGROUPS, poor_fleet
from support.spawning import Spawning, spawning
from support.tenants import need_root, new_tenant

pytestmark = pytest.mark.integration

FEW: int = 2
"""Fewer processes and threads than one kernel has."""


@pytest.fixture(scope="module", autouse=True)
def _root() -> Iterator[None]:
    need_root("a user for each tenant")
    return


def members(connection: ConnectionInfo) -> dict[str, object]:
    return {name: value for name, value in msgspec.structs.asdict(connection).items() if value is not None}


def beats(connection: ConnectionInfo) -> bool:
    with KernelClient(connection) as client:
        client.connect(READY_S)
        return client.is_alive()


def logs(site: Spawning, process: Process) -> bool:
    """Whether a line that it is asked for is written."""
    (kernel,) = (kernel for kernel, other in site.told.processes.items() if other == process)
    reader = os.open(site.folder / f"{kernel}.output", os.O_RDONLY | os.O_NONBLOCK)
    heard = b""

    def is_heard() -> bool:
        nonlocal heard
        with contextlib.suppress(BlockingIOError):
            heard += os.read(reader, 65536)
        return b"statistics" in heard

    try:
        signal.pidfd_send_signal(process.pidfd, signal.SIGUSR1)
        wait_until(is_heard, "a line of statistics")
    finally:
        os.close(reader)
    return True


HELD = [mode for mode in MODES if mode.level == "strict"]


@pytest.mark.parametrize("mode", HELD, ids=str)
def test_a_tenants_kernels_share_no_bound_of_processes(mode: Mode) -> None:
    confinement = msgspec.structs.replace(mode.confinement(ATTACKER), processes=FEW)

    async def start() -> list[str | None]:
        async with spawning_as(mode.user) as site:
            processes = [await site.start(confinement=confinement) for _ in range(4)]
            assert await asyncio.to_thread(beats, site.connection(processes[0])), "no thread is left for the heartbeat"
            assert await asyncio.to_thread(logs, site, processes[0]), "nor for the log"
            results = [await site.run(process, "return 1") for process in processes]
            probe = await site.probe("make_threads", "50", confinement=confinement)
            assert probe.outcome != "got_through", probe.detail
        return results

    assert asyncio.run(start()) == ["1"] * 4


def test_a_strict_tenants_kernels_start_over_http_where_no_cgroup_counts_their_threads() -> None:
    with poor_fleet(config="[fleet]\nstartup_kernels = 0\n", prefix=WITHOUT_CGROUPS) as fleet:
        tenant = new_tenant(fleet, isolation_level="strict", replicas=4, limits={"processes": FEW})

        kernels = tenant.kernels()
        assert [(kernel["phase"], kernel["last_death"]) for kernel in kernels] == [("READY", None)] * 4
        assert kernels[0]["limits"]["processes"] == {"value": FEW, "enforced_by": "rlimit"}
        assert [tenant.value("return 1") for _ in kernels] == ["1"] * 4


SLOW = KernelLimits(output_bytes=0)
FLOOD = "local pad = ('x'):rep(60000) for i = 1, 620 do print(i, pad) end return 'end'"
"""More messages than wait for one subscriber inside ZeroMQ."""


@pytest.mark.parametrize("mode", [Mode("root", "process"), Mode("root", "strict", "mount")], ids=str)
def test_who_reads_slowly_loses_nothing_at_any_level(mode: Mode) -> None:
    """It takes a slow reader longer to make room than a sleeping one is waited for: that it reads has to be seen."""

    async def flood() -> None:
        async with spawning("zygote") as site:
            process = await site.start(confinement=mode.confinement(ATTACKER), limits=SLOW)
            await asyncio.to_thread(read_slowly, site.connection(process))

    asyncio.run(flood())


def read_slowly(connection: ConnectionInfo) -> None:
    with Client(members(connection), checks=False) as client:
        client.sockets["iopub"].rcvhwm = 2
        client.reconnect("iopub")
        request = client.send_execute(FLOOD)
        answer = client.answers[request]
        while not answer.is_over:
            client.take(ANSWER_S, at_once=1)
            sum(itertools.islice(itertools.count(), 200_000))

        lines = [int(line.partition("\t")[0]) for line in answer.text().splitlines()]
        assert lines == list(range(1, 621))
        assert answer.text("stderr") == ""
        assert answer.result == "end"
