"""Kernels that misbehave: a spawner's interpreter whose kernels do something of their own, such as leaving processes."""

import os
import sys
from pathlib import Path

import pytest

_WRAPPER = """#!{python}
import os, runpy, sys, time
sys.executable = {wrapper!r}
sys.argv = sys.argv[sys.argv.index("-m") + 1:]
{patch}
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=False)
"""

DEAF = """
import llmspell_kernel.app, signal
llmspell_kernel.app._heard = lambda number, frame: time.sleep(1000) if number == signal.SIGUSR1 else None
"""
"""From SIGUSR1 on, the thread hangs that serves all channels but the heartbeat, and hears signals."""

_FORKS = """
from llmspell_kernel.zygote import child

def note(kind):
    with open({notes!r}, "a") as notes:
        notes.write(f"{{kind}} {{os.getpid()}} {{os.getppid()}}\\n")

def leave(kind, *steps):
    if os.fork():
        return
    for step in steps:
        if step == "setsid":
            os.setsid()
        elif step == "setpgid":
            os.setpgid(0, 0)
        elif step == "fork" and os.fork():
            os._exit(0)
    note(kind)
    if "exec" in steps:
        os.execvp("sleep", ["sleep", "1000"])
    while True:
        time.sleep(1000)

real = child.serve
def serve(*given, **named):
    leave("plain")
    leave("group", "setpgid")
    leave("session", "setsid")
    leave("daemon", "setsid", "fork")
    leave("program", "setsid", "fork", "exec")
    leave("twice", "fork", "setsid", "fork", "setsid")
    return real(*given, **named)
child.serve = serve
"""

KINDS = ("daemon", "group", "plain", "program", "session", "twice")


def make_kernels_fork(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    """Let spawners of this test use such an interpreter; returns the file in which the processes note themselves."""
    notes = folder / "left"
    notes.touch()
    patch_kernels(monkeypatch, folder, _FORKS.format(notes=str(notes)))
    return notes


def patch_kernels(monkeypatch: pytest.MonkeyPatch, folder: Path, patch: str) -> None:
    """Let spawners of this test run `patch` before anything else."""
    wrapper = folder / "python"
    wrapper.write_text(_WRAPPER.format(python=sys.executable, wrapper=str(wrapper), patch=patch))
    wrapper.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(wrapper))


def left(notes: Path) -> dict[int, str]:
    """The processes that were left so far: pid and kind."""
    lines = (line.split() for line in notes.read_text().splitlines())
    return {int(pid): kind for kind, pid, _parent in lines}


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b") ")[2][:1] not in (b"Z", b"X")
    except OSError:
        return False


def end_all(notes: Path) -> None:
    """Kill what a failed test left."""
    for pid in filter(alive, left(notes)):
        os.kill(pid, 9)
