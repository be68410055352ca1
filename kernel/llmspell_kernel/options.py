"""What a kernel is told at its start, whoever starts it: the command line, Jupyter, later the fleet."""

import enum
from collections.abc import Callable
from typing import Literal

import msgspec

from llmspell_kernel.connection import ConnectionInfo
from llmspell_kernel.limits import MIB, KernelLimits


class Ending(enum.IntEnum):
    """Why a supervised kernel ended, as its exit code. A kernel of its own ends with DONE, or does not end."""

    DONE = 0
    """Told to."""
    IDLE = 40
    """Unused for `idle_timeout_s`."""
    RESTART = 41
    """A client asked for a restart: the supervisor starts the next one."""
    STUCK = 42
    """A script did not stop when it was interrupted."""
    FAULT = 43
    """A fault of its own."""
    MEMORY = 44
    """The process reached its own bound of memory."""
    TIMEOUT = 45
    """A script did not stop when its execution time was over."""


class LogOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Where the log goes and in what form; `daemon.logs.configure` takes it."""

    file: str | None = None
    """None = standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    json_lines: bool = False
    """One JSON object per line instead of lines for people."""

    rotate_bytes: int = 100 * MIB
    """The size at which a file is put aside; 0 = never."""

    rotate_count: int = 10
    """How many files put aside are kept."""

    owns_stdio: bool = False
    """Standard output and error are this file too, as a daemon's are, and follow it when it is put aside."""


class ServeOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to serve one kernel until it ends."""

    kernel_id: str
    """A UUID, lower case with hyphens."""

    kernel_name: str = "llmspell"
    """The kernelspec's name, as Jupyter front ends read it from the connection file."""

    name: str = ""
    """What a person called this kernel, for listings; empty when nobody did."""

    connection_file: str | None = None
    """A client's file that exists is obeyed and left; else where to write; None = the runtime directory."""

    pid_file: str | None = None
    """Where a supervisor wants the pid, besides the kernel's own entry in the runtime directory."""

    transport: Literal["tcp", "ipc"] = "tcp"
    ip: str = "127.0.0.1"

    port: int = 0
    """The shell port; 0 = whichever is free. The kernel binds first and reports afterwards."""

    ports: tuple[int, int, int, int, int] | None = None
    """Shell, iopub, stdin, control, heartbeat, all fixed; 0 within it = whichever is free."""

    key: str | None = None
    """The signing key; None = a fresh one of 256 bits."""

    limits: KernelLimits = KernelLimits()

    log: LogOptions = LogOptions()

    is_supervised: bool = False
    """Somebody replaces this process when it ends, and learns why by its exit code (`Ending`)."""

    supervisor_proof: str = ""
    """What requests that only the supervisor may make prove themselves by; "" = nobody may."""

    progress_file: str | None = None
    """Where to say which execution was begun last (`runtime.progress`)."""

    on_listening: Callable[[ConnectionInfo], None] | None = None
    """Called once, when clients can connect: what they ask is answered a moment later."""

    on_ready: Callable[[ConnectionInfo], None] | None = None
    """Called once, when the kernel answers and its files are written."""

    config_file: str | None = None
    """The configuration file that these options came from, for `config.reloaded` at a SIGHUP."""

    overrides: tuple[tuple[str, str, str | int | float | bool], ...] = ()
    """Table, key and value of what the command line said on top of that file."""

    @property
    def idle_timeout_s(self) -> float:
        """How long an unused kernel stays; 0 = for ever."""
        return self.limits.idle_timeout_s
