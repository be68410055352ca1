"""What a fleet is told at its start, whoever starts it: the command line, a service manager."""

from collections.abc import Callable

import msgspec

from llmspell_fleet.paths import Address


class FleetOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How to run a fleet until it ends; the three directories are the environment's (`paths.choose_paths`)."""

    config_file: str | None = None
    """An absolute path, to be read again at SIGHUP; None = the defaults."""

    directory: str = ""
    """What relative paths in `config_file` are relative to; "" = the working directory."""

    port: int | None = None
    """The TCP port on top of the configuration; 0 = whichever is free."""

    allow_weaker_isolation: bool = False
    """Give kernels `process` where they should have `strict` and this machine cannot."""

    is_rerooted: frozenset[str] = frozenset()
    """Which of "runtime", "state" and "log" were named on the command line: paths in the configuration move there."""

    log_file: str | None = None
    """None = standard error. A daemon's standard output and error are this file too."""

    on_ready: Callable[[Address], None] | None = None
    """Called once, when the interface answers and `paths.FleetPaths.address_file` is written."""
