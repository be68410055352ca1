"""`python -m llmspell_kernel.zygote` is a supervisor's: people are told where to go."""

import socket
import subprocess
import sys

import pytest

pytestmark = pytest.mark.integration


def run(*arguments: str, pass_fds: tuple[int, ...] = ()) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-P", "-m", "llmspell_kernel.zygote", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        pass_fds=pass_fds,
    )


@pytest.mark.parametrize(
    "arguments",
    [
        (),
        ("--help",),
        ("--control", "3"),
        ("--control", "3", "--report"),
        ("--report", "3", "--control", "4"),
        ("--control", "x", "--report", "4"),
        ("--start", "-1", "--report", "4"),
        ("--control", "3", "--report", "4", "--more"),
    ],
)
def test_wrong_arguments_are_misuse_without_a_traceback(arguments: tuple[str, ...]) -> None:
    done = run(*arguments)

    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("expected a supervisor's arguments, found")
    assert "llmspell fleet up" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_zygote_whose_supervisor_has_gone_ends_quietly() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    report, _writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs, report, _writer:
        ours.close()
        done = run(
            *("--control", str(theirs.fileno()), "--report", str(report.fileno()), "--fleet", "/nowhere"),
            pass_fds=(theirs.fileno(), report.fileno()),
        )

    assert (done.returncode, done.stderr) == (0, "")
