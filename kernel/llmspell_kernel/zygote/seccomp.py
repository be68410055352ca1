"""The system calls that a kernel may make at `strict`: an allow-list as a BPF program, prebuilt before the fork.

What is not named does not exist for the process (ENOSYS), so that a library takes the older road, as where a system is
older. No call that reaches another process, makes one, becomes another program, or makes, binds or connects a socket
is named. The few calls that a kernel needs and that could do more are held by their arguments.
"""

import ctypes
import errno
import struct
from collections.abc import Iterable
from itertools import groupby
from operator import itemgetter
from typing import Final

from llmspell_kernel.zygote.syscalls import AUDIT, MACHINE, NUMBERS, check, prctl

_LOAD: Final = 0x20  # BPF_LD | BPF_W | BPF_ABS
_JUMP: Final = 0x05  # BPF_JMP | BPF_JA
_EQUAL: Final = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_AT_LEAST: Final = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_ANY_BIT: Final = 0x45  # BPF_JMP | BPF_JSET | BPF_K
_RETURN: Final = 0x06  # BPF_RET | BPF_K
_AND: Final = 0x54  # BPF_ALU | BPF_AND | BPF_K

_ALLOW: Final = 0x7FFF0000
_KILL: Final = 0x80000000
_ERRNO: Final = 0x00050000

_NUMBER: Final = 0
_ARCHITECTURE: Final = 4
_ARGUMENTS: Final = 16
_X32: Final = 0x40000000

_PR_GET_SECCOMP: Final = 21
_PR_SET_SECCOMP: Final = 22
_SECCOMP_MODE_FILTER: Final = 2

_Instruction = tuple[int, int, int, int]
_LONGEST_JUMP: Final = 255
_RETURNS_ALLOW: Final = (_RETURN, 0, 0, _ALLOW)

FREE: Final = (
    *("read", "write", "readv", "writev", "pread64", "pwrite64", "close", "lseek", "fsync", "fdatasync", "ftruncate"),
    *("fstat", "newfstatat", "stat", "lstat", "statx", "access", "faccessat", "faccessat2", "getdents64", "getcwd"),
    *("unlink", "unlinkat", "rmdir", "rename", "renameat", "renameat2", "umask"),
    *("munmap", "brk", "mremap", "madvise", "membarrier"),
    *("rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "restart_syscall", "pause"),
    *("select", "pselect6", "poll", "ppoll", "epoll_create1", "epoll_ctl", "epoll_wait", "epoll_pwait"),
    *("eventfd2", "dup", "dup2", "dup3"),
    *("nanosleep", "gettimeofday", "time", "times", "getrusage", "sysinfo", "uname", "getrandom"),
    *("getpid", "gettid", "getuid", "geteuid", "getgid", "getegid", "getrlimit", "setrlimit"),
    *("accept4", "accept", "getsockname", "getpeername"),
    *("set_robust_list", "rseq", "set_tid_address", "exit", "exit_group"),
    *("sched_yield", "sched_get_priority_min", "sched_get_priority_max"),
)
"""Whatever their arguments: they reach what the process has open, its own memory, and its own folder."""

_THREAD: Final = (0x3D0F00, 0x7D0F00)
"""The flags by which glibc and musl make a thread: no process, no namespace."""
_DUPLICATE, _GET_FD, _SET_FD, _GET_FLAGS, _SET_FLAGS, _DUPLICATE_CLOSED = 0, 1, 2, 3, 4, 1030
_FIONREAD, _TIOCOUTQ, _FIONBIO, _FIONCLEX, _FIOCLEX = 0x541B, 0x5411, 0x5421, 0x5450, 0x5451
_PR_SET_NAME, _PR_SET_VMA = 15, 0x53564D41
_SET_ID_BITS: Final = 0o6000
_PROT_READ_WRITE: Final = 3
_PROT_EXEC: Final = 4
_CLOCKS: Final = 16
"""Above are the clocks of other processes, which tell that there are such."""
_SOL_SOCKET, _IPPROTO_TCP = 1, 6
_TCP_NODELAY, _TCP_KEEPIDLE, _TCP_KEEPINTVL, _TCP_KEEPCNT = 1, 4, 5, 6
_MSG_OOB, _MSG_FASTOPEN = 0x1, 0x20000000
_SHUT_RDWR: Final = 2
_MAP_SHARED, _MAP_ANONYMOUS, _MAP_GROWSDOWN = 0x01, 0x20, 0x100
_FUTEX_FLAGS: Final = 0x180
"""FUTEX_PRIVATE_FLAG and FUTEX_CLOCK_REALTIME, which the system takes off before it looks at the operation."""
_FUTEX_WAIT, _FUTEX_WAKE, _FUTEX_REQUEUE, _FUTEX_CMP_REQUEUE, _FUTEX_WAKE_OP = 0, 1, 3, 4, 5
_FUTEX_WAIT_BITSET, _FUTEX_WAKE_BITSET = 9, 10
_O_NONBLOCK, _O_CLOEXEC = 0o4000, 0o2000000
_ALL_BITS: Final = 0xFFFFFFFF


def build(machine: str = MACHINE) -> bytes:
    """The program for an architecture, with 0 in place of the process's own pid; `for_process` puts it in."""
    numbers = NUMBERS[machine]
    # Some exist only where programs are older than the architecture's successor.
    calls = {numbers[name]: [_RETURNS_ALLOW] for name in FREE if name in numbers}
    calls |= {numbers[name]: body for name, body in _held().items() if name in numbers}
    unknown = [_error(errno.ENOSYS)]
    starts = {0: unknown}
    for number in sorted(calls):
        starts[number], starts[number + 1] = calls[number], unknown
    if machine == "x86_64":
        starts[_X32] = [(_RETURN, 0, 0, _KILL)]
    ranges = [next(alike) for _, alike in groupby(starts.items(), key=itemgetter(1))]
    program: list[_Instruction] = [
        *((_LOAD, 0, 0, _ARCHITECTURE), (_EQUAL, 1, 0, AUDIT[machine]), (_RETURN, 0, 0, _KILL)),
        *((_LOAD, 0, 0, _NUMBER), *_searched(ranges)),
    ]
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)


