"""Which cgroup hierarchies this machine has, and where a process is in each: what proc(5) says, read.

A machine has version 2 (one hierarchy for everything), version 1 (one for each controller), or both at once.
"""

import os
import re
from typing import Final, Literal

import msgspec

Version = Literal[1, 2]
Resource = Literal["memory", "cpu", "pids"]

RESOURCES: Final[tuple[Resource, ...]] = ("memory", "cpu", "pids")

_ESCAPED: Final = re.compile(r"\\([0-7]{3})")


class Hierarchy(msgspec.Struct, frozen=True):
    """One hierarchy that is mounted here."""

    version: Version
    controllers: frozenset[str]
    """Those of version 1. Version 2 says in each directory which it has (`cgroup.controllers`)."""
    mount: str
    """The directory that it is mounted on."""
    root: str
    """The cgroup that `mount` shows: not "/" where a container sees only its own part."""

    def directory(self, cgroup: str) -> str | None:
        """Where the directory of a cgroup is, named as /proc/PID/cgroup does; None = out of sight."""
        if self.root != "/":
            if cgroup != self.root and not cgroup.startswith(self.root + "/"):
                return None
            cgroup = cgroup[len(self.root) :]
        if cgroup.startswith("/.."):
            return None
        return os.path.normpath(self.mount + "/" + cgroup.lstrip("/"))

    def names(self, controllers: str) -> bool:
        """Whether a line of /proc/PID/cgroup with these controllers is about this hierarchy."""
        if self.version == 2:
            return controllers == ""
        return controllers != "" and frozenset(controllers.split(",")) <= self.controllers


def parse_mounts(mountinfo: str) -> list[Hierarchy]:
    """The hierarchies in the text of /proc/self/mountinfo; of one that is mounted twice, the first."""
    found: list[Hierarchy] = []
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        kind, _, rest = after.partition(" ")
        fields = before.split(" ")
        if kind not in {"cgroup", "cgroup2"} or len(fields) < 5:
            continue
        version: Version = 2 if kind == "cgroup2" else 1
        options = rest.rpartition(" ")[2].split(",")
        controllers = frozenset(options) - {"rw", "ro"} if version == 1 else frozenset()
        hierarchy = Hierarchy(version, controllers, _unescaped(fields[4]), _unescaped(fields[3]))
        if not any((h.version, h.controllers) == (version, controllers) for h in found):
            found.append(hierarchy)
    return found


def parse_membership(cgroup: str) -> list[tuple[str, str]]:
    """(controllers, cgroup) for each line of the text of /proc/PID/cgroup; the controllers of version 2 are ""."""
    rows = (line.split(":", 2) for line in cgroup.splitlines())
    return [(row[1], row[2]) for row in rows if len(row) == 3]


def directories(hierarchies: list[Hierarchy], cgroup: str) -> list[tuple[Hierarchy, str]]:
    """Each hierarchy with the directory in which a process is, by the text of its /proc/PID/cgroup."""
    members = parse_membership(cgroup)
    found = []
    for hierarchy in hierarchies:
        named = next((path for controllers, path in members if hierarchy.names(controllers)), None)
        directory = hierarchy.directory(named) if named is not None else None
        if directory is not None:
            found.append((hierarchy, directory))
    return found


def mounted() -> list[Hierarchy]:
    """The hierarchies of this machine; none where there is no /proc or no cgroup."""
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as stream:
            return parse_mounts(stream.read())
    except OSError:
        return []


def membership(pid: int | Literal["self"]) -> str:
    """The text of /proc/PID/cgroup; "" when there is no such process."""
    try:
        with open(f"/proc/{pid}/cgroup", encoding="utf-8", errors="surrogateescape") as stream:
            return stream.read()
    except OSError:
        return ""


def _unescaped(field: str) -> str:
    return _ESCAPED.sub(lambda match: chr(int(match[1], 8)), field)
