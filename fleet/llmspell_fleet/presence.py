"""Whether a fleet runs in these directories, as its files tell: for whoever starts, asks or stops one."""

import contextlib
import fcntl
import socket
import stat
import struct
from collections.abc import Iterator
from pathlib import Path

import msgspec

from llmspell_fleet.cgroups import tree as cgroups
from llmspell_fleet.model.ids import KernelId
from llmspell_fleet.paths import Address, FleetPaths
from llmspell_kernel import pidfile, runtime_dir
from llmspell_kernel.errors import MisuseError, RefusedError
from llmspell_kernel.safe_files import read_private

_LONGEST_ADDRESS_BYTES = 8192
_CONNECT_WITHIN_S = 1.0
_CREDENTIALS = struct.Struct("=3i")


class Presence(msgspec.Struct, frozen=True):
    """A fleet that runs."""

    record: pidfile.PidRecord
    address: Address | None
    """None: it is about to serve, or has ceased to. Its `url` is the unix socket's when its file was damaged."""

    @property
    def description(self) -> str:
        """Its process and address, in the middle of a sentence."""
        where = f" on {self.address.url}" if self.address is not None else ", which does not serve at this moment"
        return f"process {self.record.pid}{where}"


def find(paths: FleetPaths) -> Presence | None:
    """The fleet that runs in `paths`; None when there is none, or only what one that died has left.

    A damaged file is no reason to refuse. RefusedError says which of its files others may have written.
    """
    try:
        record = pidfile.read(paths.pid_file)
    except FileNotFoundError:
        return None
    except pidfile.DamagedPidFileError:
        # The address file names the process too, while it serves.
        address = _find_address(paths)
        if address is None:
            return None
        record = pidfile.PidRecord(address.pid, address.start_time, paths.address_file)
    if not pidfile.is_running(record):
        return None
    address = _find_address(paths)
    if address is not None and (address.pid, address.start_time) != (record.pid, record.start_time):
        # A predecessor's that died: the one that runs has not written its own yet.
        address = None
    return Presence(record, address)


def require_none(paths: FleetPaths) -> None:
    """RefusedError with its process and address when a fleet runs in `paths`."""
    running = find(paths)
    if running is not None:
        raise RefusedError(
            f"a fleet is already running in {paths.runtime}: {running.description}; "
            "stop it with `llmspell fleet down`, or use other directories (--runtime-dir, --state-dir)"
        )


def _find_address(paths: FleetPaths) -> Address | None:
    """Where the address file says that a fleet listens; if it was damaged, where one is found by its socket."""
    try:
        content = read_private(paths.address_file, what="address file", limit_bytes=_LONGEST_ADDRESS_BYTES)
        return msgspec.json.decode(content, type=Address)
    except FileNotFoundError:
        return None
    except (MisuseError, msgspec.DecodeError, ValueError, RecursionError):
        return _address_by_socket(paths)


def _address_by_socket(paths: FleetPaths) -> Address | None:
    """The unix socket's, which has a fixed name, and the system says who listens on it; None: nobody does."""
    with socket.socket(socket.AF_UNIX) as asking:
        asking.settimeout(_CONNECT_WITHIN_S)
        try:
            asking.connect(paths.socket)
            # That of whoever called listen(2): unix(7).
            pid, _, _ = _CREDENTIALS.unpack(asking.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        except OSError:
            return None
    start_time = pidfile.process_start_time(pid)
    if start_time is None:
        return None
    return Address(pid=pid, start_time=start_time, url=f"unix:{paths.socket}", socket=paths.socket, version="")


def kernels(paths: FleetPaths) -> list[runtime_dir.KernelEntry]:
    """The fleet's kernels by the files that they keep, also when their controller is gone; no others."""
    try:
        entries = runtime_dir.list_kernels(paths.runtime)
    except FileNotFoundError:
        return []
    return [entry for entry in entries if _has_supervisor(Path(paths.kernel_dir(KernelId(entry.kernel_id))))]


def remove_leftovers(paths: FleetPaths) -> bool:
    """Remove the files of a fleet of which no process is left; False when there are none, or some process is."""
    # The pid file last: as long as it is there, this can be done again.
    files = [path for path in map(Path, (paths.address_file, paths.socket, paths.pid_file)) if path.exists()]
    folders = [path for path in Path(paths.runtime, "k").glob("*") if _has_supervisor(path)]
    if not files and not folders:
        return False
    with _no_other_claims():
        if find(paths) is not None or any(entry.running for entry in kernels(paths)):
            return False
        for folder in folders:
            _remove_folder(folder)
        cgroups.remove_recorded(paths.cgroups, paths.runtime)
        for path in files:
            path.unlink(missing_ok=True)
    return True


def _remove_folder(folder: Path) -> None:
    for path in folder.iterdir():
        path.unlink(missing_ok=True)
    folder.rmdir()
    # Kernels that are no fleet's may have theirs beside it.
    with contextlib.suppress(OSError):
        folder.parent.rmdir()


@contextlib.contextmanager
def _no_other_claims() -> Iterator[None]:
    """Keep others from claiming a pid file meanwhile: see `pidfile.claim`."""
    with Path(runtime_dir.lock_path()).open("ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _has_supervisor(folder: Path) -> bool:
    """Whether a kernel's output goes to a FIFO in its folder: only the fleet makes one."""
    try:
        return any(stat.S_ISFIFO(path.lstat().st_mode) for path in folder.iterdir())
    except FileNotFoundError:
        return False
