"""Options that several commands share, and parameter types that read units."""

from collections.abc import Callable
from typing import Any, TypeVar

import click

from llmspell_kernel.units import parse_duration, parse_size

_F = TypeVar("_F", bound=Callable[..., Any])


def duration(text: str) -> float:
    """Seconds, for click: use as a parameter's type."""
    try:
        return parse_duration(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def size(text: str) -> int:
    """Bytes, for click: use as a parameter's type."""
    try:
        return parse_size(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def config_option(text: str) -> Callable[[_F], _F]:
    """``--config FILE``: the command gets `config_file`."""
    return click.option("-c", "--config", "config_file", envvar="LLMSPELL_CONFIG", metavar="FILE", help=text)


KERNEL_CONFIG = "A configuration file. Default: kernel.toml in the configuration directory, if there is one."
FLEET_CONFIG = "A configuration file. Default: fleet.toml in the configuration directory, if there is one."


def output_option(command: _F) -> _F:
    """``--output table|json``."""
    option = click.option(
        "-o",
        "--output",
        "output",
        type=click.Choice(["table", "json"]),
        default="table",
        help="A table for people or JSON for programs.",
    )
    return option(command)


def connect_option(command: _F) -> _F:
    """``--connect FILE|ID``."""
    option = click.option(
        "--connect",
        "target",
        metavar="FILE|ID",
        help="Run in a running kernel: its connection file, its id, the beginning of its id, or its name.",
    )
    return option(command)


def selector_option(command: _F) -> _F:
    """``--label NAME=VALUE``, to select by: the command gets `label`, None = all."""
    option = click.option(
        "-l",
        "--label",
        "label",
        metavar="NAME=VALUE",
        help="Only those with this label; NAME alone = whatever its value; several with commas between them.",
    )
    return option(command)


def labels(_context: click.Context, _parameter: click.Parameter, given: tuple[str, ...]) -> dict[str, str] | None:
    """``--label NAME=VALUE``, to give: a click callback for an option that may be repeated. None = none was given."""
    found: dict[str, str] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not name or not equals:
            raise click.BadParameter(f"expected NAME=VALUE, found {text!r}")
        found[name] = value
    return found or None
