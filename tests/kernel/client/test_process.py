"""Stopping kernels: real processes that obey, and such that do not."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from llmspell_kernel import pidfile
from llmspell_kernel.client.process import ProcessHandle, Rung, stop_kernel
from llmspell_kernel.connection import read_connection_file
from llmspell_kernel.errors import NotRunningError
from llmspell_kernel.pidfile import PidRecord
from support.homes import DEADLINE_S, Home

pytestmark = pytest.mark.integration

_OBEDIENT = "import signal; print('on', flush=True); signal.pause()"
_STUBBORN = f"import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); {_OBEDIENT[15:]}"


@contextlib.contextmanager
def _process(code: str) -> Iterator[PidRecord]:
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"on\n"
            started = pidfile.process_start_time(process.pid)
            assert started is not None
            yield PidRecord(process.pid, started)
        finally:
            process.kill()


@pytest.mark.parametrize(
    ("case", "code", "force", "rung"),
    [
        ("who obeys SIGTERM", _OBEDIENT, False, Rung.SIGTERM),
        ("who does not", _STUBBORN, False, Rung.SIGKILL),
        ("who is not even asked", _OBEDIENT, True, Rung.SIGKILL),
    ],
)
def test_a_process_that_nobody_can_ask_is_signalled(case: str, code: str, force: bool, rung: Rung) -> None:
    with _process(code) as record:
        assert stop_kernel(record, None, timeout_s=0.5 if code is _STUBBORN else DEADLINE_S, force=force) is rung, case


def test_a_kernel_that_is_asked_ends_by_itself(home: Home) -> None:
    info = read_connection_file(str(home.start_kernel()))
    assert info.pid is not None
    assert info.start_time is not None

    assert stop_kernel(PidRecord(info.pid, info.start_time), info, timeout_s=DEADLINE_S, force=False) is Rung.REQUEST
    assert list(home.runtime.glob("kernel-*")) == []


def test_a_kernel_that_cannot_answer_is_signalled(home: Home) -> None:
    info = read_connection_file(str(home.start_kernel()))
    assert info.pid is not None
    assert info.start_time is not None
    record = PidRecord(info.pid, info.start_time)
    with ProcessHandle(record) as process:
        process.send(signal.SIGSTOP)

        assert stop_kernel(record, info, timeout_s=0.6, force=False) is Rung.SIGKILL
        assert process.wait(0)


def test_who_is_gone_is_not_mistaken_for_who_has_the_pid_now() -> None:
    with _process(_OBEDIENT) as record:
        with pytest.raises(NotRunningError, match=f"process {record.pid} is gone"):
            stop_kernel(PidRecord(record.pid, record.start_time + 1), None, timeout_s=1, force=True)

        assert pidfile.is_running(record)


def test_a_process_that_never_was_is_gone() -> None:
    with pytest.raises(NotRunningError):
        ProcessHandle(PidRecord(2**22 + 1, 1))


def test_a_handle_waits_and_may_signal_the_dead() -> None:
    with _process(_OBEDIENT) as record, ProcessHandle(record) as process:
        assert not process.wait(0.01)
        process.send(signal.SIGTERM)
        assert process.wait(DEADLINE_S)
        process.send(signal.SIGTERM)


def test_without_pidfds_a_process_is_watched_and_signalled_the_old_way(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "pidfd_open")
    with _process(_STUBBORN) as record:
        assert stop_kernel(record, None, timeout_s=0.1, force=False) is Rung.SIGKILL
        with pytest.raises(NotRunningError):
            ProcessHandle(record)
