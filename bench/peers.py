"""The systems that are compared, and a kernel process of one of them: started, and always ended, by pid."""

import contextlib
import json
import os
import random
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from bench import proc
from bench.rawclient import BenchError, RawClient

PORTS = ("shell_port", "iopub_port", "stdin_port", "control_port", "hb_port")
# Below Linux's ephemeral range: a client that retries a port inside it can, by chance, connect to itself.
_PORT_RANGE = range(15000, 32000)
LUA_INTERPRETERS = ("lua5.4", "lua5.3", "lua", "luajit")


@dataclass(frozen=True, slots=True)
class System:
    """One kernel implementation: how it is started and what it calls the same program."""

    name: str
    arguments: tuple[str, ...]
    connection_option: str
    module: str
    loop: str
    print_lines: str
    settle_s: float = 0.0


_LUA_PRINT = "for i=1,{lines} do print(i) end"
OURS = System("llmspell", ("llmspell_kernel",), "-f", "llmspell_kernel", "while true do end", _LUA_PRINT)
IPYKERNEL = System(
    "ipykernel",
    ("ipykernel_launcher",),
    "-f",
    "ipykernel",
    "while True: pass",
    "for i in range(1,{lines}+1): print(i)",
)
# ilua answers kernel_info before its interpreter is connected and dies of an execute that comes in between.
ILUA = System("ilua", ("ilua.app",), "-c", "ilua", "while true do end", _LUA_PRINT, settle_s=0.5)
SYSTEMS = (OURS, IPYKERNEL, ILUA)


def lua_interpreter() -> str | None:
    """The Lua interpreter that ilua runs its scripts in; None when the machine has none."""
    return next((path for name in LUA_INTERPRETERS if (path := shutil.which(name))), None)


def why_missing(system: System) -> str | None:
    """Why this system cannot be measured here; None when it can."""
    if find_spec(system.module) is None:
        return f"{system.name} is not installed: `make setup` installs it"
    if system is ILUA and lua_interpreter() is None:
        names = ", ".join(LUA_INTERPRETERS)
        return f"ilua needs a Lua interpreter on PATH ({names}), there is none: install the system's lua5.4"
    return None


@dataclass(slots=True)
class Kernel:
    """A running kernel process; `exec_at` is the instant just before its exec, by `time.perf_counter`."""

    system: System
    process: subprocess.Popen[bytes]
    connection_file: Path
    connection: Mapping[str, object]
    errors: Path
    exec_at: float

    @property
    def pid(self) -> int:
        """The process that was started; a kernel may have children."""
        return self.process.pid

    def client(self, *, reconnect_ms: int = 20) -> RawClient:
        """A client of this kernel; it may be made before the kernel listens."""
        return RawClient(self.connection, reconnect_ms=reconnect_ms, alive=self.is_alive)

    def is_alive(self) -> bool:
        """Whether the process that was started has not ended."""
        return self.process.poll() is None

    @contextlib.contextmanager
    def ready_client(self, timeout_s: float = 30.0) -> Iterator[RawClient]:
        """A client whose kernel has answered and whose IOPub subscription is known to work."""
        with self.client() as client:
            try:
                client.wait_ready(timeout_s)
            except BenchError as error:
                raise BenchError(f"{error}; {self.last_words()}") from error
            yield client

    def last_words(self) -> str:
        """The last line that the process wrote, and its exit code when it has one; folders are left out."""
        code = self.process.poll()
        state = "still running" if code is None else f"exit code {code}"
        lines = self.errors.read_text(errors="replace").strip().splitlines() or ["nothing"]
        said = re.sub(r"/\S*/", "…/", lines[-1].strip())
        return f"{self.system.name} is {state}, it said: {said}"

    def kill(self) -> None:
        """End the process and its children, also those that left its process group, and wait for it."""
        for pid in {*proc.tree(self.pid), *proc.marked(str(self.connection_file))}:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def running(system: System, directory: Path) -> Iterator[Kernel]:
    """Start one kernel as Jupyter does, with a connection file that the client wrote; killed on leaving."""
    connection_file = directory / f"{system.name}-{secrets.token_hex(4)}.json"
    connection = new_connection(system.name)
    connection_file.touch(mode=0o600)
    connection_file.write_text(json.dumps(connection))
    errors = connection_file.with_suffix(".log")
    command = [sys.executable, "-m", *system.arguments, system.connection_option, str(connection_file)]
    # The mark finds children that outlive their kernel: ilua's interpreter does, when a SIGINT ends ilua.
    environ = {**environment(directory), "LLMSPELL_BENCH_MARK": str(connection_file)}
    with errors.open("wb") as log:
        exec_at = time.perf_counter()
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environ, start_new_session=True
        )
    kernel = Kernel(system, process, connection_file, connection, errors, exec_at)
    try:
        yield kernel
    finally:
        kernel.kill()


def new_connection(kernel_name: str) -> dict[str, object]:
    """A connection file's content with five TCP ports that were free a moment ago."""
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    key = secrets.token_hex(16)
    fixed = {
        "ip": "127.0.0.1",
        "transport": "tcp",
        "signature_scheme": "hmac-sha256",
        "kernel_name": kernel_name,
    }
    return {**ports, **fixed, "key": key}


def free_ports(count: int) -> list[int]:
    """TCP ports on loopback that were free a moment ago."""
    with contextlib.ExitStack() as held:
        ports: list[int] = []
        while len(ports) < count:
            probe = held.enter_context(socket.socket())
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", random.choice(_PORT_RANGE)))
                ports.append(probe.getsockname()[1])
        return ports


def environment(directory: Path) -> dict[str, str]:
    """The caller's environment with every place that a kernel may write to inside `directory`."""
    places = (
        "HOME",
        "TMPDIR",
        "IPYTHONDIR",
        "JUPYTER_RUNTIME_DIR",
        "LLMSPELL_RUNTIME_DIR",
        "LLMSPELL_STATE_DIR",
    )
    named = {name: str(directory) for name in (*places, "LLMSPELL_LOG_DIR", "LLMSPELL_CONFIG_DIR")}
    return {**os.environ, **named, "ILUA_LUA_INTERPRETER": lua_interpreter() or "lua"}
