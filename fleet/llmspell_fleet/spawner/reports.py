"""The socket on which new kernels report, as the spawners of this package share it."""

import asyncio
import socket
from collections.abc import Callable

import msgspec

from llmspell_fleet.model.ids import KernelId
from llmspell_fleet.spawner.spawner import SpawnerListener
from llmspell_kernel.zygote.protocol import LONGEST_PACKET, Probed, Refused, Serving, decode_report

_AT_ONCE = 64


class Reports:
    """The reading end of `report`, and its writing end for whoever starts kernels."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listener: SpawnerListener,
        on_probed: Callable[[Probed], None] = lambda _probed: None,
    ) -> None:
        self._loop = loop
        self._listener = listener
        self._on_probed = on_probed
        self._reader, self.writer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._reader.setblocking(False)
        # Kernels write here and never read: one could not hear of another.
        self.writer.shutdown(socket.SHUT_RD)
        loop.add_reader(self._reader, self._read)

    def _read(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                packet = self._reader.recv(LONGEST_PACKET)
            except BlockingIOError:
                return
            if not packet:
                self._loop.remove_reader(self._reader)
                return
            try:
                report = decode_report(packet)
            except msgspec.MsgspecError:
                continue  # not one of ours; the start deadline speaks for a kernel that cannot
            kernel = KernelId(report.kernel_id)
            if isinstance(report, Serving):
                self._listener.serving(kernel, report.pid, report.connection)
            elif isinstance(report, Refused):
                self._listener.refused(kernel, report.pid, report.reason)
            else:
                self._on_probed(report)

    def close(self) -> None:
        """Hear no more."""
        self._loop.remove_reader(self._reader)
        self._reader.close()
        self.writer.close()
