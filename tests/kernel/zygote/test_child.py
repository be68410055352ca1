"""How a kernel's process ends when it cannot go on: by an exit code that its supervisor understands."""

import subprocess
import sys

import pytest

from llmspell_kernel.options import Ending

_CHILD = """
import socket, sys
from llmspell_kernel.zygote import child
from llmspell_kernel.zygote.protocol import StartKernel
def serve(*_arguments, **_named):
    raise {fault}
child.serve = serve
ours, theirs = socket.socketpair()
child.become_kernel(StartKernel(ticket=1, kernel_id="x"), theirs)
"""


@pytest.mark.parametrize(
    ("fault", "code"),
    [("MemoryError", Ending.MEMORY), ("ValueError('a fault of ours')", 1)],
)
def test_the_exit_code_says_what_was_met(fault: str, code: int) -> None:
    done = subprocess.run([sys.executable, "-P", "-c", _CHILD.format(fault=fault)], timeout=30, check=False)

    assert done.returncode == code
