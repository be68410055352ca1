"""Each limit, tried: a kernel goes beyond it, and is refused or stopped, or is not.

Nothing here takes more than some 300 MB, 100 processes or two seconds of one processor, held or not.
"""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

import msgspec

from llmspell_fleet.cgroups import group
from llmspell_fleet.controller.kernels.entry import Entry
from llmspell_fleet.doctor.findings import Finding, Result
from llmspell_fleet.doctor.site import Site
from llmspell_fleet.errors import ConflictError, FleetError, TooManyError
from llmspell_fleet.model.kernel import Death
from llmspell_fleet.model.requests import KernelRequest
from llmspell_kernel.client.kernel_client import KernelClient
from llmspell_kernel.connection import ConnectionInfo
from llmspell_kernel.errors import LlmspellError
from llmspell_kernel.zygote.protocol import Probed

MIB: Final = 1024 * 1024
NEEDED_BYTES: Final = 600 * MIB
"""What must be free for the probes of memory."""

_SPIN: Final = "while true do end"
_CPU_PERCENT: Final = 5.0
"""As little as even a busy machine gives."""
_CPU_S: Final = 1.0

Outcome = tuple[Result, str]
Trial = Callable[[Site], Awaitable[tuple[str, Entry, Outcome]]]
"""Tries one limit: its name, the kernel that it was tried on, and what became of it."""


async def memory_of_scripts(site: Site) -> tuple[str, Entry, Outcome]:
    """A script takes more than memory_bytes."""
    entry = await site.tenant("memory", memory_bytes=8 * MIB)
    before = entry.kernel.incarnation
    answer = await site.run(entry, "local t = {} for i = 1, 64 do t[i] = string.rep(tostring(i), 262144) end")
    is_held = _error(answer) == "MemoryError" and entry.kernel.incarnation == before
    return "memory_bytes", entry, _held(is_held, _told(answer), "a script took 32 MiB of 8")


async def memory_of_processes(site: Site) -> tuple[str, Entry, Outcome]:
    """Code that broke out of Lua takes more than the process's bound."""
    entry = await site.tenant("process-memory", memory_bytes=MIB, output_bytes=MIB)
    if _available_bytes() < NEEDED_BYTES:
        return "memory_bytes", entry, ("skipped", "less than 600 MiB of memory are free")
    return "memory_bytes", entry, _probed(await site.probe(entry, "use_memory", str(288 * MIB)))


async def uncounted_memory(site: Site) -> tuple[str, Entry, Outcome]:
    """The same with memory that an rlimit does not count."""
    entry = await site.tenant("uncounted-memory", memory_bytes=MIB, output_bytes=MIB)
    if _available_bytes() < NEEDED_BYTES:
        return "memory_bytes", entry, ("skipped", "less than 600 MiB of memory are free")
    return "memory_bytes", entry, _probed(await site.probe(entry, "use_uncounted_memory", str(288 * MIB)))


async def total_memory(site: Site) -> tuple[str, Entry, Outcome]:
    """The same beyond the tenant's total."""
    entry = await site.tenant("total-memory", memory_bytes=256 * MIB, total_memory_bytes=64 * MIB)
    if _available_bytes() < NEEDED_BYTES:
        return "total_memory_bytes", entry, ("skipped", "less than 600 MiB of memory are free")
    return "total_memory_bytes", entry, _probed(await site.probe(entry, "use_memory", str(128 * MIB)))


async def cpu(site: Site) -> tuple[str, Entry, Outcome]:
    """A script spins for a second."""
    entry = await site.tenant("cpu", cpu_percent=_CPU_PERCENT)
    return "cpu_percent", entry, await _spin(site, entry)


async def total_cpu(site: Site) -> tuple[str, Entry, Outcome]:
    """The same with a share for the whole tenant only."""
    entry = await site.tenant("total-cpu", total_cpu_percent=_CPU_PERCENT)
    return "total_cpu_percent", entry, await _spin(site, entry)


async def processes(site: Site) -> tuple[str, Entry, Outcome]:
    """Code that broke out of Lua makes processes."""
    entry = await site.tenant("processes", processes=4)
    return "processes", entry, _probed(await site.probe(entry, "make_processes", "80"))


async def threads(site: Site) -> tuple[str, Entry, Outcome]:
    """The same with threads."""
    entry = await site.tenant("threads", processes=4)
    return "processes", entry, _probed(await site.probe(entry, "make_threads", "80"))


async def files(site: Site) -> tuple[str, Entry, Outcome]:
    """Code that broke out of Lua opens files."""
    entry = await site.tenant("files", files=16, max_clients=4)
    return "files", entry, _probed(await site.probe(entry, "open_files", "1000"))


async def storage(site: Site) -> tuple[str, Entry, Outcome]:
    """Code that broke out of Lua writes a large file."""
    entry = await site.tenant("storage", storage_bytes=MIB)
    return "storage_bytes", entry, _probed(await site.probe(entry, "grow_file", site.writable(2 * MIB)))


