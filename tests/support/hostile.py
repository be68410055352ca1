"""A hostile tenant: probes in processes that are held as its kernels are, beside the kernels of another one."""

import asyncio
import contextlib
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from llmspell_fleet.model.ids import KernelId
from llmspell_fleet.model.isolation import Survey
from llmspell_kernel.zygote.protocol import Confinement, Probed
from support.spawning import Spawning, spawning

NOBODY = 65534
ATTACKER, VICTIM = 720_000_001, 720_000_002

User = Literal["root", "nobody"]

_DROPPING = """
import os
import llmspell_kernel.zygote.server as server
run = server.Zygote.run
def dropped(self):
    os.setgroups([])
    os.setresgid({uid}, {uid}, {uid})
    os.setresuid({uid}, {uid}, {uid})
    run(self)
server.Zygote.run = dropped
"""
"""A zygote that becomes an ordinary user once it has imported everything: the interpreter may be root's alone."""


@dataclass(frozen=True)
class Mode:
    """Who runs the fleet, and how it keeps kernels apart."""

    user: User
    level: Literal["none", "process", "strict"]
    namespaces: Literal["none", "mount", "user"] = "none"
    is_spare: bool = False
    """Whether its kernels are processes that waited for them."""

    def __str__(self) -> str:
        return f"{self.level}-{self.user}-{self.namespaces}{'-spare' if self.is_spare else ''}"

    def confinement(self, uid: int) -> Confinement:
        """Of a kernel whose tenant has the user `uid`, where that matters."""
        own = uid if self.level == "strict" and self.user == "root" else None
        return Confinement(level=self.level, uid=own, namespaces=self.namespaces, file_bytes=4 * 1024 * 1024)

    @property
    def survey(self) -> Survey:
        """A machine on which this mode is the best there is."""
        return Survey(
            machine=os.uname().machine,
            has_system_calls=True,
            landlock_abi=7,
            has_seccomp=True,
            is_root=self.user == "root",
            namespaces=self.namespaces,
        )


_STRICT = (
    Mode("root", "strict", "mount"),
    Mode("root", "strict"),
    Mode("nobody", "strict", "user"),
    Mode("nobody", "strict"),
)

MODES = (
    *(Mode(user, level) for user in ("root", "nobody") for level in ("none", "process")),
    *_STRICT,
    *(replace(mode, is_spare=True) for mode in _STRICT),
)


@dataclass(frozen=True)
class Scene:
    """One attacker and what it may aim at."""

    site: Spawning
    mode: Mode
    targets: dict[str, str]
    """By kind: paths, pids, names and numbers."""

    async def attack(self, probe: str, kind: str = "") -> Probed:
        """What becomes of a probe."""
        target = self.targets[kind] if kind else ""
        if self.mode.is_spare:
            await self.site.spare()
        return await self.site.probe(
            probe, target, confinement=self.mode.confinement(ATTACKER), may_be_spare=self.mode.is_spare
        )


@contextlib.asynccontextmanager
async def scene(mode: Mode) -> AsyncIterator[Scene]:
    """A zygote, a kernel of another tenant that serves, and services of the machine."""
    async with contextlib.AsyncExitStack() as stack:
        site = await stack.enter_async_context(spawning_as(mode.user))
        victim = await site.start(confinement=mode.confinement(VICTIM), key=KEY)
        connection = site.connection(victim)
        kernel = next(kernel for kernel, process in site.told.processes.items() if process == victim)
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        abstract = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
        name = f"llmspell-hostile-{os.getpid()}"
        abstract.bind("\0" + name)
        abstract.listen()
        datagrams = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM))
        datagrams.bind(str(site.folder / "datagrams"))
        (site.folder / "datagrams").chmod(0o777)
        targets = {
            **_files(site, kernel),
            "socket": f"{connection.ip}-{connection.shell_port}",
            "datagrams": str(site.folder / "datagrams"),
            "kernel": str(victim.pid),
            "zygote": str(site.spawner.pid),
            "port": str(tcp.getsockname()[1]),
            "abstract": name,
            "own abstract": name + "-own",
            "public": "/etc/passwd",
            "etc": "/etc",
            "disk": f"{32 * 1024 * 1024} {_shared(site.folder)}",
            "own folder": str(32 * 1024 * 1024),
            "secret": KEY[len(KEY) // 2 :] + KEY[: len(KEY) // 2],
        }
        yield Scene(site, mode, targets)


@contextlib.asynccontextmanager
async def spawning_as(user: User) -> AsyncIterator[Spawning]:
    """A zygote that is this user's."""
    with _code(user) as folder:
        environ = {"PYTHONPATH": str(folder)} if folder is not None else {}
        async with spawning("zygote", owner=_uid(user), environ=environ) as site:
            yield site


KEY = os.urandom(32).hex()
"""Of the other tenant's kernel."""


def _uid(user: User) -> int | None:
    return None if user == "root" else NOBODY


def _files(site: Spawning, kernel: KernelId) -> dict[str, str]:
    runtime = site.folder / "runtime"
    return {"connection file": str(runtime / f"kernel-{kernel}.json"), "runtime": str(runtime)}


def _shared(folder: Path) -> Path:
    path = folder / "shared"
    path.mkdir()
    path.chmod(0o1777)
    return path


@contextlib.contextmanager
def _code(user: User) -> Iterator[Path | None]:
    """A folder from which the zygote's interpreter takes the code that makes it an ordinary user's."""
    if user == "root":
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="ls-code-") as path:
        Path(path).chmod(0o755)
        (Path(path) / "sitecustomize.py").write_text(_DROPPING.format(uid=NOBODY))
        yield Path(path)


async def all_of(scene_: Scene, aims: list[tuple[str, str]]) -> list[Probed]:
    """What becomes of several probes, a few at a time."""
    gate = asyncio.Semaphore(4)

    async def one(probe: str, kind: str) -> Any:
        async with gate:
            return await scene_.attack(probe, kind)

    return list(await asyncio.gather(*(one(*aim) for aim in aims)))
