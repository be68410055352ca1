"""A locked kernel imports nothing: the interpreter's files are out of its reach, and a late import would fail at work."""

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from jupyter_core.utils import ensure_event_loop

from llmspell_fleet.model.ids import KernelId
from llmspell_kernel.client.kernel_client import KernelClient
from llmspell_kernel.connection import ConnectionInfo
from llmspell_kernel.limits import KernelLimits
from llmspell_kernel.zygote.protocol import Confinement
from support.homes import DEADLINE_S, wait_until
from support.jupyter_front import Front, front
from support.spawning import spawning
from support.tenants import need_root

pytestmark = pytest.mark.integration

TRIPWIRE = """
import ctypes, os, sys
_prctl = ctypes.CDLL(None).prctl
def _hook(event, arguments):
    # PR_GET_SECCOMP: refused, once the filter is loaded
    if event in ("import", "open") and _prctl(21, 0, 0, 0, 0) != 0:
        os.write(2, f"LATE {event} {arguments[0]!r}\\n".encode())
sys.addaudithook(_hook)
"""
"""In every process of the spawner's: whatever is imported or opened by a name after the lock-down is a line."""


@pytest.fixture(scope="module", autouse=True)
def _root() -> Iterator[None]:
    need_root("a user of its own")
    return


LOCKED = Confinement(level="strict", uid=730_000_001, namespaces="mount", file_bytes=1024 * 1024)


def everything(connection: ConnectionInfo, pid: int, lines: Callable[[], str]) -> None:
    """Every feature of a kernel, in a thread."""
    try:
        with front(connection) as talk:
            every_feature(talk, pid, lines)
    finally:
        ensure_event_loop().close()  # jupyter_client made it for this thread


def every_feature(talk: Front, pid: int, lines: Callable[[], str]) -> None:
    """As a front end, and whoever sends signals, uses them."""
    assert talk.execute("return 1 + 1").result == "2"
    assert talk.execute("error('no')").status == "error"
    assert talk.execute("local t = setmetatable({}, {__index = function() error({}) end}) return t.x").status == "error"
    assert talk.execute("x = = 1").status == "error"
    assert talk.execute("return ('x'):rep(10 * 1024 * 1024)").status == "ok"
    assert talk.execute("for i = 1, 20000 do print(i) end io.stderr:write('warning')").status == "ok"
    assert talk.execute("display{html='<b>1</b>', text='1'} update_display('a', 1) clear_output()").status == "ok"
    assert talk.execute("return os.date('%c'), os.time(), os.clock(), math.random()").status == "ok"
    assert talk.execute("return require('nothing')").status == "error"
    assert talk.execute("return '\\xff\\xfe', '\\u{1F600}'").status == "ok"
    assert talk.execute("name = io.read() return name", answer="a line").result == "a line"
    assert talk.interrupt("while true do end").status == "error"
    assert talk.execute("string.rep?").status == "ok"
    for kind, content in {
        "kernel_info_request": {},
        "complete_request": {"code": "string.re", "cursor_pos": 9},
        "inspect_request": {"code": "string.rep", "cursor_pos": 9, "detail_level": 1},
        "is_complete_request": {"code": "for i = 1, 2 do"},
        "comm_info_request": {},
        "statistics_request": {},
        "nonsense_request": {},
    }.items():
        talk.ask(kind, content, is_answered=kind != "nonsense_request")
    for access in ({"hist_access_type": "tail", "n": 5}, {"hist_access_type": "search", "pattern": "*math*", "n": 5}):
        talk.ask("history_request", {"output": False, "raw": True, **access})
    talk.garbage()
    for number, said in ((signal.SIGUSR2, "log level"), (signal.SIGUSR1, "statistics"), (signal.SIGHUP, "SIGHUP")):
        os.kill(pid, number)
        wait_until(lambda said=said: said in lines(), f"a line about {said}")
    assert talk.beats()
    assert talk.execute("return 'still here'").result == "still here"


@pytest.mark.parametrize(("kind", "is_spare"), [("zygote", False), ("zygote", True), ("subprocess", False)])
def test_nothing_is_imported_or_opened_after_the_lock_down(kind: str, is_spare: bool, tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(TRIPWIRE)

    async def serve() -> str:
        async with spawning(kind, environ={"PYTHONPATH": str(tmp_path)}) as site:
            if is_spare:
                await site.spare()
            limits = KernelLimits(memory_bytes=64 * 1024 * 1024)
            request = site.request(confinement=LOCKED, limits=limits, may_be_spare=is_spare)
            reader = os.open(request.output, os.O_RDWR | os.O_NONBLOCK)
            heard: list[bytes] = []

            def lines() -> str:
                with contextlib.suppress(BlockingIOError):
                    heard.append(os.read(reader, 1 << 20))
                return b"".join(heard).decode(errors="replace")

            site.spawner.start(request)
            kernel = KernelId(request.kernel_id)
            await site.served(kernel)
            process = site.told.processes[kernel]
            assert process.was_spare is is_spare
            try:
                await asyncio.to_thread(everything, site.connection(process), process.pid, lines)
            except Exception as fault:
                raise AssertionError(f"the kernel wrote: {lines()}") from fault
            _shut_down(site.connection(process))
            assert await site.status(process) == 0
            text = lines()
            os.close(reader)
        return text

    text = asyncio.run(serve())
    assert [line for line in text.splitlines() if line.startswith("LATE")] == []
    assert "Traceback" not in text


def _shut_down(connection: ConnectionInfo) -> None:
    with KernelClient(connection) as client:
        client.connect(DEADLINE_S)
        client.shutdown(restart=False)
