"""What a supervisor and a zygote say to each other: one msgpack message per packet, descriptors beside it.

`control` is a SOCK_SEQPACKET pair between the supervisor and the zygote. `report` is another one: its writing end is
inherited by every kernel, which says once whether it serves, and closes it before any script runs.
"""

import array
import socket
from typing import Literal

import msgspec

from llmspell_kernel.connection import ConnectionInfo
from llmspell_kernel.limits import KernelLimits

LONGEST_PACKET = 128 * 1024


class Confinement(msgspec.Struct, frozen=True, kw_only=True):
    """What a kernel's process gives up before it serves."""

    level: Literal["none", "process", "strict"] = "process"
    memory_bytes: int = 0
    """RLIMIT_DATA on top of what the process holds when it begins and `confine.HEADROOM_BYTES`; 0 = none."""
    files: int = 0
    """RLIMIT_NOFILE; 0 = as it is."""
    processes: int = 0
    """RLIMIT_NPROC once it has its own threads; 0 = as it is. Counts the user's processes, and does not bind root."""
    file_bytes: int = 0
    """RLIMIT_FSIZE, or the size of a root of its own; 0 = as it is, or `namespaces.DEFAULT_BYTES`."""
    uid: int | None = None
    """The user and group that it becomes at `strict`; None = it stays whose it is."""
    namespaces: Literal["none", "mount", "user"] = "none"
    """How it comes to a root of its own at `strict` (`zygote.namespaces`)."""
    cgroups: tuple[str, ...] = ()
    """Directories of the control groups that it joins before it gives up its user."""


class StartKernel(msgspec.Struct, frozen=True, kw_only=True, tag="start"):
    """Start a kernel."""

    ticket: int
    """Comes back in `Started` or `StartFailed`."""
    kernel_id: str
    name: str = ""
    transport: Literal["tcp", "ipc"] = "ipc"
    ports: tuple[int, int, int, int, int] | None = None
    key: str | None = None
    """None = the kernel makes one; a later incarnation is given its predecessor's, so that clients find it again."""
    limits: KernelLimits = KernelLimits()
    confinement: Confinement = Confinement()
    pid_file: str | None = None
    output: str = ""
    """The FIFO that is its standard output and error; "" = /dev/null."""
    progress_file: str | None = None
    supervisor_proof: str = ""
    """What requests of the supervisor's, such as for other limits, prove themselves by; "" = there are none."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    probe: str = ""
    """What of `zygote.probes` the process tries instead of serving, held as a kernel would be; "" = it serves."""
    probe_target: str = ""
    """What the probe is aimed at, where it is aimed: a path, a pid, a port, a number of bytes."""
    may_be_spare: bool = False
    """Whether a spare of the zygote becomes it, if there is one (`zygote.spares`)."""


class ForkKernel(msgspec.Struct, frozen=True, tag="fork"):
    """Fork a kernel; its `StartKernel` is in the file that comes with this message, and only the child reads it."""

    ticket: int
    may_be_spare: bool = False
    """Whether a spare gets the file, if there is one that is ready; else it is a fork all the same."""


class HaveSpares(msgspec.Struct, frozen=True, tag="have_spares"):
    """Fork children that wait to become kernels until there are so many, or end those that are too many.

    Now: one that becomes a kernel, or ends, is not replaced until this is asked again.
    """

    number: int


class Ready(msgspec.Struct, frozen=True, tag="ready"):
    """The zygote has imported everything: it forks at once."""


class Started(msgspec.Struct, frozen=True, tag="started"):
    """A process was made; its pidfd comes with this message."""

    ticket: int
    pid: int
    start_time: int
    was_spare: bool = False


class Spares(msgspec.Struct, frozen=True, tag="spares"):
    """How many children there are that wait to become kernels; told after each change, before what changed it."""

    ready: int = 0
    coming: int = 0
    """Those that have been forked, and are not ready yet."""


class StartFailed(msgspec.Struct, frozen=True, tag="start_failed"):
    """There is no process."""

    ticket: int
    reason: str


class Exited(msgspec.Struct, frozen=True, tag="exited"):
    """A kernel's process has ended and was reaped; `status` is as from waitpid(2)."""

    pid: int
    status: int


class Suspended(msgspec.Struct, frozen=True, tag="suspended"):
    """A signal such as SIGSTOP suspended a kernel's process, or SIGCONT let it go on."""

    pid: int
    is_suspended: bool


class Serving(msgspec.Struct, frozen=True, tag="serving"):
    """A kernel listens on its sockets: what it is asked there is answered once it has made the rest of itself."""

    kernel_id: str
    pid: int
    connection: ConnectionInfo


class Refused(msgspec.Struct, frozen=True, tag="refused"):
    """A kernel cannot serve, and ends."""

    kernel_id: str
    pid: int
    reason: str


class Probed(msgspec.Struct, frozen=True, tag="probed"):
    """What became of a probe. A process that ends without saying so was stopped by what ended it."""

    kernel_id: str
    pid: int
    name: str
    outcome: Literal["refused", "stopped", "got_through"]
    """refused: the system said no; stopped: it went on, and not beyond a bound; got_through: nothing held it."""
    detail: str = ""
    """For people."""


Order = ForkKernel | HaveSpares
Reply = Ready | Started | StartFailed | Exited | Suspended | Spares
Report = Serving | Refused | Probed

encode = msgspec.msgpack.Encoder().encode
decode_order = msgspec.msgpack.Decoder(Order).decode
decode_request = msgspec.msgpack.Decoder(StartKernel).decode
decode_reply = msgspec.msgpack.Decoder(Reply).decode
decode_report = msgspec.msgpack.Decoder(Report).decode


def send_with_descriptor(control: socket.socket, packet: bytes, descriptor: int) -> None:
    """Send `packet` with a copy of `descriptor`."""
    control.sendmsg([packet], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [descriptor]))])


def receive_with_descriptors(control: socket.socket) -> tuple[bytes, list[int]]:
    """One packet and the descriptors that came with it, close-on-exec; b"" when the other end has gone."""
    packet, ancillary, _flags, _address = control.recvmsg(LONGEST_PACKET, socket.CMSG_SPACE(4), socket.MSG_CMSG_CLOEXEC)
    descriptors = array.array("i")
    for level, kind, data in ancillary:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            descriptors.frombytes(data)
    return packet, list(descriptors)
