"""A rolling restart: who is next, given what is ready, leaving and new. Pure.

A kernel keeps its id and gets a new incarnation. A `Roll` holds what is still to be done, as it is stored: whoever has
it and sees the kernels knows how to go on, also another controller. `step` is to be asked after every change.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec
from msgspec.structs import replace

from llmspell_fleet.model.ids import KernelId, TenantId
from llmspell_fleet.model.kernel import Kernel, Phase
from llmspell_fleet.policy.depends import unmet
from llmspell_fleet.policy.lifecycle import HAS_PROCESS, takes_work, wakes
from llmspell_fleet.policy.restart import follows


class Roll(msgspec.Struct, frozen=True, kw_only=True):
    """A rolling restart under way."""

    tenant: TenantId
    max_unavailable: int
    """So many of the tenant's kernels may be not ready because of it."""
    max_surge: int
    """So many kernels there may be beyond the tenant's replicas, to stand in."""
    targets: dict[KernelId, int]
    """Kernels that are still to be seen ready in a new incarnation, with the incarnation that they had."""
    total: int
    """How many targets there were."""
    started_at: str
    """ISO 8601 in UTC."""
    reason: str = ""
    """Why there is one, for people."""
    put_down: frozenset[KernelId] = frozenset()
    """Targets that somebody had put down when it began: it starts them, other kernels without a process sleep on."""


class Step(msgspec.Struct, frozen=True, kw_only=True):
    """What to do now."""

    roll: Roll
    """What is left to be done."""
    restart: tuple[KernelId, ...] = ()
    """These get a new incarnation: once they have finished what they run."""
    surge: int = 0
    """How many kernels there should be beyond the replicas: until the end, so that no restarting one is surplus."""
    end: Literal["done", "failed"] | None = None
    reason: str = ""
    """Why it failed."""


def share(asked: int | str, size: int, *, up: bool) -> int:
    """A number as it is, and ``"25%"`` of `size`, rounded up or down."""
    if isinstance(asked, int):
        return asked
    percent = int(asked.removesuffix("%"))
    return -(-size * percent // 100) if up else size * percent // 100


def is_put_down(kernel: Kernel) -> bool:
    """Whether only a person starts it again: it was drained or ended by hand, and has not done what it was for."""
    death = kernel.last_death
    is_finished = death is not None and death.rung is None and not follows(kernel.spec.restart, death.cause)
    return kernel.phase is Phase.STOPPED and kernel.is_wanted and not wakes(kernel) and not is_finished


def step(roll: Roll, kernels: Sequence[Kernel], running: Mapping[KernelId, int], replicas: int) -> Step:
    """How to go on; `kernels` are all of the tenant's, `running` holds executions and leases (none = idle).

    A kernel whose new incarnation does not become ready, and was not repaired by a second try, ends the roll: the
    others go on as they are. So does whatever else would make it wait for ever.
    """
    staying = [kernel for kernel in kernels if kernel.is_wanted]
    left = {kernel.id: roll.targets[kernel.id] for kernel in staying if _is_left(kernel, roll)}
    roll = replace(roll, targets=left)
    if not left:
        return Step(roll=roll, end="done")
    if failing := next((kernel for kernel in staying if _is_failing(kernel, roll)), None):
        return Step(roll=roll, end="failed", reason=_failed(failing))
    old = [kernel for kernel in staying if kernel.id in left and kernel.incarnation == left[kernel.id]]
    is_on_its_way = sum(kernel.id in left and not takes_work(kernel) for kernel in staying)
    down = [kernel for kernel in old if kernel.phase in (Phase.FAILED, Phase.BACKOFF, Phase.STOPPED)]
    ready = [kernel for kernel in staying if takes_work(kernel)]
    asleep = sum(_is_asleep(kernel, roll) for kernel in staying)
    may_leave = len(ready) - (replicas - asleep - roll.max_unavailable)
    at_once = roll.max_unavailable + roll.max_surge - (is_on_its_way - len(down))
    # Those that are down already take nothing from anybody, but count among those that begin at one time.
    chosen = down[: max(0, at_once)]
    candidates = sorted((kernel for kernel in old if takes_work(kernel)), key=lambda kernel: running.get(kernel.id, 0))
    chosen += candidates[: max(0, min(may_leave, at_once - len(chosen)))]
    if (
        not chosen
        and len(staying) >= replicas + roll.max_surge
        and not any(_moves(kernel, kernels) for kernel in staying)
    ):
        return Step(roll=roll, end="failed", reason=_stuck(kernels, roll, replicas))
    return Step(roll=roll, restart=tuple(kernel.id for kernel in chosen), surge=roll.max_surge)


def _is_left(kernel: Kernel, roll: Roll) -> bool:
    """Whether a kernel is still to be seen ready in a new incarnation."""
    if kernel.id not in roll.targets or _is_asleep(kernel, roll):
        return False  # what sleeps has no old process, and gets a new one when it is woken
    return not (kernel.incarnation > roll.targets[kernel.id] and takes_work(kernel))


def _is_asleep(kernel: Kernel, roll: Roll) -> bool:
    if kernel.id in roll.put_down and kernel.incarnation == roll.targets.get(kernel.id):
        return False  # until it was started once: it may be drained again meanwhile
    return kernel.phase in (Phase.STOPPED, Phase.HIBERNATED)


def _is_failing(kernel: Kernel, roll: Roll) -> bool:
    """Whether a kernel that this roll began cannot be had: its first try was repaired at once, in vain."""
    begun = kernel.incarnation > roll.targets.get(kernel.id, kernel.incarnation)
    return begun and kernel.phase in (Phase.FAILED, Phase.BACKOFF)


def _moves(kernel: Kernel, kernels: Sequence[Kernel]) -> bool:
    """Whether something will become of it by itself: as far as is seen, nothing of what waits for others."""
    if kernel.phase is Phase.PENDING:
        return not _waits_for(kernel, kernels)
    return kernel.phase is Phase.BACKOFF or (kernel.phase in HAS_PROCESS and not takes_work(kernel))


def _waits_for(kernel: Kernel, kernels: Sequence[Kernel]) -> tuple[str, ...]:
    return unmet(kernel.spec.depends_on, {other.spec.name: other for other in kernels if other.spec.name})


def _failed(kernel: Kernel) -> str:
    death = kernel.last_death
    why = "" if death is None else f": {death.cause}{f', {death.detail}' if death.detail else ''}"
    return f"kernel {kernel.id} did not become ready in its new incarnation{why}; the others were left as they are"


def _stuck(kernels: Sequence[Kernel], roll: Roll, replicas: int) -> str:
    staying = [kernel for kernel in kernels if kernel.is_wanted]
    waiting = next((kernel for kernel in staying if kernel.phase is Phase.PENDING and kernel.id in roll.targets), None)
    if waiting is not None:
        names = ", ".join(_waits_for(waiting, kernels))
        return f"kernel {waiting.id} waits for {names} (depends_on), and starts by itself once that is so far"
    failed = ", ".join(kernel.id for kernel in staying if kernel.phase is Phase.FAILED) or "none"
    ready = sum(map(takes_work, staying))
    return (
        f"{ready} of {replicas} kernels are ready and at most {roll.max_unavailable} may be unavailable, so no other "
        f"can be restarted; FAILED: {failed}"
    )
