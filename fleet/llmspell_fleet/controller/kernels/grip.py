"""What holds one kernel's process, as its `Entry` has it."""

import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmspell_fleet.cgroups.kernel import KernelCgroups
    from llmspell_fleet.controller.kernels.hold import Hold
    from llmspell_fleet.model.tenant import Limits


class Grip:
    """Belongs to the event loop; `controller.limits.holding` alone changes it."""

    __slots__ = ("baseline_bytes", "cgroups", "hold", "kills", "tenant", "told", "written")

    def __init__(self, hold: "Hold") -> None:
        self.hold = hold
        """Of the present incarnation; without one, what the next will be held to."""
        self.cgroups: KernelCgroups | None = None
        """They outlive an incarnation: the next one finds them made."""
        self.tenant = ""
        """In whose directory they are: a warm kernel's are nobody's at first."""
        self.baseline_bytes = 0
        """What its process held when it was ready and had run nothing."""
        self.written: Limits | None = None
        """What its cgroups were last made to bound, if nothing has changed them since."""
        self.kills = 0
        """How often its cgroup's memory had run out when the present incarnation began."""
        self.told: tuple[str, ...] = ()
        """Limits of which it was said that nobody enforces them."""

    def kill(self) -> None:
        """SIGKILL to its process and all that came of it, as far as cgroups hold them."""
        if self.cgroups is not None:
            with contextlib.suppress(OSError):
                self.cgroups.kill()
