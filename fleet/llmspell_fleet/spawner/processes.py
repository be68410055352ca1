"""Processes by number and start time, and why one ended, asked of the system."""

import contextlib
import fcntl
import os
import select
import struct
from typing import Final

from llmspell_fleet.errors import is_own_shortage
from llmspell_fleet.spawner.spawner import Process
from llmspell_kernel.pidfile import process_start_time

_PIDFD_GET_INFO: Final = 0xC040FF0B
"""_IOWR(0xFF, 11, struct pidfd_info) of linux/pidfd.h, since Linux 6.13; exit codes since 6.15."""

_INFO: Final = struct.Struct("=QQ11Ii")
_INFO_EXIT: Final = 1 << 3

_START_TIME: Final = 22 - 3
_STAT_BYTES: Final = 512
_EXIT_CODE: Final = 52 - 3
"""Fields of proc_pid_stat(5), counted from the state, which follows the command's name."""


def find_process(pid: int, start_time: int) -> Process | None:
    """The process with this number and start time, held by a pidfd; None when there is none any more.

    One that has ended and was reaped by nobody is found too: its pidfd tells its end, and the system its status.
    OSError: we lack what it takes to look, and it may live.
    """
    try:
        pidfd = os.pidfd_open(pid)
    except OSError as fault:
        if is_own_shortage(fault):
            raise
        return None
    # Asked while the pidfd holds the number: nobody else can have it now.
    try:
        is_it = process_start_time(pid) == start_time or _is_zombie(pid, start_time)
    except OSError:
        os.close(pidfd)
        raise
    if not is_it:
        os.close(pidfd)
        return None
    return Process(pid, start_time, pidfd)


def _is_zombie(pid: int, start_time: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat", "rb") as stream:
            content = stream.read()
    except (FileNotFoundError, ProcessLookupError):
        return False
    fields = content[content.rindex(b")") + 2 :].split()
    return fields[0] == b"Z" and int(fields[_START_TIME]) == start_time


def has_ended(pidfd: int) -> bool:
    """Whether the process of a pidfd has ended, reaped or not."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))


def exit_status(process: Process) -> int | None:
    """The wait status of a process that has ended: reaped here if it is our child, else asked of the system.

    None when nobody can say: it was reaped by another, and the system is older than Linux 6.15.
    """
    pidfd = process.pidfd
    try:
        result = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
    except ChildProcessError:
        # Before it is reaped, /proc has it; afterwards, the pidfd.
        status = _zombie_status(process)
        return _told_exit_status(pidfd) if status is None else status
    if result is None:
        return None
    if result.si_code == os.CLD_EXITED:
        return result.si_status << 8
    return int(result.si_status) | (0x80 if result.si_code == os.CLD_DUMPED else 0)


def is_suspended(pid: int) -> bool:
    """Whether a signal such as SIGSTOP suspended a process. One that a debugger holds is not meant."""
    try:
        descriptor = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        content = os.read(descriptor, _STAT_BYTES)
    except OSError:
        return False  # it ended meanwhile
    finally:
        os.close(descriptor)
    return content[content.rfind(b")") + 2 :][:1] == b"T"


def reap() -> None:
    """Take leave of children that became ours when their zygote ended, and have ended too."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _zombie_status(process: Process) -> int | None:
    """What proc_pid_stat(5) says of a process that nobody has reaped."""
    try:
        with open(f"/proc/{process.pid}/stat", "rb") as stream:
            if os.geteuid() not in {0, os.fstat(stream.fileno()).st_uid}:
                return None  # others are told 0
            content = stream.read()
    except OSError:
        return None
    fields = content[content.rindex(b")") + 2 :].split()
    is_it = int(fields[_START_TIME]) == process.start_time
    return int(fields[_EXIT_CODE]) if is_it and fields[0] == b"Z" else None


def _told_exit_status(pidfd: int) -> int | None:
    info = bytearray(_INFO.pack(_INFO_EXIT, 0, *[0] * 11, 0))
    try:
        fcntl.ioctl(pidfd, _PIDFD_GET_INFO, info)
    except OSError:
        return None
    fields = _INFO.unpack(info)
    return int(fields[-1]) if fields[0] & _INFO_EXIT else None
