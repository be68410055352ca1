"""Which kernel of a pool gets the next request. Pure: it holds numbers, and knows no kernel but by its id.

This runs on every request, so a pool is parallel lists that `min` and `index` scan without a step of Python per
kernel: 0.4 µs for a choice among 4, 12 µs among 1,000. A kernel that takes no work keeps its slot and its count, lifted
out of every other's reach by `_UNREADY`.
"""

from collections.abc import Mapping
from typing import Final, assert_never

from llmspell_fleet.model.ids import KernelId
from llmspell_fleet.model.tenant import Strategy

_UNREADY: Final = 1 << 62
_SESSION: Final = 1 << 32
"""One session weighs more than any load, when a place for a new one is looked for."""


class Pool:
    """The kernels of a tenant, in the order in which they came, with what each has to do.

    Every kernel that is, or will again be, part of the tenant is a member; `set_ready` says which of them take work
    right now. A member that comes back (restarted, adopted) finds its place in the rotation and its sessions again;
    one that is removed leaves its sessions homeless.
    """

    __slots__ = ("_cursor", "_ids", "_loads", "_slots", "_weights")

    def __init__(self) -> None:
        self._ids: list[KernelId] = []
        self._slots: dict[KernelId, int] = {}
        self._loads: list[int] = []
        """Executions that run or wait, and leases."""
        self._weights: list[int] = []
        """Sessions, then load."""
        self._cursor = 0
        """The slot after the one chosen last."""

    def __len__(self) -> int:
        return len(self._ids)

    def __contains__(self, kernel: object) -> bool:
        return kernel in self._slots

    @property
    def has_ready(self) -> bool:
        """Whether any member takes work."""
        return bool(self._loads) and min(self._loads) < _UNREADY

    def is_ready(self, kernel: KernelId) -> bool:
        """Whether it is a member and takes work."""
        slot = self._slots.get(kernel)
        return slot is not None and self._loads[slot] < _UNREADY

    def load(self, kernel: KernelId) -> int:
        """What a member has to do."""
        return self._loads[self._slots[kernel]] % _UNREADY

    # --- what changes

    def add(self, kernel: KernelId) -> None:
        """A new member, last in the rotation, which takes no work yet. A member already stays as it is."""
        if kernel not in self._slots:
            self._slots[kernel] = len(self._ids)
            self._ids.append(kernel)
            self._loads.append(_UNREADY)
            self._weights.append(_UNREADY)

    def remove(self, kernel: KernelId) -> None:
        """It does not come back. The rotation goes on where it was. No member: nothing."""
        slot = self._slots.pop(kernel, None)
        if slot is None:
            return
        del self._ids[slot], self._loads[slot], self._weights[slot]
        for later in range(slot, len(self._ids)):
            self._slots[self._ids[later]] = later
        if slot < self._cursor:
            self._cursor -= 1

    def set_ready(self, kernel: KernelId, is_ready: bool) -> None:
        """Whether a member takes work."""
        slot = self._slots[kernel]
        if is_ready != (self._loads[slot] < _UNREADY):
            lift = -_UNREADY if is_ready else _UNREADY
            self._loads[slot] += lift
            self._weights[slot] += lift

    def add_load(self, kernel: KernelId, by: int) -> None:
        """An execution or lease more (1) or less (-1). No member any more: nothing."""
        slot = self._slots.get(kernel)
        if slot is not None:
            self._loads[slot] += by
            self._weights[slot] += by

    def add_session(self, kernel: KernelId, by: int) -> None:
        """A session more (1) or less (-1) that lives there. No member any more: nothing."""
        slot = self._slots.get(kernel)
        if slot is not None:
            self._weights[slot] += by * _SESSION

    # --- what is chosen

    def choose(
        self, strategy: Strategy, session: str | None = None, homes: Mapping[str, KernelId] | None = None
    ) -> KernelId | None:
        """The kernel for a request; None = wait until one becomes ready, and ask again.

        A `session` is one client's thread of work: under every strategy it goes where it lives (`homes`), and waits
        while that kernel is between two incarnations. A session without a home, or whose home is no member any more, is
        placed by the strategy; that the answer differs from its home is how the caller sees the move.
        """
        if session is not None and homes is not None:
            home = homes.get(session)
            slot = None if home is None else self._slots.get(home)
            if slot is not None:
                return home if self._loads[slot] < _UNREADY else None
        match strategy:
            case "least_loaded":
                chosen = _lowest(self._loads, self._cursor)
            case "sticky":
                chosen = _lowest(self._weights, self._cursor)
            case "round_robin":
                chosen = _next(self._loads, self._cursor)
            case _:
                assert_never(strategy)
        if chosen is None:
            return None
        self._cursor = chosen + 1
        return self._ids[chosen]


def _lowest(numbers: list[int], cursor: int) -> int | None:
    """The slot of the lowest number, the first from `cursor` on among equals: idle kernels all get used."""
    if not numbers:
        return None
    lowest = min(numbers)
    if lowest >= _UNREADY:
        return None
    try:
        return numbers.index(lowest, cursor)
    except ValueError:
        return numbers.index(lowest)


def _next(loads: list[int], cursor: int) -> int | None:
    """The first slot from `cursor` on that takes work, then from the beginning."""
    for slot in range(cursor, len(loads)):
        if loads[slot] < _UNREADY:
            return slot
    for slot in range(min(cursor, len(loads))):
        if loads[slot] < _UNREADY:
            return slot
    return None
