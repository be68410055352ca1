"""What a kernel's process gives up: the table of its environment, and the system's word on a real process."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from llmspell_kernel.limits import MIB
from llmspell_kernel.zygote.confine import HEADROOM_BYTES, kernel_environment
from llmspell_kernel.zygote.protocol import Confinement


@pytest.mark.parametrize(
    ("name", "is_kept"),
    [
        ("PATH", False),
        ("HOME", False),
        ("LANG", True),
        ("LC_ALL", True),
        ("TZ", True),
        ("LLMSPELL_RUNTIME_DIR", True),
        ("LLMSPELL_STATE_DIR", True),
        ("LLMSPELL_CONFIG_DIR", False),
        ("LLMSPELL_TOKEN", False),
        ("LLMSPELL_ADMIN_TOKEN_FILE", False),
        ("LLMSPELL_DIR_KEY", False),
        ("LLMSPELLX_DIR", False),
        ("OPENAI_API_KEY", False),
        ("AWS_SECRET_ACCESS_KEY", False),
        ("LD_PRELOAD", False),
        ("LD_LIBRARY_PATH", False),
        ("PYTHONPATH", False),
        ("PYTHONSTARTUP", False),
        ("LUA_PATH", False),
        ("LUA_INIT", False),
        ("JPY_PARENT_PID", False),
        ("path", False),
    ],
)
def test_the_environment_is_kept_by_name(name: str, is_kept: bool) -> None:
    assert kernel_environment({name: "value"}) == ({name: "value"} if is_kept else {})


_CONFINED = """
import json, os, resource, sys
import msgspec
from llmspell_kernel.zygote.confine import confine
from llmspell_kernel.zygote.protocol import Confinement
out, stays, goes = os.dup(1), os.dup(1), os.dup(1)
confine(msgspec.json.decode(sys.argv[1], type=Confinement), output=sys.argv[2], keep=(stays, out))
found = {name: resource.getrlimit(getattr(resource, f"RLIMIT_{name}")) for name in ("NOFILE", "NPROC", "FSIZE", "DATA")}
names = {number: os.readlink(f"/proc/self/fd/{number}") for number in range(3)}
is_open = [os.path.exists(f"/proc/self/fd/{number}") for number in (stays, out, goes)]
with open("/proc/self/statm") as statm:
    data = int(statm.read().split()[5]) * resource.getpagesize()
facts = dict(limits=found, names=names, is_open=is_open, sid=os.getsid(0), pid=os.getpid(), cwd=os.getcwd(), data=data)
os.write(out, json.dumps(facts).encode())
"""


def confined(confinement: Confinement, *, output: str = "", hard_files: int = 0) -> dict[str, Any]:
    """What a process finds of itself after `confine`."""

    def lower() -> None:
        if hard_files:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard_files, hard_files))

    done = subprocess.run(
        [sys.executable, "-P", "-c", _CONFINED, msgspec.json.encode(confinement).decode(), output],
        capture_output=True,
        timeout=30,
        check=True,
        preexec_fn=lower,
    )
    assert done.stderr == b""
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


def own_limits() -> dict[str, list[int]]:
    """This process's, now: others in it raise theirs."""
    names = ("NOFILE", "NPROC", "FSIZE", "DATA")
    return {name: list(resource.getrlimit(getattr(resource, f"RLIMIT_{name}"))) for name in names}


@pytest.mark.integration
@pytest.mark.parametrize(
    ("case", "confinement", "expected"),
    [
        ("nothing asked", Confinement(), {}),
        ("files", Confinement(files=100), {"NOFILE": [100, 100]}),
        ("processes, once it has its threads", Confinement(processes=100), {}),
        ("size of a file", Confinement(file_bytes=MIB), {"FSIZE": [MIB, MIB]}),
        ("level none", Confinement(level="none", files=100, processes=1, file_bytes=1, memory_bytes=1), {}),
    ],
)
def test_limits_are_set_soft_and_hard(case: str, confinement: Confinement, expected: dict[str, list[int]]) -> None:
    assert confined(confinement)["limits"] == own_limits() | expected


@pytest.mark.integration
def test_a_limit_above_the_hard_one_is_the_hard_one() -> None:
    assert confined(Confinement(files=1_000), hard_files=64)["limits"]["NOFILE"] == [64, 64]


@pytest.mark.integration
def test_memory_is_on_top_of_what_the_process_holds() -> None:
    facts = confined(Confinement(memory_bytes=100 * MIB))

    soft, hard = facts["limits"]["DATA"]
    assert soft == hard
    baseline = soft - 100 * MIB - HEADROOM_BYTES
    assert 0 < baseline <= facts["data"]
    assert facts["data"] - baseline < MIB


@pytest.mark.integration
@pytest.mark.parametrize("level", ["none", "process"])
def test_the_process_is_apart_whatever_its_level(level: Any, tmp_path: Path) -> None:
    fifo = tmp_path / "output"
    os.mkfifo(fifo)
    facts = confined(Confinement(level=level), output=str(fifo))

    assert facts["sid"] == facts["pid"]
    assert facts["cwd"] == "/"
    assert list(facts["names"].values()) == [os.devnull, str(fifo), str(fifo)]
    assert facts["is_open"] == [True, True, False]


@pytest.mark.integration
def test_without_an_output_it_goes_nowhere() -> None:
    assert list(confined(Confinement())["names"].values()) == [os.devnull] * 3
