"""What this machine has to keep kernels apart by, and what that comes to."""

from typing import Literal

import msgspec

DEFAULT_UIDS = (700_000_000, 700_065_535)
"""Users that tenants' kernels become where the fleet is root: beyond those that useradd(8) gives out (SUB_UID_MAX)."""

_LARGEST_UID = 2**32 - 3
"""The two beyond stand for nobody and for whoever cannot be shown."""


def uids_of(text: str) -> tuple[int, int] | None:
    """The first and the last user of a range as in "200000-265535"; None when the text is no such range."""
    first, _, last = text.partition("-")
    if not all(part.isascii() and part.isdecimal() and len(part) <= len(str(_LARGEST_UID)) for part in (first, last)):
        return None
    found = (int(first), int(last))
    return found if 0 < found[0] <= found[1] <= _LARGEST_UID else None


Layer = Literal[
    "session",  # a session of its own, without its parent's terminal and standard input
    "environment",  # named variables only
    "descriptors",  # nothing inherited is open
    "no_new_privs",  # no program gives it rights
    "rlimits",  # bounds of the system's, per process
    "user",  # a user of the tenant's own
    "own_root",  # an empty file system of its own, in memory, with a bound
    "user_namespace",  # without which an ordinary user has no root of its own
    "undumpable",  # nobody of its user may look into it
    "landlock",
    "seccomp",
]


class Survey(msgspec.Struct, frozen=True, kw_only=True):
    """What of level `strict` this machine lets this user have (`llmspell_kernel.zygote.surveying`)."""

    machine: str
    has_system_calls: bool
    """Whether there is a table of its system calls."""
    landlock_abi: int
    """0 = none."""
    has_seccomp: bool
    is_root: bool
    namespaces: Literal["none", "mount", "user"]
    """How kernels come to a root of their own; none: they do not."""
    no_namespaces: str = ""
    """Why not."""
    fault: str = ""
    """Why no process could be locked down at all."""


class Attack(msgspec.Struct, frozen=True):
    """What code that broke out of Lua may try, and the layers of which each alone holds it."""

    what: str
    held_by: frozenset[Layer]


class Strength(msgspec.Struct, frozen=True, kw_only=True):
    """What a level holds here."""

    level: Literal["none", "process", "strict"]
    layers: tuple[Layer, ...]
    held: tuple[str, ...]
    open: tuple[str, ...]
    """For people."""
