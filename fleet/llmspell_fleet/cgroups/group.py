"""One cgroup's files: bounds written, use read, processes killed. Either version; OSError tells what failed."""

import contextlib
import errno
import os
import signal
from typing import Final

from llmspell_fleet.cgroups.hierarchy import Version

PERIOD_US: Final = 100_000
"""In which a cgroup may use its share of processor time, and then waits for the next one."""

LEAST_QUOTA_US: Final = 1_000
"""What the system takes at the least."""

KILL_ROUNDS: Final = 50
"""How often version 1 is asked who is left: a process may fork between the question and its end."""


def read(directory: str, name: str) -> str:
    """A file's text, without the last newline."""
    with open(os.path.join(directory, name), encoding="ascii") as stream:
        return stream.read().strip()


def write(directory: str, name: str, text: str) -> None:
    """Write to a file that the system made: it is never created."""
    descriptor = os.open(os.path.join(directory, name), os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode("ascii"))
    finally:
        os.close(descriptor)


# --- memory


def bound_memory(directory: str, version: Version, most: int) -> None:
    """Let it hold `most` bytes, swap included; 0 = no bound. OSError (EBUSY): it holds more."""
    if version == 2:
        write(directory, "memory.max", str(most) if most else "max")
        with contextlib.suppress(FileNotFoundError):  # a system without swap accounting
            write(directory, "memory.swap.max", "0" if most else "max")
        return
    names = ["memory.limit_in_bytes", "memory.memsw.limit_in_bytes"]
    # Memory and swap together never have less than memory alone.
    if not most or most > int(read(directory, names[0])):
        names.reverse()
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            write(directory, name, str(most or -1))


def memory_bound(directory: str, version: Version) -> int:
    """How many bytes it may hold; 0 = no bound."""
    if version == 2:
        text = read(directory, "memory.max")
        return 0 if text == "max" else int(text)
    most = int(read(directory, "memory.limit_in_bytes"))
    return 0 if most >= 2**62 else most


def memory_used(directory: str, version: Version) -> int:
    """How many bytes it holds."""
    return int(read(directory, "memory.current" if version == 2 else "memory.usage_in_bytes"))


def memory_peak(directory: str, version: Version) -> int | None:
    """The most that it ever held; None where the system does not say (version 2 before Linux 5.19)."""
    try:
        return int(read(directory, "memory.peak" if version == 2 else "memory.max_usage_in_bytes"))
    except FileNotFoundError:
        return None


def memory_kills(directory: str, version: Version) -> int:
    """How many of its processes the system has killed for want of memory."""
    text = read(directory, "memory.events" if version == 2 else "memory.oom_control")
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith("oom_kill ")), 0)


# --- the others


def bound_cpu(directory: str, version: Version, percent: float) -> None:
    """Let it use `percent` of one processor; 0 = no bound. OSError (EINVAL): in version 1, its parent has less."""
    quota = max(LEAST_QUOTA_US, round(percent * PERIOD_US / 100)) if percent else 0
    if version == 2:
        write(directory, "cpu.max", f"{quota or 'max'} {PERIOD_US}")
    else:
        write(directory, "cpu.cfs_quota_us", str(quota or -1))


def cpu_bound(directory: str, version: Version) -> float:
    """Its share of one processor in percent; 0 = no bound."""
    if version == 2:
        quota, period = read(directory, "cpu.max").split()
    else:
        quota, period = read(directory, "cpu.cfs_quota_us"), read(directory, "cpu.cfs_period_us")
    return 0.0 if quota in {"max", "-1"} else 100 * int(quota) / int(period)


def bound_processes(directory: str, most: int) -> None:
    """Let it have so many processes and threads; 0 = no bound. Those there are stay."""
    write(directory, "pids.max", str(most) if most else "max")


def process_bound(directory: str) -> int:
    """How many processes and threads it may have; 0 = no bound."""
    text = read(directory, "pids.max")
    return 0 if text == "max" else int(text)


# --- processes


def processes(directory: str) -> list[int]:
    """Those in it, not those in cgroups below it; none when it is gone."""
    try:
        return [int(line) for line in read(directory, "cgroup.procs").split()]
    except OSError as fault:
        if fault.errno in {errno.ENOENT, errno.ENODEV}:
            return []
        raise


def kill_cgroup(directory: str) -> bool:
    """SIGKILL to every process in it and below it; whether there was any.

    Version 2 does it in one step (`cgroup.kill`, Linux 5.14). Elsewhere each is killed, until none is left that could
    have forked meanwhile.
    """
    is_any = False
    for folder in (directory, *_below(directory)):
        own = processes(folder)
        if own:
            is_any = True
            try:
                write(folder, "cgroup.kill", "1")
            except OSError:
                _kill_each(folder, own)
    return is_any


def _kill_each(directory: str, pids: list[int]) -> None:
    for _ in range(KILL_ROUNDS):
        for pid in pids:
            # It is in our cgroup: nobody else's number.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        before, pids = set(pids), processes(directory)
        if before.issuperset(pids):
            return  # those that are left are on their way out, and fork no more


def _below(directory: str) -> list[str]:
    """The cgroups in it, each before those in that one."""
    try:
        if os.stat(directory).st_nlink <= 2:
            return []  # as a rule: nobody makes any there
    except OSError:
        return []
    return [folder for folder, _folders, _files in os.walk(directory)][1:]


def remove(directory: str) -> bool:
    """Remove it and what is below it; whether it is gone. Whoever is in it must be dead."""
    for folder in (*reversed(_below(directory)), directory):
        try:
            os.rmdir(folder)
        except FileNotFoundError:
            continue
        except OSError:
            return False  # somebody is in it, dead and not reaped yet, perhaps
    return True
