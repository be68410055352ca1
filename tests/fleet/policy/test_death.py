"""What a wait status says."""

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmspell_fleet.model.kernel import Cause
from llmspell_fleet.policy.death import Ended, how_it_ended
from llmspell_kernel.options import Ending


def exit_status(code: int) -> int:
    return code << 8


EXIT_127 = exit_status(127)


@pytest.mark.parametrize(
    ("case", "status", "cause", "exit_code", "number"),
    [
        ("somebody told it to", exit_status(0), "stopped", 0, None),
        ("it left with a failure", exit_status(1), "exited", 1, None),
        ("it was killed", int(signal.SIGKILL), "signal", None, 9),
        ("it fell, and left a core", int(signal.SIGSEGV) | 0x80, "signal", None, 11),
        ("nobody saw it", None, "unknown", None, None),
    ],
)
def test_a_status_is_explained(
    case: str, status: int | None, cause: Cause, exit_code: int | None, number: int | None
) -> None:
    ended = how_it_ended(status)

    assert (ended.cause, ended.exit_code, ended.signal) == (cause, exit_code, number), case


def test_every_ending_of_a_kernel_is_understood() -> None:
    causes = {ending: how_it_ended(exit_status(ending)).cause for ending in Ending}

    assert causes == {
        Ending.DONE: "stopped",
        Ending.IDLE: "culled",
        Ending.RESTART: "restarted",
        Ending.STUCK: "stuck",
        Ending.FAULT: "fault",
        Ending.MEMORY: "memory_limit",
        Ending.TIMEOUT: "execution_limit",
    }


@pytest.mark.parametrize(
    ("case", "number", "line", "cause"),
    [
        ("C++ found none", signal.SIGABRT, "  what():  std::bad_alloc", "memory_limit"),
        ("ZeroMQ found none", signal.SIGABRT, "FATAL ERROR: OUT OF MEMORY (src/msg.cpp:123)", "memory_limit"),
        ("the C library found none", EXIT_127, "cannot allocate memory for thread-local data: ABORT", "memory_limit"),
        ("the loader's end for another reason", EXIT_127, "cannot open shared object file", "exited"),
        ("an abort for another reason", signal.SIGABRT, "Assertion failed: false", "signal"),
        ("a script that only wrote so", signal.SIGKILL, "std::bad_alloc", "signal"),
    ],
)
def test_an_abort_for_want_of_memory_is_known_by_its_last_words(
    case: str, number: int, line: str, cause: Cause
) -> None:
    ended = how_it_ended(int(number), ("begun", line))

    told = number >> 8 if ended.signal is None else ended.signal
    assert (ended.cause, told) == (cause, number >> 8 or number), case


@pytest.mark.parametrize(
    ("case", "status", "line", "is_said"),
    [
        ("ZeroMQ got none", int(signal.SIGABRT), "Resource temporarily unavailable (src/thread.cpp:241)", True),
        ("Python got none", exit_status(1), "RuntimeError: can't start new thread", True),
        ("a script that only wrote so", int(signal.SIGKILL), "RuntimeError: can't start new thread", False),
        ("told to end", exit_status(0), "RuntimeError: can't start new thread", False),
    ],
)
def test_an_end_for_want_of_a_thread_is_known_by_its_last_words(
    case: str, status: int, line: str, is_said: bool
) -> None:
    assert ("gave it no thread" in how_it_ended(status, ("begun", line)).detail) == is_said, case


@given(status=st.integers(0, 0xFFFF))
def test_any_status_has_a_cause(status: int) -> None:
    ended = how_it_ended(status)

    assert isinstance(ended, Ended)
    assert (ended.exit_code is None) != (ended.signal is None)
