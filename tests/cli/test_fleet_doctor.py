"""``fleet doctor`` as people run it; in CI, the proof that this machine holds what the level promises."""

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from support.groups import available
from support.homes import Home, new_home, wait_until

pytestmark = pytest.mark.integration

EXAMINED_S = 110
"""Some fifty starts of processes, two of them at a twentieth of a processor."""


@pytest.fixture
def home() -> Iterator[Home]:
    with new_home() as made:
        (made.path / "t").mkdir()
        made.environ["TMPDIR"] = str(made.path / "t")
        yield made


def left(home: Home) -> list[Path]:
    """Folders of doctors that are there."""
    return list((home.path / "t").iterdir())


@pytest.mark.slow  # some fifty starts of processes, and two seconds of spinning
def test_what_this_machine_promises_is_seen_to_hold(home: Home) -> None:
    done = subprocess.run(
        home.command("fleet", "doctor", "--output", "json"),
        env=home.environ,
        capture_output=True,
        timeout=EXAMINED_S,
        check=False,
    )
    report = json.loads(done.stdout)
    findings = {finding["name"]: finding for finding in report["findings"]}

    wrong = [f for f in report["findings"] if f["is_promised"] and f["result"] != "held"]
    assert (done.returncode, report["is_sound"], wrong) == (0, True, [])
    assert {f["result"] for f in report["findings"]} <= {"held", "open", "skipped"}
    for name, resource in (("cpu_percent", "cpu"), ("total_memory_bytes", "memory"), ("processes", "pids")):
        if resource in available():
            assert (findings[name]["enforced_by"], findings[name]["result"]) == ("cgroup", "held")
    assert findings["execution_timeout_s"]["enforced_by"] == "kernel"
    assert findings["read another tenant's key"]["advice"] == "use isolation level strict"
    assert b"Traceback" not in done.stderr
    assert not left(home)


def test_ctrl_c_leaves_no_process_and_no_file(home: Home) -> None:
    doctor = subprocess.Popen(
        home.command("fleet", "doctor"), env=home.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        wait_until(lambda: any((path / "run" / "k").exists() for path in left(home)), "a kernel of the doctor's")
        (folder,) = left(home)
        doctor.send_signal(signal.SIGINT)
        out, errors = doctor.communicate(timeout=60)
    finally:
        doctor.kill()
        doctor.communicate()

    assert (doctor.returncode, out) == (130, "")
    assert "Traceback" not in errors
    assert not left(home)
    assert not [process for process in psutil.process_iter() if str(folder) in environ_of(process)]


def environ_of(process: psutil.Process) -> str:
    try:
        return process.environ().get("LLMSPELL_RUNTIME_DIR", "")
    except psutil.Error:
        return ""


def test_the_help_says_what_it_does_to_the_machine(home: Home) -> None:
    shown = home.llmspell("fleet", "doctor", "--help")
    assert shown.returncode == 0
    assert re.search(r"throwaway kernels in a temporary\s+directory", shown.stdout)
