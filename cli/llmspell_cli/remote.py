"""Code from the command line in a running kernel, as if it ran here: output, input, Ctrl-C, exit code."""

import signal
import sys
from types import FrameType
from typing import Any

import click

from llmspell_cli import targets
from llmspell_cli.exits import Exit
from llmspell_kernel.client import KernelClient

_ESCAPES = {chr(code): f"\\{code:03d}" for code in (*range(32), ord('"'), ord("\\"), 127)}


def run(code: str, name: str, args: list[str], target: str, *, shows_result: bool) -> int:
    """Run `code` in the kernel that `target` means.

    A Ctrl-C interrupts the kernel's execution and a second one stops waiting for it. Arguments arrive as
    the global `arg`, which a kernel's clients share.
    """
    with KernelClient(targets.find(target).info) as client:
        client.connect()
        session = _Session(client)
        previous = signal.signal(signal.SIGINT, session.interrupt)
        try:
            outcome = client.execute(
                _with_arguments(code, name, args),
                on_stream=_write,
                on_display=_display,
                on_input=session.read_line,
            )
        except BrokenPipeError:
            client.interrupt()
            raise
        finally:
            signal.signal(signal.SIGINT, previous)
    if outcome.status == "ok":
        if shows_result and outcome.result is not None:
            click.echo(outcome.result.get("text/plain", ""))
        return Exit.DONE
    for line in outcome.traceback or [f"{outcome.ename}: {outcome.evalue}"]:
        click.echo(line, err=True)
    return Exit.INTERRUPTED if session.was_interrupted else Exit.FAILED


class _Session:
    """The keyboard's side of one execution."""

    def __init__(self, client: KernelClient) -> None:
        self.was_interrupted = False
        self._client = client
        self._reads = False

    def interrupt(self, _signal: int, _frame: FrameType | None) -> None:
        """SIGINT: interrupt the kernel, once; leave, the second time."""
        if self.was_interrupted:
            raise KeyboardInterrupt
        self.was_interrupted = True
        self._client.request_interrupt()
        if self._reads:
            # Ends `input`, which would wait for its line all the same.
            raise _StopReading

    def read_line(self, prompt: str, _password: bool) -> str | None:
        """A line from standard input; None when Ctrl-C came first."""
        self._reads = True
        try:
            return input(prompt)
        except _StopReading:
            return None
        finally:
            self._reads = False


class _StopReading(Exception):  # noqa: N818 - not an error: a way out of `input`
    """Ctrl-C came while a line was read."""


def _write(stream: str, text: str) -> None:
    target = sys.stderr if stream == "stderr" else sys.stdout
    target.write(text)
    target.flush()


def _display(msg_type: str, content: dict[str, Any]) -> None:
    if msg_type != "clear_output":
        _write("stdout", content["data"].get("text/plain", "") + "\n")


def _with_arguments(code: str, name: str, args: list[str]) -> str:
    if not args:
        return code
    # On the script's first line, so that errors name the right ones.
    items = ",".join(_lua_text(argument) for argument in args)
    return f"arg={{[0]={_lua_text(name)},{items}}} {code}"


def _lua_text(text: str) -> str:
    return '"' + "".join(_ESCAPES.get(character, character) for character in text) + '"'
