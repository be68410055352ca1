"""Why a kernel is as it is, and what will happen to it next, when, and by which setting. Pure.

Nothing here decides: it says what `policy.lifecycle`, `policy.cull`, `policy.autoscale` and the timers that were set
will do.
"""

from collections.abc import Iterator, Mapping
from typing import Final

import msgspec

from llmspell_fleet.model.ids import WARM
from llmspell_fleet.model.kernel import Death, Kernel, Phase
from llmspell_fleet.model.tenant import TenantSpec
from llmspell_fleet.model.why import Coming
from llmspell_fleet.policy.depends import never_comes, unmet
from llmspell_fleet.policy.lifecycle import IS_LIVE, wakes
from llmspell_fleet.policy.restart import Restart, RestartPolicy, StayDown, decide_restart, follows, recent
from llmspell_fleet.policy.telling import how_ended
from llmspell_kernel.units import format_duration


class Situation(msgspec.Struct, frozen=True, kw_only=True):
    """What matters to a kernel besides its record. Times are seconds from now."""

    now: float
    """Monotonic."""
    policy: RestartPolicy
    tenant: TenantSpec | None = None
    """Whose it is; None = nobody's, or its tenant is leaving."""
    named: Mapping[str, Kernel] = {}
    """Kernels of its tenant by name: it may wait for them."""
    running: int = 0
    timer_in_s: float | None = None
    """When the timer of its phase fires."""
    cull_in_s: float | None = None
    cull_why: str = ""
    """What was judged of its use last: see `policy.cull`."""
    leases: tuple[float, ...] = ()
    """When each lease of it ends."""
    shrinks_in_s: float | None = None
    """When its tenant will have fewer kernels, and this one would be the first to leave."""
    is_closing: bool = False
    """The fleet ends."""


class Explanation(msgspec.Struct, frozen=True):
    """In words."""

    summary: str
    because: tuple[str, ...]
    next: tuple[Coming, ...]


def explain(kernel: Kernel, situation: Situation) -> Explanation:
    """What to tell of a kernel that is there."""
    coming = sorted(_coming(kernel, situation), key=lambda one: (one.in_s is None, one.in_s or 0.0))
    return Explanation(_summary(kernel, situation), tuple(_because(kernel, situation)), tuple(coming))


def explain_gone(death: Death | None) -> Explanation:
    """What to tell of one that has left for good."""
    if death is None:
        return Explanation("It has left for good, and never had a process.", (), ())
    return Explanation(f"It has left for good: it {how_ended(death)}.", tuple(_of(death)), ())


# --- what it is


def _summary(kernel: Kernel, of: Situation) -> str:
    match kernel.phase:
        case Phase.PENDING if waits := unmet(kernel.spec.depends_on, of.named):
            needed = ", ".join(f"{name} ({kernel.spec.depends_on[name]})" for name in waits)
            return f"It waits until these of its tenant's kernels are so far: {needed}."
        case Phase.STARTING:
            asked = f"its process {kernel.pid} was" if kernel.pid is not None else "a process for it is being"
            return f"It starts: {asked} made, and has not answered yet."
        case Phase.READY | Phase.BUSY:
            return _summary_of_live(kernel, of)
        case Phase.DRAINING:
            return f"It takes no new work: it is to end ({_cause(kernel)}), and {_executions(of.running)} may finish."
        case Phase.STOPPING:
            return f"It was told to end ({_cause(kernel)})."
        case Phase.BACKOFF:
            number = len(recent(kernel.crashes, of.policy, now=of.now))
            times = "once" if number == 1 else f"{number} times"
            return f"It crashed {times} within {_time(of.policy.window_s)}, and waits before it is started again."
        case Phase.STOPPED if kernel.is_wanted:
            how = "was drained before it ever ran" if kernel.last_death is None else how_ended(kernel.last_death)
            starts = "The next request may start it" if wakes(kernel) else "It stays down until a person restarts it"
            return f"It has no process: it {how}. {starts}."
        case _:
            return _AT_REST[kernel.phase]


_AT_REST: Final = {
    Phase.PENDING: "It is wanted, and not started yet.",
    Phase.STOPPED: "It has no process, and is not wanted any more.",
    Phase.FAILED: "It stays down until a person restarts it.",
    Phase.HIBERNATED: "Its state is kept as bytes, and it has no process.",
}


