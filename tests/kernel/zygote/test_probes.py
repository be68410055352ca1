"""Probes say what they got where nothing holds them, and are told from one another."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from llmspell_kernel.errors import MisuseError
from llmspell_kernel.zygote.probes import PROBES, attempt
from llmspell_kernel.zygote.probes.outcome import reason

pytestmark = pytest.mark.integration


def apart(name: str, target: str = "") -> tuple[str, str]:
    """A probe in a process of its own that nothing holds."""
    script = (
        "import sys, json; from llmspell_kernel.zygote.probes import attempt; print(json.dumps(attempt(*sys.argv[1:])))"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", script, name, target], capture_output=True, timeout=60, check=True
    )
    return msgspec.json.decode(done.stdout, type=tuple[str, str])


@pytest.fixture
def other() -> Iterator[int]:
    """A process that does nothing."""
    with subprocess.Popen(["sleep", "1000"]) as process:
        yield process.pid
        process.kill()


def test_each_probe_says_what_it_tries() -> None:
    assert all(probe.__doc__ and probe.__name__ == name for name, probe in PROBES.items())


def test_an_unknown_probe_is_misuse_that_names_those_there_are() -> None:
    with pytest.raises(MisuseError, match="read_file"):
        attempt("nonsense", "")


def test_what_is_free_is_got_through(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("secret")
    assert attempt("read_file", str(tmp_path / "file")) == ("got_through", f"6 bytes of {tmp_path / 'file'}")
    assert attempt("list_folder", str(tmp_path)) == ("got_through", f"1 names in {tmp_path}")


def test_what_is_refused_says_by_which_error(tmp_path: Path) -> None:
    assert attempt("read_file", str(tmp_path / "none")) == ("refused", "ENOENT: No such file or directory")


def test_what_ends_at_a_bound_is_stopped() -> None:
    outcome, detail = apart("open_files", str(10**7))
    assert outcome == "stopped"
    assert "EMFILE" in detail


@pytest.mark.parametrize(
    "name", ["read_environ", "read_cmdline", "read_status", "see_process", "send_signal", "change_limits"]
)
def test_another_process_of_ones_own_is_open_where_nothing_holds(name: str, other: int) -> None:
    assert apart(name, str(other))[0] == "got_through"


@pytest.mark.parametrize(
    "name",
    [
        *("fork", "execute", "execute_memory", "memory_file", "executable_memory", "listen_tcp"),
        *("shared_anonymous_memory", "growing_memory"),
    ],
)
def test_what_any_process_may_is_got_through(name: str) -> None:
    assert apart(name)[0] == "got_through"


def test_a_lock_tells_of_another_process_where_nothing_holds(other: int) -> None:
    assert "futex" in apart("see_process", str(other))[1].split("told by ")[1].split(", ")


def test_a_listener_connects_where_nothing_holds() -> None:
    with socket.create_server(("127.0.0.1", 0)) as service:
        assert apart("connect_by_listener", str(service.getsockname()[1]))[0] == "got_through"


def test_a_process_that_cannot_be_is_not_seen() -> None:
    assert apart("see_process", str(2**22 + 3))[0] == "refused"


def test_an_own_descriptor_is_found_and_a_known_one_left_out() -> None:
    descriptor = os.open(os.devnull, os.O_RDONLY)
    try:
        assert str(descriptor) in attempt("inherited", "")[1]
        known = ",".join(str(number) for number in range(1024))
        assert attempt("inherited", known)[0] == "refused"
    finally:
        os.close(descriptor)


@pytest.mark.parametrize(
    ("fault", "text"),
    [
        (PermissionError(13, "x"), "EACCES: Permission denied"),
        (OSError("plain"), "OSError: plain"),
        (MemoryError(), "MemoryError"),
    ],
)
def test_a_refusal_is_a_line(fault: Exception, text: str) -> None:
    assert reason(fault) == text
