"""Which configuration holds for a command: the file, then the environment, then the command's own options."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from llmspell_kernel import runtime_dir
from llmspell_kernel.errors import MisuseError
from llmspell_kernel.limits import KernelLimits

if TYPE_CHECKING:
    from llmspell_kernel.config import KernelConfig


def find_file(given: str | None) -> str | None:
    """The file that was named, or ``kernel.toml`` of the configuration directory, or None.

    Never a file of the working directory: whoever wrote that need not be who runs this.
    """
    if given is not None:
        return str(Path(given).absolute())
    directory = runtime_dir.choose_config_dir(os.environ, uid=os.geteuid(), home=str(Path.home()))
    path = Path(directory, "kernel.toml")
    return str(path) if path.exists() else None


def environment() -> list[tuple[str, str, str]]:
    """Table, key and value of what the environment says on top of a file: ``LLMSPELL_LOG_LEVEL``."""
    level = os.environ.get("LLMSPELL_LOG_LEVEL")
    if not level:
        return []
    from llmspell_kernel import config

    try:
        msgspec.convert({"level": level}, config.LoggingTable)
    except msgspec.ValidationError:
        known = ", ".join(config.LEVELS)
        raise MisuseError(f"expected LLMSPELL_LOG_LEVEL to be one of {known}, found {level!r}") from None
    return [("logging", "level", level)]


def load(given: str | None) -> "KernelConfig":
    """The configuration from `find_file`'s file, or the defaults, with the environment on top."""
    from llmspell_kernel import config

    path = find_file(given)
    loaded = config.default_config() if path is None else config.load_config(path)
    return config.overridden(loaded, environment())


def local_limits(given: str | None) -> KernelLimits:
    """The limits of a script that runs in this process.

    Without a file this does without the configuration's structs, which take longer to import than most
    scripts run.
    """
    path = find_file(given)
    if path is None:
        return KernelLimits()
    from llmspell_kernel import config

    return config.kernel_limits(config.load_config(path))
