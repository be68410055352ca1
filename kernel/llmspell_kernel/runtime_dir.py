"""Where a kernel's files live: the runtime, state and log directories, and the listing of kernels.

The runtime directory holds one ``kernel-<id>.pid`` per kernel (see `pidfile`), which says where its
connection file is, and the unix sockets below ``k/``. It never lies in a shared temporary folder.
"""

import errno
import os
from collections.abc import Mapping

import msgspec

from llmspell_kernel import pidfile
from llmspell_kernel.errors import LlmspellError, RefusedError
from llmspell_kernel.safe_files import ensure_directory

LONGEST_RUNTIME_DIR = 75
"""Bytes. A unix socket's path holds 107, and ``/k/<12 hex digits>/<name>`` goes below this directory."""


class KernelEntry(msgspec.Struct, frozen=True, kw_only=True):
    """One kernel that left its files in the runtime directory."""

    kernel_id: str
    pid: int
    start_time: int
    pid_file: str
    connection_file: str
    running: bool
    """False: the process is gone and did not tidy up."""


def choose_runtime_dir(environ: Mapping[str, str], *, uid: int, home: str) -> str:
    """The runtime directory's path for this environment; nothing is made or checked on disk."""
    if given := environ.get("LLMSPELL_RUNTIME_DIR"):
        path = os.path.abspath(given)
    elif uid == 0:
        path = "/run/llmspell"
    elif xdg := environ.get("XDG_RUNTIME_DIR"):
        path = os.path.join(xdg, "llmspell")
    else:
        path = os.path.join(home, ".llmspell", "run")
    length = len(os.fsencode(path))
    if length > LONGEST_RUNTIME_DIR:
        raise RefusedError(
            f"the runtime directory {path} is {length} bytes long, and at most {LONGEST_RUNTIME_DIR} leave "
            "room for a unix socket's path: set LLMSPELL_RUNTIME_DIR to a shorter one"
        )
    return path


def choose_state_dir(environ: Mapping[str, str], *, uid: int, home: str) -> str:
    """Where what outlives a process is kept: locks, tokens, histories."""
    if given := environ.get("LLMSPELL_STATE_DIR"):
        return os.path.abspath(given)
    return "/var/lib/llmspell" if uid == 0 else os.path.join(home, ".local", "share", "llmspell")


def choose_log_dir(environ: Mapping[str, str], *, uid: int, home: str) -> str:
    """Where logs go; whoever moved the state without a word on logs finds them beneath it."""
    if given := environ.get("LLMSPELL_LOG_DIR"):
        return os.path.abspath(given)
    if uid == 0 and not environ.get("LLMSPELL_STATE_DIR"):
        return "/var/log/llmspell"
    return os.path.join(choose_state_dir(environ, uid=uid, home=home), "logs")


def choose_config_dir(environ: Mapping[str, str], *, uid: int, home: str) -> str:
    """Where a configuration is looked for when none is named."""
    if given := environ.get("LLMSPELL_CONFIG_DIR"):
        return os.path.abspath(given)
    return "/etc/llmspell" if uid == 0 else os.path.join(home, ".config", "llmspell")


def runtime_dir() -> str:
    """This process's runtime directory, made and checked; RefusedError says why it cannot be used."""
    return ensure_directory(choose_runtime_dir(os.environ, uid=os.geteuid(), home=_home("LLMSPELL_RUNTIME_DIR")))


def state_dir() -> str:
    """This process's state directory, made and checked."""
    return ensure_directory(choose_state_dir(os.environ, uid=os.geteuid(), home=_home("LLMSPELL_STATE_DIR")))


def _home(variable: str) -> str:
    """Whose home it is, for who is not told the directory: without HOME, as in a fleet, that reads /etc/passwd."""
    return "" if os.environ.get(variable) else os.path.expanduser("~")


def log_dir() -> str:
    """This process's log directory, made and checked; others may read it, if somebody lets them."""
    path = choose_log_dir(os.environ, uid=os.geteuid(), home=os.path.expanduser("~"))
    return ensure_directory(path, readable=True)


def socket_dir(kernel_id: str) -> str:
    """The directory of one kernel's unix sockets, made and checked; `remove_socket_dir` is its end."""
    return ensure_directory(_socket_path(kernel_id))


def remove_socket_dir(kernel_id: str) -> None:
    """Remove a kernel's unix sockets and their directory, if it has any."""
    path = _socket_path(kernel_id)
    try:
        for name in os.listdir(path):
            os.unlink(os.path.join(path, name))
        os.rmdir(path)
        os.rmdir(os.path.dirname(path))
    except FileNotFoundError:
        return
    except OSError as error:
        # Other kernels have their sockets there.
        if error.errno != errno.ENOTEMPTY:
            raise


def _socket_path(kernel_id: str) -> str:
    return os.path.join(runtime_dir(), "k", kernel_id.replace("-", "")[:12])


def connection_path(kernel_id: str) -> str:
    """Where this kernel's connection file is written unless somebody names another place."""
    return os.path.join(runtime_dir(), f"kernel-{kernel_id}.json")


def pid_path(kernel_id: str) -> str:
    """Where this kernel enters itself in the listing."""
    return os.path.join(runtime_dir(), f"kernel-{kernel_id}.pid")


def lock_path() -> str:
    """The lock file that every claim of a pid file takes for a moment."""
    return os.path.join(state_dir(), "pid.lock")


def list_kernels(directory: str | None = None) -> list[KernelEntry]:
    """Every kernel with an entry in `directory` (default: this process's), by id; those gone are marked so.

    An entry that cannot be read is left out: one broken file must not hide the other kernels.
    """
    found = []
    where = runtime_dir() if directory is None else directory
    for name in sorted(os.listdir(where)):
        if not (name.startswith("kernel-") and name.endswith(".pid")):
            continue
        path = os.path.join(where, name)
        try:
            record = pidfile.read(path)
        except (LlmspellError, FileNotFoundError):
            continue
        kernel_id = name[len("kernel-") : -len(".pid")]
        found.append(
            KernelEntry(
                kernel_id=kernel_id,
                pid=record.pid,
                start_time=record.start_time,
                pid_file=path,
                connection_file=record.connection_file or os.path.join(where, f"kernel-{kernel_id}.json"),
                running=pidfile.is_running(record),
            )
        )
    return found
