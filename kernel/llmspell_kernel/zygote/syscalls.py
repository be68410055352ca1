"""System calls by name: their numbers on the architectures that `strict` is built for, and a way to make one."""

import ctypes
import os
from typing import Final

MACHINE: Final = os.uname().machine

_libc = ctypes.CDLL(None, use_errno=True)
prctl = _libc.prctl
syscall = _libc.syscall
mount = _libc.mount
umount = _libc.umount2
unshare = _libc.unshare
"""Looked up at import: doing so copies pages of a zygote's into a child."""

AUDIT: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
"""AUDIT_ARCH_… of linux/audit.h: how the system tells a filter for which architecture a call was made."""

# fmt: off
NUMBERS: Final[dict[str, dict[str, int]]] = {
    "x86_64": {
        "read": 0, "write": 1, "readv": 19, "writev": 20, "pread64": 17, "pwrite64": 18, "close": 3, "fstat": 5,
        "newfstatat": 262, "stat": 4, "lstat": 6, "statx": 332, "lseek": 8, "mmap": 9, "mprotect": 10, "munmap": 11,
        "brk": 12, "mremap": 25, "madvise": 28, "rt_sigaction": 13, "rt_sigprocmask": 14, "rt_sigreturn": 15,
        "sigaltstack": 131, "ioctl": 16, "access": 21, "faccessat": 269, "faccessat2": 439, "select": 23,
        "pselect6": 270, "poll": 7, "ppoll": 271, "sched_yield": 24, "epoll_create1": 291, "epoll_ctl": 233,
        "epoll_wait": 232, "epoll_pwait": 281, "eventfd2": 290, "pipe2": 293, "dup": 32, "dup2": 33, "dup3": 292,
        "nanosleep": 35, "clock_nanosleep": 230, "clock_gettime": 228, "clock_getres": 229, "gettimeofday": 96,
        "time": 201, "getpid": 39, "gettid": 186, "getuid": 102, "geteuid": 107, "getgid": 104, "getegid": 108,
        "accept4": 288, "accept": 43, "sendto": 44, "recvfrom": 45, "sendmsg": 46, "recvmsg": 47, "shutdown": 48,
        "getsockname": 51, "getpeername": 52, "setsockopt": 54, "getsockopt": 55, "clone": 56, "exit": 60,
        "exit_group": 231, "futex": 202, "set_robust_list": 273, "rseq": 334, "set_tid_address": 218, "uname": 63,
        "fcntl": 72, "fsync": 74, "fdatasync": 75, "ftruncate": 77, "getdents64": 217, "getcwd": 79, "mkdir": 83,
        "mkdirat": 258, "unlink": 87, "unlinkat": 263, "rmdir": 84, "rename": 82, "renameat": 264, "renameat2": 316,
        "open": 2, "openat": 257, "umask": 95, "getrlimit": 97, "setrlimit": 160, "prlimit64": 302, "getrusage": 98,
        "sysinfo": 99, "times": 100, "prctl": 157, "sched_getaffinity": 204, "sched_setscheduler": 144,
        "sched_getscheduler": 145, "sched_getparam": 143, "sched_get_priority_min": 147,
        "sched_get_priority_max": 146, "membarrier": 324, "getrandom": 318, "kill": 62, "tgkill": 234,
        "restart_syscall": 219, "pause": 34, "socket": 41, "socketpair": 53, "clone3": 435,
        "pivot_root": 155, "capset": 126, "seccomp": 317,
    },
    "aarch64": {
        "read": 63, "write": 64, "readv": 65, "writev": 66, "pread64": 67, "pwrite64": 68, "close": 57, "fstat": 80,
        "newfstatat": 79, "statx": 291, "lseek": 62, "mmap": 222, "mprotect": 226, "munmap": 215, "brk": 214,
        "mremap": 216, "madvise": 233, "rt_sigaction": 134, "rt_sigprocmask": 135, "rt_sigreturn": 139,
        "sigaltstack": 132, "ioctl": 29, "faccessat": 48, "faccessat2": 439, "pselect6": 72, "ppoll": 73,
        "sched_yield": 124, "epoll_create1": 20, "epoll_ctl": 21, "epoll_pwait": 22, "eventfd2": 19, "pipe2": 59,
        "dup": 23, "dup3": 24, "nanosleep": 101, "clock_nanosleep": 115, "clock_gettime": 113, "clock_getres": 114,
        "gettimeofday": 169, "getpid": 172, "gettid": 178, "getuid": 174, "geteuid": 175, "getgid": 176,
        "getegid": 177, "accept4": 242, "accept": 202, "sendto": 206, "recvfrom": 207, "sendmsg": 211,
        "recvmsg": 212, "shutdown": 210, "getsockname": 204, "getpeername": 205, "setsockopt": 208,
        "getsockopt": 209, "clone": 220, "exit": 93, "exit_group": 94, "futex": 98, "set_robust_list": 99,
        "rseq": 293, "set_tid_address": 96, "uname": 160, "fcntl": 25, "fsync": 82, "fdatasync": 83, "ftruncate": 46,
        "getdents64": 61, "getcwd": 17, "mkdirat": 34, "unlinkat": 35, "renameat": 38, "renameat2": 276,
        "openat": 56, "umask": 166, "getrlimit": 163, "setrlimit": 164, "prlimit64": 261, "getrusage": 165,
        "sysinfo": 179, "times": 153, "prctl": 167, "sched_getaffinity": 123, "sched_setscheduler": 119,
        "sched_getscheduler": 120, "sched_getparam": 121, "sched_get_priority_min": 126,
        "sched_get_priority_max": 125, "membarrier": 283, "getrandom": 278, "kill": 129, "tgkill": 131,
        "restart_syscall": 128, "socket": 198, "socketpair": 199, "clone3": 435,
        "pivot_root": 41, "capset": 91, "seccomp": 277,
    },
}
# fmt: on
"""Those that a kernel may make, and those that its lock-down takes (asm/unistd_64.h, asm-generic/unistd.h)."""

LANDLOCK_CREATE_RULESET: Final = 444
LANDLOCK_ADD_RULE: Final = 445
LANDLOCK_RESTRICT_SELF: Final = 446
"""The same on every architecture."""


PR_SET_DUMPABLE: Final = 4


def check(result: int, what: str) -> int:
    """The result of a function of the C library; OSError that names `what` when it failed."""
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{what}: {os.strerror(code)}")
    return result
