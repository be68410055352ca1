"""A Jupyter of the test's own: directories that nobody else uses, our kernelspec in them, kernels started from it."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jupyter_client.blocking.client import BlockingKernelClient
from jupyter_client.manager import KernelManager

from llmspell_kernel.runtime_dir import list_kernels
from support.homes import Home, new_home, wait_until

KERNEL = "llmspell"
READY_S = 30.0
"""How long a kernel may take to answer on a machine that does other things too."""

ANSWER_S = 30.0
"""How long one answer may take."""

ENDLESS_LOOP = "print('run' .. 'ning') while true do end"
"""Says when it runs, and then never stops. What it says is not in its text, which terminals echo."""


@contextlib.contextmanager
def own_jupyter(folder: Path) -> Iterator[None]:
    """Send Jupyter to directories below `folder`, where our kernelspec is, and our kernels to a home of their own.

    Whoever leaves a kernel behind fails.
    """
    with new_home() as home, pytest.MonkeyPatch.context() as patch:
        for name, value in home.environ.items():
            patch.setenv(name, value)
        for name in ("config", "data", "runtime"):
            patch.setenv(f"JUPYTER_{name.upper()}_DIR", str(folder / name))
        patch.setenv("JUPYTER_PATH", "")
        command = home.command("kernel", "install")
        subprocess.run(command, check=True, capture_output=True, timeout=READY_S)
        yield
        wait_until(lambda: not _running_in(home), "the end of kernels that tests left")


def _running_in(home: Home) -> list[int]:
    if not home.runtime.is_dir():
        return []
    return [entry.pid for entry in list_kernels(str(home.runtime)) if entry.running]


@contextlib.contextmanager
def running_kernel() -> Iterator[KernelManager]:
    """A kernel that jupyter_client started, and ends."""
    manager = KernelManager(kernel_name=KERNEL)
    manager.start_kernel()
    try:
        yield manager
    finally:
        manager.shutdown_kernel(now=True)
        manager.cleanup_resources()


@contextlib.contextmanager
def connected(manager: KernelManager) -> Iterator[BlockingKernelClient]:
    """A client of a kernel, ready.

    Not `manager.client()`: those share a session, and with it the identity by which a kernel knows whom to answer.
    """
    client = BlockingKernelClient(connection_file=manager.connection_file)
    client.load_connection_file()
    client.start_channels()
    try:
        client.wait_for_ready(timeout=READY_S)
        client.execute(
            "", silent=True, reply=True, timeout=READY_S
        )  # it asks again each second, and leaves late answers behind
        yield client
    finally:
        client.stop_channels()


class Heard:
    """What a client heard of one request on IOPub, until idle."""

    def __init__(self, messages: list[dict[str, Any]]) -> None:
        self.messages = messages

    def of(self, msg_type: str) -> list[dict[str, Any]]:
        """The contents of one kind of message."""
        return [message["content"] for message in self.messages if message["msg_type"] == msg_type]

    @property
    def kinds(self) -> list[str]:
        """What came, in order, without the statuses and the echo of the input."""
        kinds = [message["msg_type"] for message in self.messages]
        return [kind for kind in kinds if kind not in ("status", "execute_input")]

    @property
    def stdout(self) -> str:
        """All that was printed."""
        return "".join(content["text"] for content in self.of("stream") if content["name"] == "stdout")

    @property
    def result(self) -> str | None:
        """The text of the result."""
        return next((content["data"]["text/plain"] for content in self.of("execute_result")), None)


def execute(client: BlockingKernelClient, code: str, **options: Any) -> tuple[dict[str, Any], Heard]:
    """Run a cell; returns the reply's content and what was heard."""
    messages: list[dict[str, Any]] = []
    reply = client.execute_interactive(code, timeout=ANSWER_S, output_hook=messages.append, **options)
    return reply["content"], Heard(messages)


def wait_for_text(client: BlockingKernelClient, request: str, text: str) -> None:
    """Read IOPub until `request` has printed `text`."""
    printed = ""
    while text not in printed:
        message = client.get_iopub_msg(timeout=ANSWER_S)
        if message["parent_header"].get("msg_id") == request and message["msg_type"] == "stream":
            printed += message["content"]["text"]
