"""Probes of what a process can become, make, or share."""

import ctypes
import io
import mmap
import os
from collections.abc import Callable
from typing import Final

from llmspell_kernel.zygote.probes.outcome import call, system_call

_CLONE_NEWUSER: Final = 0x10000000
_IPC_CREAT: Final = 0o1000
_PR_SET_DUMPABLE: Final = 4
_KEYCTL_GET_KEYRING_ID: Final = 0
_USER_KEYRING: Final = -4
_MAP_GROWSDOWN: Final = 0x100


def fork(_target: str) -> str:
    """Make a process."""
    if os.fork() == 0:
        os._exit(0)
    os.wait()
    return "a process was made"


def execute(_target: str) -> str:
    """Become another program; where that works, a child does it, so that there is somebody to tell."""
    return _execute(lambda: os.execv("/bin/true", ["true"]))


def execute_memory(_target: str) -> str:
    """Become a program that was never a file."""
    descriptor = system_call("memfd_create", b"probe", 0)
    with open("/bin/true", "rb") as program:
        os.write(descriptor, program.read())
    return _execute(lambda: os.execve(descriptor, ["true"], {}))


def _execute(become: Callable[[], object]) -> str:
    pid = os.fork()
    if pid == 0:
        try:
            become()
        finally:
            os._exit(1)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]):
        raise PermissionError("it was not executed")
    return "another program ran"


def become_root(_target: str) -> str:
    """Take another user's rights."""
    os.setresuid(0, 0, 0)
    return "it is root"


def make_namespace(_target: str) -> str:
    """Make a user namespace, in which it would have every capability."""
    call("unshare", _CLONE_NEWUSER)
    return "it has a namespace of its own"


def mount(_target: str) -> str:
    """Mount something."""
    call("mount", b"none", b"/", None, 0x4000, None)
    return "mounts were changed"


def become_dumpable(_target: str) -> str:
    """Let others of its user look into it again."""
    call("prctl", _PR_SET_DUMPABLE, 1, 0, 0, 0)
    return "it can be dumped"


def share_memory(_target: str) -> str:
    """Make memory that any process may be given (System V)."""
    segment = call("shmget", 0, 4096, _IPC_CREAT | 0o600)
    call("shmctl", segment, 0, None)
    return "a segment was made"


def memory_file(_target: str) -> str:
    """Make a file that is only memory."""
    os.close(system_call("memfd_create", b"probe", 0))
    return "a file was made"


def shared_file(_target: str) -> str:
    """Make a file in /dev/shm."""
    path = f"/dev/shm/llmspell-probe-{os.getpid()}"  # noqa: S108 - what others share is what is tried
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    os.unlink(path)
    return f"{path} was made"


def message_queue(_target: str) -> str:
    """Make a message queue (System V)."""
    queue = call("msgget", 0, _IPC_CREAT | 0o600)
    call("msgctl", queue, 0, None)
    return "a queue was made"


def keyring(_target: str) -> str:
    """Reach for its user's keys."""
    return f"keyring {system_call('keyctl', _KEYCTL_GET_KEYRING_ID, _USER_KEYRING, 1)}"


def io_uring(_target: str) -> str:
    """Have system calls made by the system itself, where no filter sees them."""
    os.close(system_call("io_uring_setup", 1, bytes(120)))
    return "a ring was made"


def userfaultfd(_target: str) -> str:
    """Take page faults, with which races in the system are won."""
    os.close(system_call("userfaultfd", 1))
    return "a descriptor was made"


def bpf(_target: str) -> str:
    """Load a program into the system."""
    os.close(system_call("bpf", 0, bytes(48), 48))
    return "a map was made"


def performance_events(_target: str) -> str:
    """Watch the processor's counters, with which secrets are timed."""
    attributes = ctypes.create_string_buffer(128)
    attributes[4] = b"\x80"  # its size
    descriptor = system_call("perf_event_open", attributes, 0, -1, -1, 0)  # type: ignore[arg-type]
    os.close(descriptor)
    return "a counter was opened"


def find_secret(halves: str) -> str:
    """Find a text in its own memory, where its parent may have left it; the target has its second half first.

    The whole is thus nowhere in the process unless it was there before.
    """
    middle = len(halves) // 2
    second, first = halves[:middle].encode(), halves[middle:].encode()
    with open("/proc/self/maps", "rb") as maps, open("/proc/self/mem", "rb", buffering=0) as memory:
        areas = [line.split()[:2] for line in maps]
        for area, rights in areas:
            begin, end = (int(part, 16) for part in area.split(b"-"))
            if rights.startswith(b"rw") and _holds(memory, begin, end, first, second):
                return f"found between {begin:x} and {end:x}"
    raise PermissionError("it is not there")


def _holds(memory: io.FileIO, begin: int, end: int, first: bytes, second: bytes) -> bool:
    try:
        memory.seek(begin)
        content = memory.read(end - begin) or b""
    except (OSError, OverflowError):
        return False  # an area of the system's own
    at = content.find(first)
    while at >= 0:
        if content[at + len(first) : at + len(first) + len(second)] == second:
            return True
        at = content.find(first, at + 1)
    return False


def executable_memory(_target: str) -> str:
    """Make memory that can be written and executed, for code that no file holds."""
    protection = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
    with mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, prot=protection):
        return "memory was mapped"


def shared_anonymous_memory(_target: str) -> str:
    """Have memory that is shared and of no file, which RLIMIT_DATA does not count."""
    with mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS):
        return "memory was mapped"


def growing_memory(_target: str) -> str:
    """Have memory that grows downwards: to the system it is a stack, which RLIMIT_DATA does not count."""
    with mmap.mmap(-1, mmap.PAGESIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | _MAP_GROWSDOWN):
        return "memory was mapped"


PROBES: Final[dict[str, Callable[[str], str]]] = {
    probe.__name__: probe
    for probe in (
        *(fork, execute, execute_memory, become_root, make_namespace, mount, become_dumpable),
        *(share_memory, memory_file, shared_file, message_queue, keyring, io_uring, userfaultfd, bpf),
        *(performance_events, executable_memory, shared_anonymous_memory, growing_memory, find_secret),
    )
}
