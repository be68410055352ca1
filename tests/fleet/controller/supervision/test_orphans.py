"""What kernels without a zygote leave behind is found and ended, and nothing else."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from support.forking import alive
from support.homes import wait_until

_CONTROLLER = """
import asyncio, os, signal, sys, time
from llmspell_fleet.controller.supervision.orphans import Orphans
from llmspell_kernel.zygote.tree import become_reaper

def sleeper(*, session):
    pid = os.fork()
    if pid == 0:
        if session:
            os.setsid()
        time.sleep(1000)
    return pid

async def main(is_reaper, session):
    if is_reaper:
        become_reaper()
    helper, companion = sleeper(session=True), sleeper(session=False)
    reader, writer = os.pipe()
    kernel = os.fork()
    if kernel == 0:
        os.setsid()
        if is_reaper:
            become_reaper()
        os.write(writer, str(sleeper(session=session)).encode())
        time.sleep(1000)
    left = int(os.read(reader, 100))
    print(helper, companion, left, flush=True)
    sys.stdin.readline()
    os.kill(kernel, signal.SIGKILL)
    os.waitpid(kernel, 0)
    Orphans(lambda: {helper}).look("k", kernel, is_adopted=not is_reaper)
    while True:
        await asyncio.sleep(0.01)
        if not os.path.exists(f"/proc/{left}") or open(f"/proc/{left}/stat").read().rpartition(") ")[2][0] == "Z":
            break
    print("gone", *(os.waitpid(pid, os.WNOHANG)[0] == 0 for pid in (helper, companion)), flush=True)
    for pid in (helper, companion):
        os.kill(pid, signal.SIGKILL)

asyncio.run(main(*map(int, sys.argv[1:])))
"""


@pytest.mark.integration
@pytest.mark.parametrize(
    ("case", "is_reaper", "session"),
    [("its child, in a session of its own", 1, 1), ("its child", 1, 0), ("nobody's child, by its session", 0, 0)],
)
def test_what_an_ended_kernel_left_is_killed_and_no_helper_or_child_of_our_session(
    case: str, is_reaper: int, session: int
) -> None:
    arguments = [sys.executable, "-P", "-c", _CONTROLLER, str(is_reaper), str(session)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as controller:
        assert controller.stdout is not None
        *others, left = map(int, controller.stdout.readline().split())
        try:
            assert alive(left), case
            answer, _ = controller.communicate("go\n", timeout=20)
        finally:
            for pid in filter(alive, (*others, left)):
                os.kill(pid, signal.SIGKILL)
            controller.kill()
    assert answer == "gone True True\n", case
    wait_until(lambda: not Path(f"/proc/{left}").exists() or not alive(left), "the orphan to end")
