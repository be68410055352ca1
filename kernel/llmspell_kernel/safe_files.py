"""Files and directories that hold secrets: nobody else can read them, or swap them under us."""

import os
import stat

from llmspell_kernel.errors import LlmspellError, MisuseError, RefusedError

_OTHERS_MAY_ANYTHING = 0o077
_OTHERS_MAY_WRITE = 0o022


def require_private(path: str, status: os.stat_result, *, readable: bool = False) -> None:
    """Refuse a file or directory that is not ours alone; `readable` lets others read it, never write it."""
    if status.st_uid != os.geteuid():
        raise RefusedError(
            f"{path} belongs to user {status.st_uid}, not to user {os.geteuid()} who runs this: "
            "use a path of your own, or run as its owner"
        )
    forbidden = _OTHERS_MAY_WRITE if readable else _OTHERS_MAY_ANYTHING
    mode = stat.S_IMODE(status.st_mode)
    if mode & forbidden:
        what = "written" if readable else "read or written"
        raise RefusedError(
            f"{path} has mode {mode:04o}, so that others may have {what} it: "
            f"run `chmod {mode & ~forbidden:o} {path}` if you trust what is in it, or use another path"
        )


def ensure_directory(path: str, *, readable: bool = False) -> str:
    """Make `path` with mode 0700 unless it exists, check that it is ours alone, and return it."""
    try:
        _make_directories(path)
        status = os.lstat(path)
    except OSError as error:
        raise RefusedError(f"the directory {path} cannot be made or read: {error.strerror}") from error
    if not stat.S_ISDIR(status.st_mode):
        raise RefusedError(f"{path} is not a directory of its own, perhaps a link: name the directory itself")
    require_private(path, status, readable=readable)
    return path


def _make_directories(path: str) -> None:
    """As `os.makedirs`, whose mode is for the last directory only: those above it are ours alone as well."""
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        return
    except FileNotFoundError:
        _make_directories(os.path.dirname(path))
        os.mkdir(path, 0o700)


def read_private(path: str, *, what: str, limit_bytes: int, check_owner: bool = True) -> bytes:
    """The content of a small file of ours, `what` in messages. FileNotFoundError when there is none."""
    # O_NONBLOCK: a FIFO put there instead must not hang us; O_NOFOLLOW: a link may lead to somebody else's
    # file.
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | (os.O_NOFOLLOW if check_owner else 0)
    try:
        descriptor = os.open(path, flags)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise RefusedError(f"the {what} {path} cannot be read: {error.strerror}") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise MisuseError(f"the {what} {path} is not a regular file")
        if check_owner:
            require_private(path, status)
        content = os.read(descriptor, limit_bytes + 1)
    except OSError as error:
        raise RefusedError(f"the {what} {path} cannot be read: {error.strerror}") from error
    finally:
        os.close(descriptor)
    if len(content) > limit_bytes:
        raise MisuseError(f"the {what} {path} is longer than {limit_bytes} bytes")
    return content


def write_private(path: str, content: bytes, *, what: str) -> None:
    """Put `content` at `path` in one step, mode 0600: a reader sees the old file or the new, never a part."""
    temporary = _temporary(path, os.getpid())
    try:
        try:
            descriptor = _create(temporary)
        except FileExistsError:
            # Left by a process that died with our pid. Anything planted in between still meets O_EXCL.
            os.unlink(temporary)
            descriptor = _create(temporary)
        try:
            with os.fdopen(descriptor, "wb") as stream:
                stream.write(content)
            os.replace(temporary, path)
        except BaseException:
            os.unlink(temporary)
            raise
    except OSError as error:
        raise LlmspellError(f"the {what} {path} cannot be written: {error.strerror}") from error


def remove_unfinished(path: str, pid: int) -> None:
    """Remove what process `pid`, which was killed, had begun to write at `path`. None: nothing."""
    try:
        os.unlink(_temporary(path, pid))
    except FileNotFoundError:
        return


def _temporary(path: str, pid: int) -> str:
    return f"{path}.{pid}.tmp"


def open_log(path: str) -> int:
    """A descriptor that appends to the log file at `path`, made with mode 0600 unless it exists."""
    flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags, 0o600)
    except OSError as error:
        raise RefusedError(f"the log file {path} cannot be written: {error.strerror}") from error


def _create(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
