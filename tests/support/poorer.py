"""Machines that give less than this one, without pretending: commands run where some of it is out of reach."""

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from support.fleets import FleetHome
from support.homes import Home, new_home
from support.repository import ROOT

NOBODY = 65534

ROOT_OF_A_NAMESPACE = ("unshare", "--user", "--map-root-user")
"""Root who can become nobody else, as in containers without a range of users: `strict` cannot be had."""


@dataclass(frozen=True, slots=True)
class PoorHome(Home):
    """A home whose commands are run by another one, such as unshare(1)."""

    prefix: tuple[str, ...] = ()

    def command(self, *arguments: str) -> list[str]:
        """The command line."""
        return [*self.prefix, self.python, "-m", "llmspell_cli", *arguments]

    def end_all(self) -> None:
        """By a command, as everything here: the files may be those of a user whom this process does not trust."""
        self.llmspell("fleet", "down", "--force")


@contextlib.contextmanager
def poor_home(prefix: tuple[str, ...] = ROOT_OF_A_NAMESPACE) -> Iterator[PoorHome]:
    """Directories of their own, as `new_home` makes them."""
    with new_home() as home:
        yield PoorHome(home.path, home.environ, prefix=prefix)


@contextlib.contextmanager
def poor_fleet(*arguments: str, config: str = "", prefix: tuple[str, ...] = ROOT_OF_A_NAMESPACE) -> Iterator[FleetHome]:
    """A fleet that serves there; afterwards nothing of it is left."""
    with poor_home(prefix) as home, served(home, *arguments, config=config) as fleet:
        yield fleet


@contextlib.contextmanager
def served(home: Home, *arguments: str, config: str = "") -> Iterator[FleetHome]:
    """A fleet in a home; afterwards nothing of it is left."""
    fleet = FleetHome(home)
    try:
        fleet.up(*arguments, config=config)
        yield fleet
    finally:
        home.end_all()


# --- root's machine with less


def _in_own_mounts(steps: list[str], last: str) -> tuple[str, ...]:
    """What runs a command once `steps` have changed the mounts of nobody else."""
    return ("unshare", "--mount", "sh", "-ec", "\n".join([*steps, f'exec {last} "$@"']), "sh")


WITHOUT_CGROUPS = _in_own_mounts(["umount --recursive --lazy /sys/fs/cgroup"], "env")


@contextlib.contextmanager
def plain_home(*, with_namespaces: bool) -> Iterator[PoorHome]:
    """A home of an ordinary user, who can read the interpreter wherever it is, and make user namespaces or not.

    Whose root is not the mount namespace's cannot (user_namespaces(7)): as where a system forbids them.
    """
    with new_home() as home:
        readable, mounted = home.path / "readable", home.path / "root"
        home.path.chmod(0o755)
        os.chown(home.path, NOBODY, NOBODY)
        user = f"setpriv --reuid {NOBODY} --regid {NOBODY} --clear-groups"
        steps = _made_readable(readable)
        if not with_namespaces:
            mounted.mkdir(exist_ok=True)
            steps.append(f"mount --rbind / {mounted}")
            user = f"chroot {mounted} {user}"
        yield PoorHome(home.path, home.environ, prefix=_in_own_mounts(steps, user))


def _made_readable(kept: Path) -> list[str]:
    """How others come to reach what runs `llmspell`: what closes a path is covered, and what is needed shown there."""
    steps, closed = [], set()
    needed = [Path(sys.base_prefix).resolve(), Path(sys.prefix).resolve(), ROOT]
    for number, path in enumerate(needed):
        shut = next((part for part in reversed([path, *path.parents]) if not part.stat().st_mode & 0o001), None)
        if shut is None:
            continue
        (kept / str(number)).mkdir(parents=True)
        steps.append(f"mount --bind {path} {kept / str(number)}")
        closed.add(shut)
    steps += [f"mount -t tmpfs -o mode=755 tmpfs {shut}" for shut in sorted(closed)]
    for number, path in enumerate(needed):
        if (kept / str(number)).is_dir():
            steps += [f"mkdir -p {path}", f"mount --bind {kept / str(number)} {path}"]
    return steps
