"""Which kernel a command means: by connection file, id, beginning of an id, name, or the only one."""

import re
from pathlib import Path

import msgspec

from llmspell_kernel.connection import ConnectionInfo, kernel_id_of, read_connection_file
from llmspell_kernel.errors import MisuseError, NotRunningError
from llmspell_kernel.runtime_dir import KernelEntry, list_kernels

_BEGINNING = re.compile(r"[0-9a-f-]{4,36}")


class Target(msgspec.Struct, frozen=True):
    """One kernel as its files describe it."""

    connection_file: str
    info: ConnectionInfo
    entry: KernelEntry | None
    """None: known by its connection file alone."""


def kernel_id(text: str) -> str:
    """The UUID that a person means by `text`, which may be a name."""
    try:
        return kernel_id_of(text)
    except ValueError as error:
        raise MisuseError(str(error)) from None


def name_of(text: str) -> str:
    """`text` when it is a name, nothing when it is a UUID."""
    return "" if kernel_id(text) == text.lower() else text


def find(text: str | None) -> Target:
    """The kernel that `text` means; None means the only one that runs."""
    if text is None:
        return _of_entry(_only_one())
    if "/" in text or text.endswith(".json") or Path(text).is_file():
        return _of_file(text)
    if re.fullmatch(r"[^:]+:\d+", text):
        raise MisuseError(
            f"{text} is an address, and a kernel obeys only who has its key: name its connection file or id"
        )
    return _of_entry(find_entry(text))


def find_entry(text: str) -> KernelEntry:
    """The entry in the runtime directory that an id, its beginning or a name means, running or not."""
    entries = list_kernels()
    wanted = kernel_id(text)
    found = [entry for entry in entries if entry.kernel_id == wanted]
    if not found and _BEGINNING.fullmatch(text):
        found = [entry for entry in entries if entry.kernel_id.startswith(text)]
    if len(found) > 1:
        raise MisuseError(f"{text} begins the ids of {len(found)} kernels: {_ids(found)}")
    if not found:
        raise NotRunningError(f"there is no kernel {text}: `llmspell kernel list` shows those that run")
    return found[0]


def _only_one() -> KernelEntry:
    running = [entry for entry in list_kernels() if entry.running]
    if not running:
        raise NotRunningError("no kernel is running: start one with `llmspell kernel start`")
    if len(running) > 1:
        raise MisuseError(f"expected one running kernel, found {len(running)}: say which of {_ids(running)}")
    return running[0]


def _ids(entries: list[KernelEntry]) -> str:
    return ", ".join(entry.kernel_id for entry in entries)


def _of_entry(entry: KernelEntry) -> Target:
    if not entry.running:
        raise NotRunningError(f"the kernel {entry.kernel_id}, process {entry.pid}, is gone without having tidied up")
    return Target(entry.connection_file, read_connection_file(entry.connection_file), entry)


def _of_file(path: str) -> Target:
    absolute = str(Path(path).absolute())
    entry = next((entry for entry in list_kernels() if entry.connection_file == absolute), None)
    return Target(absolute, read_connection_file(absolute), entry)
