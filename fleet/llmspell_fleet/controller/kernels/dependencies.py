"""Which kernels wait for which, looked up among those that there are."""

from collections.abc import Mapping

from llmspell_fleet.controller.kernels.entry import Entry
from llmspell_fleet.model.ids import KernelId
from llmspell_fleet.model.kernel import Kernel, Phase
from llmspell_fleet.policy.depends import unmet


class Dependencies:
    """Reads the supervisor's entries. Belongs to the event loop."""

    def __init__(self, entries: Mapping[KernelId, Entry]) -> None:
        self._entries = entries

    def waits_for(self, entry: Entry) -> tuple[str, ...]:
        """Names of the kernels that `entry` has to wait for before it may be started."""
        depends_on = entry.kernel.spec.depends_on
        return unmet(depends_on, self.named(entry)) if depends_on else ()

    def blocks(self, entry: Entry) -> bool:
        """Whether there are any."""
        return bool(self.waits_for(entry))

    def freed_by(self, entry: Entry) -> list[Entry]:
        """Kernels that waited for `entry`, and perhaps for others, and have to wait no more."""
        name = entry.kernel.spec.name
        if not name:
            return []
        return [
            other
            for other in self._entries.values()
            if name in other.kernel.spec.depends_on
            and other.tenant == entry.tenant
            and other.kernel.phase is Phase.PENDING
            and other.kernel.is_wanted
            and not self.blocks(other)
        ]

    def named(self, entry: Entry) -> dict[str, Kernel]:
        """The kernels of its tenant that have names."""
        siblings = (other.kernel for other in self._entries.values() if other.tenant == entry.tenant)
        return {kernel.spec.name: kernel for kernel in siblings if kernel.spec.name}
