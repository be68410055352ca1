"""The allow-list of system calls, run by a small interpreter of BPF: what each call comes to on each architecture."""

import errno
import struct

import pytest

from llmspell_kernel.zygote import seccomp
from llmspell_kernel.zygote.syscalls import AUDIT, NUMBERS

PID = 4242
ALLOW, KILL = "allow", "kill"


def verdict(machine: str, number: int, *arguments: int, architecture: int | None = None) -> str | int:
    """What the system does with a call: it allows it, kills the process, or answers with an errno."""
    program = seccomp.for_process(seccomp.build(machine), PID)
    given = [*arguments, *[0] * (6 - len(arguments))]
    audit = AUDIT[machine] if architecture is None else architecture
    data = struct.pack("=iIQ6Q", number, audit, 0, *given)
    at, accumulator = 0, 0
    while True:
        code, jump_true, jump_false, value = struct.unpack_from("=HBBI", program, 8 * at)
        at += 1
        match code:
            case 0x20:
                (accumulator,) = struct.unpack_from("=I", data, value)
            case 0x05:
                at += value
            case 0x15:
                at += jump_true if accumulator == value else jump_false
            case 0x35:
                at += jump_true if accumulator >= value else jump_false
            case 0x45:
                at += jump_true if accumulator & value else jump_false
            case 0x54:
                accumulator &= value
            case 0x06:
                return {0x7FFF0000: ALLOW, 0x80000000: KILL}.get(value, value & 0xFFFF)
            case _:
                raise AssertionError(f"unknown instruction {code:#x}")


CALLS: dict[str, tuple[str, tuple[int, ...], str | int]] = {
    "reading what is open": ("read", (0,), ALLOW),
    "making a socket": ("socket", (1, 1, 0), errno.EAFNOSUPPORT),
    "a pair of sockets": ("socketpair", (1, 2, 0), errno.EAFNOSUPPORT),
    "a thread": ("clone", (0x3D0F00,), ALLOW),
    "a process": ("clone", (0x1200011,), errno.EPERM),
    "a thread in a namespace": ("clone", (0x3D0F00 | 0x20000,), errno.EPERM),
    "clone3, which hides its flags": ("clone3", (), errno.ENOSYS),
    "a signal to itself": ("kill", (PID, 15), ALLOW),
    "a signal to another": ("kill", (PID + 1, 15), errno.EPERM),
    "a signal to everybody": ("kill", (0xFFFFFFFF, 15), errno.EPERM),
    "a signal to its group": ("kill", (0, 15), errno.EPERM),
    "a signal to a thread of its own": ("tgkill", (PID, 99, 15), ALLOW),
    "a signal to another's thread": ("tgkill", (PID + 1, 99, 15), errno.EPERM),
    "its own limits": ("prlimit64", (0, 7), ALLOW),
    "another's limits": ("prlimit64", (1, 7), errno.EPERM),
    "a file": ("openat", (3, 0, 0o100, 0o600), ALLOW),
    "a file that runs as its owner": ("openat", (3, 0, 0o100, 0o4755), errno.EPERM),
    "a folder": ("mkdirat", (3, 0, 0o700), ALLOW),
    "a folder whose files are its group's": ("mkdirat", (3, 0, 0o2700), errno.EPERM),
    "memory": ("mmap", (0, 4096, 3), ALLOW),
    "executable memory": ("mmap", (0, 4096, 7), errno.EPERM),
    "memory that is shared, of no file": ("mmap", (0, 4096, 3, 0x21), errno.EPERM),
    "memory that is shared, of no file, with other flags": ("mmap", (0, 4096, 3, 0x8023), errno.EPERM),
    "memory of its own, of no file": ("mmap", (0, 4096, 3, 0x22), ALLOW),
    "a stack's memory": ("mmap", (0, 4096, 3, 0x20022), ALLOW),
    "memory that grows downwards, which is not counted": ("mmap", (0, 4096, 3, 0x122), errno.EPERM),
    "a file, shared": ("mmap", (0, 4096, 3, 0x01), ALLOW),
    "executable memory of a file": ("mmap", (0, 4096, 5, 0x02), errno.EPERM),
    "memory made executable": ("mprotect", (0, 4096, 5), errno.EPERM),
    "memory made read-only, which is not counted": ("mprotect", (0, 4096, 1), errno.EPERM),
    "memory made unreadable": ("mprotect", (0, 4096, 0), errno.EPERM),
    "memory for a stack": ("mprotect", (0, 4096, 3), ALLOW),
    "a clock": ("clock_gettime", (1,), ALLOW),
    "another process's clock": ("clock_gettime", ((~1 << 3 | 2) & 0xFFFFFFFF,), errno.EINVAL),
    "flags of a descriptor": ("fcntl", (3, 4), ALLOW),
    "signals by a descriptor": ("fcntl", (3, 8), errno.EPERM),
    "what waits to be read": ("ioctl", (3, 0x541B), ALLOW),
    "what its peer has not read yet": ("ioctl", (3, 0x5411), ALLOW),
    "input pushed to a terminal": ("ioctl", (3, 0x5412), errno.ENOTTY),
    "the type of a socket": ("getsockopt", (3, 1, 3), ALLOW),
    "a pidfd of the peer": ("getsockopt", (3, 1, 77), errno.ENOPROTOOPT),
    "an option of TCP": ("setsockopt", (3, 6, 1), ALLOW),
    "how TCP looks whether its peer is there": ("setsockopt", (3, 6, 4), ALLOW),
    "another protocol above TCP": ("setsockopt", (3, 6, 31), errno.ENOPROTOOPT),
    "connecting with the first data": ("setsockopt", (3, 6, 30), errno.ENOPROTOOPT),
    "sending": ("sendto", (3, 0, 1, 0x4000), ALLOW),
    "sending that connects": ("sendto", (3, 0, 1, 0x20000000), errno.EPERM),
    "sending out of band": ("sendto", (3, 0, 1, 0x1), errno.EPERM),
    "sending a message": ("sendmsg", (3, 0, 0x4000), ALLOW),
    "a message that connects": ("sendmsg", (3, 0, 0x20004000), errno.EPERM),
    "a message out of band": ("sendmsg", (3, 0, 0x4001), errno.EPERM),
    "receiving": ("recvfrom", (3, 0, 1, 0x40), ALLOW),
    "receiving out of band": ("recvfrom", (3, 0, 1, 0x41), errno.EPERM),
    "receiving a message": ("recvmsg", (3, 0, 0x40), ALLOW),
    "receiving a message out of band": ("recvmsg", (3, 0, 0x1), errno.EPERM),
    "cutting a connection off": ("shutdown", (3, 2), ALLOW),
    "shutting down for reading": ("shutdown", (3, 0), errno.EPERM),
    "shutting down for writing": ("shutdown", (3, 1), errno.EPERM),
    "a pipe": ("pipe2", (0, 0o2004000), ALLOW),
    "a pipe of packets": ("pipe2", (0, 0o40000), errno.EINVAL),
    "a pipe that the system writes to": ("pipe2", (0, 0o200), errno.EINVAL),
    "waiting for a lock": ("futex", (0, 0), ALLOW),
    "waiting for a lock of its own, until a time": ("futex", (0, 9 | 0x180), ALLOW),
    "letting others go on": ("futex", (0, 1 | 0x80), ALLOW),
    "a lock with priority inheritance": ("futex", (0, 6), errno.ENOSYS),
    "such a lock of its own": ("futex", (0, 6 | 0x80), errno.ENOSYS),
    "such a lock, tried": ("futex", (0, 8), errno.ENOSYS),
    "such a lock, of the newer kind": ("futex", (0, 13 | 0x80), errno.ENOSYS),
    "such a lock, by another's condition": ("futex", (0, 12), errno.ENOSYS),
    "a futex operation with an unknown flag": ("futex", (0, 0x200), errno.ENOSYS),
    "a filter on a socket": ("setsockopt", (3, 1, 26), errno.ENOPROTOOPT),
    "naming a thread, which is not done": ("prctl", (15,), 0),
    "being dumped again": ("prctl", (4, 1), errno.EPERM),
    "looking at its own processors": ("sched_getaffinity", (0,), ALLOW),
    "looking at another's": ("sched_getaffinity", (1,), errno.EPERM),
    "another root": ("pivot_root", (), errno.ENOSYS),
    "loading a filter": ("seccomp", (), errno.ENOSYS),
}