def _searched(ranges: list[tuple[int, list[_Instruction]]]) -> list[_Instruction]:
    """What to do by the number that is loaded; each range goes from its first number to the next one's.

    By halves: when it is loaded, the system plays the program once for every call that there is.
    """
    if len(ranges) == 1:
        return ranges[0][1]
    middle = len(ranges) // 2
    below, above = _searched(ranges[:middle]), _searched(ranges[middle:])
    first = ranges[middle][0]
    if len(below) <= _LONGEST_JUMP:
        return [(_AT_LEAST, len(below), 0, first), *below, *above]
    return [(_AT_LEAST, 0, 1, first), (_JUMP, 0, 0, len(below)), *below, *above]


def _held() -> dict[str, list[_Instruction]]:
    """The calls that are held by their arguments, each with what its own instructions come to."""
    own = _only(0, [_PID], errno.EPERM)
    return {
        "mmap": _mapping(),
        # Threads' stacks and the allocator's arenas come to be so. What is made read-only is no data any more, which
        # RLIMIT_DATA counts.
        "mprotect": _only(2, [_PROT_READ_WRITE], errno.EPERM),
        "openat": _without(3, _SET_ID_BITS, errno.EPERM),
        "open": _without(2, _SET_ID_BITS, errno.EPERM),
        "mkdirat": _without(2, _SET_ID_BITS, errno.EPERM),
        "mkdir": _without(1, _SET_ID_BITS, errno.EPERM),
        "clock_gettime": _below(0, _CLOCKS, errno.EINVAL),
        "clock_getres": _below(0, _CLOCKS, errno.EINVAL),
        "clock_nanosleep": _below(0, _CLOCKS, errno.EINVAL),
        "fcntl": _only(1, [_DUPLICATE, _GET_FD, _SET_FD, _GET_FLAGS, _SET_FLAGS, _DUPLICATE_CLOSED], errno.EPERM),
        # What waits to be read, here or there (IOPub tells by that whether a subscriber reads), and flags.
        "ioctl": _only(1, [_FIONREAD, _TIOCOUTQ, _FIONBIO, _FIONCLEX, _FIOCLEX], errno.ENOTTY),
        # Options of sockets: no filters, no pidfd of the peer; of TCP no other protocol above it, no connecting later.
        "setsockopt": _option(_IPPROTO_TCP, [_TCP_NODELAY, _TCP_KEEPIDLE, _TCP_KEEPINTVL, _TCP_KEEPCNT]),
        "getsockopt": _option(_SOL_SOCKET, [3, 4, 38]),  # SO_TYPE, SO_ERROR, SO_PROTOCOL
        # A listening socket that was shut down can connect again, and MSG_FASTOPEN connects without connect(2), past
        # Landlock too: any TCP service of the machine could be talked to. Out-of-band data nobody here sends, and what
        # the system does with it on unix sockets has been a way into it (CVE-2025-38236).
        "sendto": _without(3, _MSG_FASTOPEN | _MSG_OOB, errno.EPERM),
        "sendmsg": _without(2, _MSG_FASTOPEN | _MSG_OOB, errno.EPERM),
        "recvfrom": _without(3, _MSG_OOB, errno.EPERM),
        "recvmsg": _without(2, _MSG_OOB, errno.EPERM),
        # Subscribers that do not read are cut off by it, both ways.
        "shutdown": _only(1, [_SHUT_RDWR], errno.EPERM),
        # No packets, and no pipe that the system itself writes to (O_NOTIFICATION_PIPE).
        "pipe2": _without(1, _ALL_BITS ^ (_O_NONBLOCK | _O_CLOEXEC), errno.EINVAL),
        "futex": _futex(),
        "clone": _only(0, _THREAD, errno.EPERM),
        # Names of threads and mappings: done nothing. By its name a process is told to be a certain kernel's.
        "prctl": [*_only(0, [_PR_SET_NAME, _PR_SET_VMA], errno.EPERM)[:-1], _error(0)],
        "kill": own,
        "tgkill": own,
        "prlimit64": _only(0, [0, _PID], errno.EPERM),
        "sched_getaffinity": _only(0, [0, _PID], errno.EPERM),
        # libzmq asks for its threads' policy and sets it, and aborts when it may not: it is told that all went well.
        "sched_setscheduler": [_error(0)],
        "sched_getscheduler": [_error(0)],
        "sched_getparam": [_error(0)],
        "socket": [_error(errno.EAFNOSUPPORT)],
        "socketpair": [_error(errno.EAFNOSUPPORT)],
    }


