"""`claim_request`: a kernel that was started before anybody needed it becomes somebody's.

A supervisor's message, on the shell channel. Content: `name`, what the kernel is called from now on, and `log_level`.
Nothing is answered: `statistics_reply` says `claimed`. A kernel is claimed once.
"""

from typing import Literal

import msgspec

from llmspell_kernel.connection import ConnectionInfo, write_connection_file
from llmspell_kernel.diagnostics import Diagnostics
from llmspell_kernel.options import LogOptions


class ClaimRequest(msgspec.Struct, gc=False):
    """The content of `claim_request`."""

    name: str = ""
    log_level: Literal["debug", "info", "warning", "error"] = "info"


class Claim:
    """Whether a kernel was claimed, and what that changes outside its sockets."""

    def __init__(self, connection: ConnectionInfo | None, path: str, log: LogOptions, diagnostics: Diagnostics) -> None:
        """`connection` is in the file at `path`; None = in none."""
        self._connection = connection
        self._path = path
        self._log = log
        self._diagnostics = diagnostics
        self.is_claimed = False

    def accept(self, request: ClaimRequest) -> None:
        """It is somebody's from now on."""
        self.is_claimed = True
        self._diagnostics.follow(msgspec.structs.replace(self._log, level=request.log_level))
        if self._connection is not None and (self._connection.name or "") != request.name:
            self._connection = msgspec.structs.replace(self._connection, name=request.name or None)
            write_connection_file(self._path, self._connection)
