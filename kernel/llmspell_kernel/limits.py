"""What one kernel may use. The kernel reads only this; where the numbers came from is `config`'s matter."""

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