_PID: Final = 0xFFFFFFFF
"""Stands for the process's own pid until the filter is loaded."""
_PID_BYTES: Final = struct.pack("=I", _PID)


def _error(code: int) -> _Instruction:
    return (_RETURN, 0, 0, _ERRNO | code)


def _argument(number: int) -> _Instruction:
    """Load the lower half of an argument: all of those that are looked at are ints for the system."""
    return (_LOAD, 0, 0, _ARGUMENTS + 8 * number)


def _only(argument: int, values: Iterable[int], code: int) -> list[_Instruction]:
    found = list(values)
    tests = [(_EQUAL, len(found) - at, 0, value) for at, value in enumerate(found)]
    return [_argument(argument), *tests, _error(code), (_RETURN, 0, 0, _ALLOW)]


def _without(argument: int, bits: int, code: int) -> list[_Instruction]:
    return [_argument(argument), (_ANY_BIT, 0, 1, bits), _error(code), (_RETURN, 0, 0, _ALLOW)]


def _below(argument: int, bound: int, code: int) -> list[_Instruction]:
    return [_argument(argument), (_AT_LEAST, 0, 1, bound), _error(code), (_RETURN, 0, 0, _ALLOW)]


def _option(level: int, names: list[int]) -> list[_Instruction]:
    only = _only(2, names, errno.ENOPROTOOPT)
    return [_argument(1), (_EQUAL, 0, len(only) - 2, level), *only]


def _mapping() -> list[_Instruction]:
    """Memory that is neither executable nor of a kind that RLIMIT_DATA does not count.

    That are shared memory without a file, and what grows downwards, which is a stack to the system: where there are no
    cgroups, a process could hold as much as the machine has.
    """
    both = _MAP_SHARED | _MAP_ANONYMOUS
    return [
        *_without(2, _PROT_EXEC, errno.EPERM)[:-1],
        *_without(3, _MAP_GROWSDOWN, errno.EPERM)[:-1],
        *((_AND, 0, 0, both), (_EQUAL, 0, 1, both), _error(errno.EPERM), (_RETURN, 0, 0, _ALLOW)),
    ]


def _futex() -> list[_Instruction]:
    """Waiting and waking; no locks with priority inheritance.

    Those name their owner by a number in memory: whoever writes another process's there, and asks for the lock, is told
    by the error whether there is such a process. Neither Python nor libzmq uses them.
    """
    plain = [_FUTEX_WAIT, _FUTEX_WAKE, _FUTEX_REQUEUE, _FUTEX_CMP_REQUEUE, _FUTEX_WAKE_OP]
    load, *tests = _only(1, [*plain, _FUTEX_WAIT_BITSET, _FUTEX_WAKE_BITSET], errno.ENOSYS)
    return [load, (_AND, 0, 0, _ALL_BITS ^ _FUTEX_FLAGS), *tests]


def for_process(program: bytes, pid: int) -> bytes:
    """The program with the process's own pid in it."""
    return program.replace(_PID_BYTES, struct.pack("=I", pid))


def is_available() -> bool:
    """Whether this system filters system calls, on an architecture that there is a table for."""
    return MACHINE in NUMBERS and prctl(_PR_GET_SECCOMP, 0, 0, 0, 0) >= 0


def load(program: bytes) -> None:
    """From here on this thread, and every thread that it makes, is held to `program`."""
    code = ctypes.create_string_buffer(program, len(program))
    header = ctypes.create_string_buffer(struct.pack("@HP", len(program) // 8, ctypes.addressof(code)))
    check(prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, header, 0, 0), "seccomp")


PROGRAM: Final = build() if MACHINE in NUMBERS else b""
"""For this machine: made once, before the fork."""
