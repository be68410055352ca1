"""`jupyter console` in a terminal, typed into as a person would."""

import io
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pexpect
import psutil
import pytest

from support.homes import wait_until
from support.jupyter_spec import ANSWER_S

_ESCAPES = r"(?:\x1b\[[0-9;?]*[A-Za-z])*"
"""Colours and movements, which may stand between any two characters."""

CTRL_C, CTRL_D, TAB, ENTER = "\x03", "\x04", "\t", "\r"


class Console:
    """A terminal with the console in it."""

    def __init__(self, *arguments: str, environ: Mapping[str, str], cwd: Path | None) -> None:
        self._shown = io.StringIO()
        self.terminal: Any = pexpect.spawn(
            sys.executable,
            ["-m", "jupyter_console", *arguments],
            env={**environ, "TERM": "xterm", "PROMPT_TOOLKIT_NO_CPR": "1", "PAGER": "cat"},
            cwd=cwd,
            encoding="utf-8",
            timeout=ANSWER_S,
            dimensions=(40, 120),
        )
        self.terminal.delaybeforesend = None
        self.terminal.logfile_read = self._shown

    @property
    def text(self) -> str:
        """Everything that was drawn so far, without colours and movements."""
        return re.sub(_ESCAPES, "", self._shown.getvalue())

    def shows(self, *texts: str) -> None:
        """Wait until each of these was drawn, one after the other."""
        for text in texts:
            try:
                self.terminal.expect(_ESCAPES.join(map(re.escape, text)))
            except (pexpect.TIMEOUT, pexpect.EOF):
                seen = re.sub(_ESCAPES, "", self.terminal.before)
                pytest.fail(f"expected {text!r} on the terminal, found {seen!r}")

    def types(self, text: str) -> None:
        self.terminal.send(text)

    def runs(self, number: int, code: str) -> None:
        """Type a line at the prompt with this number."""
        self.shows(f"In [{number}]: ")
        self.types(code + ENTER)

    def hears(self) -> None:
        """Wait until the kernel that the console started can be heard: what it publishes before is lost, as ZeroMQ has it.

        The console connects before its kernel listens, channel by channel, so the first prompt may come earlier.
        """
        console = psutil.Process(self.terminal.pid)

        def is_connected() -> bool:
            files = [kernel.cmdline()[-1] for kernel in console.children()]
            ports = {json.loads(Path(file).read_text())["iopub_port"] for file in files if file.endswith(".json")}
            ends = [end for end in console.net_connections("tcp") if end.status == psutil.CONN_ESTABLISHED]
            return any(end.raddr.port in ports for end in ends)

        wait_until(is_connected, "the console's connection to its kernel's IOPub channel")

    def leaves(self, number: int) -> None:
        """End the console at the prompt with this number, and wait for its process."""
        self.shows(f"In [{number}]: ")
        self.types(CTRL_D)
        self.shows("exit")
        self.types("y" + ENTER)
        self.terminal.expect(pexpect.EOF)
        self.terminal.wait()


@contextmanager
def open_console(
    *arguments: str, environ: Mapping[str, str] = os.environ, cwd: Path | None = None
) -> Iterator[Console]:
    """A console, which is gone afterwards."""
    console = Console(*arguments, environ=environ, cwd=cwd)
    try:
        yield console
    finally:
        console.terminal.close(force=True)
