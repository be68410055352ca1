"""The zygote: imports everything a kernel may need, and forks.

**Threads.** None but the main one, and no ZeroMQ context, event loop or descriptor of a kernel's before a fork: a
child would inherit them without what drives them.
"""

import contextlib
import gc
import os
import select
import signal
import socket
from collections.abc import Iterator

from llmspell_kernel import pidfile
from llmspell_kernel.runtime.prepared import Prepared
from llmspell_kernel.zygote.child import become_kernel
from llmspell_kernel.zygote.confine import keep_others_out
from llmspell_kernel.zygote.marks import ZYGOTE_NAME, name_process
from llmspell_kernel.zygote.preloading import preload
from llmspell_kernel.zygote.protocol import (
    Exited,
    ForkKernel,
    HaveSpares,
    Ready,
    Started,
    StartFailed,
    Suspended,
    decode_order,
    decode_request,
    encode,
    receive_with_descriptors,
    send_with_descriptor,
)
from llmspell_kernel.zygote.rehearsal import rehearse
from llmspell_kernel.zygote.spares import Spares, become_spare, content
from llmspell_kernel.zygote.tree import become_reaper, kill_orphans


class Zygote:
    """Forks on request, and reports the ends of what it forked."""

    def __init__(self, control: socket.socket, report: socket.socket) -> None:
        self._control = control
        self._report = report
        self._prepared = Prepared()
        self._poll = select.poll()
        self._spares = Spares(self._poll)
        self._told = self._spares.count
        self._forked: set[int] = set()
        """Kernels that were not reaped; other children are what ended kernels left."""
        become_reaper()
        keep_others_out()
        self._children, wakeup = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        name_process(ZYGOTE_NAME)
        signal.signal(signal.SIGCHLD, lambda _number, _frame: None)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        # The supervisor's signals come as messages or not at all: Ctrl-C at a terminal reaches the whole session.
        for number in (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
            signal.signal(number, signal.SIG_IGN)
        preload()
        rehearse(self._prepared)
        # What lives now lives for ever; a collection in a child would only copy its pages.
        gc.collect()
        gc.freeze()

    def run(self) -> None:
        """Serve until the supervisor has gone. Its kernels live on."""
        # Gone while something was on its way between us.
        with contextlib.suppress(ConnectionError):
            self._control.send(encode(Ready()))
            self._serve()
        self._spares.close()

    def _serve(self) -> None:
        poll = self._poll
        poll.register(self._control, select.POLLIN)
        poll.register(self._children, select.POLLIN)
        while True:
            late_s = self._spares.look_after_s
            ready = dict(poll.poll(None if late_s is None else late_s * 1000 + 1))
            if ready.pop(self._children, None):
                os.read(self._children, 4096)
                self._reap()
            is_asked = ready.pop(self._control.fileno(), None) is not None
            for descriptor in ready:
                self._spares.hear(descriptor)
            self._spares.end_late()
            self._tell()
            if is_asked and not self._obey():
                return

    def _obey(self) -> bool:
        """Do what is asked; False = the supervisor has gone."""
        packet, descriptors = receive_with_descriptors(self._control)
        if not packet:
            return False
        match decode_order(packet):
            case ForkKernel(ticket, may_be_spare):
                self._start(ticket, descriptors, may_be_spare=may_be_spare)
            case HaveSpares(number):
                self._have_spares(number)
        for descriptor in descriptors:
            os.close(descriptor)
        self._tell()
        return True

    def _tell(self) -> None:
        """How many spares there are, if that has changed."""
        if (count := self._spares.count) != self._told:
            self._told = count
            self._control.send(encode(count))

    def _start(self, ticket: int, descriptors: list[int], *, may_be_spare: bool) -> None:
        if not descriptors:
            self._control.send(encode(StartFailed(ticket, "the request did not come over: too many open files?")))
            return
        pid = self._spares.take(descriptors[0]) if may_be_spare else None
        was_spare = pid is not None
        if pid is None:
            try:
                pid = os.fork()
            except OSError as fault:
                self._control.send(encode(StartFailed(ticket, f"fork: {fault.strerror}")))
                return
            if pid == 0:
                signal.set_wakeup_fd(-1)
                # Here, not before the fork: it holds the kernel's key, which no other kernel's memory is to hold.
                become_kernel(decode_request(content(descriptors[0])), self._report, self._prepared)
        self._forked.add(pid)
        self._tell()
        # Not reaped yet, whatever it did since: the number is still this child's.
        descriptor = os.pidfd_open(pid)
        started = Started(ticket, pid, pidfile.process_start_time(pid) or 0, was_spare)
        send_with_descriptor(self._control, encode(started), descriptor)
        os.close(descriptor)

    def _have_spares(self, number: int) -> None:
        self._spares.end_all_but(number)
        if not self._spares.may_be_made:
            return
        for _ in range(number - len(self._spares)):
            if not self._make_spare():
                return  # whoever wants it sees that there is none, and asks again

    def _make_spare(self) -> bool:
        try:
            ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        except OSError:
            return False
        with theirs:
            try:
                pid = os.fork()
            except OSError:
                ours.close()
                return False
            if pid == 0:
                signal.set_wakeup_fd(-1)
                become_spare(theirs, self._report, self._prepared)
        self._spares.add(pid, ours)
        return True

    def _reap(self) -> None:
        has_ended = False
        for pid, status in _changes():
            is_over = not (os.WIFSTOPPED(status) or os.WIFCONTINUED(status))
            has_ended = has_ended or is_over
            if pid not in self._forked:
                self._spares.changed(pid, is_over=is_over)
                continue
            if is_over:
                self._forked.discard(pid)
                self._control.send(encode(Exited(pid, status)))
            else:
                self._control.send(encode(Suspended(pid, os.WIFSTOPPED(status))))
        if has_ended:
            kill_orphans(self._forked | self._spares.pids)


def _changes() -> Iterator[tuple[int, int]]:
    """Children that ended, were suspended or go on: each with its wait status."""
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, status = os.waitpid(-1, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)
            if not pid:
                return
            yield pid, status