@pytest.mark.parametrize("machine", sorted(NUMBERS))
@pytest.mark.parametrize("case", CALLS)
def test_a_call_is_allowed_refused_or_does_not_exist(machine: str, case: str) -> None:
    name, arguments, expected = CALLS[case]

    assert verdict(machine, NUMBERS[machine][name], *arguments) == expected


@pytest.mark.parametrize("machine", sorted(NUMBERS))
def test_only_what_is_named_is_allowed(machine: str) -> None:
    named = {
        NUMBERS[machine][name]
        for name in (*seccomp.FREE, *(n for n, _a, v in CALLS.values() if v == ALLOW))
        if name in NUMBERS[machine]
    }
    allowed = {number for number in range(1024) if verdict(machine, number) == ALLOW}

    assert {NUMBERS[machine][name] for name in seccomp.FREE if name in NUMBERS[machine]} <= allowed
    assert allowed - named <= {
        NUMBERS[machine][name]
        for name in ("open", "mkdir", "mprotect", "clock_getres", "clock_nanosleep")
        if name in NUMBERS[machine]
    }


def test_calls_of_another_architecture_end_the_process() -> None:
    for machine in NUMBERS:
        assert verdict(machine, 0, architecture=0x40000003) == KILL
    assert verdict("x86_64", 0x40000000 | 41) == KILL, "x32"


def test_the_pid_is_put_in_wherever_it_is_asked_for() -> None:
    program = seccomp.build("x86_64")
    mine = seccomp.for_process(program, PID)

    assert program.count(struct.pack("=I", 0xFFFFFFFF)) == mine.count(struct.pack("=I", PID)) == 4
    assert len(program) == len(mine)
