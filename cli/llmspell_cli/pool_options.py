"""Options about how a tenant's pool of kernels grows and shrinks."""

import re
from collections.abc import Callable
from typing import Any, TypeVar

import click
import msgspec

from llmspell_fleet.model.pool import Autoscale

_F = TypeVar("_F", bound=Callable[..., Any])

_RANGE = re.compile(r"([0-9]{1,9})(?:\.\.|-)([0-9]{1,9})", re.ASCII)


def autoscale(text: str) -> Autoscale | None:
    """Bounds as ``2..10``, or None for ``off``, for click: use as a parameter's type."""
    if text == "off":
        return None
    found = _RANGE.fullmatch(text)
    if found is None:
        raise click.BadParameter(f"expected the least and the most kernels as 1..10, or off, found {text!r}")
    try:
        return msgspec.convert({"min": int(found[1]), "max": int(found[2])}, Autoscale)
    except msgspec.ValidationError as fault:
        raise click.BadParameter(str(fault)) from None


def pool_options(command: _F) -> _F:
    """What `pool_members` takes out of a command's parameters."""
    for option in reversed(
        (
            click.option(
                "--cull-busy/--keep-busy",
                default=None,
                help="Whether --idle-timeout ends a kernel that has run something for so long.",
            ),
            click.option(
                "--cull-connected/--keep-connected",
                default=None,
                help="Whether --idle-timeout ends a kernel that clients are connected to, or have lent.",
            ),
            click.option(
                "--warm",
                type=click.Choice(["prefer", "require", "never"]),
                help="Whether new kernels are ones that were READY before: if there are, always, or never.",
            ),
            click.option(
                "--warm-size", type=click.IntRange(0), metavar="N", help="Keep so many kernels ready for this tenant."
            ),
            click.option(
                "--autoscale",
                "autoscale",
                metavar="MIN..MAX",
                help="Have as many kernels as the load wants, between these; off: as many as --replicas says.",
            ),
        )
    ):
        command = option(command)
    return command


def pool_members(given: dict[str, Any]) -> dict[str, Any]:
    """Take the options of `pool_options` out of `given`; the members of a `TenantChange` that they come to."""
    members = {name: given.pop(name) for name in ("cull_busy", "cull_connected", "warm", "warm_size")}
    text = given.pop("autoscale")
    if text is not None:
        members["autoscale"] = autoscale(text)
    return members
