"""After `fleet down` there is no process, no socket and no file; and an ordinary user can do all of it."""

import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from support.fleets import FleetHome
from support.homes import DEADLINE_S, Home, wait_until
from support.tenants import SPIN, is_gone, need_root, new_tenant, wait_running

pytestmark = pytest.mark.integration


def _sockets_below(folder: Path) -> list[str]:
    """Unix sockets that somebody still has, by the path that they were bound to."""
    return [line for line in Path("/proc/net/unix").read_text().splitlines() if str(folder) in line]


def _family(pid: int) -> set[int]:
    """A process and all of its descendants."""
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except (OSError, IndexError):
            continue
    found = {pid}
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def _nothing(_fleet: FleetHome) -> None:
    return


def _some_work(fleet: FleetHome) -> None:
    tenant = new_tenant(fleet, "acme", replicas=3)
    tenant.run("return 1", session="mine")
    fleet.ask("GET", f"{tenant.path}/connection")
    fleet.ask("POST", "/v1/kernels", {"tenant": "acme", "port": 0, "name": "worker"})
    os.kill(tenant.kernels()[0]["pid"], signal.SIGKILL)
    tenant.wait_restarted(tenant.kernels()[0]["id"])
    fleet.ask("DELETE", f"/v1/kernels/{tenant.kernels()[1]['id']}")


def _a_dead_zygote(fleet: FleetHome) -> None:
    new_tenant(fleet, "acme", replicas=3)
    os.kill(fleet.ask("GET", "/health").json["zygote"]["pid"], signal.SIGKILL)


def _a_stopped_kernel(fleet: FleetHome) -> None:
    kernel = new_tenant(fleet, "acme").kernels()[0]
    os.kill(kernel["pid"], signal.SIGSTOP)


def _while_starting(fleet: FleetHome) -> None:
    new_tenant(fleet, "acme", replicas=20, wait_s=0)


@pytest.mark.parametrize(
    ("spawner", "before"),
    [
        ("zygote", _nothing),
        ("zygote", _some_work),
        ("zygote", _a_dead_zygote),
        ("zygote", _a_stopped_kernel),
        ("zygote", _while_starting),
        ("subprocess", _some_work),
        ("subprocess", _a_stopped_kernel),
    ],
)
def test_down_leaves_no_process_no_socket_and_no_file(
    home: Home, spawner: str, before: Callable[[FleetHome], None]
) -> None:
    fleet = FleetHome(home)
    fleet.up(
        config=f'[fleet]\nstartup_kernels = 1\nspawner = "{spawner}"\nstop_deadline = "1s"\ndrain_deadline = "1s"\n'
    )
    fleet.wait_ready()
    before(fleet)
    family = _family(fleet.pid)
    kernels = {kernel["pid"] for kernel in fleet.ask("GET", "/v1/kernels").json["items"]} - {None}
    assert kernels

    fleet.down()

    assert not [pid for pid in family | kernels if not is_gone(pid)]
    assert sorted(home.runtime.rglob("*")) == []
    assert _sockets_below(home.runtime) == []
    assert "Traceback" not in (home.logs / "fleet.log").read_text()
    assert home.llmspell("fleet", "down").returncode == 3
    assert home.llmspell("fleet", "status").returncode == 3


def test_down_waits_for_what_runs_as_long_as_it_is_told_and_force_does_not(home: Home) -> None:
    fleet = FleetHome(home)
    fleet.up(config='[fleet]\nstartup_kernels = 1\ndrain_deadline = "60s"\n')
    (kernel,) = fleet.wait_ready()
    assert fleet.ask("POST", "/v1/tenants/default/execute", {"code": SPIN, "wait": False}).status == 202
    wait_running(kernel["pid"])

    patient = home.llmspell("fleet", "down", "--timeout", "500ms")

    assert patient.returncode == 1
    assert "--force" in patient.stderr
    assert not is_gone(kernel["pid"])
    assert home.llmspell("fleet", "down", "--force").returncode == 0
    assert is_gone(kernel["pid"])
    assert sorted(home.runtime.rglob("*")) == []


# --- an ordinary user ---------------------------------------------------------------------------------------------


_SHOW = 'mount --bind "$1" "$2" && mount --rbind "$3" "$4" && shift 4 && exec "$@"'


def _shown(prefix: Path, base: Path) -> list[str]:
    """What to run a command with, so that `prefix` can be read where it is, although a folder above it cannot."""
    hidden = next((folder for folder in reversed(prefix.parents) if not folder.stat().st_mode & 0o001), None)
    if hidden is None:
        return []
    # In a mount namespace of the command's own, that folder has nothing in it but the way to the prefix.
    instead = base / "instead"
    place = instead / prefix.relative_to(hidden)
    place.mkdir(parents=True)
    return ["unshare", "--mount", "sh", "-c", _SHOW, "sh", *map(str, (prefix, place, instead, hidden))]


@pytest.fixture
def as_nobody() -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """`llmspell …` as user nobody, in an empty folder."""
    need_root("becoming another user")
    user = pwd.getpwnam("nobody")
    with ExitStack() as stack:
        base = Path(tempfile.mkdtemp(prefix="ls-"))
        stack.callback(shutil.rmtree, base)
        base.chmod(0o755)
        folder = base / "home"
        folder.mkdir(mode=0o700)
        os.chown(folder, user.pw_uid, user.pw_gid)
        command = [
            *_shown(Path(sys.base_prefix), base),
            *("setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups", "--"),
            *(sys.executable, "-m", "llmspell_cli"),
        ]
        environ = {"HOME": str(folder), "PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"}

        def run(*arguments: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                [*command, *arguments],
                env=environ,
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=DEADLINE_S * 2,
                check=False,
            )

        tried = run("--version")
        if tried.returncode:
            reason = f"user nobody cannot run the interpreter or the project: {tried.stderr.strip()[-300:]}"
            (pytest.fail if os.environ.get("CI") else pytest.skip)(reason)
        stack.callback(run, "fleet", "down", "--force")
        yield run


def test_an_ordinary_user_in_an_empty_folder_does_it_all(
    as_nobody: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    def done(*arguments: str) -> str:
        completed = as_nobody(*arguments)
        assert completed.returncode == 0, completed.stderr
        return completed.stdout

    told = done("fleet", "up", "--daemon", "--port", "0")
    pid = int(told.split("process ")[1].split(",")[0])
    uid = pwd.getpwnam("nobody").pw_uid
    assert Path(f"/proc/{pid}").stat().st_uid == uid
    done("tenant", "create", "acme", "--replicas", "2")
    assert done("tenant", "exec", "acme", "return 6*7") == "42\n"
    kernels = json.loads(done("fleet", "list", "--output", "json"))
    assert len(kernels) == 4
    assert {Path(f"/proc/{kernel['pid']}/status").read_text().count(f"Uid:\t{uid}\t") for kernel in kernels} == {1}
    os.kill(kernels[0]["pid"], signal.SIGKILL)
    wait_until(lambda: "SIGKILL" in done("fleet", "list"), "the death is told")
    assert done("tenant", "exec", "acme", "return 1") == "1\n"
    family = _family(pid)

    done("fleet", "down")

    assert not [one for one in family if not is_gone(one)]
    assert as_nobody("fleet", "status").returncode == 3
