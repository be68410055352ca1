"""Kernels as real processes in directories of their own, always ended by pid."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from llmspell_kernel.connection import CHANNELS
from llmspell_kernel.options import ServeOptions
from support.homes import wait_until

READY_S = 30.0
"""How long anything may take on a machine that does other things too."""

CONNECTION_FILE = "connection.json"

_SERVE = """
import sys
import msgspec
from llmspell_kernel.app import serve
from llmspell_kernel.errors import LlmspellError
from llmspell_kernel.options import ServeOptions
try:
    sys.exit(serve(msgspec.json.decode(sys.argv[1], type=ServeOptions)))
except LlmspellError as fault:
    sys.stderr.write(f"{fault}\\n")
    sys.exit(fault.exit_code)
"""


@dataclass(slots=True)
class KernelHome:
    """The directories of the kernels of one test, and the processes that it started in them."""

    path: Path
    environ: dict[str, str]
    processes: list["KernelProcess"] = field(default_factory=list)

    @property
    def runtime(self) -> Path:
        return self.path / "run"

    def start(
        self,
        *arguments: str,
        connection: dict[str, Any] | None = None,
        options: dict[str, Any] | None = None,
        file: str = CONNECTION_FILE,
        log: str | None = None,
    ) -> "KernelProcess":
        """Start a kernel; it is ready when its `connection` is there.

        With `connection` the file is a client's. With `options` the kernel is served with those `ServeOptions`,
        else by `python -m llmspell_kernel`.
        """
        path = self.path / file
        if connection is not None:
            path.write_text(json.dumps(connection))
        if options is None:
            command = [sys.executable, "-m", "llmspell_kernel", "-f", str(path), *arguments]
        else:
            # Checked here, where a test's mistake is seen.
            given = {"kernel_id": "00000000-0000-4000-8000-00000000abcd", "connection_file": str(path), **options}
            command = [sys.executable, "-c", _SERVE, json.dumps(given)]
            msgspec.convert(given, ServeOptions)
        written = self.path / (log or f"{file}.log")
        with written.open("ab") as stream:
            process = subprocess.Popen(
                command, env=self.environ, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, cwd=self.path
            )
        kernel = KernelProcess(process, path, written, self)
        self.processes.append(kernel)
        return kernel

    def start_ready(self, *arguments: str, **given: Any) -> "KernelProcess":
        """Start a kernel that writes its own connection file, and wait for that file."""
        kernel = self.start(*arguments, **given)
        kernel.wait_ready()
        return kernel

    def left_behind(self) -> list[str]:
        """What kernels left in the runtime directory."""
        if not self.runtime.exists():
            return []
        return sorted(str(path.relative_to(self.runtime)) for path in self.runtime.rglob("*") if not path.is_dir())


@dataclass(slots=True)
class KernelProcess:
    """One kernel process, a child of the tests."""

    process: "subprocess.Popen[bytes]"
    connection_file: Path
    log: Path
    home: KernelHome

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def connection(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(self.connection_file.read_text())
        return content

    def wait_ready(self) -> None:
        wait_until(lambda: self.connection_file.exists() or self.process.poll() is not None, "a connection file")
        assert self.process.poll() is None, self.log.read_text()

    def wait(self) -> int:
        """The exit code of a process that is expected to end."""
        return self.process.wait(READY_S)

    def signal(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """Stop the process meanwhile: what is sent to it arrives at one moment."""
        self.signal(signal.SIGSTOP)
        try:
            wait_until(lambda: self._state() == "T", "the process to stop")
            yield
        finally:
            self.signal(signal.SIGCONT)

    def _state(self) -> str:
        return Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]

    def memory_kib(self, what: str = "VmRSS") -> int:
        """Memory of the process, by a line of proc_pid_status(5)."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(f"{what}:"))

    def open_files(self) -> list[str]:
        """What the process has open, connections aside, by the names that /proc gives."""
        found = [str(path.readlink()) for path in Path(f"/proc/{self.pid}/fd").iterdir()]
        return sorted(name.partition(":[")[0] for name in found if not name.startswith("socket:"))

    def log_text(self) -> str:
        return self.log.read_text()

    def wait_for_log(self, text: str) -> str:
        wait_until(lambda: text in self.log_text(), f"{text!r} in the log")
        return self.log_text()

    def end(self) -> None:
        """Kill the process, if it is still there."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(READY_S)


@contextlib.contextmanager
def short_folder() -> Iterator[Path]:
    """A folder for unix sockets, whose paths have to be short: not below pytest's own."""
    path = Path(tempfile.mkdtemp(prefix="ls-"))
    try:
        yield path
    finally:
        shutil.rmtree(path)


@contextlib.contextmanager
def kernel_home() -> Iterator[KernelHome]:
    """A home that is gone afterwards, with every kernel that was started in it."""
    with short_folder() as path:
        yield from _kernel_home(path)


def _kernel_home(path: Path) -> Iterator[KernelHome]:
    environ = {key: value for key, value in os.environ.items() if not key.startswith("LLMSPELL_")}
    environ.update(
        LLMSPELL_RUNTIME_DIR=str(path / "run"),
        LLMSPELL_STATE_DIR=str(path / "state"),
        LLMSPELL_LOG_DIR=str(path / "logs"),
    )
    home = KernelHome(path, environ)
    try:
        yield home
    finally:
        for kernel in home.processes:
            kernel.end()


def clients_connection(home: KernelHome, **changes: Any) -> dict[str, Any]:
    """The connection file that a Jupyter client writes, for unix sockets in `home`: no port to race for."""
    ports = {f"{channel}_port": number for number, channel in enumerate(CHANNELS, start=1)}
    return {
        **ports,
        "ip": str(home.path / "c"),
        "transport": "ipc",
        "key": "a-key-of-the-client",
        "signature_scheme": "hmac-sha256",
        "kernel_name": "llmspell",
        **changes,
    }
