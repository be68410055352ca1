"""Each kernel in a fresh interpreter: slower and larger than a fork, with an address layout of its own."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Callable, Sequence

from msgspec.structs import replace

from llmspell_fleet.model.ids import KernelId
from llmspell_fleet.spawner.processes import exit_status, find_process
from llmspell_fleet.spawner.reports import Reports
from llmspell_fleet.spawner.spawner import Process, SpawnerListener
from llmspell_kernel.pidfile import process_start_time
from llmspell_kernel.zygote.marks import OPTION
from llmspell_kernel.zygote.protocol import Probed, Spares, StartKernel, encode


class SubprocessSpawner:
    """Starts kernels with `python -m llmspell_kernel.zygote --start`, or another module that takes its options."""

    def __init__(self, environ: dict[str, str], *, module: Sequence[str] = ("llmspell_kernel.zygote",)) -> None:
        self._environ = environ
        self._module = module
        self.on_probed: Callable[[Probed], None] = lambda _probed: None
        """Hears what became of probes (`StartKernel.probe`); to be set before `open`. A fleet starts none."""
        self._loop: asyncio.AbstractEventLoop
        self._listener: SpawnerListener
        self._reports: Reports
        self._children: dict[int, int] = {}
        """A pidfd of our own by pid: the listener closes its when it likes."""

    @property
    def pid(self) -> int | None:
        """There is no helper."""
        return None

    @property
    def pids(self) -> tuple[int, ...]:
        """There is no helper."""
        return ()

    @property
    def is_late(self) -> bool:
        """There is no helper."""
        return False

    async def open(self, listener: SpawnerListener) -> None:
        """Get ready."""
        self._loop = asyncio.get_running_loop()
        self._listener = listener
        self._reports = Reports(self._loop, listener, self.on_probed)

    def start(self, request: StartKernel) -> None:
        """Start an interpreter."""
        self._loop.call_soon(self._start, request)

    def _start(self, request: StartKernel) -> None:
        kernel = KernelId(request.kernel_id)
        try:
            child = self._begin(request)
            own, process = _held(child)
        except OSError as fault:
            self._listener.start_failed(kernel, f"{fault.strerror or fault}")
            return
        self._children[child.pid] = own
        self._loop.add_reader(own, self._ended, replace(process, pidfd=own))
        self._listener.started(kernel, process)

    def _begin(self, request: StartKernel) -> "subprocess.Popen[bytes]":
        description = os.memfd_create("llmspell-start", os.MFD_CLOEXEC)
        writer = self._reports.writer
        try:
            os.write(description, encode(request))
            os.lseek(description, 0, os.SEEK_SET)
            return subprocess.Popen(
                [
                    *(sys.executable, "-P", "-m", *self._module),
                    *("--start", str(description), "--report", str(writer.fileno())),
                    *(OPTION, self._environ["LLMSPELL_RUNTIME_DIR"]),
                ],
                pass_fds=(description, writer.fileno()),
                env=self._environ,
                cwd="/",
                stdin=subprocess.DEVNULL,
            )
        finally:
            os.close(description)

    def _ended(self, process: Process) -> None:
        status = exit_status(process)
        self._forget(process.pid)
        if status is not None:  # else whoever has reaped it knows
            self._listener.exited(process.pid, status)

    def _forget(self, pid: int) -> None:
        pidfd = self._children.pop(pid)
        self._loop.remove_reader(pidfd)
        os.close(pidfd)

    @property
    def spares(self) -> Spares | None:
        """An interpreter that waits is no part of it."""
        return None

    def have_spares(self, number: int) -> None:
        """There are none."""

    def recover(self, kernel: KernelId, pid: int, start_time: int) -> Process | None:  # noqa: ARG002
        """A kernel of an earlier controller."""
        return find_process(pid, start_time)

    async def close(self) -> None:
        """Start nothing more."""
        for pid in list(self._children):
            self._forget(pid)
        self._reports.close()


def _held(child: "subprocess.Popen[bytes]") -> tuple[int, Process]:
    """A pidfd of our own, and the process with another. OSError: we have no room for them, and it was ended."""
    try:
        # It cannot be reaped before we ask for it, so that the number is its own until then.
        start_time, own = process_start_time(child.pid) or 0, os.pidfd_open(child.pid)
        try:
            theirs = os.dup(own)
        except OSError:
            os.close(own)
            raise
    except OSError:
        child.kill()
        child.wait()
        raise
    # Reaped by its pidfd, here or by whoever holds the other one; `Popen` is not to miss or to reap it.
    child.returncode = 0
    return own, Process(child.pid, start_time, theirs)
