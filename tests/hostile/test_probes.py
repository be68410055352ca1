"""Nothing gets out at `strict`; what the other levels leave open is open, so that SECURITY.md stays true.

The probes are Python inside a process that is held as a kernel is: as if the filter of the Lua runtime had fallen.
"""

import asyncio
from collections.abc import Iterator

import pytest

from llmspell_fleet.policy.isolation import ATTACKS, strength
from llmspell_kernel.zygote.probes import PROBES
from support.hostile import MODES, Mode, all_of, scene
from support.tenants import need_root

pytestmark = pytest.mark.integration

AIMS: dict[str, list[tuple[str, str]]] = {
    "use what its parent had open": [("inherited", "")],
    "read, list or change files of other tenants, keys and tokens": [
        *((probe, "connection file") for probe in ("read_file", "write_file", "change_mode")),
        ("list_folder", "runtime"),
        ("enter_folder", "runtime"),
    ],
    "read, list or change any other file of the machine": [("read_file", "public"), ("list_folder", "etc")],
    "learn whether a path exists, and whose it is": [("see_path", "public"), ("leave_root", "")],
    "ask whether a process of a given number exists": [("see_process", "kernel"), ("see_process", "zygote")],
    "read other processes' environment, memory and descriptors": [
        (probe, kind)
        for probe in ("read_environ", "read_maps", "read_memory", "list_descriptors", "read_across")
        for kind in ("kernel", "zygote")
    ],
    "read other processes' command line and status": [
        (probe, kind) for probe in ("read_cmdline", "read_status") for kind in ("kernel", "zygote")
    ],
    "signal or trace other processes, change their limits": [
        *((probe, "kernel") for probe in ("send_signal", "attach", "change_limits", "change_priority")),
        *((probe, "zygote") for probe in ("send_signal", "attach", "change_limits", "change_priority")),
        *(("take_descriptor", kind) for kind in ("kernel", "zygote")),
        ("send_signal_by_descriptor", "kernel"),
    ],
    "connect to other kernels and services by unix sockets": [
        ("connect_unix", "socket"),
        ("send_by_pair", "datagrams"),
    ],
    "use abstract unix sockets and TCP": [
        *(("connect_abstract", "abstract"), ("listen_abstract", "own abstract")),
        *(("connect_tcp", "port"), ("connect_by_listener", "port"), ("listen_tcp", "")),
    ],
    "use UDP, netlink and vsock": [("send_udp", ""), ("open_netlink", ""), ("open_vsock", "")],
    "make processes, run programs": [("fork", ""), ("execute", ""), ("execute_memory", "")],
    "share memory with others: System V, memfd, keys": [
        (probe, "") for probe in ("share_memory", "memory_file", "shared_file", "message_queue", "keyring")
    ],
    "reach into the system by io_uring, bpf, userfaultfd, performance counters": [
        (probe, "") for probe in ("io_uring", "bpf", "userfaultfd", "performance_events")
    ],
    "fill the machine's disk": [("fill_folder", "disk"), ("fill_folder", "own folder")],
}
"""How each attack that `policy.isolation` speaks of is tried."""

BESIDE: list[tuple[str, str]] = [
    *(("make_symlink", "connection file"), ("make_fifo", ""), ("set_user_bit", ""), ("create_with_user_bit", "")),
    *(("become_root", ""), ("make_namespace", ""), ("mount", ""), ("become_dumpable", ""), ("executable_memory", "")),
    *(("grow_file", "own folder"), ("make_processes", "kernel"), ("find_secret", "secret"), ("remove_file", "socket")),
    *(("kill_everybody", ""), ("shared_anonymous_memory", ""), ("growing_memory", "")),
    ("use_uncounted_memory", "own folder"),
]
"""What is refused at `strict` besides."""

UNTRIED = {"read its parent's environment", "gain rights by a set-user-ID program"}
"""Said of every level, and shown of processes from outside (`tests/fleet/spawner/test_contract.py`)."""

WITHIN = {"use_memory", "make_threads", "many_files", "open_files"}
"""Of limits, not of isolation."""


@pytest.fixture(scope="module", autouse=True)
def _root() -> Iterator[None]:
    need_root("trying out several users")
    return


def test_every_attack_that_is_spoken_of_is_tried_and_every_probe_is_used() -> None:
    assert {attack.what for attack in ATTACKS} == AIMS.keys() | UNTRIED
    used = {probe for aims in AIMS.values() for probe, _kind in aims} | {probe for probe, _kind in BESIDE} | WITHIN
    assert used >= PROBES.keys() - {"use_cpu"}


@pytest.mark.parametrize("mode", MODES, ids=str)
def test_what_is_said_to_be_held_is_held_and_what_is_said_to_be_open_is_open(mode: Mode) -> None:
    told = strength(mode.level, mode.survey)

    async def attack() -> list[str]:
        wrong = []
        async with scene(mode) as stage:
            for what, aims in AIMS.items():
                found = await all_of(stage, aims)
                through = [f"{probe.name}: {probe.detail}" for probe in found if probe.outcome == "got_through"]
                if what in told.held:
                    wrong += [f"{what} is not held: {line}" for line in through]
                elif not through:
                    wrong.append(f"{what} is not open: {[(probe.name, probe.detail) for probe in found]}")
        return wrong

    assert asyncio.run(attack()) == []


@pytest.mark.parametrize("mode", [mode for mode in MODES if mode.level == "strict"], ids=str)
def test_at_strict_nothing_else_gets_through_either(mode: Mode) -> None:
    async def attack() -> list[str]:
        async with scene(mode) as stage:
            found = await all_of(stage, BESIDE)
        return [f"{probe.name}: {probe.detail}" for probe in found if probe.outcome == "got_through"]

    assert asyncio.run(attack()) == []


def test_with_a_root_of_its_own_a_strict_kernel_can_write_within_its_bound() -> None:
    async def fill() -> list[str]:
        async with scene(Mode("root", "strict", "mount")) as stage:
            found = [await stage.attack("fill_folder", "own folder"), await stage.attack("grow_file", "own folder")]
        return [probe.outcome for probe in found]

    assert asyncio.run(fill()) == ["stopped", "stopped"]


@pytest.mark.parametrize("level", ["process", "strict"])
def test_a_kernels_memory_holds_no_other_kernels_key(level: str) -> None:
    """At `process`, where it may look: its parent never had it."""
    mode = Mode("root", "process") if level == "process" else Mode("root", "strict", "mount")

    async def look() -> str:
        async with scene(mode) as stage:
            return (await stage.attack("find_secret", "secret")).outcome

    assert asyncio.run(look()) == "refused"
