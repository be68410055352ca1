"""A machine on which `strict` cannot be had, without pretending: root in a user namespace, who can become nobody else.

So it is in containers without a range of users.
"""

import contextlib
from collections.abc import Iterator

from support.fleets import FleetHome
from support.homes import Home, new_home


class PoorHome(Home):
    """A home whose commands run as such a root."""

    __slots__ = ()

    def command(self, *arguments: str) -> list[str]:
        """The command line."""
        return ["unshare", "--user", "--map-root-user", *super().command(*arguments)]


@contextlib.contextmanager
def poor_home() -> Iterator[PoorHome]:
    """Directories of their own, as `new_home` makes them."""
    with new_home() as home:
        yield PoorHome(**{name: getattr(home, name) for name in Home.__dataclass_fields__})


@contextlib.contextmanager
def poor_fleet(*arguments: str, config: str = "") -> Iterator[FleetHome]:
    """A fleet that serves there; afterwards nothing of it is left."""
    with poor_home() as home:
        fleet = FleetHome(home)
        try:
            fleet.up(*arguments, config=config)
            yield fleet
        finally:
            home.llmspell("fleet", "down", "--force")
