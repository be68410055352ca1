"""The tables of a fleet's configuration file about how kernels are kept alive and ended, and who waits for whom."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import msgspec

from llmspell_fleet.model.kernel import Condition
from llmspell_fleet.model.tenant import RestartRule
from llmspell_fleet.policy.depends import cycle
from llmspell_fleet.policy.liveness import ProbePolicy
from llmspell_fleet.policy.restart import RestartPolicy
from llmspell_kernel.settings import Count, Duration

_RESTART = RestartPolicy()
_PROBE = ProbePolicy()


class RestartTable(msgspec.Struct, frozen=True, kw_only=True):
    """``[fleet.restart]``: what follows a kernel's death."""

    rule: RestartRule = "always"
    max_restarts: Count = _RESTART.max_restarts
    window: Duration = _RESTART.window_s
    first_delay: Duration = _RESTART.first_delay_s
    longest_delay: Duration = _RESTART.longest_delay_s


class ProbeTable(msgspec.Struct, frozen=True, kw_only=True):
    """``[fleet.probe]``: kernels that do not answer, and kernels that are suspended."""

    timeout: Duration = _PROBE.timeout_s
    deadline: Duration = _PROBE.deadline_s
    resume: bool = _PROBE.resumes


class StopTable(msgspec.Struct, frozen=True, kw_only=True):
    """``[fleet.stop]``: how long the middle rungs of the stop ladder may take; the others are in ``[fleet]``."""

    interrupt_deadline: Duration = _RESTART.interrupt_deadline_s
    shutdown_deadline: Duration = _RESTART.shutdown_deadline_s


class Declared(Protocol):
    """What is looked at of a ``[[fleet.kernels]]``."""

    @property
    def name(self) -> str:
        """What others call it."""
        ...

    @property
    def restart(self) -> RestartRule | None:
        """None = as the fleet says."""
        ...

    @property
    def depends_on(self) -> Mapping[str, Condition]:
        """Whom it waits for."""
        ...


def dependency_problems(kernels: Sequence[Declared], rule: RestartRule) -> Iterator[str]:
    """What in ``depends_on`` could never be, or would wait for ever; `rule` is of kernels that name none."""
    rules = {kernel.name: kernel.restart or rule for kernel in kernels}
    for index, kernel in enumerate(kernels):
        where = f"[fleet.kernels[{index}]] depends_on"
        for name, condition in kernel.depends_on.items():
            if name not in rules:
                known = ", ".join(sorted(rules))
                yield f"{where}: expected the name of another kernel that is declared here ({known}), found {name!r}"
            elif condition == "exited_ok" and rules[name] == "always":
                yield f'{where}: {name} is started again whenever it exits: give it restart = "on-failure" or "never"'
    if found := cycle({kernel.name: kernel.depends_on for kernel in kernels}):
        yield f"[[fleet.kernels]] depends_on: they wait for each other: {' -> '.join([*found, found[0]])}"
