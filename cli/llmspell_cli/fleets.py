"""Which fleet a command means: the options that say so, on every `fleet` and `tenant` command, and its client."""

import functools
import os
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec
from click.core import ParameterSource

from llmspell_fleet import presence
from llmspell_fleet.model.views import KernelView, TenantView
from llmspell_fleet.paths import FleetPaths, choose_paths
from llmspell_kernel.errors import LlmspellError, MisuseError

if TYPE_CHECKING:
    from llmspell_fleet.client import FleetClient

_BEGINNING = re.compile(r"[0-9a-f-]{4,36}")

_F = TypeVar("_F", bound=Callable[..., Any])

_DIRECTORIES = {
    "runtime": "Where the fleet's sockets, addresses and pids are.",
    "state": "Where the fleet's database and tokens are.",
    "log": "Where the fleet's logs are.",
}


class Where(msgspec.Struct, frozen=True):
    """What those options said; the directories are the environment's by now (`paths.choose_paths`)."""

    url: str | None
    token_file: str | None
    named: frozenset[str]
    """Which of "runtime", "state", "log" and "url" were named on the command line itself."""

    @property
    def paths(self) -> FleetPaths:
        """The fleet's directories; nothing is made on disk."""
        return choose_paths()

    @property
    def address(self) -> str:
        """Where the fleet that is meant listens, for people."""
        if self.url is not None:
            return self.url
        running = presence.find(self.paths)
        if running is None or running.address is None:
            return "nowhere any more"
        by_socket = f"unix:{running.address.socket}"
        return by_socket if running.address.url == by_socket else f"{running.address.url} and {by_socket}"

    @property
    def runtime_option(self) -> str:
        """What the next command needs to mean the same fleet, as the end of a command line."""
        return f" --runtime-dir {shlex.quote(self.paths.runtime)}" if "runtime" in self.named else ""

    def client(self) -> "FleetClient":
        """A client of the fleet that is meant; NotRunningError when there is none."""
        from llmspell_fleet.client import FleetClient

        return FleetClient.find(self.paths, self.url, self.token_file)


def fleet_options(command: _F) -> _F:
    """``--runtime-dir``, ``--state-dir``, ``--log-dir``, ``--url``, ``--token-file``: the command gets `where`."""

    @functools.wraps(command)
    def with_where(**given: Any) -> Any:
        return command(where=_where(given), **given)

    decorated: Any = with_where
    for option in reversed(
        (
            *(
                click.option(
                    f"--{name}-dir",
                    type=_directory,
                    envvar=f"LLMSPELL_{name.upper()}_DIR",
                    show_envvar=True,
                    metavar="DIR",
                    help=text,
                )
                for name, text in _DIRECTORIES.items()
            ),
            click.option(
                "--url",
                envvar="LLMSPELL_URL",
                show_envvar=True,
                metavar="URL",
                help="Where the fleet is, as http://HOST:PORT. Default: the one of the runtime directory.",
            ),
            click.option(
                "--token-file",
                type=_file,
                envvar="LLMSPELL_TOKEN_FILE",
                show_envvar=True,
                metavar="FILE",
                help="A file that holds the token. Default: admin.token of the state directory.",
            ),
        )
    ):
        decorated = option(decorated)
    result: _F = decorated
    return result


def find_kernel(client: "FleetClient", text: str) -> KernelView:
    """The fleet's kernel that `text` means: its id, the beginning of its id, or its name. MisuseError else."""
    kernels = client.kernels()
    found = [kernel for kernel in kernels if kernel.name == text or kernel.id == text.lower()]
    if not found and _BEGINNING.fullmatch(text):
        found = [kernel for kernel in kernels if kernel.id.startswith(text)]
    if len(found) > 1:
        ids = ", ".join(f"{kernel.id} ({kernel.tenant})" for kernel in found)
        raise MisuseError(f"{text} means {len(found)} kernels: {ids}")
    if not found:
        raise LlmspellError(f"the fleet has no kernel {text[:80]!r}: `llmspell fleet list` shows those it has")
    return found[0]


def find_target(client: "FleetClient", text: str) -> KernelView | TenantView:
    """What `text` means: a tenant by its name, or a kernel as `find_kernel` finds it. MisuseError: both."""
    tenant = next((tenant for tenant in client.tenants() if tenant.id == text), None)
    if tenant is None:
        return find_kernel(client, text)
    if any(kernel.name == text for kernel in client.kernels()):
        raise MisuseError(f"{text} is a tenant and a kernel: name the kernel by its id")
    return tenant


def _where(given: dict[str, Any]) -> Where:
    """Take the options out of `given` and put the directories into the environment, for us and our children."""
    source_of = click.get_current_context().get_parameter_source
    named = {name for name in _DIRECTORIES if source_of(f"{name}_dir") is ParameterSource.COMMANDLINE}
    if source_of("url") is ParameterSource.COMMANDLINE:
        named.add("url")
    for name in _DIRECTORIES:
        path = given.pop(f"{name}_dir")
        if path is not None:
            os.environ[f"LLMSPELL_{name.upper()}_DIR"] = path
    return Where(given.pop("url"), given.pop("token_file"), frozenset(named))


def _directory(text: str) -> str:
    # Absolute: a daemon's working directory is another one.
    if not text:
        raise click.BadParameter("expected a directory, found nothing")
    return str(Path(text).absolute())


def _file(text: str) -> str:
    if not text:
        raise click.BadParameter("expected a file, found nothing")
    return str(Path(text).absolute())
