"""A process that has no descriptor left to give."""

import contextlib
import os
import resource
from collections.abc import Iterator

_ENOUGH_TO_POLL = 64
"""Not fewer: poll(2) refuses more descriptors than one may have, and libzmq ends the process over that."""


@contextlib.contextmanager
def without_descriptors() -> Iterator[None]:
    """Those that are open stay so; there are no others."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as held:
        last = 0
        while last < _ENOUGH_TO_POLL:
            last = os.dup(1)  # the lowest that is free
            held.callback(os.close, last)
        resource.setrlimit(resource.RLIMIT_NOFILE, (last + 1, hard))
        held.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        yield
