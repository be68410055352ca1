"""What happens to a kernel, and what is asked for it: what `policy.lifecycle.transition` takes. Pure."""

from typing import Literal

import msgspec

from llmspell_fleet.model.kernel import Death, Ending

# --- asked


class StartAsked(msgspec.Struct, frozen=True):
    """It should run."""


class StopAsked(msgspec.Struct, frozen=True):
    """It should not run; with cause "culled", not until somebody needs it."""

    cause: Literal["stopped", "culled"] = "stopped"
    is_forced: bool = False
    """Kill it now."""


class DrainAsked(msgspec.Struct, frozen=True):
    """It should take no more work, and end when it has none."""

    cause: Literal["stopped", "culled", "restarted", "drained"] = "stopped"
    """"drained": it stays in its pool, and down until somebody restarts it."""


class TerminateAsked(msgspec.Struct, frozen=True):
    """An operator sent SIGTERM: this incarnation ends, and the kernel's restart rule says what follows."""


class RestartAsked(msgspec.Struct, frozen=True):
    """An operator wants a new incarnation, whatever became of the earlier ones."""


# --- seen


class Spawned(msgspec.Struct, frozen=True):
    """There is a process; it has not answered."""

    incarnation: int
    pid: int
    start_time: int
    """In clock ticks since boot."""
    at: float
    """Monotonic, seconds."""
    date: str
    """The same for people: ISO 8601 in UTC."""


class SpawnFailed(msgspec.Struct, frozen=True):
    """There is no process, and there will be none."""

    death: Death
    """Its cause is "spawn_failed", its detail says why."""
    is_permanent: bool = False
    """Trying again would fail alike: what was asked cannot be had here."""


class Answered(msgspec.Struct, frozen=True):
    """It was heard, and can take work."""

    incarnation: int


class Exited(msgspec.Struct, frozen=True):
    """Its process is gone."""

    death: Death


class TimerFired(msgspec.Struct, frozen=True):
    """A timer that `SetTimer` asked for."""

    generation: int


class Drained(msgspec.Struct, frozen=True):
    """Its last work has ended."""


class Unresponsive(msgspec.Struct, frozen=True):
    """It stopped answering, or said what no kernel says."""

    incarnation: int
    reason: str


class Silent(msgspec.Struct, frozen=True):
    """It did not answer in time: it may be hung, and is looked at. `Answered` takes that back."""

    incarnation: int


class Changed(msgspec.Struct, frozen=True):
    """Its spec was replaced."""


class Adopted(msgspec.Struct, frozen=True):
    """A process of an earlier controller was found alive; it has not answered this one."""

    incarnation: int
    pid: int
    start_time: int
    at: float
    date: str
    ending: Ending | None = None
    """How the earlier controller was ending it; None = it was not."""


Asked = StartAsked | StopAsked | DrainAsked | TerminateAsked | RestartAsked
Seen = Spawned | SpawnFailed | Answered | Exited | TimerFired | Drained | Silent | Unresponsive | Changed | Adopted
LifecycleEvent = Asked | Seen
