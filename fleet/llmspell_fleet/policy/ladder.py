"""The stop ladder: how a process is ended, from asking to killing. Pure.

::

    drain ──► interrupt ──► shutdown ──► terminate ──► kill ─┐
                                                        ▲    │ again
                                                        └────┘

==========  =====================================  ======================================  =====================
rung        what is done                           skipped                                 deadline
==========  =====================================  ======================================  =====================
drain       no new work; what runs goes on         nothing runs, or the end is not to wait drain_deadline_s
interrupt   SIGINT                                 nothing of ours runs                    interrupt_deadline_s
shutdown    shutdown_request                       it has never answered                   shutdown_deadline_s
terminate   SIGTERM                                                                        stop_deadline_s
kill        SIGKILL to it and its descendants                                              stop_deadline_s
==========  =====================================  ======================================  =====================

The certificate names the rung that did it: "drain" or "interrupt" when that ended the work and the process then went
when it was asked to, "shutdown" when it went although nothing had to be ended before, or that had not helped.
"""

from typing import Any, Final

from msgspec.structs import replace

from llmspell_fleet.model.kernel import Ending, Kernel, Phase, Rung
from llmspell_fleet.policy.actions import (
    Action,
    Circumstances,
    Emit,
    Interrupt,
    Kill,
    Outcome,
    SetTimer,
    ShutDown,
    Terminate,
)
from llmspell_fleet.policy.restart import RestartPolicy

_NEXT: Final[dict[Rung, Rung]] = {
    "drain": "interrupt",
    "interrupt": "shutdown",
    "shutdown": "terminate",
    "terminate": "kill",
    "kill": "kill",
}
_ACTIONS: Final[dict[Rung, Action]] = {
    "interrupt": Interrupt(),
    "shutdown": ShutDown(),
    "terminate": Terminate(),
    "kill": Kill(),
}


def enter(kernel: Kernel, phase: Phase, **changes: Any) -> Kernel:
    """The kernel in a phase, or a rung of it: timers that were set before concern it no more."""
    return replace(kernel, phase=phase, generation=kernel.generation + 1, **changes)


def drain(kernel: Kernel, ending: Ending, at: Circumstances, *, is_wanted: bool = True) -> Outcome:
    """End its process once what it runs has ended."""
    if not at.is_used:
        return end(replace(kernel, is_wanted=is_wanted), ending, at)
    draining = enter(kernel, Phase.DRAINING, ending=replace(ending, step="drain", rung="drain"), is_wanted=is_wanted)
    told = Emit("kernel.draining", {"cause": ending.cause, "detail": ending.detail})
    return draining, (SetTimer(draining.generation, at.policy.drain_deadline_s), told)


def end(kernel: Kernel, ending: Ending, at: Circumstances, *, first: Rung | None = None) -> Outcome:
    """End its process without waiting for its work: from `first` on, else from the first rung that has a point."""
    return _take(kernel, ending, first or ("interrupt" if at.executions else _asking(kernel)), at)


def drained(kernel: Kernel, at: Circumstances) -> Outcome:
    """Its last work has ended: that rung has done its part, and the process is asked to go."""
    ending = _ending_of(kernel)
    if kernel.phase is Phase.DRAINING or ending.step == "interrupt":
        return _take(kernel, ending, _asking(kernel), at, keeps_rung=True)
    return kernel, ()


def born(kernel: Kernel, at: Circumstances) -> Outcome:
    """The process is there that was to be ended before it was."""
    ending = _ending_of(kernel)
    return _take(kernel, ending, ending.step or "terminate", at)


def overdue(kernel: Kernel, at: Circumstances) -> Outcome:
    """A rung's deadline is over: the next one."""
    ending = _ending_of(kernel)
    if kernel.pid is None:
        return kernel, (SetTimer(kernel.generation, at.policy.stop_deadline_s),)
    following = _NEXT[ending.step or "shutdown"]
    if following == "interrupt" and not at.executions:
        following = "shutdown"
    if following == "shutdown":
        following = _asking(kernel)
    return _take(kernel, ending, following, at)


def hasten(kernel: Kernel, rung: Rung, at: Circumstances) -> Outcome:
    """It ends already: go on at `rung`, unless it is past that."""
    ending = _ending_of(kernel)
    order = list(_NEXT)
    if ending.step is not None and order.index(ending.step) >= order.index(rung):
        return kernel, ()
    return _take(kernel, ending, rung, at)


def _asking(kernel: Kernel) -> Rung:
    """A kernel that has never answered has nobody who would read a shutdown_request."""
    return "shutdown" if kernel.ready_at else "terminate"


def _take(kernel: Kernel, ending: Ending, step: Rung, at: Circumstances, *, keeps_rung: bool = False) -> Outcome:
    rung = ending.rung if keeps_rung and step == "shutdown" else step
    stopping = enter(kernel, Phase.STOPPING, ending=replace(ending, step=step, rung=rung))
    if kernel.pid is None:  # nobody to tell yet: the rung is for the process that comes (`born`)
        return stopping, (SetTimer(stopping.generation, at.policy.stop_deadline_s),)
    return stopping, (_ACTIONS[step], SetTimer(stopping.generation, _deadline_s(step, at.policy)))


def _deadline_s(step: Rung, policy: RestartPolicy) -> float:
    match step:
        case "drain":
            return policy.drain_deadline_s
        case "interrupt":
            return policy.interrupt_deadline_s
        case "shutdown":
            return policy.shutdown_deadline_s
        case _:
            return policy.stop_deadline_s


def _ending_of(kernel: Kernel) -> Ending:
    return kernel.ending or Ending("stopped", restarts=False)
