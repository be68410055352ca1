"""Every probe by its name."""

from collections.abc import Callable
from typing import Final, Literal

from llmspell_kernel.errors import MisuseError
from llmspell_kernel.zygote.probes import files, network, others, processes, resources
from llmspell_kernel.zygote.probes.outcome import StoppedError, reason

Probe = Callable[[str], str]
"""Takes its target, returns what it got; raises OSError or MemoryError when refused, StoppedError at a bound."""

PROBES: Final[dict[str, Probe]] = {
    **files.PROBES,
    **network.PROBES,
    **others.PROBES,
    **processes.PROBES,
    **resources.PROBES,
}

_HOLDS: Final[dict[str, Callable[[], None]]] = {network.connect_by_listener.__name__: network.hold_listener}
"""What a kernel that serves has taken hold of before it is locked down, by the probe that turns it to another use."""

Outcome = Literal["refused", "stopped", "got_through"]


def take_hold(name: str) -> None:
    """What a probe needs from before the lock-down, as a kernel has it; nothing for most."""
    if name in _HOLDS:
        _HOLDS[name]()


def attempt(name: str, target: str) -> tuple[Outcome, str]:
    """Run one probe; MisuseError when there is none of that name."""
    if name not in PROBES:
        raise MisuseError(f"expected one of the probes {', '.join(sorted(PROBES))}, found {name[:64]!r}")
    probe = PROBES[name]
    try:
        return "got_through", probe(target)
    except StoppedError as stopped:
        return "stopped", str(stopped)
    except (OSError, MemoryError, RuntimeError) as refusal:
        return "refused", reason(refusal)
