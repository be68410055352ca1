"""Spares: children that a zygote forks before anybody needs them, and that become kernels when they are told which.

A spare has played a kernel's start once more (`rehearsal`), in its own memory: the pages that a start writes, most of
what one takes, are its own already. It has no thread, no socket of a kernel's, no key and no owner, and has given up no
right but what every kernel at `strict` is without. What it becomes it reads from a descriptor that the zygote passes on
unread. When the zygote goes, it goes.
"""

import os
import select
import signal
import socket
import sys
import time
from typing import Final, NoReturn

from llmspell_kernel.runtime.prepared import Prepared
from llmspell_kernel.zygote.child import become_kernel
from llmspell_kernel.zygote.confine import confine
from llmspell_kernel.zygote.marks import SPARE_NAME, name_process
from llmspell_kernel.zygote.protocol import Confinement, decode_request, receive_with_descriptors, send_with_descriptor
from llmspell_kernel.zygote.protocol import Spares as Count
from llmspell_kernel.zygote.rehearsal import rehearse, rehearse_strict

READY_WITHIN_S: Final = 10.0
"""A spare that takes longer is ended: it hangs."""

REST_S: Final = 1.0
"""How long none is made after one ended on its way: what ended it will end the next one, too."""

_HERE: Final = b"."


class _Spare:
    def __init__(self, pid: int, channel: socket.socket) -> None:
        self.pid = pid
        self.channel = channel
        self.is_ready = False
        self.late_at = time.monotonic() + READY_WITHIN_S


class Spares:
    """A zygote's. It says `count` on; who forks is the zygote."""

    def __init__(self, poll: "select.poll") -> None:
        self._poll = poll
        self._by_channel: dict[int, _Spare] = {}
        self._rests_until = 0.0

    def __len__(self) -> int:
        return len(self._by_channel)

    @property
    def pids(self) -> set[int]:
        """Those of all that were not reaped."""
        return {spare.pid for spare in self._by_channel.values()}

    @property
    def count(self) -> Count:
        """How many there are."""
        ready = sum(spare.is_ready for spare in self._by_channel.values())
        return Count(ready, len(self._by_channel) - ready)

    @property
    def may_be_made(self) -> bool:
        """Whether they come to be ready, as far as is known."""
        return time.monotonic() >= self._rests_until

    @property
    def look_after_s(self) -> float | None:
        """When `end_late` has something to look at; None = it has not."""
        late_at = [spare.late_at for spare in self._by_channel.values() if not spare.is_ready]
        return max(0.0, min(late_at) - time.monotonic()) if late_at else None

    def add(self, pid: int, channel: socket.socket) -> None:
        """One was forked; `channel` is the zygote's end of what it reads."""
        self._by_channel[channel.fileno()] = _Spare(pid, channel)
        self._poll.register(channel, select.POLLIN)

    def hear(self, descriptor: int) -> None:
        """One of them has something to say: that it is ready, or, by its end, that it is gone."""
        spare = self._by_channel.get(descriptor)
        if spare is None:
            return  # it was reaped in this round
        try:
            is_here = spare.channel.recv(1) == _HERE
        except OSError:
            is_here = False
        if not is_here:
            self._missed(spare)
            self._let_go(spare)
        spare.is_ready = is_here

    def take(self, request: int) -> int | None:
        """Have a ready one become the kernel that the file `request` describes; its pid. None = there is none."""
        for spare in [one for one in self._by_channel.values() if one.is_ready]:
            try:
                send_with_descriptor(spare.channel, _HERE, request)
            except OSError:
                self._let_go(spare)  # it was killed, and we have not heard yet
                continue
            self._forget(spare)
            return spare.pid
        return None

    def end_all_but(self, number: int) -> None:
        """End those that are too many, the ready ones last."""
        for spare in sorted(self._by_channel.values(), key=lambda one: not one.is_ready)[number:]:
            self._let_go(spare)

    def end_late(self) -> None:
        """End those that hang on their way to be ready."""
        now = time.monotonic()
        for spare in list(self._by_channel.values()):
            if not spare.is_ready and spare.late_at <= now:
                self._missed(spare)
                self._let_go(spare)

    def changed(self, pid: int, *, is_over: bool) -> None:
        """A child was reaped, or suspended: if it was a spare, it is none any more."""
        for spare in [one for one in self._by_channel.values() if one.pid == pid]:
            if is_over:
                self._missed(spare)
                self._forget(spare)
            else:
                self._let_go(spare)

    def close(self) -> None:
        """End all of them, and return when they are gone."""
        for spare in list(self._by_channel.values()):
            self._let_go(spare)
            os.waitpid(spare.pid, 0)

    def _missed(self, spare: _Spare) -> None:
        """It ended, and nobody had it end."""
        if not spare.is_ready:
            self._rests_until = time.monotonic() + REST_S
            sys.stderr.write(f"llmspell zygote: spare {spare.pid} ended before it was ready\n")
            sys.stderr.flush()

    def _let_go(self, spare: _Spare) -> None:
        """Kill it: our child, which was not reaped, or it would not be here any more."""
        self._forget(spare)
        os.kill(spare.pid, signal.SIGKILL)

    def _forget(self, spare: _Spare) -> None:
        self._poll.unregister(spare.channel)
        del self._by_channel[spare.channel.fileno()]
        spare.channel.close()


def become_spare(channel: socket.socket, report: socket.socket, prepared: Prepared) -> NoReturn:
    """Be one, in the child, and then a kernel."""
    try:
        name_process(SPARE_NAME)
        confine(Confinement(level="strict"), output="", keep=(channel.fileno(), report.fileno()))
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # as its zygote: nobody has started it yet
        prepared.engine.reseed(os.urandom(16))
        rehearse(prepared)
        rehearse_strict()
        channel.send(_HERE)
        _packet, descriptors = receive_with_descriptors(channel)
        request = decode_request(content(descriptors[0])) if descriptors else None
    except BaseException:  # noqa: BLE001
        request = None  # the process's boundary: the zygote goes on without it
    if request is None:
        os._exit(0)
    become_kernel(request, report, prepared)


def content(descriptor: int) -> bytes:
    """What is in a file, wherever it was read to."""
    return os.pread(descriptor, os.fstat(descriptor).st_size, 0)
