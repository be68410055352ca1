"""Which isolation can be had, what it holds, and what it leaves open: from what the machine has. Pure."""

from collections.abc import Collection
from typing import Final

from llmspell_fleet.model.isolation import Attack, Layer, Strength, Survey
from llmspell_fleet.model.tenant import IsolationLevel

LEAST_LANDLOCK_ABI: Final = 6


def _attack(what: str, *held_by: Layer) -> Attack:
    return Attack(what, frozenset(held_by))


ATTACKS: Final = (
    _attack("use what its parent had open", "descriptors"),
    _attack("read its parent's environment", "environment"),
    _attack("gain rights by a set-user-ID program", "no_new_privs"),
    _attack("read, list or change files of other tenants, keys and tokens", "own_root", "user", "landlock"),
    _attack("read, list or change any other file of the machine", "own_root", "landlock"),
    _attack("learn whether a path exists, and whose it is", "own_root"),
    _attack("ask whether a process of a given number exists", "own_root"),
    _attack("read other processes' environment, memory and descriptors", "own_root", "user", "landlock", "undumpable"),
    _attack("read other processes' command line and status", "own_root", "landlock"),
    _attack("signal or trace other processes, change their limits", "user", "seccomp"),
    _attack("connect to other kernels and services by unix sockets", "seccomp", "own_root"),
    _attack("use abstract unix sockets and TCP", "seccomp", "landlock"),
    _attack("use UDP, netlink and vsock", "seccomp"),
    _attack("make processes, run programs", "seccomp"),
    _attack("share memory with others: System V, memfd, keys", "seccomp"),
    _attack("reach into the system by io_uring, bpf, userfaultfd, performance counters", "seccomp"),
    _attack("fill the machine's disk", "own_root", "landlock"),
)
"""Where Landlock stands alone, a kernel has no folder that it could write to.

Of processes it is asking that is held: the numbers that its own threads are given show that others come and go.
"""

_NONE: Final[tuple[Layer, ...]] = ("session", "environment", "descriptors", "no_new_privs")
_PROCESS: Final[tuple[Layer, ...]] = (*_NONE, "rlimits")


def missing(survey: Survey) -> list[str]:
    """What `strict` lacks here, each with what it takes; empty: it can be had."""
    reasons = []
    if not survey.has_system_calls:
        reasons.append(f"expected an x86_64 or aarch64 machine, found {survey.machine}")
    if survey.landlock_abi < LEAST_LANDLOCK_ABI:
        found = f"version {survey.landlock_abi}" if survey.landlock_abi else "none: is it in the boot option lsm=?"
        reasons.append(f"expected Landlock of version {LEAST_LANDLOCK_ABI} (Linux 6.12) or later, found {found}")
    if not survey.has_seccomp:
        reasons.append("expected seccomp filters, found none: the system was built without them")
    if survey.fault and not reasons:
        reasons.append(survey.fault)
    return reasons


def layers(level: IsolationLevel, survey: Survey | None) -> tuple[Layer, ...]:
    """What keeps a kernel of a level apart; `survey` is looked at for `strict`."""
    if level == "none":
        return _NONE
    if level == "process" or survey is None:
        return _PROCESS
    found: list[Layer] = [*_PROCESS]
    if survey.is_root:
        found.append("user")
    if survey.namespaces == "user":
        found.append("user_namespace")
    if survey.namespaces != "none":
        found.append("own_root")
    return (*found, "undumpable", "landlock", "seccomp")


def strength(level: IsolationLevel, survey: Survey | None) -> Strength:
    """What a level holds here, and what it leaves open."""
    present = layers(level, survey)
    held = [attack.what for attack in ATTACKS if _is_held(attack, present)]
    left = [attack.what for attack in ATTACKS if not _is_held(attack, present)]
    return Strength(level=level, layers=present, held=tuple(held), open=tuple(left))


def _is_held(attack: Attack, present: Collection[Layer]) -> bool:
    return not attack.held_by.isdisjoint(present)


def choose_uid(first: int, last: int, taken: Collection[int], *, after: int | None = None) -> int | None:
    """A user that nobody has, the next one round the range; None = all are taken.

    `after` was given last, None = nobody knows. What was freed is not given again before all the others were.
    """
    own = {uid for uid in taken if first <= uid <= last}
    before = after if after is not None and first <= after <= last else max(own, default=last)
    size = last - first + 1
    round_it = (first + (before - first + step) % size for step in range(1, size + 1))
    return next((uid for uid in round_it if uid not in own), None)
