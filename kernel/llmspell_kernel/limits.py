"""What one kernel may use. The kernel reads only this; where the numbers came from is `config`'s matter."""

from typing import Final

import msgspec

KIB = 1024
MIB = 1024 * KIB


class KernelLimits(msgspec.Struct, frozen=True, kw_only=True):
    """The bounds of one kernel."""

    memory_bytes: int = 512 * MIB
    """The most that Lua's heap may hold; 0 = no bound. The process itself needs its baseline on top."""

    execution_timeout_s: float = 0.0
    """The longest that one execution may run; 0 = as long as it likes."""

    output_bytes: int = 64 * MIB
    """The most that one execution may write to its streams; 0 = without end."""

    max_clients: int = 128
    """Clients connected at once. Room for a hundred front ends and the commands that ask after the kernel."""

    max_message_size: int = 64 * MIB
    """The largest message taken from a client, in bytes, all its frames together."""

    idle_timeout_s: float = 0.0
    """How long a kernel stays without work before it ends itself; 0 = for ever."""

    module_paths: tuple[str, ...] = ()
    """The directories that ``require`` may read Lua modules from."""


RECORDED_COPIES: Final = 2
"""Of all that a run wrote whose reply may be asked for again: what runs, and the one before it."""

DISPLAY_COPIES: Final = 3
"""Of one display, beside what the script has and what was made of it: on its way to the caller and to subscribers."""


def output_room(memory_bytes: int, output_bytes: int) -> int:
    """Bytes that a process may come to hold of output, beyond its scripts' memory and what any process needs.

    Text that is on its way is bounded whatever a script writes, and belongs to what any process needs: a mebibyte
    before it is taken from the script, one with replies, one for each subscriber, and what ZeroMQ holds for a client,
    512 messages that are kept short. What is not bounded by itself is counted here. The output of a run with an id is
    held as it was written until its reply is sent, and that of the last one until the next: a supervisor's successor
    has to get it as a whole. And a display is one message, however large: it was a string in the script's memory, and
    twice, as the value and as JSON.

    Where output is without end, as much of it is counted as by default.
    """
    written = output_bytes or KernelLimits().output_bytes
    return RECORDED_COPIES * written + DISPLAY_COPIES * min(written, memory_bytes // 2)
