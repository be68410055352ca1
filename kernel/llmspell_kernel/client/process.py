"""A handle on a kernel's process that never means another one, and how a kernel is stopped."""

import os
import select
import signal
import time
from enum import Enum
from types import TracebackType
from typing import Self

from llmspell_kernel.client.channels import Deadline
from llmspell_kernel.client.kernel_client import KernelClient
from llmspell_kernel.connection import ConnectionInfo
from llmspell_kernel.errors import LlmspellError, NotRunningError
from llmspell_kernel.pidfile import PidRecord, is_running

_POLL_S = 0.02
_KILL_TIMEOUT_S = 5.0
_SHARE_OF_REQUEST = 0.5
"""How much of the time is left to a kernel that was asked, before it is signalled."""


class Rung(Enum):
    """What it took to stop a kernel, by what a person reads."""

    REQUEST = "shutdown_request"
    SIGTERM = "SIGTERM"
    SIGKILL = "SIGKILL"


class ProcessHandle:
    """One process by pid and start time, held by a pidfd where there are such; close it, or use ``with``."""

    def __init__(self, record: PidRecord) -> None:
        self._record = record
        self._pidfd: int | None = None
        try:
            if hasattr(os, "pidfd_open"):
                self._pidfd = os.pidfd_open(record.pid)
        except ProcessLookupError:
            raise NotRunningError(f"process {record.pid} is gone") from None
        # Looked at only now: from here on the descriptor holds the process that was looked at.
        if not is_running(record):
            self.close()
            raise NotRunningError(f"process {record.pid} is gone")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the process."""
        if self._pidfd is not None:
            os.close(self._pidfd)
            self._pidfd = None

    def send(self, number: signal.Signals) -> None:
        """Send a signal; a process that has ended in the meantime is as it should be."""
        try:
            if self._pidfd is not None:
                signal.pidfd_send_signal(self._pidfd, number)
            elif is_running(self._record):
                os.kill(self._record.pid, number)
        except ProcessLookupError:
            return
        except PermissionError:
            raise LlmspellError(f"process {self._record.pid} is another user's: run this as its owner") from None

    def wait(self, timeout_s: float) -> bool:
        """Whether the process ends within `timeout_s`."""
        if self._pidfd is not None:
            return bool(select.select([self._pidfd], [], [], timeout_s)[0])
        deadline = Deadline(timeout_s)
        while is_running(self._record):
            if deadline.has_passed:
                return False
            time.sleep(_POLL_S)
        return True


def stop_kernel(record: PidRecord, info: ConnectionInfo | None, *, timeout_s: float, force: bool) -> Rung:
    """Stop the kernel of `record` and say what it took: its own shutdown, then SIGTERM, then SIGKILL.

    All but the last happen within `timeout_s`; `force` goes straight to the last. Without `info` nobody can
    be asked. NotRunningError: it had ended before. LlmspellError: it lives on even so.
    """
    with ProcessHandle(record) as process:
        deadline = Deadline(timeout_s)
        if not force:
            agreed = info is not None and _ask(info, deadline.left_s(timeout_s * _SHARE_OF_REQUEST))
            if agreed and process.wait(deadline.left_s(timeout_s * _SHARE_OF_REQUEST)):
                return Rung.REQUEST
            process.send(signal.SIGTERM)
            if process.wait(deadline.left_s(timeout_s)):
                return Rung.SIGTERM
        process.send(signal.SIGKILL)
        if process.wait(_KILL_TIMEOUT_S):
            return Rung.SIGKILL
    raise LlmspellError(f"process {record.pid} still lives after SIGKILL: it waits for a device, or is traced")


def _ask(info: ConnectionInfo, timeout_s: float) -> bool:
    """Whether the kernel agreed to end."""
    with KernelClient(info) as client:
        try:
            client.shutdown(timeout_s=timeout_s)
        except LlmspellError:
            return False
    return True
