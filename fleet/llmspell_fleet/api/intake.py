"""Which connections are read, for the moment in which the server's code is replaced: see `llmspell_fleet.upgrade`."""

import os
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from llmspell_fleet.api.connection import Connection


class Intake:
    """Belongs to the event loop."""

    def __init__(self, connections: Callable[[], "Iterable[Connection]"]) -> None:
        self._connections = connections
        self.is_paused = False

    def pause(self) -> None:
        """Read no further requests: who connects or asks now waits. What is being answered goes on."""
        self.is_paused = True
        for connection in self._connections():
            connection.rest()

    def resume(self) -> None:
        """Read on."""
        self.is_paused = False
        for connection in self._connections():
            connection.wake()

    def busy(self, but: object) -> "list[Connection]":
        """Those with a request that is arriving or being answered, but one."""
        return [one for one in self._connections() if one is not but and one.is_busy]

    def resting(self, but: object) -> list[int]:
        """The descriptors of those that wait for nothing, for somebody else to read on: copies, to be closed."""
        return [
            os.dup(one.descriptor)
            for one in self._connections()
            if one is not but and not one.is_busy and one.descriptor >= 0
        ]
