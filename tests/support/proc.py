"""What the system says of a process: proc(5)."""

import os
from pathlib import Path

from support.homes import wait_until


def status_of(pid: int) -> dict[str, str]:
    """The lines of /proc/PID/status."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def limits_of(pid: int) -> dict[str, str]:
    """Soft limits by name, as /proc/PID/limits has them."""
    lines = Path(f"/proc/{pid}/limits").read_text().splitlines()[1:]
    return {line[:26].strip().removeprefix("Max "): line[26:].split()[0] for line in lines}


def environ_of(pid: int) -> dict[str, str]:
    """The environment that the process's image was started with."""
    pairs = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return dict(pair.decode().split("=", 1) for pair in pairs if pair)


def files_of(pid: int | str) -> dict[int, str]:
    """What is open, by descriptor; sockets and pipes with the number that tells them from others."""
    found = {}
    for path in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found[int(path.name)] = str(path.readlink())
        except FileNotFoundError:
            continue  # the one that the folder is read by
    return found


def signals_of(mask: str) -> set[int]:
    """The signals of a mask of /proc/PID/status."""
    return {number + 1 for number in range(64) if int(mask, 16) >> number & 1}


def pid_of(pidfd: int) -> int:
    """The process that a pidfd of ours holds."""
    lines = Path(f"/proc/self/fdinfo/{pidfd}").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pid:"))


def folder_of(pid: int) -> str:
    """Its working directory."""
    return str(Path(f"/proc/{pid}/cwd").readlink())


def threads_of(pid: int) -> int:
    """How many threads it has."""
    return sum(1 for _ in Path(f"/proc/{pid}/task").iterdir())


def cpu_s(pid: int) -> float:
    """Seconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wait_at_work(pid: int) -> None:
    """Return once a script that was begun is past its first instructions, deep in what takes it so long."""
    before = cpu_s(pid)
    wait_until(lambda: cpu_s(pid) > before + 0.1, f"process {pid} at work")