def _summary_of_live(kernel: Kernel, of: Situation) -> str:
    up = f"process {kernel.pid}, up {_time(of.now - kernel.spawned_at)}"
    if kernel.is_silent:
        return f"It does not answer at the moment ({up}), and gets no new work until it does."
    if kernel.spec.tenant == WARM:
        return f"It is warm ({up}): ready, and nobody's until it is claimed."
    if of.running:
        return f"It works ({up}): it has {_executions(of.running)} to do."
    return f"It is ready ({up}), and nothing of the fleet's runs in it."


def _because(kernel: Kernel, of: Situation) -> Iterator[str]:
    death = kernel.last_death
    if kernel.phase is Phase.PENDING:
        yield from _waiting(kernel, of)
    if kernel.phase is Phase.FAILED and death is not None:
        match decide_restart(kernel.crashes, of.policy, now=of.now, jitter=0.0):
            case StayDown(reason):
                yield f"{reason[0].upper()}{reason[1:]} ([fleet.restart] max_restarts, window)."
            case _ if not follows(kernel.spec.restart, death.cause):
                yield f'It is not started again after such an end: restart is "{kernel.spec.restart}".'
            case _:
                yield f"Trying again would fail alike: {death.detail}." if death.detail else "Its last start failed."
    if kernel.restarts:
        again = "once" if kernel.restarts == 1 else f"{kernel.restarts} times"
        yield f"This is incarnation {kernel.incarnation}: it was started again {again}."
    if death is not None:
        yield from _of(death)


def _waiting(kernel: Kernel, of: Situation) -> Iterator[str]:
    """How far those are that it waits for."""
    for name in unmet(kernel.spec.depends_on, of.named):
        other, condition = of.named.get(name), kernel.spec.depends_on[name]
        found = "is not there" if other is None else f"is {other.phase.value}"
        if other is not None and other.last_death is not None and condition == "exited_ok":
            found += f" (its last process {how_ended(other.last_death)})"
        remedy = "" if other is None else f": `llmspell fleet restart {other.id[:12]}`"
        outlook = f", and does not become {condition} by itself{remedy}" if never_comes(condition, other) else ""
        yield f"Kernel {name} has to be {condition}; it {found}{outlook}."


def _of(death: Death) -> Iterator[str]:
    """A certificate in sentences, without the lines of stderr."""
    lived = f" after {_time(death.uptime_s)}" if death.uptime_s else ""
    rung = f" ({death.rung})" if death.rung is not None else ""
    detail = f": {death.detail}" if death.detail and death.detail not in how_ended(death) else ""
    yield f"Incarnation {death.incarnation} {how_ended(death)}{rung}{lived}, at {death.at}{detail}."
    for one in death.executions:
        name = one.id or "an execution"
        yield f"It ran {name} then, code with the hash {one.sha256[:16]}…, for {_time(one.running_s)}."


# --- what will happen


def _coming(kernel: Kernel, of: Situation) -> Iterator[Coming]:
    if of.is_closing:
        yield Coming(what="ended", setting="", detail="the fleet shuts down")
        return
    yield from _of_phase(kernel, of)
    if kernel.phase not in IS_LIVE or kernel.ending is not None:
        return
    if kernel.spec.tenant == WARM:
        yield Coming(what="claimed", setting="", detail="when a tenant needs a kernel that is made like this one")
    else:
        yield _culled(kernel, of)
    yield from _leaving(of)
    yield _after_a_crash(kernel, of)


def _of_phase(kernel: Kernel, of: Situation) -> Iterator[Coming]:
    """What the timer of the phase does."""
    policy, in_s = of.policy, of.timer_in_s
    match kernel.phase:
        case Phase.STARTING:
            yield _due("killed", of, "start_deadline", policy.start_deadline_s, "it has not answered")
        case Phase.DRAINING:
            yield _due("interrupted", of, "drain_deadline", policy.drain_deadline_s, "what runs has not ended")
        case Phase.STOPPING:
            yield _next_rung(kernel, of)
        case Phase.READY if kernel.spec.max_age_s and kernel.ending is None:
            yield Coming(
                what="replaced by a new process",
                in_s=in_s,
                setting=f"max_age_s = {kernel.spec.max_age_s:g}, max_age_variance = {kernel.spec.max_age_variance:g}",
                detail="once what it then runs has ended",
            )
        case Phase.BACKOFF:
            yield Coming(
                what="started again",
                in_s=in_s,
                setting=f"[fleet.restart] first_delay = {_time(policy.first_delay_s)}, doubled with each crash",
            )
        case Phase.STOPPED if wakes(kernel):
            yield Coming(what="started", setting="", detail="when a request needs it")
        case Phase.PENDING if unmet(kernel.spec.depends_on, of.named):
            yield Coming(what="started", setting="depends_on", detail="once those that it waits for are so far")
        case Phase.FAILED | Phase.STOPPED if kernel.is_wanted:
            yield Coming(
                what="started again", setting="", detail=f"by `llmspell fleet restart {kernel.id[:12]}`, and not before"
            )
    if kernel.ending is not None:
        down = "asleep" if kernel.ending.cause == "culled" else "down until a person restarts it"
        what = "started again" if kernel.ending.restarts else down if kernel.is_wanted else "gone"
        yield Coming(what=what, setting="", detail="once its process has ended")


