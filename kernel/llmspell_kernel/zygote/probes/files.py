"""Probes of the file system. A target is another's path, unless it says that it is the process's own folder."""

import contextlib
import os
from collections.abc import Callable
from typing import Final

from llmspell_kernel.zygote.probes.outcome import StoppedError, reason

_FILE: Final = "probe"
_CHUNK: Final = 64 * 1024
_MOST_FILES: Final = 100_000


def read_file(path: str) -> str:
    """Read a file."""
    with open(path, "rb", buffering=0) as file:
        return f"{len(file.read(1024) or b'')} bytes of {path}"


def write_file(path: str) -> str:
    """Write to a file that exists, or make it."""
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600))
    return f"{path} opened for writing"


def list_folder(path: str) -> str:
    """List a folder."""
    return f"{len(os.listdir(path))} names in {path}"


def see_path(path: str) -> str:
    """Learn whether a path exists, and whose it is."""
    found = os.stat(path)
    return f"{path} belongs to user {found.st_uid}, mode {found.st_mode:o}"


def enter_folder(path: str) -> str:
    """Make a folder the working directory."""
    os.chdir(path)
    return f"in {path}"


def change_mode(path: str) -> str:
    """Change a file's mode to what it is."""
    os.chmod(path, 0o600)
    return f"the mode of {path} was changed"


def remove_file(path: str) -> str:
    """Remove a file."""
    os.unlink(path)
    return f"{path} was removed"


def make_symlink(path: str) -> str:
    """Make a symbolic link to a path in its own folder."""
    os.symlink(path, _FILE)
    os.unlink(_FILE)
    return f"a link to {path} was made"


def make_fifo(_target: str) -> str:
    """Make a FIFO in its own folder."""
    os.mkfifo(_FILE)
    os.unlink(_FILE)
    return "a FIFO was made"


def set_user_bit(_target: str) -> str:
    """Make a file in its own folder that runs as its owner."""
    os.close(os.open(_FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        os.chmod(_FILE, 0o4755)  # noqa: S103 - a probe
    finally:
        os.unlink(_FILE)
    return "a set-user-ID file was made"


def create_with_user_bit(_target: str) -> str:
    """The same by the mode of a new file."""
    os.close(os.open(_FILE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o4755))
    os.unlink(_FILE)
    return "a set-user-ID file was made"


def leave_root(_target: str) -> str:
    """Go up from its root folder as far as one can."""
    names = os.listdir("/".join([".."] * 20))
    if not names:
        raise PermissionError("nothing is above")
    return f"{len(names)} names above"


def fill_folder(target: str) -> str:
    """Write more than so many bytes in files of 1 MiB, to its own folder or to that after a space."""
    most_bytes, _, folder = target.partition(" ")
    wanted, written, names = int(most_bytes), 0, 0
    try:
        while written <= wanted:
            name, names = os.path.join(folder, f"{_FILE}-{names}"), names + 1
            with open(name, "xb", buffering=0) as file:
                for _ in range(16):
                    written += file.write(bytes(_CHUNK))
    except OSError as fault:
        if not written:
            raise
        raise StoppedError(f"after {written} bytes: {reason(fault)}") from None
    finally:
        _remove(names, folder)
    return f"{written} bytes were written"


def grow_file(target: str) -> str:
    """Let one file grow beyond so many bytes, in its own folder or in that after a space."""
    most_bytes, _, folder = target.partition(" ")
    wanted, written, path = int(most_bytes), 0, os.path.join(folder, _FILE)
    try:
        with open(path, "xb", buffering=0) as file:
            while written <= wanted:
                written += file.write(bytes(_CHUNK))
    except OSError as fault:
        if not written:
            raise
        raise StoppedError(f"after {written} bytes: {reason(fault)}") from None
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)
    return f"{written} bytes were written"


def many_files(most: str) -> str:
    """Make more files than so many in its own folder."""
    made = 0
    try:
        for number in range(min(int(most) + 1, _MOST_FILES)):
            os.close(os.open(f"{_FILE}-{number}", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
            made += 1
    except OSError as fault:
        if not made:
            raise
        raise StoppedError(f"after {made} files: {reason(fault)}") from None
    finally:
        _remove(made)
    return f"{made} files were made"


def _remove(names: int, folder: str = "") -> None:
    for number in range(names):
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(folder, f"{_FILE}-{number}"))


def open_files(most: str) -> str:
    """Hold more descriptors than so many."""
    held: list[int] = []
    try:
        while len(held) <= int(most):
            held.append(os.dup(0))
    except OSError as fault:
        if not held:
            raise
        raise StoppedError(f"after {len(held)} descriptors: {reason(fault)}") from None
    finally:
        for descriptor in held:
            os.close(descriptor)
    return f"{len(held)} descriptors were held"


def inherited(known: str) -> str:
    """Find descriptors besides the standard three and those named, separated by commas."""
    expected = {0, 1, 2, *(int(number) for number in known.split(",") if number)}
    found = []
    for descriptor in range(1024):
        with contextlib.suppress(OSError):
            os.fstat(descriptor)
            if descriptor not in expected:
                found.append(descriptor)
    if not found:
        raise PermissionError("no other descriptor is open")
    return f"descriptors {found} are open"


PROBES: Final[dict[str, Callable[[str], str]]] = {
    probe.__name__: probe
    for probe in (
        *(read_file, write_file, list_folder, see_path, enter_folder, change_mode, remove_file),
        *(make_symlink, make_fifo, set_user_bit, create_with_user_bit, leave_root),
        *(fill_folder, grow_file, many_files, open_files, inherited),
    )
}
