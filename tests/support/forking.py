"""Kernels that leave processes behind: a spawner's interpreter whose kernels start some before they serve."""

import os
import sys
from pathlib import Path

import pytest

_WRAPPER = """#!{python}
import os, runpy, sys, time
sys.argv = sys.argv[sys.argv.index("-m") + 1:]
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
        elif os.fork():
            os._exit(0)
    note(kind)
    while True:
        time.sleep(1000)

real = child.serve
def serve(*given, **named):
    leave("plain")
    leave("group", "setpgid")
    leave("session", "setsid")
    leave("daemon", "setsid", "fork")
    leave("twice", "fork", "setsid", "fork", "setsid")
    return real(*given, **named)
child.serve = serve
runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=False)
"""

KINDS = ("daemon", "group", "plain", "session", "twice")


def make_kernels_fork(monkeypatch: pytest.MonkeyPatch, folder: Path) -> Path:
    """Let spawners of this test use such an interpreter; returns the file in which the processes note themselves."""
    notes, wrapper = folder / "left", folder / "python"
    notes.touch()
    wrapper.write_text(_WRAPPER.format(python=sys.executable, notes=str(notes)))
    wrapper.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(wrapper))
    return notes


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
