"""What was found: one record for each limit and each way out that was tried. Pure."""

from collections.abc import Iterable, Mapping
from typing import Literal

import msgspec

from llmspell_fleet.model.tenant import IsolationLevel

Result = Literal["held", "open", "skipped"]


class Finding(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was tried."""

    kind: Literal["limit", "isolation"]
    name: str
    """A limit by its name, or what was tried, in words."""
    enforced_by: str | None
    """What is said to hold it here; None = nobody."""
    is_promised: bool
    """Whether this level says that it holds."""
    result: Result
    """"held": the probe was refused or stopped, in this run."""
    detail: str
    """What became of the probe."""
    advice: str = ""
    """What to install or configure, where it is open."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """One examination."""

    level: IsolationLevel
    user: int
    """Under which user it ran."""
    system: str
    findings: tuple[Finding, ...]
    missing: Mapping[str, str]
    """What cgroups cannot bound here, and why."""
    is_sound: bool
    """Whether all that is promised was seen to hold."""


def is_sound(findings: Iterable[Finding]) -> bool:
    """Whether all that is promised was held. What was not tried is not held, and no probe at all proves nothing."""
    promised = [finding for finding in findings if finding.is_promised]
    return bool(promised) and all(finding.result == "held" for finding in promised)
