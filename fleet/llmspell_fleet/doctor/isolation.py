"""Each way out of a kernel's process, tried by code in it: to what another tenant, the machine and the fleet have.

The targets are real: a neighbour's kernel, its files, sockets and process; listeners of ours. So a refusal means that
something refused.
"""

import contextlib
import os
import socket
from collections.abc import Callable, Iterator
from typing import Final

import msgspec

from llmspell_fleet.controller.kernels.entry import Entry
from llmspell_fleet.doctor.findings import Finding
from llmspell_fleet.doctor.site import Site
from llmspell_fleet.model.kernel import Death
from llmspell_fleet.model.tenant import IsolationLevel

_STRICT: Final = frozenset[IsolationLevel](("strict",))
_ALL: Final = frozenset[IsolationLevel](("none", "process", "strict"))


class Targets(msgspec.Struct, frozen=True):
    """What probes are aimed at."""

    pid: str
    """Of the neighbour's kernel."""
    secret: str
    """The neighbour's connection file, which has its key."""
    socket: str
    folder: str
    """Of the fleet: its database, tokens and key."""
    token: str
    port: str
    abstract: str
    report: str
    """The descriptor by which probes tell: the one that they are meant to have."""


class WayOut(msgspec.Struct, frozen=True):
    """One probe, and who promises that it is held."""

    what: str
    probe: str
    target: Callable[[Targets], str]
    held_at: frozenset[IsolationLevel] = _STRICT


WAYS_OUT: Final = (
    WayOut("find descriptors of its parent", "inherited", lambda t: t.report, _ALL),
    WayOut("read a file of the machine", "read_file", lambda _t: "/etc/passwd"),
    WayOut("read another tenant's key", "read_file", lambda t: t.secret),
    WayOut("read the admin token", "read_file", lambda t: t.token),
    WayOut("list the fleet's state", "list_folder", lambda t: t.folder),
    WayOut("write outside its directory", "write_file", lambda t: os.path.join(t.folder, "written")),
    WayOut("connect to another tenant's socket", "connect_unix", lambda t: t.socket),
    WayOut("connect to an abstract socket", "connect_abstract", lambda t: t.abstract),
    WayOut("connect to a TCP port", "connect_tcp", lambda t: t.port),
    WayOut("listen on a TCP port", "listen_tcp", lambda _t: ""),
    WayOut("send a UDP datagram", "send_udp", lambda _t: ""),
    WayOut("read another kernel's environment", "read_environ", lambda t: t.pid),
    WayOut("read another kernel's memory map", "read_maps", lambda t: t.pid),
    WayOut("read another kernel's command line", "read_cmdline", lambda t: t.pid),
    WayOut("list another kernel's descriptors", "list_descriptors", lambda t: t.pid),
    WayOut("signal another kernel", "send_signal", lambda t: t.pid),
    WayOut("trace another kernel", "attach", lambda t: t.pid),
    WayOut("change another kernel's limits", "change_limits", lambda t: t.pid),
    WayOut("make a process", "fork", lambda _t: ""),
    WayOut("run a program", "execute", lambda _t: ""),
    WayOut("share memory (System V)", "share_memory", lambda _t: ""),
    WayOut("make a file of memory", "memory_file", lambda _t: ""),
    WayOut("use io_uring", "io_uring", lambda _t: ""),
    WayOut("make a user namespace", "make_namespace", lambda _t: ""),
)


@contextlib.contextmanager
def targets(site: Site, neighbour: Entry) -> Iterator[Targets]:
    """A neighbour's kernel as it is now, and listeners for as long as the block runs."""
    assert neighbour.process is not None
    assert neighbour.connection is not None
    name = f"llmspell-doctor-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as abstract, socket.socket() as tcp:
        abstract.bind("\0" + name)
        abstract.listen()
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        yield Targets(
            pid=str(neighbour.process.pid),
            secret=os.path.join(site.paths.runtime, f"kernel-{neighbour.id}.json"),
            socket=neighbour.connection.endpoint("shell").removeprefix("ipc://"),
            folder=site.paths.state,
            token=site.paths.admin_token,
            port=str(tcp.getsockname()[1]),
            abstract=name,
            report=str(site.report_descriptor),
        )


async def try_way_out(site: Site, entry: Entry, way: WayOut, aim: Targets) -> Finding:
    """One finding: `entry`'s kernel gives its place to the probe for a moment."""
    is_promised = site.level in way.held_at
    by = site.level if is_promised else None

    def found(result: str, detail: str) -> Finding:
        return msgspec.convert(
            {
                "kind": "isolation",
                "name": way.what,
                "enforced_by": by,
                "is_promised": is_promised,
                "result": result,
                "detail": detail,
                "advice": "" if is_promised or result != "open" else _ADVICE,
            },
            Finding,
        )

    try:
        told = await site.probe(entry, way.probe, way.target(aim))
    except TimeoutError:
        return found("skipped", "no end within its time")
    if isinstance(told, Death):
        # A filter may end the process that tries.
        return found("held" if told.signal == "SIGSYS" else "skipped", f"ended: {told.signal or told.cause}")
    is_held = told.outcome != "got_through"
    return found("held" if is_held else "open", f"{told.outcome.replace('_', ' ')}: {told.detail}")


_ADVICE: Final = "use isolation level strict"
