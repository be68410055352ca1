"""Kernels as forks of a zygote: the supervisor's side of `llmspell_kernel.zygote`."""

import asyncio
import os
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from typing import Final

from llmspell_fleet.model.ids import KernelId
from llmspell_fleet.spawner.processes import find_process
from llmspell_fleet.spawner.reports import Reports
from llmspell_fleet.spawner.spawner import Process, SpawnerListener
from llmspell_kernel.zygote.marks import OPTION
from llmspell_kernel.zygote.protocol import (
    Exited,
    Probed,
    Reply,
    StartFailed,
    StartKernel,
    Suspended,
    decode_reply,
    encode,
    receive_with_descriptors,
)

SHORTEST_LIFE_S: Final = 1.0
"""A zygote that dies sooner is not replaced at once: something is wrong that forking will not mend."""

_AT_ONCE: Final = 64


class ZygoteSpawner:
    """Starts kernels by asking a zygote to fork. The zygote is a fresh interpreter with nothing of ours open.

    When it dies, another one is made; requests that it had not answered fail, and are asked again by whoever asked.
    """

    def __init__(self, environ: dict[str, str]) -> None:
        self._environ = environ
        self.on_probed: Callable[[Probed], None] = lambda _probed: None
        """Hears what became of probes (`StartKernel.probe`); to be set before `open`. A fleet starts none."""
        self._loop: asyncio.AbstractEventLoop
        self._listener: SpawnerListener
        self._reports: Reports
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._made_at = 0.0
        self._unsent: deque[bytes] = deque()
        self._asked: dict[int, KernelId] = {}
        self._is_closing = False

    @property
    def report_descriptor(self) -> int:
        """The number under which kernels have the socket that they report on, until they have."""
        return self._reports.writer.fileno()

    @property
    def pid(self) -> int | None:
        """The zygote's."""
        return self._process.pid if self._process is not None else None

    async def open(self, listener: SpawnerListener) -> None:
        """Start the zygote; it takes requests at once and answers them once it has imported everything."""
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._reports = Reports(self._loop, listener, self.on_probed)
        self._make_zygote()

    def _make_zygote(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        writer = self._reports.writer
        # A fresh interpreter: forking this one would take its sockets and threads' locks along.
        self._process = subprocess.Popen(
            [
                *(sys.executable, "-P", "-m", "llmspell_kernel.zygote"),
                *("--control", str(theirs.fileno()), "--report", str(writer.fileno())),
                *(OPTION, self._environ["LLMSPELL_RUNTIME_DIR"]),
            ],
            pass_fds=(theirs.fileno(), writer.fileno()),
            env=self._environ,
            cwd="/",
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        theirs.close()
        self._control = ours
        self._made_at = self._loop.time()
        self._loop.add_reader(ours, self._read)
        self._send()

    # --- out

    def start(self, request: StartKernel) -> None:
        """Ask for a fork."""
        self._asked[request.ticket] = KernelId(request.kernel_id)
        self._unsent.append(encode(request))
        if len(self._unsent) == 1:
            self._send()

    def _send(self) -> None:
        control = self._control
        if control is None:
            return
        while self._unsent:
            try:
                control.send(self._unsent[0])
            except BlockingIOError:
                self._loop.add_writer(control, self._send)
                return
            except OSError:
                return  # it died: its end of the socket says so to `_read`
            self._unsent.popleft()
        self._loop.remove_writer(control)

    # --- in

    def _read(self) -> None:
        for _ in range(_AT_ONCE):
            control = self._control
            if control is None:
                return
            try:
                packet, descriptors = receive_with_descriptors(control)
            except BlockingIOError:
                return
            except OSError:
                packet, descriptors = b"", []
            if not packet:
                self._died()
                return
            self._hear(decode_reply(packet), descriptors)

    def _hear(self, reply: Reply, descriptors: list[int]) -> None:
        if isinstance(reply, Exited):
            self._listener.exited(reply.pid, reply.status)
            return
        if isinstance(reply, Suspended):
            self._listener.suspended(reply.pid, is_suspended=reply.is_suspended)
            return
        kernel = self._asked.pop(reply.ticket)
        if isinstance(reply, StartFailed):
            self._listener.start_failed(kernel, reply.reason)
            return
        (pidfd,) = descriptors
        self._listener.started(kernel, Process(reply.pid, reply.start_time, pidfd))

    def _died(self) -> None:
        assert self._control is not None
        assert self._process is not None
        self._loop.remove_reader(self._control)
        self._loop.remove_writer(self._control)
        self._control.close()
        self._control = None
        status = self._process.wait()
        self._process = None
        if self._is_closing:
            return
        unanswered, self._asked = list(self._asked.values()), {}
        self._unsent.clear()
        self._listener.lost(f"the zygote ended ({_describe(status)})")
        for kernel in unanswered:
            self._listener.start_failed(kernel, "the zygote ended before it could fork")
        age_s = self._loop.time() - self._made_at
        if age_s >= SHORTEST_LIFE_S:
            self._make_zygote()
        else:
            self._loop.call_later(SHORTEST_LIFE_S - age_s, self._remake)

    def _remake(self) -> None:
        if not self._is_closing:
            self._make_zygote()

    # --- the end

    def recover(self, kernel: KernelId, pid: int, start_time: int) -> Process | None:  # noqa: ARG002
        """A kernel of an earlier controller's zygote."""
        return find_process(pid, start_time)

    async def close(self) -> None:
        """End the zygote by closing its socket."""
        self._is_closing = True
        self._reports.close()
        process, control = self._process, self._control
        if process is None or control is None:
            return
        self._loop.remove_reader(control)
        self._loop.remove_writer(control)
        control.close()
        self._control = None
        await self._loop.run_in_executor(None, _end, process)
        self._process = None


def _end(process: subprocess.Popen[bytes]) -> None:
    try:
        process.wait(2.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _describe(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"exit code {os.waitstatus_to_exitcode(status << 8)}"
