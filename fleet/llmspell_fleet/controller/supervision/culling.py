"""Ends kernels that nobody uses, as `policy.cull` says. The one owner of that: a fleet's kernel does not by itself.

The controller knows who has a kernel lent; who is connected, and when a client's own channels were used last, only the
kernel knows, so it is asked when its time may have come: once in an idle timeout, not in between.
"""

import asyncio
from typing import TYPE_CHECKING, Final

import msgspec

from llmspell_fleet.controller.background import Background
from llmspell_fleet.controller.kernels.entry import Entry
from llmspell_fleet.controller.supervision.supervisor import Supervisor
from llmspell_fleet.model.kernel import KernelSpec, Phase
from llmspell_fleet.policy.cull import Culled, Kept, Use, judge, rules_of

if TYPE_CHECKING:
    from llmspell_fleet.model.ids import KernelId

LOOK_S: Final = 0.2
"""How often it is looked whose time may have come."""

REST_S: Final = 0.5
"""The same while there is no kernel that could be culled."""

PATIENCE_S: Final = 1.0
"""How long a kernel may take to say who uses it; one that does not is not culled: whether it hangs is another's to see.
"""


class Outlook(msgspec.Struct):
    """What was judged of one incarnation, and when it is looked again."""

    incarnation: int
    spec: KernelSpec
    """What was asked of it then: another is another judgement."""
    look_at: float
    """Loop time."""
    ends_at: float | None = None
    """Loop time at which it is culled if nobody uses it."""
    why: str = ""
    is_told: bool = False
    """Its end was announced, and it was not seen to be used since."""
    is_asked: bool = False
    """It is being asked."""


class Culling:
    """Belongs to the event loop."""

    def __init__(self, supervisor: Supervisor, background: Background) -> None:
        self._loop = asyncio.get_running_loop()
        self._supervisor = supervisor
        self._background = background
        self._outlooks: dict[KernelId, Outlook] = {}

    async def run(self) -> None:
        """Look at those whose time may have come, several times a second."""
        while True:
            await asyncio.sleep(LOOK_S if self._outlooks else REST_S)
            self.look()

    def look(self) -> None:
        """Ask those whose time may have come."""
        now = self._loop.time()
        there = 0
        for entry in self._supervisor:
            if entry.kernel.spec.idle_timeout_s:
                there += 1
                self._look_at(entry, now)
        if len(self._outlooks) > there:
            self._outlooks = {
                entry.id: self._outlooks[entry.id]
                for entry in self._supervisor
                if entry.id in self._outlooks and entry.kernel.spec.idle_timeout_s
            }

    def _look_at(self, entry: Entry, now: float) -> None:
        kernel = entry.kernel
        outlook = self._outlooks.get(entry.id)
        if outlook is None or outlook.incarnation != kernel.incarnation or outlook.spec is not kernel.spec:
            outlook = self._outlooks[entry.id] = Outlook(kernel.incarnation, kernel.spec, now)
        if kernel.phase is Phase.READY and now >= outlook.look_at and not outlook.is_asked:
            outlook.is_asked = True
            self._background.run(self._ask(entry, outlook))

    async def _ask(self, entry: Entry, outlook: Outlook) -> None:
        channel = entry.channel
        try:
            if channel is None:
                return
            async with asyncio.timeout(PATIENCE_S):
                told = await channel.statistics()
        except (TimeoutError, ConnectionError):
            outlook.look_at = self._loop.time() + PATIENCE_S
            return
        finally:
            outlook.is_asked = False
        if entry.kernel.incarnation == outlook.incarnation and entry.kernel.phase is Phase.READY:
            use = Use(
                idle_s=told.idle_s,
                is_busy=told.state == "busy" or entry.load > 0,
                clients=len(told.others()),
                leases=entry.leases,
            )
            self._carry_out(entry, outlook, judge(rules_of(outlook.spec), use))

    def _carry_out(self, entry: Entry, outlook: Outlook, judged: Kept | Culled) -> None:
        now = self._loop.time()
        if isinstance(judged, Kept):
            outlook.look_at = now + judged.look_in_s
            outlook.ends_at = None if judged.ends_in_s is None else now + judged.ends_in_s
            outlook.why, outlook.is_told = judged.why, False
            return
        if outlook.is_told and outlook.ends_at is not None and now < outlook.ends_at:
            return  # who only looks is not to put it off
        assert entry.channel is not None
        outlook.look_at = now + judged.in_s + PATIENCE_S  # it may be used until then
        outlook.ends_at, outlook.why, outlook.is_told = now + judged.in_s, judged.reason, True
        data = {"in_s": round(judged.in_s, 3), "reason": judged.reason}
        self._supervisor.emit(entry, "kernel.culling", data)
        entry.cull_reason = judged.reason
        entry.channel.cull(in_s=judged.in_s, reason=judged.reason, is_forced=judged.is_forced)

    async def refresh(self, entry: Entry) -> None:
        """Judge it now, as of what it says of its use at this moment; also what comes of that is carried out."""
        outlook = self._outlooks.get(entry.id)
        if outlook is not None and entry.kernel.phase is Phase.READY and not outlook.is_asked:
            outlook.is_asked = True
            await self._ask(entry, outlook)

    def outlook(self, entry: Entry) -> Outlook | None:
        """What was judged of its present incarnation last."""
        found = self._outlooks.get(entry.id)
        return found if found is not None and found.incarnation == entry.kernel.incarnation else None
