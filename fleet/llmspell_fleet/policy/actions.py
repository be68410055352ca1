"""What is to be done about a kernel: `policy.lifecycle` says it, `controller.supervision.supervisor` does it. Pure."""

from typing import Any

import msgspec

from llmspell_fleet.model.event import EventType
from llmspell_fleet.model.kernel import Kernel
from llmspell_fleet.policy.restart import RestartPolicy


class Spawn(msgspec.Struct, frozen=True):
    """Start the process of the kernel's present incarnation, and tell `Spawned` or `SpawnFailed`, once."""


class Interrupt(msgspec.Struct, frozen=True):
    """SIGINT to its process: what runs is interrupted."""


class ShutDown(msgspec.Struct, frozen=True):
    """A shutdown_request to its kernel."""


class Terminate(msgspec.Struct, frozen=True):
    """SIGTERM to its process."""


class Kill(msgspec.Struct, frozen=True):
    """SIGKILL to its process and all of that one's descendants."""


class SetTimer(msgspec.Struct, frozen=True):
    """Tell `TimerFired(generation)` after `after_s` seconds."""

    generation: int
    after_s: float


class Emit(msgspec.Struct, frozen=True):
    """Tell the world."""

    event_type: EventType
    data: dict[str, Any]


Action = Spawn | Interrupt | ShutDown | Terminate | Kill | SetTimer | Emit
Outcome = tuple[Kernel, tuple[Action, ...]]


class Circumstances(msgspec.Struct, frozen=True, kw_only=True):
    """What holds while something happens to a kernel."""

    now: float
    """Monotonic, seconds."""
    policy: RestartPolicy
    jitter: float
    """In [0, 1)."""
    executions: int = 0
    """Ours that run or wait in it."""
    leases: int = 0
    """Clients that it is lent to: what they run is not known here."""
    is_blocked: bool = False
    """Whether a kernel that it depends on is not yet as it has to be."""
    is_closing: bool = False
    """Whether the fleet ends: no process begins any more, and what should be is left as it is."""

    @property
    def is_used(self) -> bool:
        """Whether there is work that could be let finish."""
        return self.executions > 0 or self.leases > 0
