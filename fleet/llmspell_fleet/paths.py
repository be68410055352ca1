"""Where the fleet's own files are, below the three directories that kernels use too (`llmspell_kernel.runtime_dir`)."""

import os

import msgspec

from llmspell_fleet.model.ids import KernelId
from llmspell_kernel import runtime_dir
from llmspell_kernel.safe_files import ensure_directory


class FleetPaths(msgspec.Struct, frozen=True):
    """The three directories of a fleet; its files in them have fixed names."""

    runtime: str
    state: str
    logs: str

    @property
    def pid_file(self) -> str:
        """The controller's pid and start time (`llmspell_kernel.pidfile`); its third line is `address_file`."""
        return os.path.join(self.runtime, "fleet.pid")

    @property
    def address_file(self) -> str:
        """Where the controller listens: an `Address` as JSON, there while it serves."""
        return os.path.join(self.runtime, "fleet.json")

    @property
    def socket(self) -> str:
        """The unix socket that the HTTP interface is served on, besides the TCP port."""
        return os.path.join(self.runtime, "fleet.sock")

    @property
    def database(self) -> str:
        """Desired and observed state (`store`)."""
        return os.path.join(self.state, "fleet.db")

    @property
    def applied_file(self) -> str:
        """The configuration that was applied while the fleet ran, as `config.source.Applied`."""
        return os.path.join(self.state, "applied.json")

    @property
    def homes(self) -> str:
        """Where each session lives (`controller.pools.homes`)."""
        return os.path.join(self.state, "sessions.map")

    @property
    def admin_token(self) -> str:
        """The one plaintext copy of the admin token."""
        return os.path.join(self.state, "admin.token")

    @property
    def viewer_token(self) -> str:
        """The one plaintext copy of the token that sees health and metrics: for Prometheus' `credentials_file`."""
        return os.path.join(self.state, "viewer.token")

    @property
    def secret(self) -> str:
        """What kernels know messages of their fleet by: clients of theirs do not have it."""
        return os.path.join(self.state, "fleet.key")

    @property
    def cgroups(self) -> str:
        """Which directories are the fleet's among the system's cgroups, a line for each."""
        return os.path.join(self.state, "cgroups")

    @property
    def log_file(self) -> str:
        """The controller's log."""
        return os.path.join(self.logs, "fleet.log")

    def kernel_dir(self, kernel: KernelId) -> str:
        """The folder of a kernel's sockets, output and progress."""
        return os.path.join(self.runtime, "k", kernel.replace("-", "")[:12])

    def kernel_log(self, kernel: KernelId) -> str:
        """What a kernel's incarnations wrote to their standard output and error."""
        return os.path.join(self.logs, "kernels", f"{kernel}.log")


class Address(msgspec.Struct, frozen=True, kw_only=True):
    """Where a controller listens."""

    pid: int
    start_time: int
    url: str
    """As in http://127.0.0.1:9550."""
    socket: str
    version: str
    kernels: int | None = None
    """How many it was told to keep when it began to serve."""
    log_file: str | None = None
    """Where it logs; None = its standard error, or it does not say."""


def choose_paths() -> FleetPaths:
    """The directories for this process's environment; nothing is made or checked on disk."""
    environ, uid, home = os.environ, os.geteuid(), os.path.expanduser("~")
    return FleetPaths(
        runtime_dir.choose_runtime_dir(environ, uid=uid, home=home),
        runtime_dir.choose_state_dir(environ, uid=uid, home=home),
        runtime_dir.choose_log_dir(environ, uid=uid, home=home),
    )


def make_paths() -> FleetPaths:
    """The same, made and checked: private directories of ours. RefusedError says why one cannot be used."""
    paths = choose_paths()
    for path in (paths.runtime, paths.state, paths.logs):
        ensure_directory(path)
    return paths