async def total_storage(site: Site) -> tuple[str, Entry, Outcome]:
    """Code that broke out of Lua writes many files; and a tenant has more kernels than may write at most."""
    limit = "total_storage_bytes"
    entry = await site.tenant("total-storage", storage_bytes=2 * MIB, total_storage_bytes=2 * MIB)
    of_one = _probed(await site.probe(entry, "fill_folder", site.writable(8 * MIB)))
    if of_one[0] != "held":
        return limit, entry, of_one
    try:
        await site.controller.service.create_kernel(KernelRequest(tenant=entry.tenant, wait_s=0))
    except TooManyError as refusal:
        return limit, entry, _held(refusal.limit == limit, f"{of_one[1]}; a second kernel: {refusal}", str(refusal))
    return limit, entry, ("open", "a second kernel was made")


async def execution_time(site: Site) -> tuple[str, Entry, Outcome]:
    """A script runs without an end."""
    entry = await site.tenant("execution", execution_timeout_s=0.2)
    answer = await site.run(entry, f"pcall(function() {_SPIN} end) {_SPIN}")
    return "execution_timeout_s", entry, _held(answer.get("status") == "timeout", _told(answer), "it ran on")


async def output(site: Site) -> tuple[str, Entry, Outcome]:
    """A script prints more than it may."""
    entry = await site.tenant("output", output_bytes=64 * 1024)
    answer = await site.run(entry, "for _ = 1, 1000 do print(string.rep('x', 1000)) end")
    return "output_bytes", entry, _held(_error(answer) == "OutputLimit", _told(answer), "it printed 1 MB")


async def messages(site: Site) -> tuple[str, Entry, Outcome]:
    """A client that holds the kernel's key sends a message larger than it may."""
    entry = await site.tenant("messages", max_message_bytes=64 * 1024)
    connection = _connection(entry)

    def send() -> str:
        with KernelClient(connection) as client:
            client.connect()
            try:
                client.execute("--" + "x" * 200_000, timeout_s=0.5)
            except LlmspellError as refusal:
                return str(refusal)
        return ""

    refusal = await asyncio.to_thread(send)
    lives = (await site.run(entry, "return 1")).get("result") == "1"
    return "max_message_bytes", entry, _held(bool(refusal) and lives, "no answer to 200 KB", "200 KB were taken")


async def clients(site: Site) -> tuple[str, Entry, Outcome]:
    """More clients than may be."""
    entry = await site.tenant("clients", max_clients=2)
    connection = _connection(entry)

    def connect() -> str:
        opened: list[KernelClient] = []
        try:
            for _ in range(4):
                opened.append(KernelClient(connection))
                opened[-1].connect(timeout_s=1.0)
        except LlmspellError as refusal:
            return str(refusal)
        finally:
            for client in opened:
                client.close()
        return ""

    refusal = await asyncio.to_thread(connect)
    return "max_clients", entry, _held(bool(refusal), refusal, "4 clients were served")


async def executions(site: Site) -> tuple[str, Entry, Outcome]:
    """More executions at one time than may be."""
    entry = await site.tenant("executions", max_executions=1, execution_timeout_s=0.3)
    answers = await asyncio.gather(*(site.run(entry, _SPIN) for _ in range(2)))
    return "max_executions", entry, _limited(answers, "max_executions")


async def execution_rate(site: Site) -> tuple[str, Entry, Outcome]:
    """More executions in a second than may be."""
    entry = await site.tenant("rate", executions_per_s=2)
    answers = [await site.run(entry, "return 1") for _ in range(6)]
    return "executions_per_s", entry, _limited(answers, "executions_per_s")


async def kernels(site: Site) -> tuple[str, Entry, Outcome]:
    """More kernels than may be."""
    entry = await site.tenant("kernels", max_kernels=1)
    try:
        await site.controller.service.create_kernel(KernelRequest(tenant=entry.tenant, wait_s=0))
    except TooManyError as refusal:
        return "max_kernels", entry, ("held", f"refused: {refusal}")
    return "max_kernels", entry, ("open", "a second one was made")


_UNCOUNTED: Final = "memory_bytes, shared or read-only"

TRIALS: Final[tuple[tuple[str, Trial], ...]] = (
    ("memory_bytes, of scripts", memory_of_scripts),
    ("memory_bytes, of the process", memory_of_processes),
    (_UNCOUNTED, uncounted_memory),
    ("cpu_percent", cpu),
    ("processes", processes),
    ("processes, as threads", threads),
    ("files", files),
    ("storage_bytes", storage),
    ("execution_timeout_s", execution_time),
    ("output_bytes", output),
    ("max_message_bytes", messages),
    ("max_clients", clients),
    ("max_executions", executions),
    ("executions_per_s", execution_rate),
    ("max_kernels", kernels),
    ("total_memory_bytes", total_memory),
    ("total_cpu_percent", total_cpu),
    ("total_storage_bytes", total_storage),
)
"""What is shown for each trial, and the trial."""

_NOT_BY: Final[dict[str, frozenset[str]]] = {
    "memory_bytes, of the process": frozenset(("lua", "controller")),
    _UNCOUNTED: frozenset(("lua", "lua+rlimit")),
    "total_memory_bytes": frozenset(("lua", "controller")),
}
"""Who holds a limit, and not what its trial tries: Lua does not hold the process, nor an rlimit all of its memory."""


