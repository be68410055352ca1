"""How ends are noticed and explained: with real child processes, whoever reaps them."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from msgspec.structs import replace

from llmspell_fleet.controller.kernels.entry import Entry
from llmspell_fleet.controller.kernels.output import Output
from llmspell_fleet.controller.supervision import endings as module
from llmspell_fleet.controller.supervision.endings import STDERR_LINES, Endings
from llmspell_fleet.model.ids import KernelId, TenantId
from llmspell_fleet.model.kernel import Death, Kernel, KernelSpec, Phase
from llmspell_fleet.spawner.spawner import Process
from llmspell_kernel.pidfile import process_start_time
from support.spawning import eventually, has_ended

pytestmark = [pytest.mark.integration, pytest.mark.asyncio]

_CHILD = """
import os, sys
os.read(0, 1)
number = int(sys.argv[1])
os.kill(os.getpid(), -number) if number < 0 else os._exit(number)
"""


class Watched:
    """Children that end when they are told to, and what is said of their ends."""

    def __init__(self, folder: Path) -> None:
        self.deaths: list[Death] = []
        self.entries: dict[KernelId, Entry] = {}
        self.endings = Endings(self.entries, self._ended)
        self._folder = folder
        self._children: dict[int, subprocess.Popen[bytes]] = {}

    def _ended(self, entry: Entry, death: Death) -> None:
        assert entry.process is not None
        entry.process = None
        self.deaths.append(death)

    def start(self, status: int = 0) -> Entry:
        """A kernel whose process will exit with a code, or by a signal (negative)."""
        child = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _CHILD, str(status)], stdin=subprocess.PIPE, env={}, cwd="/"
        )
        self._children[child.pid] = child
        number = len(self._children)
        spec = KernelSpec(id=KernelId(f"00000000-0000-4000-8000-{number:012}"), tenant=TenantId("t"))
        now = asyncio.get_running_loop().time()
        kernel = Kernel(spec=spec, phase=Phase.READY, incarnation=3, pid=child.pid, spawned_at=now)
        entry = Entry(kernel, Output(str(self._folder / f"output-{number}"), []))
        entry.process = Process(child.pid, process_start_time(child.pid) or 0, os.pidfd_open(child.pid))
        self.entries[entry.id] = entry
        return entry

    def let_end(self, entry: Entry) -> None:
        """Tell a process to end."""
        assert entry.process is not None
        stdin = self._children[entry.process.pid].stdin
        assert stdin is not None
        stdin.close()

    def over(self, entry: Entry) -> None:
        """Tell it, and wait until it has: it is not reaped."""
        assert entry.process is not None
        self.let_end(entry)
        assert has_ended(entry.process)

    async def death(self) -> Death:
        """The one certificate."""
        await eventually(lambda: self.deaths, "a death certificate")
        (death,) = self.deaths
        return death

    def close(self) -> None:
        self.endings.close()
        for child in self._children.values():
            child.kill()
            assert child.stdin is not None
            child.stdin.close()
            child.wait(10)


@pytest_asyncio.fixture
async def watched(tmp_path: Path) -> AsyncIterator[Watched]:
    made = Watched(tmp_path)
    yield made
    made.close()


def nobody_can_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """As for a process that another reaped, on a system older than Linux 6.15."""
    monkeypatch.setattr(module, "exit_status", lambda process: None)


@pytest.mark.parametrize(
    ("case", "status", "expected"),
    [
        ("by itself", 0, ("stopped", 0, None, "told to by somebody else than the fleet")),
        ("with a code", 7, ("exited", 7, None, "")),
        ("culled", 40, ("culled", 40, None, "unused for its idle_timeout_s")),
        ("stuck", 42, ("stuck", 42, None, "a script did not stop when it was interrupted")),
        ("killed", -signal.SIGKILL, ("signal", None, "SIGKILL", "")),
        ("a real-time signal without a name", -40, ("signal", None, "signal 40", "")),
    ],
)
async def test_an_end_is_noticed_and_explained(
    case: str, status: int, expected: tuple[str, int | None, str | None, str], watched: Watched
) -> None:
    entry = watched.start(status)
    watched.endings.watch(entry)
    assert not watched.deaths
    pid = entry.kernel.pid

    watched.let_end(entry)
    death = await watched.death()

    assert (death.cause, death.exit_code, death.signal, death.detail) == expected
    assert (death.kernel_id, death.tenant, death.incarnation, death.pid) == (entry.id, "t", 3, pid)
    assert 0 < death.uptime_s < 60
    assert death.at.endswith("Z")
    assert (death.executions, death.stderr) == ((), ())


async def test_its_descriptor_is_given_back(watched: Watched) -> None:
    entry = watched.start()
    watched.endings.watch(entry)
    assert entry.process is not None
    pidfd = entry.process.pidfd
    os.fstat(pidfd)

    watched.let_end(entry)
    await watched.death()

    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(pidfd)


async def test_a_process_that_was_over_before_it_was_watched_is_noticed(watched: Watched) -> None:
    entry = watched.start(7)
    watched.over(entry)

    watched.endings.watch(entry)

    assert (await watched.death()).exit_code == 7


async def test_many_ends_at_once_are_all_noticed_each_with_its_own(watched: Watched) -> None:
    entries = [watched.start(code) for code in range(50, 62)]
    for entry in entries:
        watched.endings.watch(entry)
    for entry in entries:
        watched.let_end(entry)
    await eventually(lambda: len(watched.deaths) == len(entries), "all certificates")

    found = {death.kernel_id: death.exit_code for death in watched.deaths}
    assert found == {entry.id: code for entry, code in zip(entries, range(50, 62), strict=True)}


# --- reaped by another


async def test_the_one_who_reaped_it_says_how_it_ended(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody_can_say(monkeypatch)
    entry = watched.start()
    watched.endings.watch(entry)
    watched.over(entry)

    watched.endings.reaped(entry.kernel.pid or 0, signal.SIGSEGV | 0x80)

    assert (watched.deaths[0].cause, watched.deaths[0].signal) == ("signal", "SIGSEGV")
    # The pidfd's own word has nobody left to be about.
    watched.endings._seen(entry.kernel.pid or 0, 0.0)
    watched.endings._ask(entry.kernel.pid or 0, 0.0)
    assert len(watched.deaths) == 1


async def test_it_may_be_told_before_anybody_heard_that_it_began(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody_can_say(monkeypatch)
    entry = watched.start()
    watched.over(entry)

    watched.endings.reaped(entry.kernel.pid or 0, 9 << 8)
    watched.endings.watch(entry)
    assert not watched.deaths, "whoever watches is not called back before that is done"

    assert (await watched.death()).exit_code == 9


async def test_what_was_told_of_nobody_is_forgotten_soon(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "GIVE_UP_S", 0.01)
    watched.endings.reaped(4_000_000, 0)

    await eventually(lambda: not watched.endings._statuses, "it is forgotten")


async def test_when_nobody_can_say_the_cause_is_unknown(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody_can_say(monkeypatch)
    entry = watched.start()
    watched.endings.watch(entry)
    watched.over(entry)

    death = await watched.death()

    assert (death.cause, death.exit_code, death.signal) == ("unknown", None, None)
    assert death.detail == "nobody saw its exit status"


async def test_who_can_say_a_moment_later_is_waited_for(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """The zygote's word takes another road than the pidfd's."""
    told: list[int | None] = [None, None, 9 << 8]
    monkeypatch.setattr(module, "exit_status", lambda process: told.pop(0))
    entry = watched.start()
    watched.endings.watch(entry)
    watched.over(entry)

    assert (await watched.death()).exit_code == 9


# --- what else is known


async def test_its_own_reason_is_in_the_certificate_and_in_no_later_one(watched: Watched) -> None:
    first, second = watched.start(1), watched.start(1)
    for entry in (first, second):
        watched.endings.watch(entry)
    watched.endings.explain(first.kernel.pid or 0, "no port is free")
    watched.let_end(first)
    assert (await watched.death()).detail == "no port is free"

    watched.deaths.clear()
    watched.let_end(second)
    assert (await watched.death()).detail == ""


async def test_its_last_lines_are_in_the_certificate(watched: Watched) -> None:
    loop = asyncio.get_running_loop()
    entry = watched.start(1)
    entry.output.open(loop)
    watched.endings.watch(entry)
    descriptor = os.open(entry.output._fifo, os.O_WRONLY)
    os.write(descriptor, b"".join(b"%d\n" % n for n in range(30)) + b"Segmentation f")
    os.close(descriptor)

    watched.let_end(entry)

    assert (await watched.death()).stderr == (*map(str, range(30 - STDERR_LINES + 1, 30)), "Segmentation f")
    entry.output.close(loop)


async def test_a_certificate_for_what_never_began_has_no_process(watched: Watched) -> None:
    entry = watched.start()
    assert entry.process is not None
    os.close(entry.process.pidfd)
    entry.process = None
    entry.kernel = replace(entry.kernel, pid=None, spawned_at=0.0)

    death = watched.endings.certificate(entry, "spawn_failed", "no memory")

    assert (death.cause, death.detail, death.pid, death.uptime_s) == ("spawn_failed", "no memory", None, 0.0)


async def test_closing_leaves_the_processes_and_tells_nothing_more(watched: Watched) -> None:
    entry = watched.start()
    watched.endings.watch(entry)
    pid = entry.kernel.pid or 0

    watched.endings.close()

    os.kill(pid, 0)
    watched.endings.reaped(pid, 0)
    assert not watched.deaths
