"""Which configuration holds for a command: the file, then the environment, then the command's own options."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from llmspell_kernel import runtime_dir
from llmspell_kernel.errors import MisuseError
from llmspell_kernel.limits import KernelLimits

if TYPE_CHECKING:
    from llmspell_kernel.config import KernelConfig


Kind = Literal["kernel", "fleet"]
"""Whose configuration a file is; the file that is read without being named is called so."""


def find_file(given: str | None, name: str = "kernel.toml") -> str | None:
    """The file that was named, or `name` of the configuration directory, or None.

    Never a file of the working directory: whoever wrote that need not be who runs this.
    """
    if given is not None:
        return str(Path(given).absolute())
    directory = runtime_dir.choose_config_dir(os.environ, uid=os.geteuid(), home=str(Path.home()))
    path = Path(directory, name)
    return str(path) if path.exists() else None


def kind_of(path: str) -> Kind:
    """Whose configuration the file at `path` is: a fleet's has tables that a kernel's has not, or is ``fleet.toml``.

    A file that cannot be read counts as a kernel's: whoever loads it says why.
    """
    import tomllib

    from llmspell_fleet.config.tables import FleetFile
    from llmspell_kernel.config import KernelConfig

    if Path(path).name == "fleet.toml":
        return "fleet"
    try:
        tables = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return "kernel"
    fleet_only = set(FleetFile.__struct_fields__) - set(KernelConfig.__struct_fields__)
    return "fleet" if fleet_only & set(tables) else "kernel"


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


class Told(msgspec.Struct, frozen=True):
    """A configuration that was read, and what there is to say of it."""

    file: msgspec.Struct
    """The tables with the defaults for what they leave out."""
    notices: tuple[str, ...]
    refusals: tuple[str, ...]
    """Why nobody may start with it."""


def told(path: str | None, kind: Kind) -> Told:
    """The configuration of `kind` from `path`, or the defaults, with the environment on top."""
    if kind == "fleet":
        from llmspell_fleet.config import fleet as fleet_config
        from llmspell_fleet.config import refusals

        file = fleet_config.load_fleet_file(path, environ=os.environ)
        comes_to = fleet_config.fleet_config(file)
        # What was left out is shown as what it came to.
        fleet = msgspec.structs.replace(file.fleet, startup_kernels=comes_to.startup_kernels)
        shown = msgspec.structs.replace(file, fleet=fleet)
        return Told(shown, comes_to.notices, tuple(refusals.refusals(comes_to)))
    from llmspell_kernel import config

    loaded = config.default_config() if path is None else config.load_config(path)
    loaded = config.overridden(loaded, environment())
    return Told(loaded, tuple(config.notices(loaded)), tuple(config.refusals(loaded)))


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
