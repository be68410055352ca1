"""One zygote process: its socket, what it was asked, and its end."""

import asyncio
import os
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from typing import Final

from llmspell_fleet.errors import is_own_shortage
from llmspell_fleet.model.ids import KernelId
from llmspell_fleet.spawner.processes import is_suspended
from llmspell_kernel.zygote.marks import OPTION
from llmspell_kernel.zygote.protocol import (
    ForkKernel,
    HaveSpares,
    Order,
    Ready,
    Reply,
    Spares,
    Started,
    StartFailed,
    StartKernel,
    decode_reply,
    encode,
    receive_with_descriptors,
    send_with_descriptor,
)

_AT_ONCE: Final = 64

LOOK_S: Final = 0.5
"""How often it is looked whether it still answers, while it is waited for."""

SUSPENDED_LOOKS: Final = 1
ANSWER_LOOKS: Final = 10
START_LOOKS: Final = 60
"""After so many looks at which nothing had come of it, it hangs: suspended, while it serves, while it still imports.

Looks, not seconds: a pause of the whole machine counts as one.
"""


class Helper:
    """A fresh interpreter with nothing of ours open. Belongs to the event loop.

    One that hangs is killed, and one that is suspended sooner: what it was asked for is unanswered as of one that died.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        environ: dict[str, str],
        report: int,
        *,
        on_reply: Callable[[KernelId | None, Reply, list[int]], None],
        on_ready: Callable[["Helper"], None],
        on_end: Callable[["Helper", int], None],
    ) -> None:
        self._loop = loop
        self._on_reply = on_reply
        self._on_ready = on_ready
        self._on_end = on_end
        self._unsent: deque[Order | StartKernel] = deque()
        self._asked: dict[int, KernelId] = {}
        self._is_retired = False
        self._is_ready = False
        self._silent_looks = 0
        self._look: asyncio.TimerHandle | None = None
        self.fault = ""
        """Why it was killed, if it was."""
        self.asked = 0
        """Forks that it was asked for."""
        self.spares = Spares()
        """Its own, as far as it has told."""
        self.made_at = loop.time()
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        # A fresh interpreter: forking this one would take its sockets and threads' locks along.
        with theirs:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-P", "-m", "llmspell_kernel.zygote"),
                    *("--control", str(theirs.fileno()), "--report", str(report)),
                    *(OPTION, environ["LLMSPELL_RUNTIME_DIR"]),
                ],
                pass_fds=(theirs.fileno(), report),
                env=environ,
                cwd="/",
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        self._control: socket.socket | None = ours
        loop.add_reader(ours, self._read)
        self._watch()

    @property
    def pid(self) -> int:
        """Its process's."""
        return self._process.pid

    @property
    def is_needed(self) -> bool:
        """Whether something may still come of it."""
        return self._control is not None

    @property
    def is_late(self) -> bool:
        """Whether it was looked for an answer in vain."""
        return self._is_ready and bool(self._asked) and self._silent_looks > 0

    def start(self, request: StartKernel) -> None:
        """Ask for a fork."""
        if self._is_ready and not self._asked:
            self._silent_looks = 0
        self.asked += 1
        self._asked[request.ticket] = KernelId(request.kernel_id)
        self._say(request)
        self._watch()

    def have_spares(self, number: int) -> None:
        """Ask for so many forks that wait."""
        self.asked += max(0, number - self.spares.ready - self.spares.coming)
        self._say(HaveSpares(number))

    def _say(self, what: Order | StartKernel) -> None:
        self._unsent.append(what)
        if len(self._unsent) == 1:
            self._send()

    def _watch(self) -> None:
        if self._look is None:
            self._look = self._loop.call_later(LOOK_S, self._look_at_it)

    def _look_at_it(self) -> None:
        self._look = None
        if self._control is None or (self._is_ready and not self._asked):
            return
        self._silent_looks += 1
        is_stopped = is_suspended(self.pid)
        most = SUSPENDED_LOOKS if is_stopped else ANSWER_LOOKS if self._is_ready else START_LOOKS
        if self._silent_looks <= most:
            self._watch()
            return
        silent_s = (self._silent_looks - 1) * LOOK_S
        what = "answered nothing" if self._is_ready else "did not become ready"
        self.fault = f"the zygote {'was suspended' if is_stopped else f'{what} for {silent_s:g} s'}, and was killed"
        self._process.kill()  # `_read` hears of its end; it forks nothing from here on

    def _send(self) -> None:
        control = self._control
        if control is None:
            return
        while self._unsent:
            try:
                _put(control, self._unsent[0])
            except BlockingIOError:
                self._loop.add_writer(control, self._send)
                return
            except OSError as fault:
                if not is_own_shortage(fault):
                    return  # it died: its end of the socket says so to `_read`
                self._refuse(fault)
                continue
            self._unsent.popleft()
        self._loop.remove_writer(control)

    def _refuse(self, shortage: OSError) -> None:
        """What is to be said next cannot be: it is we who lack something."""
        what = self._unsent.popleft()
        if isinstance(what, StartKernel):
            self._hear(StartFailed(what.ticket, f"the controller lacks something: {shortage.strerror}"), [])

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
                self._release()
                self._on_end(self, self._process.wait())
                return
            self._silent_looks = 0
            self._hear(decode_reply(packet), descriptors)

    def _hear(self, reply: Reply, descriptors: list[int]) -> None:
        if isinstance(reply, Ready):
            self._is_ready = True
            self._on_ready(self)
            return
        if isinstance(reply, Spares):
            self.spares = reply
        kernel = self._asked.pop(reply.ticket) if isinstance(reply, Started | StartFailed) else None
        self._on_reply(kernel, reply, descriptors)
        if self._is_retired and not self._asked:
            self._end_quietly()

    def give_up(self) -> list[KernelId]:
        """It ended: what it was asked for and has not answered."""
        unanswered, self._asked, self.spares = list(self._asked.values()), {}, Spares()
        self._unsent.clear()
        return unanswered

    def retire(self) -> None:
        """End it once it has answered everything. Its kernels live on, and become our children."""
        self._is_retired = True
        if not self._asked:
            self._end_quietly()

    def _end_quietly(self) -> None:
        if self._control is not None:
            self._release()
            self._loop.run_in_executor(None, _end, self._process)

    async def close(self) -> None:
        """End it by closing its socket."""
        self._release()
        await self._loop.run_in_executor(None, _end, self._process)

    def _release(self) -> None:
        control, self._control = self._control, None
        if self._look is not None:
            self._look.cancel()
            self._look = None
        if control is not None:
            self._loop.remove_reader(control)
            self._loop.remove_writer(control)
            control.close()


def _put(control: socket.socket, what: Order | StartKernel) -> None:
    """Ask for something. A kernel's request lies in a file that only the child reads: what a zygote held, forks can."""
    if not isinstance(what, StartKernel):
        control.send(encode(what))
        return
    description = os.memfd_create("llmspell-start", os.MFD_CLOEXEC)
    try:
        os.write(description, encode(what))
        send_with_descriptor(control, encode(ForkKernel(what.ticket, what.may_be_spare)), description)
    finally:
        os.close(description)


def _end(process: "subprocess.Popen[bytes]") -> None:
    try:
        process.wait(2.0)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