async def try_limit(site: Site, shown: str, trial: Trial) -> Finding:
    """One finding."""
    try:
        limit, entry, (result, detail) = await trial(site)
    except TooManyError as refusal:
        # Where nobody counts what a tenant uses, what its kernels may use is counted before they are made.
        is_held = refusal.limit == shown
        return Finding(
            kind="limit",
            name=shown,
            enforced_by="controller",
            is_promised=True,
            result="held" if is_held else "skipped",
            detail=f"refused: {refusal}",
        )
    except ConflictError as refusal:
        # At `strict` what nobody can hold is not had at all.
        return Finding(
            kind="limit",
            name=shown,
            enforced_by=None,
            is_promised=False,
            result="skipped",
            detail=f"refused: {refusal}",
            advice=_advice(site, shown),
        )
    except (FleetError, TimeoutError) as fault:
        text = str(fault) or "no end within its time"
        return Finding(kind="limit", name=shown, enforced_by=None, is_promised=True, result="skipped", detail=text)
    by = site.enforced_by(entry, limit)
    has_none = shown == _UNCOUNTED and site.level == "strict"  # such memory, which seccomp refuses
    is_promised = by is not None and (has_none or by not in _NOT_BY.get(shown, ()))
    return Finding(
        kind="limit",
        name=shown,
        enforced_by=by,
        is_promised=is_promised,
        result=result,
        detail=detail,
        advice=_advice(site, limit) if result == "open" else "",
    )


def _advice(site: Site, limit: str) -> str:
    resource = {"memory_bytes": "memory", "total_memory_bytes": "memory", "processes": "pids"}.get(limit, "cpu")
    missing: Any = site.controller.supervisor.holder.cgroups.missing
    if limit == "total_storage_bytes":
        return "use isolation level strict: elsewhere storage_bytes bounds each file, and not their number"
    if site.level == "none":
        return "at level none nothing bounds the process: use process or strict"
    return str(missing.get(resource, ""))


# --- what became of them


def _held(is_held: bool, held: str, got: str) -> Outcome:
    return ("held", held) if is_held else ("open", got)


def _probed(told: Probed | Death) -> Outcome:
    if isinstance(told, Probed):
        return ("open" if told.outcome == "got_through" else "held", f"{told.outcome.replace('_', ' ')}: {told.detail}")
    is_memory = told.cause in {"out_of_memory", "memory_limit"}
    return ("held" if is_memory else "open", f"stopped: {told.detail}" if is_memory else f"ended: {told.cause}")


def _limited(answers: list[dict[str, Any]], limit: str) -> Outcome:
    refused = [fault for answer in answers if isinstance(fault := answer.get("problem"), TooManyError)]
    is_held = any(fault.limit == limit for fault in refused)
    return _held(is_held, f"{len(refused)} of {len(answers)} were refused", "all were run")


def _error(answer: dict[str, Any]) -> str:
    return str((answer.get("error") or {}).get("name", ""))


def _told(answer: dict[str, Any]) -> str:
    if "problem" in answer:
        return str(answer["problem"])
    error = answer.get("error")
    return f"{error['name']}: {error['message']}" if error else f"it ended as {answer.get('status')}"


async def _spin(site: Site, entry: Entry) -> Outcome:
    """Held when the share was kept and the system says that it had to hold back."""
    held_back = _times_held_back(entry)
    before, begun = _cpu_s(entry), time.monotonic()
    await site.run(entry, _SPIN, timeout_s=_CPU_S)
    percent = 100 * (_cpu_s(entry) - before) / (time.monotonic() - begun)
    times = _times_held_back(entry) - held_back
    text = f"{percent:.0f} % of one processor over a second, of {_CPU_PERCENT:.0f} %"
    if not times and percent <= _CPU_PERCENT:
        return "skipped", f"the machine is too busy to tell: {text}"
    return _held(times > 0 and percent <= 2 * _CPU_PERCENT, f"stopped {times} times: {text}", f"used {text}")


def _times_held_back(entry: Entry) -> int:
    cgroups = entry.grip.cgroups
    if cgroups is None or "cpu" not in cgroups.bounds:
        return 0
    directory = cgroups.bounds["cpu"][1]
    # Where the share is the whole tenant's, it is the directory above that is held back.
    return sum(_count(path) for path in (directory, os.path.dirname(directory)))


def _count(directory: str) -> int:
    lines = group.read(directory, "cpu.stat").splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("nr_throttled ")), 0)


def _cpu_s(entry: Entry) -> float:
    if entry.process is None:
        return 0.0
    with open(f"/proc/{entry.process.pid}/stat", "rb") as stream:
        content = stream.read()
    fields = content[content.rindex(b")") + 2 :].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _connection(entry: Entry) -> ConnectionInfo:
    assert entry.connection is not None
    return msgspec.convert(entry.connection, ConnectionInfo, from_attributes=True)


def _available_bytes() -> int:
    with open("/proc/meminfo", encoding="ascii") as stream:
        for line in stream:
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    return 0
