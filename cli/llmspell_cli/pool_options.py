"""Options about how long a tenant's kernels live, and how its pool of them grows and shrinks."""

import re
from collections.abc import Callable
from typing import Any, TypeVar

import click
import msgspec

from llmspell_cli.options import duration
from llmspell_fleet.model.pool import Autoscale
from llmspell_fleet.model.views import TenantView
from llmspell_kernel.units import format_duration

_F = TypeVar("_F", bound=Callable[..., Any])

_MEMBERS = ("restart", "max_age_s", "max_age_variance", "cull_busy", "cull_connected", "warm", "warm_size")
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
                "--restart",
                type=click.Choice(["always", "on-failure", "never"]),
                help="Which ends of their own are followed by another process: all, crashes, or none.",
            ),
            click.option(
                "--max-age",
                "max_age_s",
                type=duration,
                metavar="TIME",
                help="Give a kernel a new process at this age, as 1d, when it has finished what it runs; 0 = never.",
            ),
            click.option(
                "--max-age-variance",
                type=click.FloatRange(0, 1),
                help="Up to this share of --max-age is taken off at random, as 0.1.",
            ),
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
    members = {name: given.pop(name) for name in _MEMBERS}
    text = given.pop("autoscale")
    if text is not None:
        members["autoscale"] = autoscale(text)
    return members


def pool_lines(tenant: TenantView) -> dict[str, str]:
    """What of all this a tenant has otherwise than by default, for people."""
    lines = {
        "restart": "" if tenant.restart == "always" else tenant.restart,
        "max age": _max_age(tenant) if tenant.max_age_s else "",
        "cull busy": "yes" if tenant.cull_busy else "",
        "cull connected": "yes" if tenant.cull_connected else "",
        "warm": "" if tenant.warm == "prefer" else tenant.warm,
        "warm size": str(tenant.warm_size or ""),
        "autoscale": "" if tenant.autoscale is None else _scaled(tenant.autoscale),
    }
    return {name: text for name, text in lines.items() if text}


def _max_age(tenant: TenantView) -> str:
    age, share = format_duration(tenant.max_age_s), tenant.max_age_variance
    return f"{age}, less up to {share:.3g} of it" if share else age


def _scaled(autoscale: Autoscale) -> str:
    return (
        f"{autoscale.min} to {autoscale.max} kernels, more when over {autoscale.busy_share:.0%} are busy, "
        f"fewer after {format_duration(autoscale.down_after_s)}"
    )