def _next_rung(kernel: Kernel, of: Situation) -> Coming:
    """What follows when its process has not ended by the present rung's deadline."""
    policy = of.policy
    step = kernel.ending.step if kernel.ending is not None else None
    match step:
        case "interrupt":
            what, setting, value_s = "asked to shut down", "interrupt_deadline", policy.interrupt_deadline_s
        case "shutdown":
            what, setting, value_s = "terminated", "shutdown_deadline", policy.shutdown_deadline_s
        case _:
            what, setting, value_s = "killed", "stop_deadline", policy.stop_deadline_s
    return _due(what, of, setting, value_s, "its process has not ended")


def _due(what: str, of: Situation, setting: str, value_s: float, unless: str) -> Coming:
    """What the phase's timer does when it fires."""
    return Coming(
        what=what, in_s=of.timer_in_s, setting=f"[fleet] {setting} = {_time(value_s)}", detail=f"if {unless} by then"
    )


def _culled(kernel: Kernel, of: Situation) -> Coming:
    setting = f"idle_timeout_s = {kernel.spec.idle_timeout_s:g}"
    if not kernel.spec.idle_timeout_s:
        return Coming(what="never culled", setting=setting, detail="unused kernels stay")
    if of.cull_in_s is None:
        kept_by = of.cull_why or "it was not looked at yet"
        return Coming(what="culled", setting=setting, detail=f"once that has changed: {kept_by}")
    return Coming(what="culled", in_s=max(0.0, of.cull_in_s), setting=setting, detail="if nobody uses it until then")


def _leaving(of: Situation) -> Iterator[Coming]:
    for in_s in of.leases:
        yield Coming(what="given back", in_s=max(0.0, in_s), setting="[fleet] lease_ttl", detail="if nobody renews")
    autoscale = of.tenant.autoscale if of.tenant is not None else None
    if autoscale is not None and of.shrinks_in_s is not None:
        yield Coming(
            what="stopped",
            in_s=max(0.0, of.shrinks_in_s),
            setting=f"autoscale: min = {autoscale.min}, down_after_s = {autoscale.down_after_s:g}",
            detail="if there is no more to do until then: it would be the first to leave",
        )


def _after_a_crash(kernel: Kernel, of: Situation) -> Coming:
    policy, rule = of.policy, kernel.spec.restart
    if not follows(rule, "signal"):
        return Coming(what="left down", setting=f'restart = "{rule}"', detail="if it crashes")
    match decide_restart((*kernel.crashes, of.now), policy, now=of.now, jitter=0.0):
        case Restart(0.0):
            after = "at once"
        case Restart(delay_s):
            after = f"after {_time(delay_s)}"
        case _:
            after = "not any more"
    return Coming(
        what="started again",
        setting=f"[fleet.restart] max_restarts = {policy.max_restarts}, window = {_time(policy.window_s)}",
        detail=f"if it crashes: {after}",
    )


# --- words


def _cause(kernel: Kernel) -> str:
    ending = kernel.ending
    if ending is None:
        return "stopped"
    return f"{ending.cause}: {ending.detail}" if ending.detail else ending.cause


def _executions(number: int) -> str:
    return "1 execution" if number == 1 else f"{number} executions"


def _time(seconds: float) -> str:
    """As people say it: in milliseconds below a second, without fractions from ten on."""
    if 0 < seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    return format_duration(round(seconds)) if seconds >= 10 else f"{round(seconds, 1):g}s"
