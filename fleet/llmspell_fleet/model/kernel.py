"""A kernel: what should be (`KernelSpec`), what is (`Kernel`), and why it was not any more (`Death`)."""

import enum
from typing import Any, Literal

import msgspec

from llmspell_fleet.model.ids import KernelId, TenantId
from llmspell_fleet.model.labels import Labels
from llmspell_fleet.model.tenant import IsolationLevel, Limits, RestartRule, TenantSpec


class Phase(enum.Enum):
    """Where a kernel is in its life; the transitions are `policy.lifecycle`'s."""

    PENDING = "PENDING"
    """Wanted, and not begun."""
    STARTING = "STARTING"
    """A process was asked for, and has not answered yet."""
    READY = "READY"
    """It answered, and nothing runs."""
    BUSY = "BUSY"
    """Ready, with work: shown, never stored (see `policy.lifecycle.shown`)."""
    DRAINING = "DRAINING"
    """No new work; it is stopped when what runs has ended."""
    STOPPING = "STOPPING"
    """Told to end."""
    STOPPED = "STOPPED"
    """No process, and none wanted until somebody asks."""
    BACKOFF = "BACKOFF"
    """It died, and waits for its next incarnation."""
    FAILED = "FAILED"
    """It died too often, or cannot be started; a person has to look."""
    HIBERNATED = "HIBERNATED"
    """Its state is kept as bytes, and no process."""


Cause = Literal[
    "exited",  # by itself, with `exit_code`
    "signal",  # killed by `signal`
    "stopped",  # we asked: scale-down, deletion, shutdown of the fleet
    "restarted",  # an operator asked
    "culled",  # unused for idle_timeout_s
    "drained",  # we asked, and let what ran finish first
    "max_age",  # it was as old as it may become
    "stuck",  # a script did not stop when interrupted, and its process had to end
    "execution_limit",  # a script did not stop when its execution time was over, and its process had to end
    "memory_limit",  # the process reached its own bound of memory (RLIMIT_DATA)
    "out_of_memory",  # the system killed it for want of memory: its cgroup saw that
    "fault",  # a fault of the kernel's own
    "not_ready",  # it did not answer before its start deadline
    "unresponsive",  # it stopped answering, or said what no kernel says
    "spawn_failed",  # there never was a process
    "unknown",  # nobody saw the exit status
]


Condition = Literal["started", "ready", "exited_ok"]
"""What a kernel waits for in another one: that it has a process, that it takes work, that it has ended with code 0."""

Rung = Literal["drain", "interrupt", "shutdown", "terminate", "kill"]
"""The steps by which a process is ended, in this order."""


class RunningExecution(msgspec.Struct, frozen=True, kw_only=True):
    """What ran when a kernel died. The code itself is never kept."""

    id: str
    sha256: str
    """Of the code, in hexadecimal."""
    running_s: float


class Death(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=False):
    """A death certificate: why an incarnation ended."""

    kernel_id: KernelId
    tenant: TenantId
    incarnation: int
    pid: int | None
    at: str
    """ISO 8601 in UTC, with microseconds and Z."""
    cause: Cause
    exit_code: int | None = None
    signal: str | None = None
    """Its name, as in SIGKILL."""
    detail: str = ""
    """For people."""
    rung: Rung | None = None
    """The step that ended it; None = it ended by itself."""
    uptime_s: float = 0.0
    executions: tuple[RunningExecution, ...] = ()
    stderr: tuple[str, ...] = ()
    """The last lines that it wrote, at most 20."""


class Ending(msgspec.Struct, frozen=True):
    """Why a kernel's process is being ended, and what comes after it."""

    cause: Cause
    """Goes into the death certificate, whatever the exit status looks like."""
    restarts: bool
    """Whether another incarnation follows."""
    detail: str = ""
    """For people."""
    step: Rung | None = None
    """The rung of the stop ladder that was taken last."""
    rung: Rung | None = None
    """The one that goes into the certificate if its process ends now."""


class KernelSpec(msgspec.Struct, frozen=True, kw_only=True):
    """How to start one kernel."""

    id: KernelId
    tenant: TenantId
    name: str = ""
    """What a person called it; empty when nobody did."""
    limits: Limits = Limits()
    isolation_level: IsolationLevel = "process"
    idle_timeout_s: float = 0.0
    cull_busy: bool = False
    cull_connected: bool = False
    restart: RestartRule = "always"
    """Which ends of its own are followed by another incarnation."""
    max_age_s: float = 0.0
    """The age at which its process is drained and replaced; 0 = it may become as old as it likes."""
    max_age_variance: float = 0.1
    """Up to this share of `max_age_s` is taken off at random, so that kernels of one age do not go at one time."""
    depends_on: dict[str, Condition] = {}
    """Kernels of its tenant, by name, that have to be so far before it is started."""
    spawner: Literal["zygote", "subprocess"] = "zygote"
    port: int | None = None
    """The shell port on 127.0.0.1, the other four are found; None = unix sockets."""
    log_file: str | None = None
    """Where its log goes besides the fleet's own; None = only there."""
    pid_file: str | None = None
    """Where a supervisor wants its pid besides its own file."""
    uid: int | None = None
    """The user that it becomes at `strict`, its tenant's own; None = it stays whose the fleet is."""
    labels: Labels = {}
    """Its own, besides its tenant's."""


_INHERITED = (set(KernelSpec.__struct_fields__) & set(TenantSpec.__struct_fields__)) - {"id", "labels"}


def inherited(tenant: TenantSpec) -> dict[str, Any]:
    """The members of a `KernelSpec` that a kernel has from its tenant: all that both have but ids and labels."""
    return {name: getattr(tenant, name) for name in _INHERITED}


class Kernel(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one kernel: the observed state. Replaced as a whole, never changed."""

    spec: KernelSpec
    phase: Phase = Phase.PENDING
    is_wanted: bool = True
    """Whether it should have a process: a stopped kernel stays stopped."""
    incarnation: int = 0
    """How many processes it has had; `restarts` is one less."""
    generation: int = 0
    """Grows with every phase, so that a timer that fires late is recognised and dropped."""
    pid: int | None = None
    """None in a phase that has a process = the spawn is under way."""
    start_time: int | None = None
    """Of process `pid` in clock ticks since boot: a reused pid deceives nobody."""
    isolation_level: IsolationLevel | None = None
    """What the process of this incarnation is, or was, started with; None = nobody recorded it."""
    spawned_at: float = 0.0
    """Monotonic time of the spawn of this incarnation."""
    ready_at: float = 0.0
    """Monotonic time at which this incarnation first answered; 0 = it has not."""
    is_silent: bool = False
    """Whether it does not answer at the moment: no new work goes to it."""
    started_at: str = ""
    """As `spawned_at`, for people: ISO 8601 in UTC."""
    crashes: tuple[float, ...] = ()
    """Monotonic times of its recent crashes."""
    last_death: Death | None = None
    ending: Ending | None = None
    """Set while DRAINING and STOPPING; None = nobody asked its process to end."""

    @property
    def id(self) -> KernelId:
        """The kernel's own id."""
        return self.spec.id

    @property
    def restarts(self) -> int:
        """How many incarnations came after the first."""
        return max(0, self.incarnation - 1)
