"""rlimits of a process that runs, by prlimit(2). OSError: the system does not let us."""

import resource

_PAGE: int = resource.getpagesize()
_DATA = 5
"""The field of proc_pid_statm(5) that RLIMIT_DATA counts, with the stack."""


_CAP_SYS_RESOURCE = 1 << 24


def mib(size: int) -> str:
    """Bytes for people."""
    return f"{size / 2**20:.0f} MiB"


def may_raise() -> bool:
    """Whether we may raise limits that were lowered (CAP_SYS_RESOURCE)."""
    with open("/proc/self/status", encoding="ascii") as status:
        effective = next(line for line in status if line.startswith("CapEff:"))
    return bool(int(effective.split()[1], 16) & _CAP_SYS_RESOURCE)


class Rlimits:
    """Those of one process, which must not have ended."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    def set(self, which: int, most: int) -> None:
        """Hold it to `most`; 0 = no bound, as far as we may lift it."""
        soft, hard = resource.prlimit(self._pid, which)
        bound = most or resource.RLIM_INFINITY
        if (soft, hard) == (bound, bound):
            return
        try:
            resource.prlimit(self._pid, which, (bound, bound))
        except (PermissionError, ValueError):
            raise OSError("a limit that was lowered is raised only with CAP_SYS_RESOURCE") from None

    def change_data(self, before: int, now: int) -> None:
        """Grant it as much more or less data as its scripts are; OSError: it holds more, and would fail anywhere."""
        soft, _hard = resource.prlimit(self._pid, resource.RLIMIT_DATA)
        if not now:
            self.set(resource.RLIMIT_DATA, 0)
            return
        if not before or soft == resource.RLIM_INFINITY:
            raise OSError("how much the process needs for itself is not known")
        most, used = soft - before + now, self._data_bytes()
        if used > most:
            raise OSError(
                f"scripts are held to it, but the process holds {mib(used)} and would fail anywhere; "
                "it follows when it holds less"
            )
        self.set(resource.RLIMIT_DATA, most)

    def _data_bytes(self) -> int:
        with open(f"/proc/{self._pid}/statm", "rb") as statm:
            return int(statm.read().split()[_DATA]) * _PAGE
